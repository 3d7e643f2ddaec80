//! What refers to what: every distinct tree and list, walked once, and which of them have damage below.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Stored;
use crate::error::{Error, ObjectProblem, Result};
use crate::object::{Chunk, Content, EntryKind, ListId, ObjectId, Piece, Snapshot, Tree, TreeId};
use crate::repo::{Repository, check_piece};

/// An object that refers to others, and how it is itself referred to. (The same bytes may be a tree to one entry and a
/// blob to another.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Tree(TreeId),
    List { id: ListId, depth: u8 },
}

impl Node {
    pub(super) fn id(self) -> ObjectId {
        match self {
            Self::Tree(id) => id.object(),
            Self::List { id, .. } => id.object(),
        }
    }
}

/// The references of all snapshots that were walked.
pub(super) struct Graph<'a> {
    pub(super) repo: &'a Repository,
    stored: &'a HashMap<ObjectId, Stored>,
    needed: HashSet<ObjectId>,
    /// The bytes of file content at and below each node that could be read.
    sizes: HashMap<Node, u128>,
    visited: HashSet<Node>,
    /// Who refers to a node, and how many bytes it says are there.
    referrers: HashMap<Node, Vec<(Option<Node>, u64)>>,
    problems: BTreeMap<ObjectId, ObjectProblem>,
    /// The nodes that have a damaged object at or below them.
    dirty: HashSet<Node>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(repo: &'a Repository, stored: &'a HashMap<ObjectId, Stored>) -> Self {
        let damaged = stored.iter().filter_map(|(id, stored)| match stored {
            Stored::Whole(_) => None,
            Stored::Damaged(reason) => Some((*id, ObjectProblem::Damaged(reason.clone()))),
        });
        Self {
            repo,
            stored,
            needed: HashSet::new(),
            sizes: HashMap::new(),
            visited: HashSet::new(),
            referrers: HashMap::new(),
            problems: damaged.collect(),
            dirty: HashSet::new(),
        }
    }

    /// Walks what a snapshot refers to and no snapshot before it did.
    pub(super) fn walk(&mut self, snapshot: &Snapshot) -> Result<()> {
        let mut pending = vec![];
        self.refer(None, Node::Tree(snapshot.tree), snapshot.counts.bytes, &mut pending);
        for (size, content) in [&snapshot.incomplete.all, &snapshot.changed.all].into_iter().flatten() {
            self.refer_to_content(None, *content, *size, &mut pending);
        }
        while let Some(node) = pending.pop() {
            if let Err(error) = self.open(node, &mut pending) {
                self.blame(node, error)?;
            }
        }
        Ok(())
    }

    /// Reads a node and notes what it refers to.
    fn open(&mut self, node: Node, pending: &mut Vec<Node>) -> Result<()> {
        if !self.is_whole(node) {
            self.dirty.insert(node);
            return Ok(());
        }
        match node {
            Node::Tree(id) => {
                let tree = self.repo.read_tree(id)?;
                match tree {
                    Tree::Entries(entries) => {
                        self.sizes.insert(node, entries.iter().map(|entry| u128::from(entry.kind.size())).sum());
                        for entry in entries {
                            match entry.kind {
                                EntryKind::File { size, content } => {
                                    self.refer_to_content(Some(node), content, size, pending);
                                }
                                EntryKind::Dir { size, tree } => {
                                    self.refer(Some(node), Node::Tree(tree), size, pending);
                                }
                                EntryKind::Symlink { .. } => {}
                            }
                        }
                    }
                    Tree::Pieces { level, pieces } => {
                        self.sizes.insert(node, pieces.iter().map(|piece| u128::from(piece.size)).sum());
                        for piece in pieces {
                            self.refer(Some(node), Node::Tree(piece.tree), piece.size, pending);
                            self.look_at_piece(level - 1, &piece)?;
                        }
                    }
                }
            }
            Node::List { id, depth } => {
                let list = self.repo.read_list(id)?;
                self.sizes.insert(node, list.iter().map(|chunk| u128::from(chunk.length)).sum());
                for Chunk { id, length } in list {
                    if depth == 1 {
                        self.refer_to_blob(Some(node), id, length);
                    } else {
                        self.refer(Some(node), Node::List { id: ListId(id), depth: depth - 1 }, length, pending);
                    }
                }
            }
        }
        Ok(())
    }

    /// A piece that can be read must be what the node above it says. (One that cannot is found when it is opened.)
    fn look_at_piece(&mut self, level: u8, piece: &Piece) -> Result<()> {
        let node = Node::Tree(piece.tree);
        if !self.is_whole(node) {
            return Ok(());
        }
        match self.repo.read_tree(piece.tree) {
            Ok(tree) => check_piece(piece.tree, level, piece, &tree).or_else(|error| self.blame(node, error)),
            Err(Error::Object { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Notes that an object is not what it must be. Other errors end the check.
    fn blame(&mut self, node: Node, error: Error) -> Result<()> {
        match error {
            Error::Object { id, problem } => {
                self.problems.entry(id).or_insert(problem);
                self.dirty.insert(node);
                Ok(())
            }
            other => Err(other),
        }
    }

    fn refer_to_content(&mut self, from: Option<Node>, content: Content, size: u64, pending: &mut Vec<Node>) {
        match content {
            Content::Blob(blob) => self.refer_to_blob(from, blob.object(), size),
            Content::Chunks { list, depth } => self.refer(from, Node::List { id: list, depth }, size, pending),
        }
    }

    fn refer(&mut self, from: Option<Node>, to: Node, size: u64, pending: &mut Vec<Node>) {
        self.note_needed(to.id());
        self.referrers.entry(to).or_default().push((from, size));
        if self.visited.insert(to) {
            pending.push(to);
        }
    }

    fn refer_to_blob(&mut self, from: Option<Node>, id: ObjectId, length: u64) {
        self.note_needed(id);
        if !self.holds_blob(id, length) {
            if let Some(Stored::Whole(stored)) = self.stored.get(&id) {
                let reason = format!("it has {stored} bytes where {length} are referred to");
                self.problems.entry(id).or_insert(ObjectProblem::Damaged(reason));
            }
            self.dirty.extend(from);
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
    pub(super) fn settle(&mut self) {
        for (node, size) in &self.sizes {
            let says_otherwise = |(_, said): &&(Option<Node>, u64)| u128::from(*said) != *size;
            if let Some((_, said)) = self.referrers.get(node).into_iter().flatten().find(says_otherwise) {
                let reason = format!("it has {size} bytes of files where {said} are referred to");
                self.problems.entry(node.id()).or_insert(ObjectProblem::Damaged(reason));
                self.dirty.insert(*node);
            }
        }
        let mut pending: Vec<Node> = self.dirty.iter().copied().collect();
        while let Some(node) = pending.pop() {
            for above in self.referrers.get(&node).into_iter().flatten().filter_map(|(above, _)| *above) {
                if self.dirty.insert(above) {
                    pending.push(above);
                }
            }
        }
    }

    fn is_whole(&self, node: Node) -> bool {
        matches!(self.stored.get(&node.id()), Some(Stored::Whole(_)))
    }

    /// Whether a blob is stored, whole, and of this length.
    pub(super) fn holds_blob(&self, id: ObjectId, length: u64) -> bool {
        matches!(self.stored.get(&id), Some(Stored::Whole(stored)) if *stored == length)
    }

    /// Whether any snapshot that was walked refers to the object.
    pub(super) fn needs(&self, id: &ObjectId) -> bool {
        self.needed.contains(id)
    }

    /// Whether anything at or below a node is damaged.
    pub(super) fn is_dirty(&self, node: Node) -> bool {
        self.dirty.contains(&node)
    }

    /// What is wrong with an object, if anything is.
    pub(super) fn problem(&self, id: ObjectId) -> Option<&ObjectProblem> {
        self.problems.get(&id)
    }

    /// Every damaged or missing object.
    pub(super) fn problems(&self) -> impl Iterator<Item = (ObjectId, ObjectProblem)> {
        self.problems.iter().map(|(id, problem)| (*id, problem.clone()))
    }
}
