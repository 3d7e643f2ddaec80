//! Trees: what a directory holds.
//!
//! The first line is `{"tree":1}`; then one JSON object a line for each entry, in the order of the names' bytes, with
//! the keys in a fixed order and no spaces. A large directory is cut into pieces, each a valid tree, after a name whose
//! hash matches a mask (see [`split`](super::split) for the bounds); the node above begins `{"tree":1,"level":1}` and has
//! one line a piece: its last name, its entries, its size and the piece. So one new name among a million rewrites one
//! piece a level, and one name is found by reading one piece a level.
//!
//! Decoding encodes each line again and compares: what the encoder would not have written is refused, so a tree has one
//! encoding only.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde::Deserialize;

use super::split::{Line, MAX_LEVELS, MAX_LINES, Splitter};
use super::{BlobId, HashAlgorithm, ListId, MAX_DEPTH, Malformed, Name, ObjectId, TreeId};

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry of a directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// Where its content is.
        content: Content,
    },
    /// A directory.
    Dir {
        /// The bytes of all files below it.
        size: u64,
        /// Its entries.
        tree: TreeId,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as it was found: never resolved.
        target: Vec<u8>,
    },
}

impl EntryKind {
    /// The bytes of file content in or below the entry.
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } | Self::Dir { size, .. } => *size,
            Self::Symlink { .. } => 0,
        }
    }
}

/// Where the content of a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// In one blob.
    Blob(BlobId),
    /// In the chunks of a list.
    Chunks {
        /// The list.
        list: ListId,
        /// How deep it is: 1 if its lines name blobs.
        depth: u8,
    },
}

/// One line of a node above the pieces of a large directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The last name in the piece.
    pub last: Name,
    /// How many entries the directory has in the piece.
    pub entries: u64,
    /// The bytes of all files in and below the piece.
    pub size: u64,
    /// The piece.
    pub tree: TreeId,
}

/// A decoded tree object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tree {
    /// The entries of a directory, or of a piece of it.
    Entries(Vec<Entry>),
    /// A node above pieces.
    Pieces {
        /// 1 if the pieces hold entries, else the pieces are nodes of one level less.
        level: u8,
        /// The pieces, at least one.
        pieces: Vec<Piece>,
    },
}

impl Tree {
    /// Decodes a tree object. Names are safe, in order and without duplicates in what is returned.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let text = bytes.strip_suffix(b"\n").ok_or_else(|| Malformed::new("a tree does not end with a line"))?;
        let mut lines = text.split(|b| *b == b'\n');
        let level = decode_header(lines.next().unwrap_or_default())?;
        if level == 0 {
            let entries = lines.map(decode_entry).collect::<Result<Vec<_>, _>>()?;
            check_order(entries.iter().map(|entry| &entry.name))?;
            Ok(Self::Entries(entries))
        } else {
            let pieces = lines.map(decode_piece).collect::<Result<Vec<_>, _>>()?;
            check_order(pieces.iter().map(|piece| &piece.last))?;
            if pieces.is_empty() {
                return Err(Malformed::new("a tree node has no pieces"));
            }
            Ok(Self::Pieces { level, pieces })
        }
    }
}

fn check_order<'a>(names: impl ExactSizeIterator<Item = &'a Name>) -> Result<(), Malformed> {
    if names.len() > MAX_LINES {
        return Err(Malformed::new("a tree has too many lines"));
    }
    let mut previous: Option<&Name> = None;
    for name in names {
        match previous.map(|previous| previous.cmp(name)) {
            None | Some(Ordering::Less) => previous = Some(name),
            Some(Ordering::Equal) => return Err(Malformed::new(format!("the name {name:?} stands twice in a tree"))),
            Some(Ordering::Greater) => return Err(Malformed::new(format!("the name {name:?} is out of order"))),
        }
    }
    Ok(())
}

