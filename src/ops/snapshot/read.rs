//! Reading one file of a source into objects.
//!
//! A file is taken as read only if it was the same before and after: kind, size, times, inode. Otherwise it is read
//! again, up to [`ATTEMPTS`] times; the last reading is kept and reported as changed.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::chunks::{Part, STRETCH, Stored, Stretches};
use super::past::{Past, PastChunks};
use super::walk::FileToRead;
use crate::error::{Error, Result};
use crate::fs::{SourceFile, SourceKind, Stat};
use crate::object::{BlobId, Chunker, Content, ListBuilder};
use crate::ops::parallel::{Ahead, Helpers};
use crate::repo::{Appender, FRAME_CONTENT, ObjectWriter, Repository};

/// So often a file that changes is read.
const ATTEMPTS: u32 = 3;
/// A large file is read in parts of so many bytes, besides one of the longest chunks.
const PART: usize = 4 * STRETCH;
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
pub(super) enum Failure {
    Source(Error),
    Repository(Error),
}

/// How files are read, by all threads.
pub(super) struct Reader {
    chunker: Chunker,
    /// Whether a file is being stored by several threads. One at a time is: that keeps all of them busy, and the memory
    /// does not grow with the square of their number.
    is_shared_out: AtomicBool,
}

impl Reader {
    pub(super) fn new(chunker: Chunker) -> Self {
        Self { chunker, is_shared_out: AtomicBool::new(false) }
    }

    /// Leave to have a file stored by other threads too, if that can be had now.
    fn share_out(&self) -> Option<SharedOut<'_>> {
        (!self.is_shared_out.swap(true, Ordering::Relaxed)).then_some(SharedOut(self))
    }
}

/// A file is stored by several threads.
struct SharedOut<'r>(&'r Reader);

impl Drop for SharedOut<'_> {
    fn drop(&mut self) {
        self.0.is_shared_out.store(false, Ordering::Relaxed);
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
    // What claims to be empty and is not may be something in which one cannot go to and fro.
    let past = past.filter(|_| expected.size > 0);
    let sizes = reader.chunker.sizes();
    let mut buffer = Buffer::new(expected.size, PART + sizes.maximum());
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
        store_parts(writer, reader, source, buffer, past, |stored| {
            let stored = stored.map_err(Failure::Repository)?;
            stored.into_iter().try_for_each(|(chunk, length)| list.push(chunk, length as u64, &mut store))
        })?;
    }
    let (list, depth, size) = list.finish(&mut store)?;
    Ok((size, Content::Chunks { list, depth }))
}

