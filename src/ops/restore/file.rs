//! Writing one file.

use std::sync::Arc;

use rayon::prelude::*;

use crate::error::Result;
use crate::fs::{TargetDir, TargetFile};
use crate::object::{Content, ListId, Name};
use crate::repo::{BlobReader, ChunkAt};

/// The chunks of a large file are read, verified and written in parallel, about so many bytes at a time.
const PART: u64 = 8 << 20;
/// and at most so many chunks: a list may hold any number of tiny ones.
const PART_CHUNKS: usize = 4096;

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
        let write = |blobs: &mut BlobReader<'_>, chunk: &ChunkAt| {
            file.write_at(&blobs.read(chunk.blob, chunk.length)?, chunk.offset)
        };
        if self.size <= PART {
            // Other files are written beside it.
            return chunks.try_for_each(|chunk| write(blobs, &chunk?));
        }
        let write_part =
            |part: &[ChunkAt]| part.par_iter().try_for_each_init(|| repo.blobs(), |blobs, chunk| write(blobs, chunk));
        let mut part = Vec::new();
        let mut part_bytes = 0;
        for chunk in chunks {
            let chunk = chunk?;
            part_bytes += chunk.length;
            part.push(chunk);
            if part_bytes >= PART || part.len() >= PART_CHUNKS {
                write_part(&part)?;
                part.clear();
                part_bytes = 0;
            }
        }
        write_part(&part)
    }
}
