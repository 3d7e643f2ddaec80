//! A tree of files in memory: what a source holds and what a restore of it must give.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

/// What an entry of a directory is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    File(Vec<u8>),
    Dir(Model),
    Link(Vec<u8>),
}

/// The entries of a directory, by name.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Model(BTreeMap<Vec<u8>, Node>);

impl Model {
    /// With a file at this path; the directories above it are made as well.
    pub(crate) fn file(self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.with(path, Node::File(content.into()))
    }

    /// With an empty directory at this path.
    pub(crate) fn dir(self, path: &str) -> Self {
        self.with(path, Node::Dir(Self::default()))
    }

    /// With a symbolic link at this path.
    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.with(path, Node::Link(target.into()))
    }

    fn with(mut self, path: &str, node: Node) -> Self {
        let mut at = &mut self;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                at.0.insert(part.into(), node);
                break;
            }
            let below = at.0.entry(part.into()).or_insert_with(|| Node::Dir(Self::default()));
            let Node::Dir(below) = below else { panic!("{part} in {path} is no directory") };
            at = below;
        }
        self
    }

    /// Adds an entry at the top.
    pub(crate) fn insert(&mut self, name: &[u8], node: Node) {
        self.0.insert(name.to_vec(), node);
    }

    /// Without the entry at this path at the top.
    pub(crate) fn without(mut self, name: &str) -> Self {
        assert!(self.0.remove(name.as_bytes()).is_some(), "{name}");
        self
    }

    /// Writes the tree into a directory that exists.
    pub(crate) fn write(&self, dir: &Path) {
        for (name, node) in &self.0 {
            let path = dir.join(OsStr::from_bytes(name));
            match node {
                Node::File(content) => fs::write(path, content).unwrap(),
                Node::Link(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
                Node::Dir(below) => {
                    fs::create_dir(&path).unwrap();
                    below.write(&path);
                }
            }
        }
    }

    /// Reads a directory, links as links.
    pub(crate) fn read(dir: &Path) -> Self {
        let entry = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let node = if kind.is_dir() {
                Node::Dir(Self::read(&entry.path()))
            } else if kind.is_symlink() {
                Node::Link(fs::read_link(entry.path()).unwrap().into_os_string().into_vec())
            } else {
                assert!(kind.is_file(), "{}", entry.path().display());
                Node::File(fs::read(entry.path()).unwrap())
            };
            (entry.file_name().into_vec(), node)
        };
        Self(fs::read_dir(dir).unwrap().map(entry).collect())
    }

    /// The paths at which two trees differ, for messages.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        self.compare(other, "", &mut found);
        found
    }

    fn compare(&self, other: &Self, above: &str, found: &mut Vec<String>) {
        let path = |name: &[u8]| format!("{above}{}", String::from_utf8_lossy(name));
        for (name, node) in &self.0 {
            match (node, other.0.get(name)) {
                (Node::Dir(one), Some(Node::Dir(another))) => one.compare(another, &(path(name) + "/"), found),
                (one, Some(another)) if one == another => {}
                (_, Some(_)) => found.push(format!("{} differs", path(name))),
                (_, None) => found.push(format!("{} is missing", path(name))),
            }
        }
        let extra = other.0.keys().filter(|name| !self.0.contains_key(*name));
        found.extend(extra.map(|name| format!("{} is too much", path(name))));
    }
}

/// A model in a directory of its own.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) model: Model,
    dir: TempDir,
}

impl Source {
    pub(crate) fn new(model: Model) -> Self {
        let dir = tempfile::tempdir().unwrap();
        model.write(dir.path());
        Self { model, dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Files that do not compress, each with its number for a name.
pub(crate) fn files(numbers: impl IntoIterator<Item = u64>) -> Model {
    numbers.into_iter().fold(Model::default(), |model, number| model.file(&format!("{number}"), file(number)))
}

/// What is in such a file.
pub(crate) fn file(number: u64) -> Vec<u8> {
    noise(number, 10_000)
}

/// Bytes that do not compress, and that differ for each seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
