//! Pretty-printed JSON documents with a checksum line: the configuration, the snapshot refs and their labels.
//!
//! The last line but the closing brace is `"checksum": "…"`: the hash of all lines that do not contain `"checksum"`. So
//! `sed '/"checksum"/d' FILE | b3sum` verifies one by hand. For that to cover every line, no other line may contain the
//! mark: a text that would (`checksum`, or one that ends in `"checksum`) is written as hex digits under the key `…_hex`,
//! as are bytes that are not UTF-8.
//!
//! A reader ignores fields that it does not know, so that later versions can say more. What a reader must understand to
//! read or prune correctly is named in `requires`, and a name there that it does not know is refused.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{HashAlgorithm, ObjectId};

/// Why a document cannot be used. The reason may quote what was read, and is made safe to print by
/// the error that carries it to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentError {
    /// It is not what was written.
    Damaged(String),
    /// It is whole, but says something that this version does not know.
    TooNew(String),
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(reason) | Self::TooNew(reason) => f.write_str(reason),
        }
    }
}

impl DocumentError {
    pub(super) fn damaged(reason: impl fmt::Display) -> Self {
        Self::Damaged(reason.to_string())
    }
}

const MARK: &str = "\"checksum\"";

/// Writes a document and its checksum line.
pub(super) fn seal(hash: HashAlgorithm, fields: &impl Serialize) -> Vec<u8> {
    // Plain structs of numbers, texts and lists always have a JSON form.
    let pretty = serde_json::to_string_pretty(fields).unwrap_or_default();
    let body = pretty.strip_suffix("\n}").unwrap_or(&pretty);
    let checksum = hash.hash(format!("{body},\n}}\n").as_bytes());
    format!("{body},\n  {MARK}: \"{checksum}\"\n}}\n").into_bytes()
}

/// What a reader must understand, whatever else the document says: so far nothing. A document that names something cannot
/// be read.
pub(super) struct Requires;

impl Serialize for Requires {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq([(); 0])
    }
}

impl<'de> Deserialize<'de> for Requires {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Vec::<serde_json::Value>::deserialize(deserializer)?.first() {
            None => Ok(Self),
            Some(required) => Err(D::Error::custom(format!("it requires {required}"))),
        }
    }
}

/// Reads a document: its checksum first, then its fields. A repository may have thousands of documents, so it is gone
/// through once, and nothing is copied on the way.
pub(super) fn open<T: DeserializeOwned>(hash: HashAlgorithm, bytes: &[u8]) -> Result<T, DocumentError> {
    let text = str::from_utf8(bytes).map_err(DocumentError::damaged)?;
    let marked = around_mark(text).and_then(|(before, line, after)| Some((before, checksum_of_line(line)?, after)));
    let (before, written, after) = marked.ok_or_else(|| DocumentError::damaged("it has no checksum line"))?;
    let mut hasher = hash.hasher();
    hasher.update(before.as_bytes());
    hasher.update(after.as_bytes());
    if hasher.finish() != written {
        return Err(DocumentError::damaged("its checksum does not match"));
    }
    serde_json::from_str(text).map_err(|error| {
        if error.is_data() {
            DocumentError::TooNew(format!("it is whole, but this version does not understand it: {error}"))
        } else {
            not_json(&error)
        }
    })
}

/// The only line with the mark, what stands before it, and what stands behind it.
fn around_mark(text: &str) -> Option<(&str, &str, &str)> {
    let at = text.find(MARK)?;
    let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let end = text[at..].find('\n').map_or(text.len(), |end| at + end + 1);
    let (before, line, after) = (&text[..begin], &text[begin..end], &text[end..]);
    (!after.contains(MARK)).then_some((before, line, after))
}

fn not_json(error: &serde_json::Error) -> DocumentError {
    DocumentError::damaged(format!("it is not valid JSON: {error}"))
}

/// Parses a document without believing it, to find out which hash covers it.
pub(super) fn peek(bytes: &[u8]) -> Result<serde_json::Value, DocumentError> {
    serde_json::from_slice(bytes).map_err(|error| not_json(&error))
}

fn checksum_of_line(line: &str) -> Option<ObjectId> {
    let hex = line.strip_prefix("  \"checksum\": \"")?.strip_suffix("\"\n")?;
    hex.parse().ok()
}

/// Bytes as the pair of fields `key` and `key_hex`, of which one is set.
pub(super) fn text_or_hex(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match str::from_utf8(bytes) {
        Ok(text) if !serde_json::Value::from(text).to_string().contains(MARK) => (Some(text.to_string()), None),
        _ => (None, Some(hex::encode(bytes))),
    }
}

/// The bytes of such a pair.
pub(super) fn from_text_or_hex(text: Option<String>, hex: Option<String>) -> Result<Vec<u8>, DocumentError> {
    match (text, hex) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(hex)) => hex::decode(hex).map_err(DocumentError::damaged),
        _ => Err(DocumentError::damaged("a text is missing, or given twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_forges_the_mark_of_the_checksum_line() {
        for hidden in ["checksum", "/a\"checksum", "\"checksum", "\\\"checksum"] {
            let (text, hex) = text_or_hex(hidden.as_bytes());
            assert_eq!(text, None, "{hidden}");
            assert_eq!(from_text_or_hex(text, hex), Ok(hidden.as_bytes().to_vec()));
        }
        for plain in ["", "checksums", "\"checksum\"", "checksum\"", "/checksum", "a checksum"] {
            assert_eq!(text_or_hex(plain.as_bytes()), (Some(plain.to_string()), None));
        }
    }
}
