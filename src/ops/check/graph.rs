//! What refers to what: every distinct tree and list, walked once, and which of them have damage at or below them.
//!
//! | what is wrong | where it is noted | who is `dirty` for it |
//! |---|---|---|
//! | an object is missing, cannot be read, or is no valid tree or list | `problems` | itself, or what refers to it as a blob |
//! | a tree says of another tree that it has other files than it has | `problems`, of the tree that says so | the same |
//! | a blob or list is whole, and an entry or line says another length | `mismatches` | what holds that entry or line |
//! | a ref says another total than its tree | `wrong_refs` | none: everything restores |
//!
//! What is dirty makes everything that refers to it dirty, up to the roots.

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::prelude::*;

use super::read::Stored;
use crate::error::{Error, ObjectProblem, Result};
use crate::object::{Chunk, Content, EntryKind, ListId, ObjectId, Snapshot, Tree, TreeId};
use crate::repo::Repository;

/// An object that refers to others, and how it is itself referred to. (The same bytes may be a tree to one entry and a
/// blob to another.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops) enum Node {
    Tree(TreeId),
    List { id: ListId, depth: u8 },
}

impl Node {
    pub(in crate::ops) fn id(self) -> ObjectId {
        match self {
            Self::Tree(id) => id.object(),
            Self::List { id, .. } => id.object(),
        }
    }
}

/// An object that is needed and not whole, as what refers to it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops) enum Wanted {
    Node(Node),
    /// A whole file or a chunk of one.
    Blob {
        id: ObjectId,
        length: u64,
        is_chunk: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum Referrer {
    /// The ref of the snapshot with this number.
    Snapshot(u64),
    Node(Node),
}

/// What a node says.
enum NodeContent {
    Tree(TreeId, Tree),
    List(u8, Vec<Chunk>),
}

/// So many nodes are read at once, by all threads.
const READ_AT_ONCE: usize = 256;

/// The references of all snapshots that were walked.
pub(in crate::ops) struct Graph<'a> {
    pub(super) repo: &'a Repository,
    stored: &'a HashMap<ObjectId, Stored>,
    needed: HashSet<ObjectId>,
    /// The blobs that are needed and not whole.
    lacking: HashSet<Wanted>,
    /// The bytes of file content at and below each node that could be read.
    sizes: HashMap<Node, u128>,
    visited: HashSet<Node>,
    /// Who refers to a node, and how many bytes it says are there.
    referrers: HashMap<Node, Vec<(Referrer, u64)>>,
    /// The trees that are a whole directory, not only a piece of one.
    directories: HashSet<TreeId>,
    /// What is wrong with an object itself.
    problems: BTreeMap<ObjectId, ObjectProblem>,
    /// Objects that are whole, and of which something says otherwise than they are.
    mismatches: BTreeMap<ObjectId, String>,
    /// Snapshots whose ref says otherwise than their trees.
    wrong_refs: BTreeMap<u64, String>,
    /// The nodes that have a damaged object at or below them.
    dirty: HashSet<Node>,
}

impl<'a> Graph<'a> {
    pub(in crate::ops) fn new(repo: &'a Repository, stored: &'a HashMap<ObjectId, Stored>) -> Self {
        let damaged = stored.iter().filter_map(|(id, stored)| match stored {
            Stored::Whole(_) | Stored::Unread(_) => None,
            Stored::Damaged(reason) => Some((*id, ObjectProblem::Damaged(reason.clone()))),
        });
        Self {
            repo,
            stored,
            needed: HashSet::new(),
            lacking: HashSet::new(),
            sizes: HashMap::new(),
            visited: HashSet::new(),
            referrers: HashMap::new(),
            directories: HashSet::new(),
            problems: damaged.collect(),
            mismatches: BTreeMap::new(),
            wrong_refs: BTreeMap::new(),
            dirty: HashSet::new(),
        }
    }

    /// Walks what a snapshot refers to and no snapshot before it did. Call it in the pool of threads that shall read.
    pub(in crate::ops) fn walk(&mut self, snapshot: &Snapshot) {
        let mut pending = vec![];
        let from = Referrer::Snapshot(snapshot.number);
        self.refer_to_dir(from, snapshot.tree, snapshot.counts.bytes, &mut pending);
        for (size, content) in [&snapshot.incomplete.all, &snapshot.changed.all].into_iter().flatten() {
            self.refer_to_content(from, *content, *size, &mut pending);
        }
        // Who interrupts a check gets no report: see `check`.
        while !pending.is_empty() && self.repo.go_on().is_ok() {
            let nodes = pending.split_off(pending.len().saturating_sub(READ_AT_ONCE));
            let read = |node: &Node| if self.is_whole(*node) { self.read(*node).map(Some) } else { Ok(None) };
            let contents: Vec<_> = nodes.par_iter().map(read).collect();
            for (node, content) in nodes.into_iter().zip(contents) {
                match content {
                    Ok(Some(content)) => self.note(node, content, &mut pending),
                    Ok(None) => {}
                    Err(error) => self.blame(node, error),
                }
                if !self.is_whole(node) {
                    self.dirty.insert(node);
                }
            }
        }
    }

