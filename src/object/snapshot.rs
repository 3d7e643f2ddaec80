//! Snapshot refs: `snapshots/N.json`, one small document a snapshot, never changed once it is visible.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::{self, DocumentError, Requires, from_text_or_hex, text_or_hex};
use super::{BlobId, Content, HashAlgorithm, ListId, MAX_DEPTH, TreeId};

/// A snapshot: what was taken when, from where, and the root of its trees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Its number, never used again in the same repository.
    pub number: u64,
    /// When it was begun.
    pub start: Timestamp,
    /// When everything it holds had been read.
    pub end: Timestamp,
    /// The local time's offset from UTC, in seconds, where and when it was taken.
    pub utc_offset: i32,
    /// The machine it was taken on.
    pub host: Vec<u8>,
    /// The user who took it.
    pub user: Vec<u8>,
    /// The absolute path of the directory that was taken.
    pub source: Vec<u8>,
    /// The options that chose what went in, as they were given.
    pub options: Vec<Vec<u8>>,
    /// The version of the tool that took it.
    pub tool: String,
    /// The root directory.
    pub tree: TreeId,
    /// What it holds.
    pub counts: Counts,
    /// What it added to the repository.
    pub added: Added,
    /// What could not be read and is not in it.
    pub incomplete: PathNotes,
    /// What changed while it was read, each time it was tried; the last reading is in it.
    pub changed: PathNotes,
}

/// What a snapshot holds, its root directory not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes of file content: what a restore needs.
    pub bytes: u64,
}

/// What a snapshot added to its repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Added {
    /// New objects.
    pub objects: u64,
    /// Their content in bytes.
    pub bytes: u64,
    /// The same, compressed.
    pub stored: u64,
}

/// Paths below the source that something has to be said about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PathNotes {
    /// How many there are.
    pub count: u64,
    /// The first of them, at most [`PathNotes::FIRST`].
    pub first: Vec<PathNote>,
    /// All of them, one JSON object a line, as the content of a file of this many bytes; only if `first` is not all.
    pub all: Option<(u64, Content)>,
}

impl PathNotes {
    /// So many are named in the ref itself.
    pub const FIRST: usize = 100;
}

/// A path below the source, and what is to be said about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathNote {
    /// The path, relative to the source.
    pub path: Vec<u8>,
    /// What happened.
    pub reason: String,
}

impl PathNote {
    /// The note as one line of JSON, as it stands in the full list.
    pub fn to_line(&self) -> Vec<u8> {
        // A plain struct of texts always has a JSON form.
        let mut line = serde_json::to_vec(&NoteFields::from(self)).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

#[derive(Serialize, Deserialize)]
struct Fields {
    snapshot: u64,
    start: Timestamp,
    end: Timestamp,
    utc_offset: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_hex: Option<String>,
    options: Vec<OptionFields>,
    tool: String,
    tree: String,
    counts: Counts,
    added: Added,
    incomplete: NotesFields,
    changed: NotesFields,
    requires: Requires,
}

#[derive(Serialize, Deserialize)]
struct OptionFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    option: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    option_hex: Option<String>,
}

impl From<&[u8]> for OptionFields {
    fn from(bytes: &[u8]) -> Self {
        let (option, option_hex) = text_or_hex(bytes);
        Self { option, option_hex }
    }
}

impl OptionFields {
    fn decode(self) -> Result<Vec<u8>, DocumentError> {
        from_text_or_hex(self.option, self.option_hex)
    }
}

#[derive(Serialize, Deserialize)]
struct NotesFields {
    count: u64,
    first: Vec<NoteFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<ContentFields>,
}

#[derive(Serialize, Deserialize)]
struct NoteFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct ContentFields {
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    blob: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<u8>,
}

impl Snapshot {
    /// The lists of paths that the repository holds as contents: the length of each in bytes, and where it is.
    pub fn path_lists(&self) -> impl Iterator<Item = (u64, Content)> {
        [self.incomplete.all, self.changed.all].into_iter().flatten()
    }

    /// The content of the ref file. `hash` is the repository's.
    pub fn encode(&self, hash: HashAlgorithm) -> Vec<u8> {
        let (host, host_hex) = text_or_hex(&self.host);
        let (user, user_hex) = text_or_hex(&self.user);
        let (source, source_hex) = text_or_hex(&self.source);
        let fields = Fields {
            snapshot: self.number,
            start: self.start,
            end: self.end,
            utc_offset: format_offset(self.utc_offset),
            host,
            host_hex,
            user,
            user_hex,
            source,
            source_hex,
            options: self.options.iter().map(|option| OptionFields::from(option.as_slice())).collect(),
            tool: self.tool.clone(),
            tree: self.tree.to_string(),
            counts: self.counts,
            added: self.added,
            incomplete: NotesFields::from(&self.incomplete),
            changed: NotesFields::from(&self.changed),
            requires: Requires,
        };
        document::seal(hash, &fields)
    }

