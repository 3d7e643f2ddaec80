//! Writing one file.

use std::sync::Arc;

use rayon::prelude::*;

use crate::error::Result;
use crate::fs::{TargetDir, TargetFile};
use crate::object::{Content, ListId, Name};
use crate::repo::{BlobReader, ChunkAt, ObjectBytes, Repository};

/// A file up to this length is written by one thread, from its beginning to its end, while others write other files.
const ALONE: u64 = 8 << 20;
/// The chunks of a larger one are gathered, up to so many, and then written in the order in which they are stored.
const GATHERED: usize = 64 << 10;
/// A thread takes so many of them at a time: about a frame.
const TAKEN: usize = 64;

/// A file to restore.
pub(super) struct FileToWrite {
    pub(super) dir: Arc<TargetDir>,
    pub(super) name: Name,
    pub(super) size: u64,
    pub(super) content: Content,
}

impl FileToWrite {
    /// Writes the file. If it cannot be written whole, nothing is left under its name.
    pub(super) fn write(&self, blobs: &mut BlobReader<'_>) -> Result<()> {
        match self.content {
            Content::Blob(blob) => {
                // Read before the file is made: a damaged blob leaves nothing to remove.
                let content = blobs.read(blob, self.size)?;
                self.make(|file| file.write_whole(&content))
            }
            Content::Chunks { list, depth } => self.make(|file| self.write_chunks(blobs, file, list, depth)),
        }
    }

    fn make(&self, write: impl FnOnce(&TargetFile) -> Result<()>) -> Result<()> {
        let file = self.dir.create_file(&self.name)?;
        write(&file).and_then(|()| file.finish()).inspect_err(|_| {
            if self.dir.remove_file(&self.name).is_err() {
                // The failure is reported with the file's path in any case.
            }
        })
    }

    fn write_chunks(&self, blobs: &mut BlobReader<'_>, file: &TargetFile, list: ListId, depth: u8) -> Result<()> {
        let repo = blobs.repo();
        // The top of the list must agree with the size before a file of that size is made.
        let mut chunks = repo.chunks(list, depth, self.size).peekable();
        if let Some(Err(error)) = chunks.next_if(Result::is_err) {
            return Err(error);
        }
        file.set_len(self.size)?;
        if self.size <= ALONE {
            let mut stretch = Stretch::of(file);
            for chunk in chunks {
                let chunk = chunk?;
                stretch.write(blobs.read(chunk.blob, chunk.length)?, chunk.offset)?;
            }
            return stretch.finish();
        }
        while chunks.peek().is_some() {
            let gathered = chunks.by_ref().take(GATHERED).collect::<Result<Vec<_>>>()?;
            write_as_stored(repo, file, gathered)?;
        }
        Ok(())
    }
}

/// Writes chunks of a large file on all threads, in the order in which they are stored: a disk image that was backed up
/// many times has its chunks in as many packs, and so each frame is decoded once all the same. What is met several times,
/// as zeros are, is read and verified once.
fn write_as_stored(repo: &Repository, file: &TargetFile, chunks: Vec<ChunkAt>) -> Result<()> {
    let place = |chunk: ChunkAt| Ok((repo.stored_at(chunk.blob)?, chunk));
    let mut placed = chunks.into_par_iter().map(place).collect::<Result<Vec<_>>>()?;
    placed.par_sort_unstable_by_key(|(place, chunk)| (*place, chunk.blob, chunk.length, chunk.offset));
    placed.chunks(TAKEN).par_bridge().try_for_each_init(
        || repo.blobs(),
        |blobs, taken| {
            let mut stretch = Stretch::of(file);
            for same in taken.chunk_by(|(_, a), (_, b)| (a.blob, a.length) == (b.blob, b.length)) {
                let (_, first) = same[0];
                let content = blobs.read(first.blob, first.length)?;
                same.iter().try_for_each(|(_, chunk)| stretch.write(content.clone(), chunk.offset))?;
            }
            stretch.finish()
        },
    )
}

/// A stretch is written when it has so many bytes,
const STRETCH: u64 = 1 << 20;
/// or when its chunks are of so many frames, each of which is held in memory as a whole.
const STRETCH_FRAMES: usize = 4;

/// Chunks that stand side by side in a file, to be written in one go. Only one thread at a time can write to a file, and to
/// give the kernel a megabyte takes it two thirds of the time that the same takes chunk by chunk.
struct Stretch<'f> {
    file: &'f TargetFile,
    /// Where it begins and ends in the file, in bytes.
    start: u64,
    end: u64,
    chunks: Vec<ObjectBytes>,
    /// How many of them are of another frame than the one before.
    frames: usize,
}

impl<'f> Stretch<'f> {
    fn of(file: &'f TargetFile) -> Self {
        Self { file, start: 0, end: 0, chunks: Vec::new(), frames: 0 }
    }

    /// Writes a chunk at an offset, sooner or later.
    fn write(&mut self, chunk: ObjectBytes, offset: u64) -> Result<()> {
        let is_of_same_frame = self.chunks.last().is_some_and(|last| last.shares_frame_with(&chunk));
        let has_frames = self.frames == STRETCH_FRAMES && !is_of_same_frame;
        if offset != self.end || self.end - self.start >= STRETCH || has_frames {
            self.flush()?;
            self.start = offset;
        }
        self.frames += usize::from(self.chunks.is_empty() || !is_of_same_frame);
        self.end = offset + chunk.len() as u64;
        self.chunks.push(chunk);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_at(&self.chunks, self.start)?;
        self.chunks.clear();
        self.frames = 0;
        Ok(())
    }

    /// Writes what is left.
    fn finish(mut self) -> Result<()> {
        self.flush()
    }
}
