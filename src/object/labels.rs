//! Labels: `snapshots/N.labels.json`, what can be changed about a snapshot: its tags, a message, and whether it is
//! pinned. A document with a checksum like a ref, replaced as a whole at each change.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::document::{self, DocumentError, Requires, from_text_or_hex, text_or_hex};
use super::{HashAlgorithm, printable};

/// What was said about a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Labels {
    /// Its tags, in the order of their bytes.
    pub tags: BTreeSet<Tag>,
    /// What it is about; never empty.
    pub message: Option<String>,
    /// Whether it is protected from every prune.
    pub pinned: bool,
}

/// A word that snapshots are marked with: 1 to 100 bytes of text on one line, without a comma or a double quote, no
/// space at either end, and not `checksum` (which would look like the checksum line of the document).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(String);

/// A text that is no tag, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotATag(&'static str);

impl fmt::Display for NotATag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NotATag {}

impl Tag {
    /// The longest tag, in bytes.
    pub const LONGEST: usize = 100;

    /// Checks and takes a tag.
    pub fn new(text: &str) -> Result<Self, NotATag> {
        if text.is_empty() || text.len() > Self::LONGEST {
            return Err(NotATag("a tag has 1 to 100 bytes"));
        }
        if text.trim() != text {
            return Err(NotATag("a tag has no space at its ends"));
        }
        if text.contains(['"', ',']) {
            return Err(NotATag("a tag has no comma and no quote; give the option once for each tag"));
        }
        if printable(text) != text {
            return Err(NotATag("a tag has no control characters"));
        }
        if text == "checksum" {
            return Err(NotATag("a tag cannot be called `checksum`"));
        }
        Ok(Self(text.to_string()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Serialize, Deserialize)]
struct Fields {
    snapshot: u64,
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_hex: Option<String>,
    pinned: bool,
    requires: Requires,
}

impl Labels {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The content of the file for the snapshot `number`. `hash` is the repository's.
    pub fn encode(&self, hash: HashAlgorithm, number: u64) -> Vec<u8> {
        let (message, message_hex) = match &self.message {
            Some(message) => text_or_hex(message.as_bytes()),
            None => (None, None),
        };
        let fields = Fields {
            snapshot: number,
            tags: self.tags.iter().map(|tag| tag.0.clone()).collect(),
            message,
            message_hex,
            pinned: self.pinned,
            requires: Requires,
        };
        document::seal(hash, &fields)
    }

    /// Reads the file of the snapshot `number`. `hash` is the repository's.
    pub fn decode(hash: HashAlgorithm, number: u64, bytes: &[u8]) -> Result<Self, DocumentError> {
        let fields: Fields = document::open(hash, bytes)?;
        if fields.snapshot != number {
            return Err(DocumentError::Damaged(format!("it holds the labels of snapshot {}", fields.snapshot)));
        }
        let message = match (fields.message, fields.message_hex) {
            (None, None) => None,
            (text, hex) => Some(String::from_utf8(from_text_or_hex(text, hex)?).map_err(DocumentError::damaged)?),
        };
        let tags = fields.tags.iter().map(|tag| Tag::new(tag).map_err(DocumentError::damaged));
        Ok(Self {
            tags: tags.collect::<Result<_, _>>()?,
            message: message.filter(|message| !message.is_empty()),
            pinned: fields.pinned,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::HashAlgorithm::{Blake3, Sha256};

    fn labels() -> Labels {
        Labels {
            tags: ["monthly", "before 2.0", "ä"].map(|tag| Tag::new(tag).unwrap()).into(),
            message: Some("all is well\n".into()),
            pinned: true,
        }
    }

    const GOLDEN: &str = r#"{
  "snapshot": 7,
  "tags": [
    "before 2.0",
    "monthly",
    "ä"
  ],
  "message": "all is well\n",
  "pinned": true,
  "requires": [],
  "checksum": "SUM"
}
"#;

    fn sealed(hash: HashAlgorithm, text: &str) -> String {
        let covered: String = text.split_inclusive('\n').filter(|line| !line.contains("\"checksum\"")).collect();
        text.replace("SUM", &hash.hash(covered.as_bytes()).to_hex())
    }

    #[test]
    fn golden_bytes() {
        for hash in [Blake3, Sha256] {
            let text = sealed(hash, GOLDEN);
            assert_eq!(String::from_utf8(labels().encode(hash, 7)).unwrap(), text);
            assert_eq!(Labels::decode(hash, 7, text.as_bytes()), Ok(labels()));
        }
        let empty = "{\n  \"snapshot\": 1,\n  \"tags\": [],\n  \"pinned\": false,\n  \"requires\": [],\n  \"checksum\": \"SUM\"\n}\n";
        let empty = sealed(Blake3, empty);
        assert_eq!(String::from_utf8(Labels::default().encode(Blake3, 1)).unwrap(), empty);
        assert_eq!(Labels::decode(Blake3, 1, empty.as_bytes()), Ok(Labels::default()));
    }

    #[test]
    fn what_is_changed_cut_misplaced_or_newer_is_refused() {
        let good = labels().encode(Blake3, 7);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            assert!(matches!(Labels::decode(Blake3, 7, &bad), Err(DocumentError::Damaged(_))), "byte {at}");
            assert!(matches!(Labels::decode(Blake3, 7, &good[..at]), Err(DocumentError::Damaged(_))), "cut to {at}");
        }
        assert!(matches!(Labels::decode(Blake3, 8, &good), Err(DocumentError::Damaged(_))));
        assert!(matches!(Labels::decode(Sha256, 7, &good), Err(DocumentError::Damaged(_))));
        let newer = sealed(Blake3, &GOLDEN.replace("[],", "[\n    \"votes\"\n  ],"));
        assert!(matches!(Labels::decode(Blake3, 7, newer.as_bytes()), Err(DocumentError::TooNew(_))));
        let without = sealed(Blake3, &GOLDEN.replace("  \"pinned\": true,\n", ""));
        assert!(matches!(Labels::decode(Blake3, 7, without.as_bytes()), Err(DocumentError::TooNew(_))));
        let more = sealed(Blake3, &GOLDEN.replace("  \"pinned\"", "  \"mood\": 1,\n  \"pinned\""));
        assert_eq!(Labels::decode(Blake3, 7, more.as_bytes()), Ok(labels()));
        let bad_tag = sealed(Blake3, &GOLDEN.replace("monthly", "a,b"));
        assert!(matches!(Labels::decode(Blake3, 7, bad_tag.as_bytes()), Err(DocumentError::Damaged(_))));
    }

    #[test]
    fn no_message_can_be_taken_for_the_checksum_line() {
        for text in ["checksum", "\"checksum", "a\"checksum\"b", "\"checksum\"", "checksum\": \"x", "\0\u{202e}\n"] {
            let labels = Labels { message: Some(text.into()), ..labels() };
            assert_eq!(Labels::decode(Blake3, 7, &labels.encode(Blake3, 7)), Ok(labels), "{text:?}");
        }
    }

    #[test]
    fn tags_are_short_words_on_one_line() {
        for good in ["a", "two words", "ä", "checksums", "-", &"x".repeat(100)] {
            assert_eq!(Tag::new(good).unwrap().as_str(), good);
        }
        for bad in ["", " ", " a", "a ", "a,b", "a\"", "checksum", "a\nb", "\x1b[0m", "\u{202e}x", &"x".repeat(101)] {
            assert!(Tag::new(bad).is_err(), "{bad:?}");
        }
    }
}
