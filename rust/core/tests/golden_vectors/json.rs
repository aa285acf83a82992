//! JSON, laid out so that a person reads it and a difference shows: what fits a line is one.

const COLUMNS_MAX: usize = 118;

pub enum Json {
    Text(String),
    Number(u64),
    Bool(bool),
    List(Vec<Json>),
    Map(Vec<(&'static str, Json)>),
}

impl Json {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub fn number(number: impl Into<u64>) -> Self {
        Self::Number(number.into())
    }

    /// A number of 64 bits, as a text: many readers of JSON have only 53.
    pub fn wide(number: u64) -> Self {
        Self::Text(format!("{number:#x}"))
    }

    /// Bytes as lower-case hexadecimal.
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Text(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The whole document.
    pub fn document(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0, 0);
        out.push('\n');
        out
    }

    /// `used` columns of the line are taken by a name.
    fn write(&self, out: &mut String, indent: usize, used: usize) {
        let line = self.line();
        if indent + used + line.len() <= COLUMNS_MAX {
            out.push_str(&line);
            return;
        }
        match self {
            Self::List(items) => write_lines(out, indent, '[', ']', items.iter().map(|item| (String::new(), item))),
            Self::Map(items) => {
                let named = items.iter().map(|(name, item)| (format!("\"{name}\": "), item));
                write_lines(out, indent, '{', '}', named);
            }
            _ => out.push_str(&line),
        }
    }

    fn line(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Number(number) => number.to_string(),
            Self::Bool(bool) => bool.to_string(),
            Self::List(items) => format!("[{}]", items.iter().map(Self::line).collect::<Vec<_>>().join(", ")),
            Self::Map(items) => {
                let items: Vec<_> = items.iter().map(|(name, item)| format!("\"{name}\": {}", item.line())).collect();
                format!("{{{}}}", items.join(", "))
            }
        }
    }
}

fn write_lines<'a>(
    out: &mut String,
    indent: usize,
    open: char,
    close: char,
    items: impl ExactSizeIterator<Item = (String, &'a Json)>,
) {
    out.push(open);
    let last = items.len() - 1;
    for (index, (name, item)) in items.enumerate() {
        out.push_str(&format!("\n{:1$}{name}", "", indent + 1));
        item.write(out, indent + 1, name.len());
        if index < last {
            out.push(',');
        }
    }
    out.push_str(&format!("\n{:indent$}{close}", ""));
}

fn quoted(text: &str) -> String {
    let escape = |unit: u16| match char::from_u32(u32::from(unit)) {
        Some('"') => "\\\"".to_owned(),
        Some('\\') => "\\\\".to_owned(),
        Some(letter @ ' '..='~') => letter.to_string(),
        _ => format!("\\u{unit:04x}"),
    };
    format!("\"{}\"", text.encode_utf16().map(escape).collect::<String>())
}
