//! The chunks that a large file had in its last snapshot, and where it still has them.
//!
//! Most large files that have changed are nearly as they were. What is probably as it was is not read in parts, cut and
//! handed out: each thread reads pieces of its own and hashes the chunks that were there ([`PastChunks::run`]), so a piece
//! stays in the cache of one core. Where something has changed, the part around it is read and cut as any other.
//!
//! Which chunks may be taken over, and why the cuts are those that would have been found, is said in `chunks.rs`.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::chunks::Stored;
use super::read::Failure;
use crate::error::Result;
use crate::fs::SourceFile;
use crate::object::{ChunkSizes, Content};
use crate::repo::{ChunkAt, Chunks, ObjectWriter, Repository};

/// So many bytes of neighbouring chunks, or one chunk, one thread reads and hashes at a time.
const PIECE: u64 = 1 << 20;

/// So many bytes are looked at by all threads at a time.
const RUN: u64 = 16 * PIECE;

/// Where there are fewer bytes between changes, runs cost more than they save: at each there is a part to be read alone.
const SPARSE: u64 = RUN;

/// What a file held when it was stored last: its length in bytes, and where it is.
pub(in crate::ops) type Past = (u64, Content);

/// The chunks that a file had, from some offset on.
pub(super) struct PastChunks<'r> {
    sizes: ChunkSizes,
    /// Nothing when no more are known.
    rest: Option<Chunks<'r>>,
    /// Those that are read already.
    read: VecDeque<ChunkAt>,
    /// Whether none was the same in the last part.
    in_vain: bool,
    /// Whether what comes next is probably as it was.
    promises: bool,
    /// Of neighbours that were looked at ahead, where each begins and whether it is what it was.
    looked_at: VecDeque<(u64, bool)>,
    /// How long what has changed behind the last run probably is, in bytes; 0 if it is not known.
    gap: u64,
    /// So many bytes are as they were since the last change.
    unchanged: u64,
    /// Memory for pieces, to be used again.
    memory: Mutex<Vec<Vec<u8>>>,
}

impl<'r> PastChunks<'r> {
    pub(super) fn of(repo: &'r Repository, past: Option<Past>) -> Self {
        let rest = match past {
            Some((size, Content::Chunks { list, depth })) => Some(repo.chunks(list, depth, size)),
            _ => None,
        };
        Self {
            sizes: repo.config().chunks,
            promises: rest.is_some(),
            rest,
            read: VecDeque::new(),
            in_vain: false,
            looked_at: VecDeque::new(),
            gap: 0,
            unchanged: SPARSE,
            memory: Mutex::default(),
        }
    }

    /// Whether what comes next is probably as it was: then a [`PastChunks::run`] of it may be had.
    pub(super) fn promises(&self) -> bool {
        self.promises
    }

    /// How long what has changed behind the last run probably is, in bytes.
    pub(super) fn gap(&self) -> u64 {
        self.gap
    }

    /// Whether none of the chunks in the last part was what it was.
    pub(super) fn in_vain(&self) -> bool {
        self.in_vain
    }

    /// Learns what has come of a part: how many chunks the file had there, how many of them it still has, and which could be
    /// taken over.
    pub(super) fn learn(&mut self, tried: usize, same: usize, taken_over: &[ChunkAt]) {
        self.in_vain = same == 0;
        let bytes: u64 = taken_over.iter().map(|chunk| chunk.length).sum();
        // The last one has none behind it in the part, and one may be there in part.
        let is_unchanged = tried - taken_over.len() <= 2;
        if mem::take(&mut self.gap) > 0 {
            // It was read for the sake of a change.
            self.promises = bytes > 0;
            self.unchanged = bytes;
        } else {
            self.unchanged = if is_unchanged { self.unchanged + bytes } else { 0 };
            self.promises = self.unchanged >= SPARSE;
        }
    }

    /// The chunks from the cut at `file.start` on that the file still has, stored, and in order: as far as that is so, and
    /// not very far. They are read by several threads if they may. The file ends at `file.end`.
    pub(super) fn run(
        &mut self,
        writer: &ObjectWriter<'_>,
        source: &SourceFile,
        file: Range<u64>,
        is_shared_out: bool,
    ) -> Result<Vec<Stored>, Failure> {
        if !self.promises {
            return Ok(Vec::new());
        }
        let is_there = |chunk: &ChunkAt| chunk.offset + chunk.length <= file.end;
        let mut known = self.between(file.start, file.end.min(file.start + RUN));
        known.truncate(known.partition_point(is_there));
        let looked_at = self.looked_at.partition_point(|(offset, _)| *offset < file.start);
        self.looked_at.drain(..looked_at);
        if known.first().is_none_or(|first| first.offset != file.start) {
            self.promises = false;
            return Ok(Vec::new());
        }
        // One alone may be taken over only if it is known what is behind it.
        if self.looked_at.len() < 2 {
            self.look_ahead(writer, source, &known[self.looked_at.len()..], is_shared_out)?;
        }
        let same = self.looked_at.iter().take_while(|(_, is_same)| *is_same).count();
        known.truncate(same.saturating_sub(1));
        self.unchanged += known.iter().map(|chunk| chunk.length).sum::<u64>();
        if known.is_empty() {
            self.promises = mem::take(&mut self.unchanged) >= SPARSE;
            self.gap = if self.promises { self.changed_bytes(file.start) } else { 0 };
        }
        Ok(known.iter().map(|chunk| (chunk.blob, usize::try_from(chunk.length).unwrap_or(usize::MAX))).collect())
    }