    fn read(&self, node: Node) -> Result<NodeContent> {
        match node {
            Node::Tree(id) => Ok(NodeContent::Tree(id, self.repo.read_tree(id)?)),
            Node::List { id, depth } => Ok(NodeContent::List(depth, self.repo.read_list(id)?)),
        }
    }

    /// Notes what a node refers to.
    fn note(&mut self, node: Node, content: NodeContent, pending: &mut Vec<Node>) {
        let from = Referrer::Node(node);
        match content {
            NodeContent::Tree(_, Tree::Entries(entries)) => {
                self.sizes.insert(node, entries.iter().map(|entry| u128::from(entry.kind.size())).sum());
                for entry in entries {
                    match entry.kind {
                        EntryKind::File { size, content } => self.refer_to_content(from, content, size, pending),
                        EntryKind::Dir { size, tree } => self.refer_to_dir(from, tree, size, pending),
                        EntryKind::Symlink { .. } => {}
                    }
                }
            }
            NodeContent::Tree(id, Tree::Pieces { pieces, .. }) => {
                self.sizes.insert(node, pieces.iter().map(|piece| u128::from(piece.size)).sum());
                for piece in pieces {
                    self.refer(from, Node::Tree(piece.tree), piece.size, pending);
                }
                if self.directories.contains(&id) {
                    self.read_large_directory(id);
                }
            }
            NodeContent::List(depth, list) => {
                self.sizes.insert(node, list.iter().map(|chunk| u128::from(chunk.length)).sum());
                for Chunk { id, length } in list {
                    if depth == 1 {
                        self.refer_to_blob(from, id, length);
                    } else {
                        self.refer(from, Node::List { id: ListId(id), depth: depth - 1 }, length, pending);
                    }
                }
            }
        }
    }

    /// Reads a directory of several pieces as a restore would: whether the pieces fit together is seen only so.
    fn read_large_directory(&mut self, id: TreeId) {
        let errors: Vec<Error> = self.repo.entries(id).filter_map(Result::err).collect();
        for error in errors {
            let piece = match &error {
                Error::Object { id, .. } => Node::Tree(TreeId(*id)),
                _ => Node::Tree(id),
            };
            self.blame(piece, error);
        }
    }

    /// Notes that a node is not what it must be. An error of reading is one of the object that was to be read: the check
    /// goes on.
    fn blame(&mut self, node: Node, error: Error) {
        let (id, problem) = match error {
            Error::Object { id, problem } => (id, problem),
            other => (node.id(), ObjectProblem::Damaged(other.to_string())),
        };
        self.problems.entry(id).or_insert(problem);
        self.dirty.insert(node);
    }

    fn refer_to_dir(&mut self, from: Referrer, tree: TreeId, size: u64, pending: &mut Vec<Node>) {
        self.directories.insert(tree);
        self.refer(from, Node::Tree(tree), size, pending);
    }

    fn refer_to_content(&mut self, from: Referrer, content: Content, size: u64, pending: &mut Vec<Node>) {
        match content {
            Content::Blob(blob) => self.refer_to_blob(from, blob.object(), size),
            Content::Chunks { list, depth } => self.refer(from, Node::List { id: list, depth }, size, pending),
        }
    }

    fn refer(&mut self, from: Referrer, to: Node, size: u64, pending: &mut Vec<Node>) {
        self.note_needed(to.id());
        self.referrers.entry(to).or_default().push((from, size));
        if self.visited.insert(to) {
            pending.push(to);
        }
    }

    fn refer_to_blob(&mut self, from: Referrer, id: ObjectId, length: u64) {
        self.note_needed(id);
        if self.holds_blob(id, length) {
            return;
        }
        if let Some(stored) = self.stored.get(&id).and_then(Stored::length) {
            let reason = format!("it has {stored} bytes where {length} are referred to");
            self.mismatches.entry(id).or_insert(reason);
        } else {
            let of_list = matches!(from, Referrer::Node(Node::List { .. }));
            self.lacking.insert(Wanted::Blob { id, length, is_chunk: of_list });
        }
        if let Referrer::Node(node) = from {
            self.dirty.insert(node);
        }
    }

