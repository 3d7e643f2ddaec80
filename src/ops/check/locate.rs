//! From damaged objects to the paths of a snapshot that need them.

use std::collections::HashSet;

use super::graph::{Graph, Node};
use crate::object::{Content, Entry, EntryKind, ListId, ObjectId, Snapshot, Tree};

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

/// Finds them. Only what has damage below it is read again.
pub(super) fn locate(graph: &Graph<'_>, snapshot: &Snapshot) -> Places {
    let mut places = Places::default();
    for (size, content) in [&snapshot.incomplete.all, &snapshot.changed.all].into_iter().flatten() {
        // No file of the snapshot, but a part of it.
        look_at_content(graph, *content, *size, b"(the full list of what could not be read or changed)", &mut places);
    }
    let mut pending = vec![(Node::Tree(snapshot.tree), Vec::new())];
    while let Some((node, path)) = pending.pop() {
        if !graph.is_dirty(node) {
            continue;
        }
        if places.more || graph.repo.go_on().is_err() {
            break;
        }
        if graph.problem(node.id()).is_some() {
            places.add(node.id(), &path);
        }
        let Node::Tree(id) = node else { continue };
        // What cannot be read is among the problems.
        match graph.repo.read_tree(id) {
            Ok(Tree::Entries(entries)) => {
                for entry in entries {
                    let path = join(&path, &entry);
                    match entry.kind {
                        EntryKind::File { size, content } => look_at_content(graph, content, size, &path, &mut places),
                        EntryKind::Dir { tree, .. } => pending.push((Node::Tree(tree), path)),
                        EntryKind::Symlink { .. } => {}
                    }
                }
            }
            Ok(Tree::Pieces { pieces, .. }) => {
                pending.extend(pieces.into_iter().map(|piece| (Node::Tree(piece.tree), path.clone())));
            }
            Err(_) => {}
        }
    }
    places
}

fn join(path: &[u8], entry: &Entry) -> Vec<u8> {
    if path.is_empty() { entry.name.as_bytes().to_vec() } else { [path, b"/", entry.name.as_bytes()].concat() }
}

fn look_at_content(graph: &Graph<'_>, content: Content, size: u64, path: &[u8], places: &mut Places) {
    let (list, depth) = match content {
        Content::Blob(blob) => {
            if !graph.holds_blob(blob.object(), size) {
                places.add(blob.object(), path);
            }
            return;
        }
        Content::Chunks { list, depth } => (list, depth),
    };
    if !graph.covers(Node::List { id: list, depth }, size) {
        places.add(list.object(), path);
    }
    // Equal pieces of a list are looked at once: a few objects can stand for any number of chunks.
    let mut visited = HashSet::new();
    let mut pending = vec![(list, depth)];
    while let Some((id, depth)) = pending.pop() {
        if !graph.is_dirty(Node::List { id, depth }) || !visited.insert((id, depth)) {
            continue;
        }
        if graph.problem(id.object()).is_some() {
            places.add(id.object(), path);
        }
        for line in graph.repo.read_list(id).unwrap_or_default() {
            if depth > 1 {
                if !graph.covers(Node::List { id: ListId(line.id), depth: depth - 1 }, line.length) {
                    places.add(line.id, path);
                }
                pending.push((ListId(line.id), depth - 1));
            } else if !graph.holds_blob(line.id, line.length) {
                places.add(line.id, path);
            }
        }
    }
}
