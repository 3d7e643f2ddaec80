//! Marking: which objects the snapshots need.
//!
//! Each distinct tree and list is read once, however many snapshots share it, so the cost is that of the distinct trees.
//! The walk keeps its own stack: the depth of the source does not matter.
//!
//! The same bytes may be referred to as a blob by one entry and as a tree by another (somebody backs up a tree object as
//! a file). So what was visited is remembered by how it was referred to, and what is needed by name alone.

use std::collections::HashSet;

use super::Repository;
use crate::error::Result;
use crate::object::{Content, EntryKind, ListId, ObjectId, Snapshot, Tree, TreeId};

/// The objects that a set of snapshots needs.
#[derive(Debug, Default)]
pub struct Reachable {
    needed: HashSet<ObjectId>,
    visited: HashSet<Visit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Visit {
    Tree(TreeId),
    /// A list and its depth.
    List(ListId, u8),
}

impl Reachable {
    /// Marks everything that a snapshot needs. It is an error if a tree or list cannot be read: then what is below it is
    /// not known, and nothing must be removed. Blobs are not read.
    pub fn mark(&mut self, repo: &Repository, snapshot: &Snapshot) -> Result<()> {
        let mut pending = Vec::new();
        self.refer_to(Visit::Tree(snapshot.tree), &mut pending);
        for (_size, content) in [&snapshot.incomplete.all, &snapshot.changed.all].into_iter().flatten() {
            self.refer_to_content(*content, &mut pending);
        }
        while let Some(visit) = pending.pop() {
            match visit {
                Visit::Tree(id) => match repo.read_tree(id)? {
                    Tree::Entries(entries) => {
                        for entry in entries {
                            match entry.kind {
                                EntryKind::File { content, .. } => self.refer_to_content(content, &mut pending),
                                EntryKind::Dir { tree, .. } => self.refer_to(Visit::Tree(tree), &mut pending),
                                EntryKind::Symlink { .. } => {}
                            }
                        }
                    }
                    Tree::Pieces { pieces, .. } => {
                        for piece in pieces {
                            self.refer_to(Visit::Tree(piece.tree), &mut pending);
                        }
                    }
                },
                Visit::List(id, depth) => {
                    for chunk in repo.read_list(id)? {
                        if depth == 1 {
                            self.needed.insert(chunk.id);
                        } else {
                            self.refer_to(Visit::List(ListId(chunk.id), depth - 1), &mut pending);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn refer_to_content(&mut self, content: Content, pending: &mut Vec<Visit>) {
        match content {
            Content::Blob(blob) => {
                self.needed.insert(blob.object());
            }
            Content::Chunks { list, depth } => self.refer_to(Visit::List(list, depth), pending),
        }
    }

    fn refer_to(&mut self, visit: Visit, pending: &mut Vec<Visit>) {
        let id = match visit {
            Visit::Tree(id) => id.object(),
            Visit::List(id, _) => id.object(),
        };
        self.needed.insert(id);
        if self.visited.insert(visit) {
            pending.push(visit);
        }
    }

    /// Whether a marked snapshot needs the object.
    pub fn needs(&self, id: &ObjectId) -> bool {
        self.needed.contains(id)
    }

    /// Every object that a marked snapshot needs, in no order.
    pub fn needed(&self) -> impl Iterator<Item = &ObjectId> {
        self.needed.iter()
    }
}
