//! Reading one file of a source into objects.
//!
//! A file is taken as read only if it was the same before and after: kind, size, times, inode. Otherwise it is read
//! again, up to [`ATTEMPTS`] times; the last reading is kept and reported as changed.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};

use super::chunks::{Part, Past, PastChunks, RUN};
use super::walk::FileToRead;
use crate::error::{Error, Result};
use crate::fs::{SourceFile, SourceKind, Stat};
use crate::object::{BlobId, Chunker, Content, ListBuilder};
use crate::repo::{Appender, FRAME_CONTENT, Repository};

/// So often a file that changes is read.
const ATTEMPTS: u32 = 3;
/// A large file is read in parts of so many bytes, or as many for each thread, whose chunks are stored in parallel.
const SHORT_PART: usize = 2 * RUN;

/// To copy from the page cache to an address that is a little behind a multiple of this takes three times as long.
const PAGE: usize = 4096;

/// The most bytes that are read of a file that claims to be empty.
const PSEUDO_FILE: u64 = 256 << 20;

/// What became of a file.
pub(super) enum Outcome {
    /// It was stored.
    Stored {
        size: u64,
        content: Content,
        /// How it looked when the reading that is stored began.
        stat: Stat,
        /// Whether it changed each time it was read.
        changed: bool,
    },
    /// It could not be read.
    Failed(Error),
}

/// An error of the source stays with its file; one of the repository ends the run.
enum Failure {
    Source(Error),
    Repository(Error),
}

/// How files are read, by all threads.
pub(super) struct Reader {
    chunker: Chunker,
    /// Whether a file is being read in long parts. One at a time is: that keeps all threads busy, and the memory for parts
    /// does not grow with the square of the threads.
    in_long_parts: AtomicBool,
}

impl Reader {
    pub(super) fn new(chunker: Chunker) -> Self {
        Self { chunker, in_long_parts: AtomicBool::new(false) }
    }

    /// How a file that seems to have `expected` bytes is to be read.
    fn parts(&self, expected: u64) -> Parts<'_> {
        let is_long = expected > SHORT_PART as u64 && !self.in_long_parts.swap(true, Ordering::Relaxed);
        Parts { reader: self, is_long }
    }
}

/// The parts that a file is read in; for one file at a time they are long.
struct Parts<'r> {
    reader: &'r Reader,
    is_long: bool,
}

impl Parts<'_> {
    /// In bytes, besides one of the longest chunks.
    fn length(&self) -> usize {
        if self.is_long { SHORT_PART * rayon::current_num_threads().max(2) } else { SHORT_PART }
    }
}

impl Drop for Parts<'_> {
    fn drop(&mut self) {
        if self.is_long {
            self.reader.in_long_parts.store(false, Ordering::Relaxed);
        }
    }
}

/// Reads and stores a file. An error is one of the repository.
pub(super) fn store_file(blobs: &mut Appender<'_, '_>, reader: &Reader, file: &FileToRead) -> Result<Outcome> {
    let mut attempt = 1;
    loop {
        match read_once(blobs, reader, file, attempt == 1) {
            Ok(reading) if reading.unchanged || attempt == ATTEMPTS => {
                let Reading { size, content, stat, unchanged } = reading;
                return Ok(Outcome::Stored { size, content, stat, changed: !unchanged });
            }
            Ok(_) => attempt += 1,
            Err(Failure::Source(error)) => return Ok(Outcome::Failed(error)),
            Err(Failure::Repository(error)) => return Err(error),
        }
    }
}

struct Reading {
    size: u64,
    content: Content,
    stat: Stat,
    unchanged: bool,
}

/// Reads the file once. The first time, what the walk saw counts as the look before; but not of a large file, which is
/// costly to read again if it has changed in between.
fn read_once(
    blobs: &mut Appender<'_, '_>,
    reader: &Reader,
    file: &FileToRead,
    first: bool,
) -> Result<Reading, Failure> {
    let mut source = file.dir.open_file(&file.name).map_err(Failure::Source)?;
    let is_small = file.stat.size <= reader.chunker.sizes().whole_file() as u64;
    let before = if first && is_small { file.stat } else { source.stat().map_err(Failure::Source)? };
    let (size, content) = read_content(blobs, reader, &mut source, before, file.past)?;
    let after = source.stat().map_err(Failure::Source)?;
    if after.kind != SourceKind::File {
        let error = std::io::Error::other("it is not a regular file any more");
        return Err(Failure::Source(Error::io("read the file", file.dir.path_of(&file.name), error)));
    }
    if after.size == 0 && size == PSEUDO_FILE {
        let error = std::io::Error::other("it claims to be empty and does not end");
        return Err(Failure::Source(Error::io("read the file", file.dir.path_of(&file.name), error)));
    }
    // A pseudo-file claims to be empty, before and after, whatever it holds.
    let unchanged = before == after && (size == after.size || after.size == 0);
    Ok(Reading { size, content, stat: before, unchanged })
}

