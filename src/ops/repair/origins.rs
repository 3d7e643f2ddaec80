//! Where objects can be had from that are not whole in the repository: its own damaged packs, other repositories, a
//! directory. Whatever comes from there is hashed before it is used.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use rayon::prelude::*;

use super::directory::Directory;
use crate::object::{Chunk, Content, EntryKind, ListId, ObjectId, Tree, decode_list, display_path};
use crate::ops::check::graph::{Node, Wanted};
use crate::repo::{Elsewhere, SharedRepository};
use crate::store::loose::ReadRules;
use crate::store::pack::{PackKind, PackName, Salvage};

/// Where an object comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// The damaged pack with this number.
    Salvage(usize),
    /// The other repository with this number.
    Copy(usize),
    Directory,
}

/// An object that can be had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) origin: Origin,
    pub(super) kind: PackKind,
    pub(super) length: u64,
}

/// Where an object comes from, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whence {
    /// A pack of the repository, which is damaged elsewhere.
    DamagedPack(PackName),
    /// Another repository.
    Repository(PathBuf),
    /// The files of a directory.
    Directory(PathBuf),
}

impl fmt::Display for Whence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DamagedPack(name) => write!(f, "the damaged pack {name}"),
            Self::Repository(path) => write!(f, "the repository {}", display_path(path)),
            Self::Directory(path) => write!(f, "the directory {}", display_path(path)),
        }
    }
}

/// All that objects can be had from, and what was found there.
#[derive(Debug)]
pub(super) struct Origins {
    rules: ReadRules,
    pub(super) salvages: Vec<Salvage>,
    pub(super) copies: Vec<SharedRepository>,
    pub(super) directory: RwLock<Directory>,
    directory_path: PathBuf,
    found: RwLock<HashMap<ObjectId, Found>>,
}

impl Origins {
    pub(super) fn new(
        rules: ReadRules,
        salvages: Vec<Salvage>,
        copies: Vec<SharedRepository>,
        directory: Option<&Path>,
    ) -> Self {
        let directory_path = directory.map(Path::to_path_buf).unwrap_or_default();
        Self { rules, salvages, copies, directory: RwLock::default(), directory_path, found: RwLock::default() }
    }