    /// Reads a ref file. `hash` is the repository's.
    pub fn decode(hash: HashAlgorithm, bytes: &[u8]) -> Result<Self, DocumentError> {
        let fields: Fields = document::open(hash, bytes)?;
        Ok(Self {
            number: fields.snapshot,
            start: fields.start,
            end: fields.end,
            utc_offset: parse_offset(&fields.utc_offset)
                .ok_or_else(|| DocumentError::damaged("its UTC offset is not one"))?,
            host: from_text_or_hex(fields.host, fields.host_hex)?,
            user: from_text_or_hex(fields.user, fields.user_hex)?,
            source: from_text_or_hex(fields.source, fields.source_hex)?,
            options: fields.options.into_iter().map(OptionFields::decode).collect::<Result<_, _>>()?,
            tool: fields.tool,
            tree: TreeId(fields.tree.parse().map_err(DocumentError::damaged)?),
            counts: fields.counts,
            added: fields.added,
            incomplete: fields.incomplete.decode()?,
            changed: fields.changed.decode()?,
        })
    }
}

impl From<&PathNotes> for NotesFields {
    fn from(notes: &PathNotes) -> Self {
        let all = notes.all.map(|(size, content)| match content {
            Content::Blob(blob) => ContentFields { size, blob: Some(blob.to_string()), chunks: None, depth: None },
            Content::Chunks { list, depth } => {
                ContentFields { size, blob: None, chunks: Some(list.to_string()), depth: Some(depth) }
            }
        });
        Self { count: notes.count, first: notes.first.iter().map(NoteFields::from).collect(), all }
    }
}

impl From<&PathNote> for NoteFields {
    fn from(note: &PathNote) -> Self {
        let (path, path_hex) = text_or_hex(&note.path);
        // The words of a system may be any; the mark of the checksum must not be among them.
        Self { path, path_hex, reason: note.reason.replace("checksum", "check sum") }
    }
}

impl NotesFields {
    fn decode(self) -> Result<PathNotes, DocumentError> {
        let first = self
            .first
            .into_iter()
            .map(|note| Ok(PathNote { path: from_text_or_hex(note.path, note.path_hex)?, reason: note.reason }));
        Ok(PathNotes {
            count: self.count,
            first: first.collect::<Result<_, DocumentError>>()?,
            all: self.all.map(ContentFields::decode).transpose()?,
        })
    }
}

impl ContentFields {
    fn decode(self) -> Result<(u64, Content), DocumentError> {
        let content = match (self.blob, self.chunks, self.depth) {
            (Some(blob), None, None) => Content::Blob(BlobId(blob.parse().map_err(DocumentError::damaged)?)),
            (None, Some(list), Some(depth)) if (1..=MAX_DEPTH).contains(&depth) => {
                Content::Chunks { list: ListId(list.parse().map_err(DocumentError::damaged)?), depth }
            }
            _ => return Err(DocumentError::damaged("it does not say where its list of paths is")),
        };
        Ok((self.size, content))
    }
}

/// Seconds east of UTC as `+HH:MM`.
fn format_offset(seconds: i32) -> String {
    let minutes = seconds.abs() / 60;
    format!("{}{:02}:{:02}", if seconds < 0 { '-' } else { '+' }, minutes / 60, minutes % 60)
}

fn parse_offset(text: &str) -> Option<i32> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    if !rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b':') {
        return None;
    }
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let valid = (0..=26).contains(&hours) && (0..60).contains(&minutes);
    valid.then_some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::super::HashAlgorithm::{Blake3, Sha256};
    use super::*;

    fn snapshot() -> Snapshot {
        let id = Blake3.hash(b"x");
        let note = |path: &[u8], reason: &str| PathNote { path: path.to_vec(), reason: reason.into() };
        Snapshot {
            number: 7,
            start: "2024-09-01T12:35:22Z".parse().unwrap(),
            end: "2024-09-01T12:36:00.25Z".parse().unwrap(),
            utc_offset: 7200,
            host: b"checksum".to_vec(),
            user: b"anna".to_vec(),
            source: b"/home/anna/\xff".to_vec(),
            options: vec![b"--one".to_vec(), b"checksum".to_vec()],
            tool: "backuptool 0.1.0".into(),
            tree: TreeId(id),
            counts: Counts { files: 3, dirs: 1, symlinks: 1, bytes: 10 },
            added: Added { objects: 4, bytes: 12, stored: 11 },
            incomplete: PathNotes {
                count: 2,
                first: vec![note(b"a", "Permission denied"), note(b"b/\xfe", "vanished")],
                all: Some((300, Content::Blob(BlobId(id)))),
            },
            changed: PathNotes::default(),
        }
    }

    const GOLDEN: &str = r#"{
  "snapshot": 7,
  "start": "2024-09-01T12:35:22Z",
  "end": "2024-09-01T12:36:00.25Z",
  "utc_offset": "+02:00",
  "host_hex": "636865636b73756d",
  "user": "anna",
  "source_hex": "2f686f6d652f616e6e612fff",
  "options": [
    {
      "option": "--one"
    },
    {
      "option_hex": "636865636b73756d"
    }
  ],
  "tool": "backuptool 0.1.0",
  "tree": "ID",
  "counts": {
    "files": 3,
    "dirs": 1,
    "symlinks": 1,
    "bytes": 10
  },
  "added": {
    "objects": 4,
    "bytes": 12,
    "stored": 11
  },
  "incomplete": {
    "count": 2,
    "first": [
      {
        "path": "a",
        "reason": "Permission denied"
      },
      {
        "path_hex": "622ffe",
        "reason": "vanished"
      }
    ],
    "all": {
      "size": 300,
      "blob": "ID"
    }
  },
  "changed": {
    "count": 0,
    "first": []
  },
  "requires": [],
  "checksum": "SUM"
}
"#;

    #[test]
    fn golden_bytes() {
        for hash in [Blake3, Sha256] {
            let text = GOLDEN.replace("ID", &Blake3.hash(b"x").to_hex());
            let covered: String = text.split_inclusive('\n').filter(|line| !line.contains("\"checksum\"")).collect();
            let text = text.replace("SUM", &hash.hash(covered.as_bytes()).to_hex());
            assert_eq!(String::from_utf8(snapshot().encode(hash)).unwrap(), text);
            assert_eq!(Snapshot::decode(hash, text.as_bytes()), Ok(snapshot()));
        }
    }

    #[test]
    fn fields_that_are_not_known_are_ignored_and_requirements_are_not() {
        let with = |line: &str| {
            let text = String::from_utf8(snapshot().encode(Blake3)).unwrap().replace("  \"requires\": [],\n", line);
            let covered: String = text.split_inclusive('\n').filter(|line| !line.contains("\"checksum\"")).collect();
            let old = text.lines().find(|line| line.contains("\"checksum\"")).unwrap().to_string();
            text.replace(&old, &format!("  \"checksum\": \"{}\"", Blake3.hash(covered.as_bytes())))
        };
        let more = with("  \"mood\": \"good\",\n  \"requires\": [],\n");
        assert_eq!(Snapshot::decode(Blake3, more.as_bytes()), Ok(snapshot()));
        let newer = with("  \"requires\": [\n    \"encryption\"\n  ],\n");
        assert!(matches!(Snapshot::decode(Blake3, newer.as_bytes()), Err(DocumentError::TooNew(_))));
    }

    #[test]
    fn a_changed_byte_is_damage() {
        let good = snapshot().encode(Blake3);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            assert!(matches!(Snapshot::decode(Blake3, &bad), Err(DocumentError::Damaged(_))), "byte {at}");
        }
        for length in 0..good.len() {
            assert!(matches!(Snapshot::decode(Blake3, &good[..length]), Err(DocumentError::Damaged(_))));
        }
    }

    #[test]
    fn no_text_can_be_taken_for_the_checksum_line() {
        for text in ["checksum", "\"checksum", "a\"checksum\"b", "\"checksum\"", "checksum\": \"x"] {
            let bytes = text.as_bytes().to_vec();
            let note = PathNote { path: bytes.clone(), reason: text.replace("checksum", "check sum") };
            let snapshot = Snapshot {
                host: bytes.clone(),
                user: bytes.clone(),
                source: bytes.clone(),
                options: vec![bytes],
                incomplete: PathNotes { count: 1, first: vec![note], all: None },
                ..snapshot()
            };
            assert_eq!(Snapshot::decode(Blake3, &snapshot.encode(Blake3)), Ok(snapshot), "{text}");
        }
    }

    #[test]
    fn offsets_have_one_form() {
        for (seconds, text) in [(0, "+00:00"), (-12_600, "-03:30"), (49_500, "+13:45")] {
            assert_eq!(format_offset(seconds), text);
            assert_eq!(parse_offset(text), Some(seconds));
        }
        for bad in ["", "Z", "+1", "02:00", "+99:00", "+01:60", "++1:00", "+-1:00"] {
            assert_eq!(parse_offset(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_note_is_one_line() {
        let note = PathNote { path: b"a\nb".to_vec(), reason: "x".into() };
        assert_eq!(note.to_line(), b"{\"path\":\"a\\nb\",\"reason\":\"x\"}\n");
    }
}