fn read_content(
    blobs: &mut Appender<'_, '_>,
    reader: &Reader,
    source: &mut SourceFile,
    expected: Stat,
    past: Option<Past>,
) -> Result<(u64, Content), Failure> {
    let sizes = reader.chunker.sizes();
    let parts = reader.parts(expected.size);
    let mut buffer = Buffer::new(expected.size, parts.length() + sizes.maximum());
    let writer = blobs.writer();
    let repo = writer.repo();
    buffer.fill(source, repo)?;
    if !buffer.ended && buffer.filled <= sizes.whole_file() {
        buffer.fill(source, repo)?;
    }
    if buffer.filled <= sizes.whole_file() {
        let id = blobs.store(buffer.bytes()).map_err(Failure::Repository)?;
        return Ok((buffer.filled as u64, Content::Blob(BlobId(id))));
    }
    let mut lists = writer.trees();
    let mut store = |piece: &[u8]| lists.store(piece).map_err(Failure::Repository);
    let mut list = ListBuilder::new();
    if buffer.ended && buffer.filled <= FRAME_CONTENT {
        // Not worth the other threads: it stays beside its neighbours.
        for chunk in buffer.part(reader.chunker).chunks() {
            let id = blobs.store(chunk).map_err(Failure::Repository)?;
            list.push(BlobId(id), chunk.len() as u64, &mut store)?;
        }
    } else {
        blobs.release();
        let mut past = PastChunks::of(repo, past);
        loop {
            // What follows is read while this is cut and stored.
            let mut following = (!buffer.ended).then(|| buffer.following(sizes.maximum()));
            let (stored, read) = rayon::join(
                || buffer.part(reader.chunker).store(writer, &mut past),
                || following.as_mut().map_or(Ok(()), |following| following.fill(source, repo)),
            );
            let mut length = 0;
            for (chunk, bytes) in stored.map_err(Failure::Repository)? {
                list.push(chunk, bytes as u64, &mut store)?;
                length += bytes;
            }
            read?;
            let Some(following) = following else { break };
            buffer.go_on(length, following);
        }
    }
    let (list, depth, size) = list.finish(&mut store)?;
    Ok((size, Content::Chunks { list, depth }))
}

/// The part of a file that is in memory.
///
/// No more is read than the file had when it was looked at: whether it has grown since is seen by looking again, which
/// costs less than a read that finds the end, and a file that keeps growing is not followed for ever. A file that claims
/// to be empty is read to its end, since those of `/proc` and `/sys` all do, but no further than [`PSEUDO_FILE`].
struct Buffer {
    memory: Vec<u8>,
    /// Where in the memory the part begins, and ends.
    start: usize,
    filled: usize,
    /// Where in the file it begins.
    offset: u64,
    longest: usize,
    /// What is to be read behind it.
    left: u64,
    ended: bool,
    /// The memory of the part before this one, to be used again.
    spare: Vec<u8>,
}

impl Buffer {
    fn new(expected: u64, longest: usize) -> Self {
        let left = if expected == 0 { PSEUDO_FILE } else { expected };
        let first = if expected == 0 { 4096 } else { usize::try_from(expected).unwrap_or(longest).min(longest) };
        let (start, filled, offset) = (0, 0, 0);
        Self { memory: vec![0; first], start, filled, offset, longest, left, ended: false, spare: Vec::new() }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.filled]
    }

    fn part(&self, chunker: Chunker) -> Part<'_> {
        Part { chunker, bytes: self.bytes(), offset: self.offset, ended: self.ended }
    }

    /// Reads until it is full, or the file has ended, a little at a time: it can be interrupted.
    fn fill(&mut self, source: &mut SourceFile, repo: &Repository) -> Result<(), Failure> {
        if self.filled == self.memory.len() {
            self.memory.resize(self.longest, 0);
        }
        let room = self.memory.len() - self.filled;
        let end = self.filled + usize::try_from(self.left).unwrap_or(room).min(room);
        while self.filled < end && !self.ended {
            repo.go_on().map_err(Failure::Repository)?;
            let step = end.min(self.filled + RUN);
            let count = source.fill(&mut self.memory[self.filled..step]).map_err(Failure::Source)?;
            self.ended = self.filled + count < step;
            self.filled += count;
            self.left -= count as u64;
        }
        self.ended |= self.left == 0;
        Ok(())
    }

    /// For what follows, with room before it for what is left of this, which is at most `room` bytes.
    fn following(&mut self, room: usize) -> Self {
        let mut memory = mem::take(&mut self.spare);
        memory.resize(self.longest + PAGE, 0);
        let room = room + memory[room..].as_ptr().align_offset(PAGE);
        Self { memory, start: room, filled: room, spare: Vec::new(), ..*self }
    }

    /// Goes on behind the first `length` bytes with those that are left, and what follows.
    fn go_on(&mut self, length: usize, mut following: Self) {
        let rest = &self.bytes()[length..];
        following.start -= rest.len();
        following.memory[following.start..][..rest.len()].copy_from_slice(rest);
        following.offset += length as u64;
        let before = mem::replace(self, following);
        self.spare = before.memory;
    }
}
