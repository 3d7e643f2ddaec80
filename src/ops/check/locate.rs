//! From damaged objects to the paths of a snapshot that need them.

use std::collections::HashSet;
use std::vec;

use super::graph::{Graph, Node};
use crate::error::Result;
use crate::object::{Content, EntryKind, ListId, Name, ObjectId, Snapshot, Tree, TreeId};
use crate::store::packs::Near;

/// No more paths than this are named for one snapshot. A few objects can stand for any number of paths, since the same
/// directory may be met in many places.
const MOST_PLACES: usize = 100_000;

/// The paths of a snapshot that need damaged objects.
#[derive(Default)]
pub(super) struct Places {
    /// The object, and a path that needs it: of the file, or of the directory below which nothing can be read.
    pub(super) found: Vec<(ObjectId, Vec<u8>)>,
    /// Whether there are more than were gathered.
    pub(super) more: bool,
}

impl Places {
    fn add(&mut self, id: ObjectId, path: &[u8]) {
        if self.found.len() < MOST_PLACES {
            self.found.push((id, path.to_vec()));
        } else {
            self.more = true;
        }
    }
}

/// Finds them, snapshot by snapshot.
pub(super) struct Locator<'g> {
    graph: &'g Graph<'g>,
    /// What has no damage at or below it. It is not read again for the snapshots that follow.
    whole: HashSet<Node>,
}

/// A directory, or a part of one, that is being looked at.
struct Level {
    node: Node,
    /// The length of its path.
    path: usize,
    /// What is in it and still to be looked at, with its name; a part of it has none.
    below: vec::IntoIter<(Node, Option<Name>)>,
    /// How many places were found before it.
    found: usize,
    was_read: bool,
}

impl<'g> Locator<'g> {
    pub(super) fn new(graph: &'g Graph<'g>) -> Self {
        Self { graph, whole: HashSet::new() }
    }

    /// The paths of a snapshot that need damaged objects.
    pub(super) fn locate(&mut self, snapshot: &Snapshot) -> Result<Places> {
        let mut places = Places::default();
        if self.graph.is_clean() {
            return Ok(places);
        }
        for (size, content) in snapshot.path_lists() {
            // No file of the snapshot, but a part of it.
            let path = b"(the full list of what could not be read or changed)";
            self.look_at_content(content, size, path, &mut self.graph.repo.packs()?.near(), &mut places)?;
        }
        let mut path = Vec::new();
        let mut levels: Vec<Level> = self.enter(Node::Dir(snapshot.tree), &path, &mut places)?.into_iter().collect();
        while let Some(level) = levels.last_mut() {
            if places.more {
                break;
            }
            path.truncate(level.path);
            let Some((node, name)) = level.below.next() else {
                if places.found.len() == level.found && level.was_read {
                    self.whole.insert(level.node);
                }
                levels.pop();
                continue;
            };
            if let Some(name) = name {
                append(&mut path, &name);
            }
            levels.extend(self.enter(node, &path, &mut places)?);
        }
        Ok(places)
    }

    /// Looks at a directory, or a part of one, unless it is known to be whole, and at the files in it.
    fn enter(&mut self, node: Node, path: &[u8], places: &mut Places) -> Result<Option<Level>> {
        if self.whole.contains(&node) {
            return Ok(None);
        }
        self.graph.repo.go_on()?;
        let found = places.found.len();
        if self.graph.is_dirty(node) && self.graph.problem(node.id()).is_some() {
            places.add(node.id(), path);
        }
        let (mut below, mut near) = (Vec::new(), self.graph.repo.packs()?.near());
        // What cannot be read is among the problems. If it only cannot be read now, that is no reason to pass over it.
        let mut was_read = true;
        match self.graph.repo.read_tree(TreeId(node.id())) {
            Ok(Tree::Entries(entries)) => {
                for entry in entries {
                    match entry.kind {
                        EntryKind::File { size, content } => {
                            let mut path = path.to_vec();
                            append(&mut path, &entry.name);
                            self.look_at_content(content, size, &path, &mut near, places)?;
                        }
                        EntryKind::Dir { tree, .. } => below.push((Node::Dir(tree), Some(entry.name))),
                        EntryKind::Symlink { .. } => {}
                    }
                }
            }
            Ok(Tree::Pieces { pieces, .. }) => {
                below.extend(pieces.into_iter().map(|piece| (Node::Piece(piece.tree), None)));
            }
            Err(error) if error.is_interrupted() => return Err(error),
            Err(_) => was_read = false,
        }
        Ok(Some(Level { node, path: path.len(), below: below.into_iter(), found, was_read }))
    }

    fn look_at_content(
        &mut self,
        content: Content,
        size: u64,
        path: &[u8],
        near: &mut Near<'_>,
        places: &mut Places,
    ) -> Result<()> {
        let (list, depth) = match content {
            Content::Blob(blob) => {
                if !self.graph.holds_blob(near, blob.object(), size)? {
                    places.add(blob.object(), path);
                }
                return Ok(());
            }
            Content::Chunks { list, depth } => (list, depth),
        };
        let top = Node::List { id: list, depth };
        if !self.graph.covers(top, size)? {
            places.add(list.object(), path);
        }
        let (found, mut was_read) = (places.found.len(), true);
        // Equal pieces of a list are looked at once: a few objects can stand for any number of chunks.
        let mut visited = HashSet::new();
        let mut pending = vec![(list, depth)];
        while let Some((id, depth)) = pending.pop() {
            let node = Node::List { id, depth };
            if self.whole.contains(&node) || !visited.insert(node) {
                continue;
            }
            if self.graph.is_dirty(node) && self.graph.problem(id.object()).is_some() {
                places.add(id.object(), path);
            }
            let lines = match self.graph.repo.read_list(id) {
                Err(error) if error.is_interrupted() => return Err(error),
                lines => lines,
            };
            was_read &= lines.is_ok();
            for line in lines.unwrap_or_default() {
                if depth == 1 {
                    if !self.graph.holds_blob(near, line.id, line.length)? {
                        places.add(line.id, path);
                    }
                    continue;
                }
                let node = Node::List { id: ListId(line.id), depth: depth - 1 };
                if !self.graph.covers(node, line.length)? {
                    places.add(line.id, path);
                }
                pending.push((ListId(line.id), depth - 1));
            }
        }
        if places.found.len() == found && was_read && !places.more {
            self.whole.insert(top);
        }
        Ok(())
    }
}

fn append(path: &mut Vec<u8>, name: &Name) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.as_bytes());
}
