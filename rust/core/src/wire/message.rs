//! A message: header and body.

use zerocopy::{FromBytes, IntoBytes};

use super::{BodyWriter, HEADER_BYTES, Header, Malformed, Sections, padded};

/// A message read in place.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub header: &'a Header,
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads the message at the start of `bytes` and gives what follows it. The sections of its body are checked too.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| Malformed::MessageTruncated)?;
        header.check()?;
        let length = header.length.get() as usize;
        if length > bytes.len() {
            return Err(Malformed::MessageTruncated);
        }
        let (message, rest) = bytes.split_at(length);
        let body_end = HEADER_BYTES + header.body_length.get() as usize;
        let padding = body_end + usize::from(header.mac_length.get());
        if message[padding..].iter().any(|&byte| byte != 0) {
            return Err(Malformed::MessageReserved);
        }
        let body = &message[HEADER_BYTES..body_end];
        Sections::parse(body)?;
        Ok((Self { header, body }, rest))
    }

    /// Reads a message again that `parse` has checked.
    pub(super) fn parsed(bytes: &'a [u8]) -> (Self, &'a [u8]) {
        let (header, after) = Header::ref_from_prefix(bytes).unwrap_or_else(|_| unreachable!("checked by parse"));
        let body = &after[..header.body_length.get() as usize];
        (Self { header, body }, &bytes[header.length.get() as usize..])
    }

    /// The sections of the body, which `parse` has checked.
    pub fn sections(&self) -> Sections<'a> {
        Sections::parsed(self.body)
    }
}

/// Appends a message whose body `write` appends; sets the header's lengths.
pub fn write_message(out: &mut Vec<u8>, mut header: Header, write: impl FnOnce(&mut BodyWriter<'_>)) {
    let start = out.len();
    out.extend_from_slice(header.as_bytes());
    let mut body = BodyWriter::new(out);
    write(&mut body);
    let body_length = body.finish();
    header.set_body_length(body_length);
    out[start..start + HEADER_BYTES].copy_from_slice(header.as_bytes());
    out.resize(start + padded(HEADER_BYTES + body_length), 0);
}

/// Appends a message with a body that is encoded already; sets the header's lengths.
pub fn write_encoded(out: &mut Vec<u8>, mut header: Header, body: &[u8]) {
    header.set_body_length(body.len());
    let end = out.len() + padded(HEADER_BYTES + body.len());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(body);
    out.resize(end, 0);
}
