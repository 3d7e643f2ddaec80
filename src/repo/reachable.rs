//! Marking: which objects the snapshots need.
//!
//! Each distinct tree and list is read once, however many snapshots share it, so the cost is that of the distinct trees.
//! The walk keeps its own stack: the depth of the source does not matter.
//!
//! The same bytes may be referred to as a blob by one entry and as a tree by another (somebody backs up a tree object as
//! a file). So what was visited is remembered by how it was referred to, and what is needed by what it is alone.
//!
//! # Memory
//!
//! A mark is a bit at the place in a pack where the object stands; so is the note that a tree, or a list of chunks, was
//! visited. Only these are remembered by name: what is needed and loose, what is missing, and lists of lists.
//!
//! # Why nothing that is needed is taken for dead
//!
//! - A place is marked only after the pack itself has said that the object stands there: `cache/index` alone could point
//!   at a neighbour. If no pack says so, the name is kept.
//! - Places are those of a pack by its name, so they mean the same after the packs were listed anew. What does not is kept
//!   no longer than the packs are borrowed ([`Marking`]).
//! - Of an object with several copies the index may know only some. So a place without a mark is dead only if no place that
//!   the index knows for an object of that name is marked either ([`Reachable::needs`]). What cannot be looked up counts as
//!   needed.

use std::collections::{HashMap, HashSet};

use super::Repository;
use super::places::Bits;
use super::recent::Recent;
use crate::error::Result;
use crate::object::{Content, EntryKind, ListId, ObjectId, Snapshot, Tree, TreeId};
use crate::store::pack::PackName;
use crate::store::packs::{Near, Packs};

/// The objects that a set of snapshots needs.
#[derive(Debug, Default)]
pub struct Reachable {
    packed: HashMap<PackName, PackMarks>,
    /// Needed, and loose, or in no pack when they were marked.
    apart: HashSet<ObjectId>,
    /// Visited, and without a bit for it.
    visited: HashSet<Visit>,
}

/// What was noted about the objects of a pack, by position.
#[derive(Debug, Default)]
struct PackMarks {
    needed: Bits,
    trees: Bits,
    lists: Bits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Visit {
    Tree(TreeId),
    /// A list and its depth.
    List(ListId, u8),
}

/// A place that stays the same when packs are listed anew.
type Place = (PackName, u32);

/// Marking, as long as the packs stay listed as they are: that the repository is borrowed says so.
pub struct Marking<'a> {
    marks: &'a mut Reachable,
    repo: &'a Repository,
    /// The objects that were marked last.
    recent: Recent<()>,
    /// Where the object stands that was marked last.
    near: Near<'a>,
    /// What is visited and not read yet.
    pending: Vec<Visit>,
}

impl Marking<'_> {
    /// Marks everything that a snapshot needs. It is an error if a tree or list cannot be read: then what is below it is
    /// not known, and nothing must be removed. Blobs are not read.
    pub fn mark(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.refer_to(Visit::Tree(snapshot.tree))?;
        for (_size, content) in snapshot.path_lists() {
            self.refer_to_content(content)?;
        }
        while let Some(visit) = self.pending.pop() {
            match visit {
                Visit::Tree(id) => match self.repo.read_tree(id)? {
                    Tree::Entries(entries) => {
                        for entry in entries {
                            match entry.kind {
                                EntryKind::File { content, .. } => self.refer_to_content(content),
                                EntryKind::Dir { tree, .. } => self.refer_to(Visit::Tree(tree)),
                                EntryKind::Symlink { .. } => Ok(()),
                            }?;
                        }
                    }
                    Tree::Pieces { pieces, .. } => {
                        for piece in pieces {
                            self.refer_to(Visit::Tree(piece.tree))?;
                        }
                    }
                },
                Visit::List(id, depth) => {
                    for chunk in self.repo.read_list(id)? {
                        if depth == 1 {
                            self.need(chunk.id)?;
                        } else {
                            self.refer_to(Visit::List(ListId(chunk.id), depth - 1))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn refer_to_content(&mut self, content: Content) -> Result<()> {
        match content {
            Content::Blob(blob) => self.need(blob.object()),
            Content::Chunks { list, depth } => self.refer_to(Visit::List(list, depth)),
        }
    }

    fn refer_to(&mut self, visit: Visit) -> Result<()> {
        let id = match visit {
            Visit::Tree(id) => id.object(),
            Visit::List(id, _) => id.object(),
        };
        let places = self.mark_places(id)?;
        let is_new = match (visit, places.first()) {
            (Visit::Tree(_), Some((pack, position))) => self.marks.of(*pack).trees.set(*position),
            (Visit::List(_, 1), Some((pack, position))) => self.marks.of(*pack).lists.set(*position),
            _ => self.marks.visited.insert(visit),
        };
        if is_new {
            self.pending.push(visit);
        }
        Ok(())
    }

    fn need(&mut self, id: ObjectId) -> Result<()> {
        if self.recent.get(id).is_none() {
            self.mark_places(id)?;
            self.recent.put(id, ());
        }
        Ok(())
    }

    /// Marks each place where packs say that the object stands, or its name if there is none. Returns the places.
    fn mark_places(&mut self, id: ObjectId) -> Result<Vec<Place>> {
        let packs: &Packs = self.near.packs();
        let copies = self.repo.packed_copies_near(&mut self.near, id)?;
        let mut places: Vec<Place> =
            copies.into_iter().map(|location| (packs.name(location.slot), location.position)).collect();
        places.sort_unstable();
        for (pack, position) in &places {
            self.marks.of(*pack).needed.set(*position);
        }
        if places.is_empty() {
            self.marks.apart.insert(id);
        }
        Ok(places)
    }
}

impl Reachable {
    /// Begins to mark what snapshots of this repository need, besides what is marked.
    pub fn marking<'a>(&'a mut self, repo: &'a Repository) -> Result<Marking<'a>> {
        let near = repo.packs()?.near();
        Ok(Marking { marks: self, repo, recent: Recent::default(), near, pending: Vec::new() })
    }

    fn of(&mut self, pack: PackName) -> &mut PackMarks {
        self.packed.entry(pack).or_default()
    }

    /// Whether a marked snapshot needs the object, whichever copy of it is meant. Also if that cannot be found out.
    pub fn needs(&self, repo: &Repository, id: &ObjectId) -> bool {
        let is_marked = || -> Result<bool> {
            let packs = repo.packs()?;
            let found = packs.find(*id)?;
            Ok(found.into_iter().any(|location| self.has_mark(packs.name(location.slot), location.position)))
        };
        self.apart.contains(id) || is_marked().unwrap_or(true)
    }

    /// The same for what stands at a place, which is faster where it is needed.
    pub fn needs_at(&self, repo: &Repository, pack: PackName, position: u32, id: &ObjectId) -> bool {
        self.has_mark(pack, position) || self.needs(repo, id)
    }

    /// Remembers by name which of these objects, loose or not, are needed: then they are, wherever other copies stand or go.
    pub fn note_loose(&mut self, repo: &Repository, loose: &[ObjectId]) {
        let needed: Vec<ObjectId> = loose.iter().filter(|id| self.needs(repo, id)).copied().collect();
        self.apart.extend(needed);
    }

    fn has_mark(&self, pack: PackName, position: u32) -> bool {
        self.packed.get(&pack).is_some_and(|marks| marks.needed.has(position))
    }

    /// Every object that a marked snapshot needs and that no pack was found to hold, and what [`Reachable::note_loose`] has
    /// noted; in no order.
    pub fn apart(&self) -> impl Iterator<Item = &ObjectId> {
        self.apart.iter()
    }
}
