//! A file as text that a person reads and a difference shows: its length, then the rows that are not all zeros, each
//! with its offset, all in hexadecimal.

const ROW_BYTES: usize = 32;

pub fn to_text(bytes: &[u8]) -> String {
    let mut text = format!("{:08x}\n", bytes.len());
    for (index, row) in bytes.chunks(ROW_BYTES).enumerate() {
        if row.iter().any(|byte| *byte != 0) {
            let digits: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
            text += &format!("{:08x} {digits}\n", index * ROW_BYTES);
        }
    }
    text
}

pub fn from_text(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let number = |digits: &str| usize::from_str_radix(digits, 16).unwrap();
    let mut bytes = vec![0; number(lines.next().unwrap())];
    for line in lines {
        let (offset, digits) = line.split_once(' ').unwrap();
        for (index, pair) in digits.as_bytes().chunks(2).enumerate() {
            bytes[number(offset) + index] = number(std::str::from_utf8(pair).unwrap()) as u8;
        }
    }
    bytes
}

#[test]
fn a_file_is_what_its_text_says() {
    let mut bytes = vec![0; 200];
    (bytes[0], bytes[70], bytes[199]) = (1, 2, 255);
    assert_eq!(from_text(&to_text(&bytes)), bytes);
    assert_eq!(to_text(&bytes).lines().count(), 4);
    assert_eq!(from_text(&to_text(&[])), []);
}