/// Stores a large file part by part. While one is cut, the next one is read, and its stretches are stored by other threads, if
/// they may; but what is probably as it was is not read in parts at all. `note` learns what each stretch has become, in order.
fn store_parts(
    writer: &ObjectWriter<'_>,
    reader: &Reader,
    source: &mut SourceFile,
    mut buffer: Buffer,
    past: Option<Past>,
    mut note: impl FnMut(Result<Vec<Stored>>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let repo = writer.repo();
    let longest = reader.chunker.sizes().maximum();
    let mut past = PastChunks::of(repo, past);
    let source = &Mutex::new(source);
    rayon::in_place_scope(|scope| {
        let mut helpers = Helpers::new(scope);
        let mut stretches = Stretches::new(writer);
        let mut shared_out = None;
        let read = loop {
            if shared_out.is_none() {
                shared_out = reader.share_out();
                helpers.allow(shared_out.as_ref().map_or(0, |_| rayon::current_num_threads() - 1));
            }
            // Not by `join`: who waits for the other thread there begins to store a stretch, and meanwhile nobody makes more of
            // them.
            let reads_ahead = !buffer.ended && !past.promises();
            let following = reads_ahead.then(|| buffer.following(longest, u64::MAX)).map(|mut following| {
                Ahead::offer_to(&helpers, move || {
                    following.fill(&mut source.lock().unwrap_or_else(PoisonError::into_inner), repo)?;
                    Ok(following)
                })
            });
            let length = buffer.part(reader.chunker).store(&mut stretches, &helpers, &mut past);
            while let Some(stored) = stretches.first_stored() {
                note(stored)?;
            }
            if buffer.ended {
                break Ok(());
            }
            let Some(following) = following else {
                stretches.rest().try_for_each(&mut note)?;
                let source = &mut source.lock().unwrap_or_else(PoisonError::into_inner);
                let mut at = buffer.offset + length as u64;
                loop {
                    let run = past.run(writer, source, at..buffer.end(), shared_out.is_some())?;
                    if run.is_empty() {
                        break;
                    }
                    at += run.iter().map(|(_, length)| *length as u64).sum::<u64>();
                    note(Ok(run))?;
                }
                // Behind a change it is cut anew until it is seen to be as it was.
                let most = if past.promises() { past.gap() + 2 * longest as u64 } else { u64::MAX };
                buffer.go_to(at, most, source, repo)?;
                continue;
            };
            match following.finish() {
                Some(Ok(following)) => buffer.go_on(length, following),
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            }
        };
        drop(shared_out);
        // Also if the file could not be read on: an error of the repository is worse, and must not be passed over.
        stretches.rest().try_for_each(note)?;
        read
    })
}

/// The part of a file that is in memory.
///
/// No more is read than the file had when it was looked at: whether it has grown since is seen by looking again, which
/// costs less than a read that finds the end, and a file that keeps growing is not followed for ever. A file that claims
/// to be empty is read to its end, since those of `/proc` and `/sys` all do, but no further than [`PSEUDO_FILE`].
struct Buffer {
    /// Shared only when the part is there as a whole.
    memory: Arc<Vec<u8>>,
    /// Where in the memory the part begins, and ends.
    start: usize,
    filled: usize,
    /// Where in the file it begins.
    offset: u64,
    longest: usize,
    /// What is to be read behind it.
    left: u64,
    ended: bool,
    /// The memory of the parts before this one, to be used again.
    spare: Vec<Arc<Vec<u8>>>,
}

impl Buffer {
    fn new(expected: u64, longest: usize) -> Self {
        let left = if expected == 0 { PSEUDO_FILE } else { expected };
        let first = if expected == 0 { 4096 } else { usize::try_from(expected).unwrap_or(longest).min(longest) };
        let (start, filled, offset) = (0, 0, 0);
        let memory = Arc::new(vec![0; first]);
        Self { memory, start, filled, offset, longest, left, ended: false, spare: Vec::new() }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.filled]
    }

    fn part(&self, chunker: Chunker) -> Part<'_> {
        let (place, offset, ended) = (self.start..self.filled, self.offset, self.ended);
        Part { chunker, memory: &self.memory, place, offset, ended }
    }

    /// Reads until it is full, or the file has ended, a little at a time: it can be interrupted.
    fn fill(&mut self, source: &mut SourceFile, repo: &Repository) -> Result<(), Failure> {
        let memory = Arc::make_mut(&mut self.memory);
        if self.filled == memory.len() {
            memory.resize(self.longest, 0);
        }
        let room = memory.len() - self.filled;
        let end = self.filled + usize::try_from(self.left).unwrap_or(room).min(room);
        while self.filled < end && !self.ended {
            repo.go_on().map_err(Failure::Repository)?;
            let step = end.min(self.filled + STRETCH);
            let count = source.fill(&mut memory[self.filled..step]).map_err(Failure::Source)?;
            self.ended = self.filled + count < step;
            self.filled += count;
            self.left -= count as u64;
        }
        self.ended |= self.left == 0;
        Ok(())
    }

    /// For what follows, `most` bytes or a part, with room before it for what is left of this, which is at most `room` bytes.
    fn following(&mut self, room: usize, most: u64) -> Self {
        let unused = self.spare.iter_mut().position(|memory| Arc::get_mut(memory).is_some());
        let mut memory = unused.map_or_else(Arc::default, |at| self.spare.swap_remove(at));
        let length = usize::try_from(self.left.min(most)).unwrap_or(self.longest).min(self.longest - room);
        Arc::make_mut(&mut memory).resize(room + PAGE + length, 0);
        let room = room + memory[room..].as_ptr().align_offset(PAGE);
        Self { memory, start: room, filled: room, spare: mem::take(&mut self.spare), ..*self }
    }

    /// Where the file ends: what is in memory, and what is still to be read behind it.
    fn end(&self) -> u64 {
        self.offset + self.bytes().len() as u64 + self.left
    }

    /// Goes on at a later offset of the file, with `most` bytes that are read there, or a part.
    fn go_to(&mut self, offset: u64, most: u64, source: &mut SourceFile, repo: &Repository) -> Result<(), Failure> {
        source.go_to(offset).map_err(Failure::Source)?;
        self.left = self.end() - offset;
        let mut following = self.following(0, most);
        following.offset = offset;
        following.fill(source, repo)?;
        let before = mem::replace(self, following);
        self.spare.push(before.memory);
        Ok(())
    }

    /// Goes on behind the first `length` bytes with those that are left, and what follows.
    fn go_on(&mut self, length: usize, mut following: Self) {
        let rest = &self.bytes()[length..];
        following.start -= rest.len();
        Arc::make_mut(&mut following.memory)[following.start..][..rest.len()].copy_from_slice(rest);
        following.offset += length as u64;
        let before = mem::replace(self, following);
        self.spare.push(before.memory);
    }
}