    pub(super) fn found(&self) -> RwLockReadGuard<'_, HashMap<ObjectId, Found>> {
        self.found.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, id: ObjectId, found: Found) {
        self.found.write().unwrap_or_else(PoisonError::into_inner).entry(id).or_insert(found);
    }

    /// Reads an object from where it was found.
    pub(super) fn read(&self, origin: Origin, id: ObjectId) -> Option<Vec<u8>> {
        let content = match origin {
            Origin::Salvage(number) => self.salvages.get(number)?.content(id)?,
            // Whatever is wrong with it there, it cannot be had from there.
            Origin::Copy(number) => self.copies.get(number)?.read_object(id).ok()?.to_vec(),
            Origin::Directory => self.directory.read().unwrap_or_else(PoisonError::into_inner).content(id)?,
        };
        (content.len() <= self.rules.max_object && self.rules.hash.hash(&content) == id).then_some(content)
    }

    /// The first place that has an object.
    fn find(&self, id: ObjectId) -> Option<(Origin, Vec<u8>)> {
        let salvages = (0..self.salvages.len()).map(Origin::Salvage);
        let copies = (0..self.copies.len()).map(Origin::Copy);
        let mut origins = salvages.chain(copies).chain([Origin::Directory]);
        origins.find_map(|origin| Some((origin, self.read(origin, id)?)))
    }

    /// Looks for what is wanted, and for what that refers to in turn and `is_whole` does not know, all the way down. Returns
    /// what was not found. Call it in the pool of threads that shall read.
    pub(super) fn look_for(&self, wanted: Vec<Wanted>, is_whole: impl Fn(&ObjectId) -> bool + Sync) -> Vec<Wanted> {
        let (mut level, mut missing) = (wanted, Vec::new());
        let mut seen: HashSet<Wanted> = HashSet::new();
        while !level.is_empty() {
            level.retain(|wanted| seen.insert(*wanted) && !is_whole(&id_of(*wanted)));
            // What stands together is read together.
            level.sort_by_cached_key(|wanted| self.place(id_of(*wanted)));
            let looked: Vec<(Wanted, Option<Vec<Wanted>>)> =
                level.into_par_iter().map(|wanted| (wanted, self.look_for_one(wanted))).collect();
            level = Vec::new();
            for (wanted, below) in looked {
                match below {
                    Some(below) => level.extend(below),
                    None => missing.push(wanted),
                }
            }
        }
        missing
    }

    /// Where an object probably is, for reading many in the order of their places.
    pub(super) fn place(&self, id: ObjectId) -> (usize, u64, u64) {
        for (number, salvage) in self.salvages.iter().enumerate() {
            if let Some((frame, start)) = salvage.place(id) {
                return (number, frame, start as u64);
            }
        }
        for (number, copy) in self.copies.iter().enumerate() {
            let locations = copy.packs().and_then(|packs| packs.find(id));
            if let Some(location) = locations.ok().and_then(|locations| locations.first().copied()) {
                return (self.salvages.len() + number, location.slot.into(), location.position.into());
            }
        }
        (usize::MAX, 0, 0)
    }

    /// Looks for an object; returns what it refers to if it was found.
    fn look_for_one(&self, wanted: Wanted) -> Option<Vec<Wanted>> {
        let id = id_of(wanted);
        let known = self.found().get(&id).copied();
        let (origin, content) = match known {
            Some(found) => (found.origin, self.read(found.origin, id)?),
            None => self.find(id)?,
        };
        let kind = match wanted {
            Wanted::Node(_) => PackKind::Trees,
            Wanted::Blob { .. } => PackKind::Blobs,
        };
        self.note(id, Found { origin, kind, length: content.len() as u64 });
        Some(match wanted {
            Wanted::Node(node) => below(node, &content),
            Wanted::Blob { .. } => Vec::new(),
        })
    }

    pub(super) fn whence(&self, origin: Origin) -> Whence {
        match origin {
            Origin::Salvage(number) => Whence::DamagedPack(self.salvages[number].name()),
            Origin::Copy(number) => Whence::Repository(self.path_of(number)),
            Origin::Directory => Whence::Directory(self.directory_path.clone()),
        }
    }

    /// Where the other repository with this number is.
    pub(super) fn path_of(&self, copy: usize) -> PathBuf {
        self.copies[copy].backend().describe("")
    }
}

impl Elsewhere for Origins {
    fn content(&self, id: ObjectId) -> Option<Vec<u8>> {
        let found = self.found().get(&id).copied()?;
        self.read(found.origin, id)
    }
}

fn id_of(wanted: Wanted) -> ObjectId {
    match wanted {
        Wanted::Node(node) => node.id(),
        Wanted::Blob { id, .. } => id,
    }
}

/// What a tree or list refers to; nothing if it is not one.
fn below(node: Node, content: &[u8]) -> Vec<Wanted> {
    match node {
        Node::Dir(_) | Node::Piece(_) => match Tree::decode(content) {
            Ok(Tree::Entries(entries)) => entries.iter().filter_map(|entry| below_entry(&entry.kind)).collect(),
            Ok(Tree::Pieces { pieces, .. }) => {
                pieces.into_iter().map(|piece| Wanted::Node(Node::Piece(piece.tree))).collect()
            }
            Err(_) => Vec::new(),
        },
        Node::List { depth, .. } => {
            let lines = decode_list(content).unwrap_or_default().into_iter();
            let line = |line: Chunk| match depth {
                1 => Wanted::Blob { id: line.id, length: line.length, is_chunk: true },
                _ => Wanted::Node(Node::List { id: ListId(line.id), depth: depth - 1 }),
            };
            lines.map(line).collect()
        }
    }
}

fn below_entry(kind: &EntryKind) -> Option<Wanted> {
    match *kind {
        EntryKind::File { size, content: Content::Blob(blob) } => {
            Some(Wanted::Blob { id: blob.object(), length: size, is_chunk: false })
        }
        EntryKind::File { content: Content::Chunks { list, depth }, .. } => {
            Some(Wanted::Node(Node::List { id: list, depth }))
        }
        EntryKind::Dir { tree, .. } => Some(Wanted::Node(Node::Dir(tree))),
        EntryKind::Symlink { .. } => None,
    }
}
