//! Names of files and directories: bytes, as the operating system has them.

use std::fmt;
use std::path::Path;

/// The name of an entry of a directory: not empty, not `.` or `..`, without `/` and NUL. Nothing else is assumed: the
/// bytes need not be UTF-8. Such a name cannot lead out of the directory it is used in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

/// A name that must not be used, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsafeName(&'static str);

impl fmt::Display for UnsafeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Name {
    /// Checks and takes a name.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, UnsafeName> {
        let bytes = bytes.into();
        match &*bytes {
            b"" => Err(UnsafeName("a name is empty")),
            b"." | b".." => Err(UnsafeName("a name is `.` or `..`")),
            name if name.contains(&b'/') => Err(UnsafeName("a name contains `/`")),
            name if name.contains(&0) => Err(UnsafeName("a name contains a NUL byte")),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&display_bytes(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A name or path for people: control characters, backslashes and bytes that are not UTF-8 are escaped, so that it can
/// be printed on a terminal and never spoofs a line of output.
pub fn display_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                text.push_str("\\\\");
            } else {
                text.push_str(&printable(c.encode_utf8(&mut [0; 4])));
            }
        }
        for byte in chunk.invalid() {
            text.extend(byte.escape_ascii().map(char::from));
        }
    }
    text
}

/// A text that may hold foreign words, for people: control characters and changes of direction are escaped.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_bidi_override(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// A path for people; see [`display_bytes`].
pub fn display_path(path: &Path) -> String {
    display_bytes(path.as_os_str().as_encoded_bytes())
}

/// Characters that change the direction of the text around them.
fn is_bidi_override(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in [&b""[..], b".", b"..", b"/etc/x", b"a/b", b"a\0b"] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        for good in [&b"a"[..], b"...", b" ", b"\xff\xfe", b"a\nb", b"-rf", "ä".as_bytes()] {
            assert_eq!(Name::new(good).map(|n| n.as_bytes().to_vec()), Ok(good.to_vec()));
        }
    }

    #[test]
    fn display_is_safe_on_a_terminal() {
        assert_eq!(display_bytes(b"a\x1b[31m\n\\\xffz"), "a\\u{1b}[31m\\n\\\\\\xffz");
        assert_eq!(display_bytes("grün/ü".as_bytes()), "grün/ü");
        assert_eq!(display_bytes("a\u{202e}b".as_bytes()), "a\\u{202e}b");
    }
}