/// Builds the tree of one directory while its entries arrive, in bounded memory.
pub struct TreeBuilder {
    splitter: Splitter<TreeLine>,
    hash: HashAlgorithm,
}

impl TreeBuilder {
    /// An empty directory. `hash` is the repository's, and decides where large directories are cut.
    pub fn new(hash: HashAlgorithm) -> Self {
        Self { splitter: Splitter::new(), hash }
    }

    /// Adds the next entry; the names must ascend. `store` stores a finished piece and returns its name.
    pub fn push<E>(&mut self, entry: Entry, store: &mut impl FnMut(&[u8]) -> Result<ObjectId, E>) -> Result<(), E> {
        self.splitter.push(TreeLine { kind: LineKind::Entry(entry), hash: self.hash }, store)
    }

    /// The directory's tree, and the bytes of all files below it.
    pub fn finish<E>(self, store: &mut impl FnMut(&[u8]) -> Result<ObjectId, E>) -> Result<(TreeId, u64), E> {
        let top = self.splitter.finish(store)?;
        Ok((TreeId(top.id), top.summary.map_or(0, |summary| summary.size)))
    }
}

struct TreeLine {
    kind: LineKind,
    hash: HashAlgorithm,
}

enum LineKind {
    Entry(Entry),
    Piece(Piece),
}

struct PieceSummary {
    last: Name,
    entries: u64,
    size: u64,
    hash: HashAlgorithm,
}

impl TreeLine {
    fn name(&self) -> &Name {
        match &self.kind {
            LineKind::Entry(entry) => &entry.name,
            LineKind::Piece(piece) => &piece.last,
        }
    }
}

impl Line for TreeLine {
    type Summary = PieceSummary;

    fn header(level: u8, out: &mut Vec<u8>) {
        write_header(level, out);
    }

    fn write(&self, out: &mut Vec<u8>) {
        match &self.kind {
            LineKind::Entry(entry) => write_entry(entry, out),
            LineKind::Piece(piece) => write_piece(piece, out),
        }
    }

    /// One name in 512, by other bits of its hash at each level.
    fn ends_piece(&self, level: u8) -> bool {
        let hash = self.hash.hash(self.name().as_bytes());
        let at = usize::from(level) * 2;
        matches!(hash.as_bytes()[at..at + 2], [high, 0] if high & 1 == 0)
    }

    fn summary(self) -> PieceSummary {
        let (last, entries, size) = match self.kind {
            LineKind::Entry(entry) => (entry.name, 1, entry.kind.size()),
            LineKind::Piece(piece) => (piece.last, piece.entries, piece.size),
        };
        PieceSummary { last, entries, size, hash: self.hash }
    }

    fn merge(summary: &mut PieceSummary, next: PieceSummary) {
        debug_assert!(summary.last < next.last, "entries come in order");
        summary.last = next.last;
        summary.entries += next.entries;
        summary.size += next.size;
    }

    fn for_piece(summary: PieceSummary, id: ObjectId) -> Self {
        let PieceSummary { last, entries, size, hash } = summary;
        Self { kind: LineKind::Piece(Piece { last, entries, size, tree: TreeId(id) }), hash }
    }
}

fn write_header(level: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"tree\":1");
    if level > 0 {
        write_number("level", u64::from(level), out);
    }
    out.extend_from_slice(b"}\n");
}

fn write_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.push(b'{');
    write_bytes("name", entry.name.as_bytes(), out);
    match &entry.kind {
        EntryKind::File { size, content } => {
            out.extend_from_slice(b",\"type\":\"file\"");
            write_number("size", *size, out);
            match content {
                Content::Blob(blob) => write_id("blob", blob.object(), out),
                Content::Chunks { list, depth } => {
                    write_id("chunks", list.object(), out);
                    write_number("depth", u64::from(*depth), out);
                }
            }
        }
        EntryKind::Dir { size, tree } => {
            out.extend_from_slice(b",\"type\":\"dir\"");
            write_number("size", *size, out);
            write_id("tree", tree.object(), out);
        }
        EntryKind::Symlink { target } => {
            out.extend_from_slice(b",\"type\":\"symlink\",");
            write_bytes("target", target, out);
        }
    }
    out.extend_from_slice(b"}\n");
}