    fn note_needed(&mut self, id: ObjectId) {
        self.needed.insert(id);
        if !self.stored.contains_key(&id) {
            self.problems.entry(id).or_insert(ObjectProblem::Missing);
        }
    }

    /// Compares what nodes hold with what is said of them, and finds out what has damage below it. Call it once, after
    /// all snapshots were walked.
    pub(in crate::ops) fn settle(&mut self) {
        for (node, size) in &self.sizes {
            for (from, said) in self.referrers.get(node).into_iter().flatten() {
                if u128::from(*said) == *size {
                    continue;
                }
                // Who says something else is wrong, not what it is said of: others may refer to that rightly.
                let reason = format!("object {} has {size} bytes where {said} are referred to", node.id());
                match (from, node) {
                    (Referrer::Snapshot(number), _) => {
                        self.wrong_refs.insert(*number, reason);
                    }
                    (Referrer::Node(from), Node::List { id, .. }) => {
                        self.mismatches.insert(id.object(), reason);
                        self.dirty.insert(*from);
                    }
                    (Referrer::Node(from), Node::Tree(_)) => {
                        self.problems.entry(from.id()).or_insert(ObjectProblem::Damaged(reason));
                        self.dirty.insert(*from);
                    }
                }
            }
        }
        let mut pending: Vec<Node> = self.dirty.iter().copied().collect();
        while let Some(node) = pending.pop() {
            for (above, _) in self.referrers.get(&node).into_iter().flatten() {
                if let Referrer::Node(above) = above
                    && self.dirty.insert(*above)
                {
                    pending.push(*above);
                }
            }
        }
    }

    fn is_whole(&self, node: Node) -> bool {
        matches!(self.stored.get(&node.id()), Some(Stored::Whole(_) | Stored::Unread(_)))
    }

    /// Whether a list covers this many bytes, as far as it could be read.
    pub(super) fn covers(&self, node: Node, size: u64) -> bool {
        self.sizes.get(&node).is_none_or(|found| *found == u128::from(size))
    }

    /// Whether a blob is stored, whole as far as it was read, and of this length as far as that is known.
    pub(super) fn holds_blob(&self, id: ObjectId, length: u64) -> bool {
        match self.stored.get(&id) {
            Some(Stored::Whole(stored) | Stored::Unread(Some(stored))) => *stored == length,
            Some(Stored::Unread(None)) => true,
            Some(Stored::Damaged(_)) | None => false,
        }
    }

    /// Whether every tree and list that is referred to could be read.
    pub(in crate::ops) fn is_complete(&self) -> bool {
        self.visited.iter().all(|node| self.sizes.contains_key(node))
    }

    /// Whether any snapshot that was walked refers to the object.
    pub(in crate::ops) fn needs(&self, id: &ObjectId) -> bool {
        self.needed.contains(id)
    }

    /// What is needed and not whole. An object can be wanted as several things.
    pub(in crate::ops) fn wanted(&self) -> Vec<Wanted> {
        let nodes = self.visited.iter().copied().filter(|node| !self.is_whole(*node)).map(Wanted::Node);
        nodes.chain(self.lacking.iter().copied()).collect()
    }

    /// Whether anything at or below a node is damaged.
    pub(super) fn is_dirty(&self, node: Node) -> bool {
        self.dirty.contains(&node)
    }

    /// What is wrong with an object, if anything is.
    pub(super) fn problem(&self, id: ObjectId) -> Option<&ObjectProblem> {
        self.problems.get(&id)
    }

    /// Every damaged or missing object, and every one that is not what is said of it.
    pub(super) fn problems(&self) -> BTreeMap<ObjectId, ObjectProblem> {
        let mismatches = self.mismatches.iter().map(|(id, reason)| (*id, ObjectProblem::Damaged(reason.clone())));
        let mut all: BTreeMap<_, _> = mismatches.collect();
        all.extend(self.problems.iter().map(|(id, problem)| (*id, problem.clone())));
        all
    }

    /// The numbers of the snapshots whose ref says otherwise than their trees, and how.
    pub(super) fn wrong_refs(&self) -> impl Iterator<Item = (u64, &str)> {
        self.wrong_refs.iter().map(|(number, reason)| (*number, reason.as_str()))
    }
}