    /// How long what has changed from `start` on is, as far as was looked: up to two neighbours that are what they were.
    fn changed_bytes(&self, start: u64) -> u64 {
        let pairs = self.looked_at.iter().zip(self.looked_at.iter().skip(1));
        let same = pairs.filter(|((_, first), (_, second))| *first && *second).map(|((offset, _), _)| *offset).next();
        let last = self.looked_at.back().map(|(offset, _)| *offset);
        same.or(last).unwrap_or(start) - start
    }

    /// Looks at chunks that follow those that were looked at.
    fn look_ahead(
        &mut self,
        writer: &ObjectWriter<'_>,
        source: &SourceFile,
        chunks: &[ChunkAt],
        is_shared_out: bool,
    ) -> Result<(), Failure> {
        let pieces = pieces(chunks);
        let look = |piece: &&[ChunkAt]| self.look_at(writer, source, piece);
        let are_same: Vec<Vec<bool>> = if is_shared_out {
            pieces.par_iter().with_max_len(1).map(look).collect::<Result<_, _>>()?
        } else {
            pieces.iter().map(look).collect::<Result<_, _>>()?
        };
        self.looked_at.extend(chunks.iter().map(|chunk| chunk.offset).zip(are_same.into_iter().flatten()));
        Ok(())
    }

    /// Which of these neighbours are what they were. Those that are, are stored.
    fn look_at(&self, writer: &ObjectWriter<'_>, source: &SourceFile, piece: &[ChunkAt]) -> Result<Vec<bool>, Failure> {
        writer.repo().go_on().map_err(Failure::Repository)?;
        let (Some(first), Some(last)) = (piece.first(), piece.last()) else { return Ok(Vec::new()) };
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let length = usize::try_from(last.offset + last.length - first.offset).unwrap_or(usize::MAX);
        if memory.len() < length {
            memory.resize(length, 0);
        }
        let filled = source.fill_at(first.offset, &mut memory[..length]).map_err(Failure::Source)?;
        let (mut blobs, mut rest) = (writer.blobs(), &memory[..filled]);
        let mut are_same = Vec::with_capacity(piece.len());
        for chunk in piece {
            let split = usize::try_from(chunk.length).ok().and_then(|length| rest.split_at_checked(length));
            // The file has become shorter.
            let Some((bytes, behind)) = split else { break };
            rest = behind;
            let id = writer.name(bytes);
            let is_same = id == chunk.blob.object();
            if is_same {
                blobs.store_named(id, bytes).map_err(Failure::Repository)?;
            }
            are_same.push(is_same);
        }
        are_same.resize(piece.len(), false);
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        Ok(are_same)
    }

    /// Those that begin from one offset on and before another one. The first must not be before what it was the last time.
    pub(super) fn between(&mut self, from: u64, to: u64) -> Vec<ChunkAt> {
        while self.read.back().is_none_or(|last| last.offset + last.length < to) {
            // No chunker made a list with others, but for the last one of a file; and it could fill the memory.
            let is_possible =
                |chunk: &ChunkAt| (self.sizes.minimum() as u64..=self.sizes.maximum() as u64).contains(&chunk.length);
            let next = self.rest.as_mut().and_then(Iterator::next).and_then(Result::ok).filter(is_possible);
            let Some(chunk) = next else {
                // What comes after something that cannot be read is not behind what was read last.
                self.rest = None;
                break;
            };
            self.read.push_back(chunk);
        }
        let passed = self.read.partition_point(|chunk| chunk.offset < from);
        self.read.drain(..passed);
        self.read.iter().take_while(|chunk| chunk.offset < to).copied().collect()
    }
}

/// Neighbouring chunks in pieces that one thread reads.
fn pieces(chunks: &[ChunkAt]) -> Vec<&[ChunkAt]> {
    let mut pieces = Vec::new();
    let mut rest = chunks;
    while let Some(first) = rest.first() {
        let fits = |chunk: &ChunkAt| chunk.offset + chunk.length <= first.offset + PIECE;
        let (piece, behind) = rest.split_at(rest.partition_point(fits).max(1));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}
