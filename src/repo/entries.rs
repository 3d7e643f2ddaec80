//! Reading a directory, whatever its size: one piece in memory at a time.

use std::vec;

use super::Repository;
use crate::error::{Error, Result};
use crate::object::{Entry, EntryKind, Name, Piece, Tree, TreeId};

/// The entries of a directory, in the order of their names. A piece that cannot be read, or is not what the node above
/// it says, is one error in its place; the entries of the other pieces follow.
pub struct Entries<'r> {
    repo: &'r Repository,
    /// What is still to be read, the next one last.
    pending: Vec<Pending>,
    current: vec::IntoIter<Entry>,
    previous: Option<Name>,
}

enum Pending {
    Top(TreeId),
    Piece { level: u8, piece: Piece },
}

impl<'r> Entries<'r> {
    pub(super) fn new(repo: &'r Repository, tree: TreeId) -> Self {
        Self { repo, pending: vec![Pending::Top(tree)], current: Vec::new().into_iter(), previous: None }
    }

    fn open(&mut self, pending: &Pending) -> Result<()> {
        let (id, expected) = match pending {
            Pending::Top(id) => (*id, None),
            Pending::Piece { level, piece } => (piece.tree, Some((*level, piece))),
        };
        let tree = self.repo.read_tree(id)?;
        if let Some((level, piece)) = expected {
            check_piece(id, level, piece, &tree)?;
        }
        let (first, last) = match &tree {
            Tree::Entries(entries) => (entries.first().map(|e| &e.name), entries.last().map(|e| &e.name)),
            // Where a node's first piece begins is seen when that piece is opened.
            Tree::Pieces { pieces, .. } => (None, pieces.last().map(|piece| &piece.last)),
        };
        if let (Some(previous), Some(first)) = (&self.previous, first.or(last))
            && first <= previous
        {
            return Err(Error::damaged_object(id.object(), format!("the name {first:?} is out of order")));
        }
        match tree {
            Tree::Entries(entries) => {
                if let Some(last) = entries.last() {
                    self.previous = Some(last.name.clone());
                }
                self.current = entries.into_iter();
            }
            Tree::Pieces { level, pieces } => {
                let below = level - 1;
                self.pending.extend(pieces.into_iter().rev().map(|piece| Pending::Piece { level: below, piece }));
            }
        }
        Ok(())
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        loop {
            if let Some(entry) = self.current.next() {
                return Some(Ok(entry));
            }
            let pending = self.pending.pop()?;
            if let Err(error) = self.open(&pending) {
                return Some(Err(error));
            }
        }
    }
}

/// Whether a piece is what the node above it says.
fn check_piece(id: TreeId, level: u8, piece: &Piece, tree: &Tree) -> Result<()> {
    let (found_level, last, entries, size) = match tree {
        Tree::Entries(entries) => {
            let size = entries.iter().map(|entry| u128::from(entry.kind.size())).sum::<u128>();
            (0, entries.last().map(|entry| &entry.name), entries.len() as u128, size)
        }
        Tree::Pieces { level, pieces } => {
            let entries = pieces.iter().map(|piece| u128::from(piece.entries)).sum();
            let size = pieces.iter().map(|piece| u128::from(piece.size)).sum();
            (*level, pieces.last().map(|piece| &piece.last), entries, size)
        }
    };
    let matches = found_level == level
        && last == Some(&piece.last)
        && entries == u128::from(piece.entries)
        && size == u128::from(piece.size);
    if matches {
        Ok(())
    } else {
        Err(Error::damaged_object(id.object(), "this piece of a directory is not what the node above it says"))
    }
}

impl Repository {
    /// Finds one name in a directory by reading one piece a level.
    pub fn find(&self, tree: TreeId, name: &Name) -> Result<Option<EntryKind>> {
        let mut top = self.read_tree(tree)?;
        loop {
            match top {
                Tree::Entries(entries) => {
                    let found = entries.binary_search_by(|entry| entry.name.cmp(name));
                    return Ok(found.ok().and_then(|at| entries.into_iter().nth(at)).map(|entry| entry.kind));
                }
                Tree::Pieces { level, pieces } => {
                    let at = pieces.partition_point(|piece| piece.last < *name);
                    let Some(piece) = pieces.get(at) else { return Ok(None) };
                    top = self.read_tree(piece.tree)?;
                    check_piece(piece.tree, level - 1, piece, &top)?;
                }
            }
        }
    }
}