fn write_piece(piece: &Piece, out: &mut Vec<u8>) {
    out.push(b'{');
    write_bytes("last", piece.last.as_bytes(), out);
    write_number("entries", piece.entries, out);
    write_number("size", piece.size, out);
    write_id("tree", piece.tree.object(), out);
    out.extend_from_slice(b"}\n");
}

fn write_key(key: &str, out: &mut Vec<u8>) {
    for part in [",\"", key, "\":"] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn write_number(key: &str, value: u64, out: &mut Vec<u8>) {
    write_key(key, out);
    out.extend_from_slice(value.to_string().as_bytes());
}

fn write_id(key: &str, id: ObjectId, out: &mut Vec<u8>) {
    write_key(key, out);
    out.push(b'"');
    out.extend_from_slice(&id.hex_digits());
    out.push(b'"');
}

/// Text as a JSON string with the escapes of `serde_json`; other bytes as hex under another key.
fn write_bytes(key: &str, bytes: &[u8], out: &mut Vec<u8>) {
    match str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(|byte| *byte >= b' ' && !matches!(byte, b'"' | b'\\')) => {
            for part in ["\"", key, "\":\"", text, "\""] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        Ok(text) => {
            out.extend_from_slice(format!("\"{key}\":{}", serde_json::Value::from(text)).as_bytes());
        }
        Err(_) => out.extend_from_slice(format!("\"{key}_hex\":\"{}\"", hex::encode(bytes)).as_bytes()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    tree: u8,
    #[serde(default)]
    level: u8,
}

fn decode_header(line: &[u8]) -> Result<u8, Malformed> {
    let header: HeaderLine = parse(line)?;
    if header.tree != 1 {
        return Err(Malformed::new(format!("tree version {} is not known", header.tree)));
    }
    if header.level >= MAX_LEVELS {
        return Err(Malformed::new("a tree has too many levels"));
    }
    canonical(line, |out| write_header(header.level, out))?;
    Ok(header.level)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    name_hex: Option<&'a str>,
    #[serde(rename = "type")]
    kind: LineType,
    size: Option<u64>,
    blob: Option<&'a str>,
    chunks: Option<&'a str>,
    depth: Option<u8>,
    tree: Option<&'a str>,
    #[serde(borrow)]
    target: Option<Cow<'a, str>>,
    target_hex: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum LineType {
    File,
    Dir,
    Symlink,
}

fn decode_entry(line: &[u8]) -> Result<Entry, Malformed> {
    let fields: EntryLine<'_> = parse(line)?;
    let name = decode_name(fields.name, fields.name_hex)?;
    let missing = || Malformed::new(format!("the entry {name:?} lacks a field"));
    let size = || fields.size.ok_or_else(missing);
    let kind = match fields.kind {
        LineType::File => {
            let content = match (fields.blob, fields.chunks, fields.depth) {
                (Some(blob), None, None) => Content::Blob(BlobId(decode_id(blob)?)),
                (None, Some(list), Some(depth)) if (1..=MAX_DEPTH).contains(&depth) => {
                    Content::Chunks { list: ListId(decode_id(list)?), depth }
                }
                _ => return Err(Malformed::new(format!("the entry {name:?} does not say where its content is"))),
            };
            EntryKind::File { size: size()?, content }
        }
        LineType::Dir => EntryKind::Dir { size: size()?, tree: TreeId(decode_id(fields.tree.ok_or_else(missing)?)?) },
        LineType::Symlink => {
            let target = decode_bytes(fields.target, fields.target_hex)?;
            if target.is_empty() || target.contains(&0) {
                return Err(Malformed::new(format!("the target of the link {name:?} is not one")));
            }
            EntryKind::Symlink { target }
        }
    };
    let entry = Entry { name, kind };
    canonical(line, |out| write_entry(&entry, out))?;
    Ok(entry)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PieceLine<'a> {
    #[serde(borrow)]
    last: Option<Cow<'a, str>>,
    last_hex: Option<&'a str>,
    entries: u64,
    size: u64,
    tree: &'a str,
}

fn decode_piece(line: &[u8]) -> Result<Piece, Malformed> {
    let fields: PieceLine<'_> = parse(line)?;
    let last = decode_name(fields.last, fields.last_hex)?;
    let tree = TreeId(decode_id(fields.tree)?);
    let piece = Piece { last, entries: fields.entries, size: fields.size, tree };
    canonical(line, |out| write_piece(&piece, out))?;
    Ok(piece)
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Malformed> {
    serde_json::from_slice(line).map_err(|error| Malformed::new(format!("a line of a tree is not valid: {error}")))
}

fn decode_name(text: Option<Cow<'_, str>>, hex: Option<&str>) -> Result<Name, Malformed> {
    let bytes = decode_bytes(text, hex)?;
    Name::new(bytes).map_err(|error| Malformed::new(error.to_string()))
}

fn decode_bytes(text: Option<Cow<'_, str>>, hex: Option<&str>) -> Result<Vec<u8>, Malformed> {
    match (text, hex) {
        (Some(text), None) => Ok(text.into_owned().into_bytes()),
        (None, Some(hex)) => hex::decode(hex).map_err(|error| Malformed::new(format!("bad hex digits: {error}"))),
        _ => Err(Malformed::new("a name or target is missing, or given twice")),
    }
}

fn decode_id(hex: &str) -> Result<ObjectId, Malformed> {
    hex.parse().map_err(|error: super::NotAnId| Malformed::new(error.to_string()))
}

/// Whether `line` is what the encoder writes.
fn canonical(line: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Malformed> {
    let mut expected = Vec::with_capacity(line.len() + 1);
    write(&mut expected);
    if expected.strip_suffix(b"\n") == Some(line) {
        Ok(())
    } else {
        Err(Malformed::new("a line of a tree is valid but not written as it must be"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;

    use super::super::HashAlgorithm::Blake3;
    use super::super::split::MAX_PIECE;
    use super::*;

    fn name(bytes: &[u8]) -> Name {
        Name::new(bytes).unwrap()
    }

    fn file(bytes: &[u8], size: u64) -> Entry {
        Entry { name: name(bytes), kind: EntryKind::File { size, content: Content::Blob(BlobId(Blake3.hash(b""))) } }
    }

    type Pieces = HashMap<ObjectId, Vec<u8>>;

    fn build(entries: impl IntoIterator<Item = Entry>) -> (TreeId, u64, Pieces) {
        let mut pieces = Pieces::new();
        let mut store = |text: &[u8]| -> Result<ObjectId, Infallible> {
            let id = Blake3.hash(text);
            pieces.insert(id, text.to_vec());
            Ok(id)
        };
        let mut builder = TreeBuilder::new(Blake3);
        for entry in entries {
            builder.push(entry, &mut store).unwrap();
        }
        let (id, size) = builder.finish(&mut store).unwrap();
        (id, size, pieces)
    }

    #[test]
    fn golden_bytes() {
        let id = Blake3.hash(b"x");
        let entries = vec![
            Entry { name: name(b"\x01\xff"), kind: EntryKind::Symlink { target: b"../\xfe".to_vec() } },
            Entry { name: name(b"a"), kind: EntryKind::File { size: 5, content: Content::Blob(BlobId(id)) } },
            Entry {
                name: name(b"b\n\"\\\x7f"),
                kind: EntryKind::File { size: 1 << 40, content: Content::Chunks { list: ListId(id), depth: 2 } },
            },
            Entry { name: name(b"d"), kind: EntryKind::Dir { size: 0, tree: TreeId(id) } },
            Entry { name: name("ä".as_bytes()), kind: EntryKind::Symlink { target: b"/no/where".to_vec() } },
        ];
        let text = concat!(
            "{\"tree\":1}\n",
            "{\"name_hex\":\"01ff\",\"type\":\"symlink\",\"target_hex\":\"2e2e2ffe\"}\n",
            "{\"name\":\"a\",\"type\":\"file\",\"size\":5,\"blob\":\"ID\"}\n",
            "{\"name\":\"b\\n\\\"\\\\\u{7f}\",\"type\":\"file\",\"size\":1099511627776,\"chunks\":\"ID\",\"depth\":2}\n",
            "{\"name\":\"d\",\"type\":\"dir\",\"size\":0,\"tree\":\"ID\"}\n",
            "{\"name\":\"ä\",\"type\":\"symlink\",\"target\":\"/no/where\"}\n",
        )
        .replace("ID", &id.to_hex());
        let (tree, size, pieces) = build(entries.clone());
        assert_eq!(str::from_utf8(&pieces[&tree.object()]).unwrap(), text);
        assert_eq!(size, 5 + (1 << 40));
        assert_eq!(Tree::decode(text.as_bytes()), Ok(Tree::Entries(entries)));
        assert_eq!(Tree::decode(b"{\"tree\":1}\n"), Ok(Tree::Entries(Vec::new())));
    }

    #[test]
    fn golden_node() {
        let id = Blake3.hash(b"x");
        let text = format!(
            "{{\"tree\":1,\"level\":1}}\n\
             {{\"last\":\"m\",\"entries\":64,\"size\":9,\"tree\":\"{id}\"}}\n\
             {{\"last_hex\":\"ff\",\"entries\":3,\"size\":0,\"tree\":\"{id}\"}}\n"
        );
        let pieces = vec![
            Piece { last: name(b"m"), entries: 64, size: 9, tree: TreeId(id) },
            Piece { last: name(b"\xff"), entries: 3, size: 0, tree: TreeId(id) },
        ];
        assert_eq!(Tree::decode(text.as_bytes()), Ok(Tree::Pieces { level: 1, pieces }));
        let first = |lines: usize| text.lines().take(lines).map(|line| format!("{line}\n")).collect::<String>();
        assert!(Tree::decode(first(2).as_bytes()).is_ok(), "the last node of a level may have one piece");
        assert!(Tree::decode(first(1).as_bytes()).is_err());
    }

    #[test]
    fn hostile_trees_are_refused() {
        let id = Blake3.hash(b"x");
        let file = |name: &str| format!("{{\"name\":\"{name}\",\"type\":\"file\",\"size\":1,\"blob\":\"{id}\"}}\n");
        let tree = |lines: &str| format!("{{\"tree\":1}}\n{lines}");
        assert!(Tree::decode(tree(&file("a")).as_bytes()).is_ok());
        let deep = format!("{{\"name\":{}1{}}}\n", "[".repeat(100_000), "]".repeat(100_000));
        for bad in [
            String::new(),
            "\n".into(),
            "{\"tree\":1}".into(),
            "{\"tree\":2}\n".into(),
            "{\"tree\":1,\"level\":0}\n".into(),
            "{\"tree\":1,\"level\":9}\n".into(),
            "{ \"tree\":1}\n".into(),
            tree("\n"),
            tree(&file("..")),
            tree(&file(".")),
            tree(&file("")),
            tree(&file("/etc/x")),
            tree(&file("a/b")),
            tree(&file("a\\u0000b")),
            tree(&format!("{}{}", file("a"), file("a"))),
            tree(&format!("{}{}", file("b"), file("a"))),
            tree(&file("a").replace("size", "length")),
            tree(&file("a").replace("file", "socket")),
            tree(&file("a").replace(":1,", ":-1,")),
            tree(&file("a").replace(":1,", ":1.0,")),
            tree(&file("a").replace(",\"size\":1", "")),
            tree(&file("a").replace(",\"size\":1", ",\"size\":1,\"size\":1")),
            tree(&file("a").replace(",\"size\"", ", \"size\"")),
            tree(&file("\\u0061")),
            tree(&file("a").replace("\"name\":\"a\"", "\"name_hex\":\"61\"")),
            tree(&file("a").replace("\"name\":\"a\"", "\"name_hex\":\"FF\"")),
            tree(&file("a").replace("\"name\":\"a\"", "\"name\":\"a\",\"name_hex\":\"61\"")),
            tree(&file("a").replace("blob", "tree")),
            tree(&file("a").replace("}", ",\"depth\":1}")),
            tree(&file("a").replace("blob", "chunks").replace("}", ",\"depth\":0}")),
            tree(&file("a").replace("blob", "chunks").replace("}", ",\"depth\":9}")),
            tree("{\"name\":\"a\",\"type\":\"symlink\",\"target\":\"\"}\n"),
            tree("{\"name\":\"a\",\"type\":\"symlink\",\"target\":\"a\\u0000\"}\n"),
            tree(&deep),
            deep,
        ] {
            assert!(Tree::decode(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(200)]);
        }
    }

    #[test]
    fn a_large_directory_is_cut_and_one_new_name_rewrites_one_piece_a_level() {
        let names = |extra: Option<&str>| {
            let mut names: Vec<String> = (0..100_000).map(|i| format!("file-{i:07}.txt")).collect();
            names.extend(extra.map(str::to_string));
            names.sort();
            names
        };
        let entries = |extra| names(extra).into_iter().map(|n| file(n.as_bytes(), 1));
        let (root, size, before) = build(entries(None));
        assert_eq!(size, 100_000);
        let Ok(Tree::Pieces { level: 1, pieces }) = Tree::decode(&before[&root.object()]) else { panic!() };
        assert_eq!(pieces.iter().map(|piece| piece.entries).sum::<u64>(), 100_000);
        assert!((100..=400).contains(&pieces.len()), "{}", pieces.len());
        for text in before.values() {
            assert!(text.len() <= MAX_PIECE);
            Tree::decode(text).unwrap();
        }
        let (_, _, after) = build(entries(Some("file-0050000.txu")));
        let new = after.keys().filter(|id| !before.contains_key(id)).count();
        assert!(new <= 3, "{new} of {}", after.len());
    }

    /// The last piece of a level may come right after a node that has just ended: that node then has one line.
    #[test]
    fn what_is_built_can_be_decoded_whatever_the_number_of_entries() {
        let whole = |prefix: &str, count: u32| {
            let (root, size, pieces) = build((0..count).map(|i| file(format!("{prefix}{i:07}").as_bytes(), 1)));
            assert_eq!(size, u64::from(count));
            let mut lone_nodes = 0;
            for text in pieces.values() {
                if let Tree::Pieces { pieces, .. } = Tree::decode(text).unwrap() {
                    lone_nodes += u32::from(pieces.len() == 1);
                }
            }
            let Ok(Tree::Pieces { pieces, .. }) = Tree::decode(&pieces[&root.object()]) else { panic!() };
            assert!(pieces.len() >= 2, "the top has two pieces or more");
            lone_nodes
        };
        assert_eq!(whole("d4-", 43_781), 1);
        assert_eq!(whole("d21-", 41_178), 1);
        for count in [5_000, 20_000, 43_780] {
            assert_eq!(whole("d4-", count), 0, "{count}");
        }
    }

    #[test]
    fn a_piece_never_exceeds_its_bytes() {
        let entries = (0..300_u32).map(|i| {
            let kind = EntryKind::Symlink { target: vec![1; 4000] };
            Entry { name: name(format!("{i:04}").as_bytes()), kind }
        });
        let (_, _, pieces) = build(entries);
        assert!(pieces.len() > 20);
        assert!(pieces.values().all(|text| text.len() <= MAX_PIECE));
    }
}
