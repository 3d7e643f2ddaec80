//! From damaged objects to the paths of a snapshot that need them.

use super::graph::{Graph, Node};
use crate::error::{Error, Result};
use crate::object::{Content, Entry, EntryKind, ListId, ObjectId, Snapshot, Tree};

/// The damaged objects that a snapshot needs, each with a path that needs it: of the file, or of the directory below
/// which nothing can be read. Only what has damage below it is read again.
pub(super) fn locate(graph: &Graph<'_>, snapshot: &Snapshot) -> Result<Vec<(ObjectId, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut pending = vec![(Node::Tree(snapshot.tree), Vec::new())];
    for (size, content) in [&snapshot.incomplete.all, &snapshot.changed.all].into_iter().flatten() {
        // The list of what is missing from the snapshot is a part of it, though no file of it.
        look_at_content(graph, *content, *size, b"", &mut found)?;
    }
    while let Some((node, path)) = pending.pop() {
        if !graph.is_dirty(node) {
            continue;
        }
        if graph.problem(node.id()).is_some() {
            found.push((node.id(), path.clone()));
        }
        let Node::Tree(id) = node else { continue };
        match graph.repo.read_tree(id) {
            Ok(Tree::Entries(entries)) => {
                for entry in entries {
                    let path = join(&path, &entry);
                    match entry.kind {
                        EntryKind::File { size, content } => look_at_content(graph, content, size, &path, &mut found)?,
                        EntryKind::Dir { tree, .. } => pending.push((Node::Tree(tree), path)),
                        EntryKind::Symlink { .. } => {}
                    }
                }
            }
            Ok(Tree::Pieces { pieces, .. }) => {
                pending.extend(pieces.into_iter().map(|piece| (Node::Tree(piece.tree), path.clone())));
            }
            // It is among the problems.
            Err(_) => {}
        }
    }
    Ok(found)
}

fn join(path: &[u8], entry: &Entry) -> Vec<u8> {
    if path.is_empty() { entry.name.as_bytes().to_vec() } else { [path, b"/", entry.name.as_bytes()].concat() }
}

fn look_at_content(
    graph: &Graph<'_>,
    content: Content,
    size: u64,
    path: &[u8],
    found: &mut Vec<(ObjectId, Vec<u8>)>,
) -> Result<()> {
    let (list, depth) = match content {
        Content::Blob(blob) => {
            if !graph.holds_blob(blob.object(), size) {
                found.push((blob.object(), path.to_vec()));
            }
            return Ok(());
        }
        Content::Chunks { list, depth } => (list, depth),
    };
    let mut pending = vec![(list, depth)];
    while let Some((id, depth)) = pending.pop() {
        if !graph.is_dirty(Node::List { id, depth }) {
            continue;
        }
        if graph.problem(id.object()).is_some() {
            found.push((id.object(), path.to_vec()));
        }
        let lines = match graph.repo.read_list(id) {
            Ok(lines) => lines,
            Err(Error::Object { .. }) => continue,
            Err(error) => return Err(error),
        };
        for line in lines {
            if depth > 1 {
                pending.push((ListId(line.id), depth - 1));
            } else if !graph.holds_blob(line.id, line.length) {
                found.push((line.id, path.to_vec()));
            }
        }
    }
    Ok(())
}
