//! Reading the chunk list of a large file: one piece a level in memory at a time.

use super::Repository;
use crate::error::{Error, Result};
use crate::object::{BlobId, Chunk, ListId, ObjectId};

/// A chunk and where it belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkAt {
    /// The chunk.
    pub blob: BlobId,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// The chunks of a file, in order. A piece of the list that cannot be read is one error in its place; the chunks of the
/// other pieces follow, at their offsets.
pub struct Chunks<'r> {
    repo: &'r Repository,
    /// What is still to be read, the next one last: a line and its depth, 0 for a chunk.
    pending: Vec<(Chunk, u8)>,
    offset: u64,
}

impl<'r> Chunks<'r> {
    pub(super) fn new(repo: &'r Repository, list: ListId, depth: u8, length: u64) -> Self {
        Self { repo, pending: vec![(Chunk { id: list.object(), length }, depth)], offset: 0 }
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<ChunkAt>;

    fn next(&mut self) -> Option<Result<ChunkAt>> {
        loop {
            let (line, depth) = self.pending.pop()?;
            if depth == 0 {
                let chunk = ChunkAt { blob: BlobId(line.id), offset: self.offset, length: line.length };
                self.offset += line.length;
                return Some(Ok(chunk));
            }
            let list = self.repo.read_list(ListId(line.id)).and_then(|list| {
                check_list(line.id, line.length, &list)?;
                Ok(list)
            });
            match list {
                Ok(list) => self.pending.extend(list.into_iter().rev().map(|line| (line, depth - 1))),
                Err(error) => {
                    self.offset += line.length;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Whether the lines of a list cover as many bytes as what refers to it says.
pub(super) fn check_list(id: ObjectId, length: u64, list: &[Chunk]) -> Result<()> {
    let total: u128 = list.iter().map(|chunk| u128::from(chunk.length)).sum();
    if total == u128::from(length) {
        Ok(())
    } else {
        Err(Error::damaged_object(id, format!("its chunks have {total} bytes where {length} are referred to")))
    }
}
