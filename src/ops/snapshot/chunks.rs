//! The chunks of a large file: where it is cut, and how they are stored, in stretches, on all threads.
//!
//! To look for cuts takes longer than to hash what is between them. But most large files that have changed are nearly as
//! they were: a disk image, a database, a log. So a file whose chunks are known from its last snapshot is hashed in these
//! first, where they were; it is cut anew only where that does not give their names. (Behind an insertion it never does,
//! so where all of a part was tried in vain, of the parts behind it only the first chunks are.)
//!
//! Where most of a part was as it was, what comes behind it is looked at without being cut at all ([`PastChunks::run`]).
//!
//! # Why the cuts are those that would have been found
//!
//! A chunk is taken over if it and the chunk behind it are what they were ([`Part::taken_over`]; likewise
//! [`PastChunks::run`]). The cut between the two was found in the bytes of the first and the one byte behind it
//! ([`Chunker::cut`]), and these are what they were. What has no other chunk behind it, or behind which something has
//! changed, is cut anew.
//!
//! That takes for granted that the old list was made by the same chunker, of one state of the file. A file that changed
//! while it was read (which its snapshot says) may have a cut elsewhere, and keep it. That costs nothing but a chunk that
//! others do not have: each is stored as it was read.

use std::collections::VecDeque;
use std::iter;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::past::PastChunks;
use crate::error::Result;
use crate::object::{BlobId, Chunker};
use crate::ops::parallel::{Ahead, Helpers};
use crate::repo::{ChunkAt, ObjectWriter};

/// One thread stores about so many bytes of neighbouring chunks at a time: half a frame.
pub(super) const STRETCH: usize = 2 << 20;

/// So many neighbouring chunks that a file had are hashed by one thread, or more; and so many are tried at all where those
/// before were tried in vain.
const TRIED_AT_ONCE: usize = 8;

/// A chunk that was stored, and its length in bytes.
pub(super) type Stored = (BlobId, usize);

/// The length in bytes of a chunk that is to be stored, and its name if that is known.
type Chunk = (usize, Option<BlobId>);

/// A part of a file, from a cut on.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub(super) chunker: Chunker,
    /// Where it is in memory. That can be shared for as long as it takes to store what is in it.
    pub(super) memory: &'a Arc<Vec<u8>>,
    pub(super) place: Range<usize>,
    /// Where it begins in the file, in bytes.
    pub(super) offset: u64,
    /// Whether the file ends with it. If not, what is left behind the last certain cut belongs to the next part.
    pub(super) ended: bool,
}

impl<'a> Part<'a> {
    fn bytes(&self) -> &'a [u8] {
        &self.memory[self.place.clone()]
    }

    /// The length of the first chunk, if it is certain where that ends.
    fn first(&self) -> Option<usize> {
        let bytes = self.bytes();
        let is_certain = bytes.len() >= self.chunker.sizes().maximum() || (self.ended && !bytes.is_empty());
        is_certain.then(|| self.chunker.cut(bytes))
    }

    /// Passes over the first `length` bytes.
    fn advance(&mut self, length: usize) {
        self.place.start += length;
        self.offset += length as u64;
    }

    /// The chunks, one after the other.
    pub(super) fn chunks(mut self) -> impl Iterator<Item = &'a [u8]> {
        iter::from_fn(move || {
            let length = self.first()?;
            let chunk = &self.bytes()[..length];
            self.advance(length);
            Some(chunk)
        })
    }

    /// The bytes of a chunk that the file had, if the part has them all.
    fn at(&self, chunk: &ChunkAt) -> Option<&'a [u8]> {
        let from = usize::try_from(chunk.offset.checked_sub(self.offset)?).ok()?;
        self.bytes().get(from..)?.get(..usize::try_from(chunk.length).ok()?)
    }

    /// Cuts the part and has its chunks stored, behind those that `stretches` has. `past` are those that the file had. Returns
    /// the length of all chunks in bytes.
    pub(super) fn store<'scope>(
        mut self,
        stretches: &mut Stretches<'scope, '_>,
        helpers: &Helpers<'_, 'scope>,
        past: &mut PastChunks<'_>,
    ) -> usize {
        let known = self.taken_over(stretches.writer, past);
        let (mut known, whole) = (&known[..], self.place.len());
        loop {
            let start = self.place.start;
            let stretch = self.first_stretch(&mut known, stretches.writer);
            if stretch.is_empty() {
                return whole - self.place.len();
            }
            stretches.store(helpers, self.memory, start, stretch);
        }
    }

    /// The chunks that the file had and has still.
    fn taken_over(&self, writer: &ObjectWriter<'_>, past: &mut PastChunks<'_>) -> Vec<ChunkAt> {
        let mut known = past.between(self.offset, self.offset + self.place.len() as u64);
        if past.in_vain() {
            known.truncate(TRIED_AT_ONCE);
        }
        let is_same = |chunk: &ChunkAt| self.at(chunk).is_some_and(|bytes| writer.name(bytes) == chunk.blob.object());
        let are_same: Vec<bool> = known.par_iter().with_min_len(TRIED_AT_ONCE).map(is_same).collect();
        let (tried, same) = (known.len(), are_same.iter().filter(|is_same| **is_same).count());
        let mut pairs = are_same.windows(2).map(|pair| pair[0] && pair[1]);
        known.retain(|_| pairs.next() == Some(true));
        past.learn(tried, same, &known);
        known
    }

    /// Cuts off the chunks that one thread stores. Those in `known` are in it.
    fn first_stretch(&mut self, known: &mut &[ChunkAt], writer: &ObjectWriter<'_>) -> Vec<Chunk> {
        let (mut stretch, end) = (Vec::new(), self.place.start + STRETCH);
        while self.place.start < end {
            *known = &known[known.partition_point(|chunk| chunk.offset < self.offset)..];
            let taken_over = known.first().filter(|chunk| chunk.offset == self.offset);
            let taken_over = taken_over.and_then(|chunk| Some((self.at(chunk)?.len(), Some(chunk.blob))));
            let zeros = || Some((self.chunker.zeros(self.bytes())?.len(), Some(BlobId(writer.name_of_zeros()))));
            let Some(next) = taken_over.or_else(zeros).or_else(|| Some((self.first()?, None))) else { break };
            self.advance(next.0);
            stretch.push(next);
        }
        stretch
    }
}

/// About so many bytes of stretches wait for each thread that helps.
const WAITING: usize = 4 * STRETCH;

/// The stretches of one file, in order: some are being stored, while more of it is read and cut.
pub(super) struct Stretches<'scope, 'w> {
    writer: &'scope ObjectWriter<'w>,
    /// So many stretches may wait for each thread that helps.
    waiting: usize,
    stored: VecDeque<Ahead<'scope, Result<Vec<Stored>>>>,
}

impl<'scope, 'w> Stretches<'scope, 'w> {
    pub(super) fn new(writer: &'scope ObjectWriter<'w>) -> Self {
        let longest = STRETCH.max(writer.repo().config().chunks.maximum());
        Self { writer, waiting: (WAITING / longest).max(1), stored: VecDeque::new() }
    }

    /// Has the chunks from `start` on stored. If enough is waiting for the helpers, this thread does what has been waiting
    /// longest: so nobody is waited for, little is held in memory, and the first stretch is always done or being done.
    fn store(&mut self, helpers: &Helpers<'_, 'scope>, memory: &Arc<Vec<u8>>, start: usize, chunks: Vec<Chunk>) {
        let (writer, memory) = (self.writer, Arc::clone(memory));
        let store = move || store_stretch(writer, &memory[start..], &chunks);
        self.stored.push_back(Ahead::offer_to(helpers, store));
        helpers.help(self.waiting);
    }

    /// What the first stretch has become, if it is stored.
    pub(super) fn first_stored(&mut self) -> Option<Result<Vec<Stored>>> {
        let stored = self.stored.front()?.finished()?;
        self.stored.pop_front();
        Some(stored)
    }

    /// What the stretches become that are left.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = Result<Vec<Stored>>> {
        // A thread that is gone without a result has panicked, and that ends the program.
        self.stored.drain(..).filter_map(Ahead::finish)
    }
}

/// Stores neighbouring chunks.
fn store_stretch(writer: &ObjectWriter<'_>, bytes: &[u8], chunks: &[Chunk]) -> Result<Vec<Stored>> {
    let mut blobs = writer.blobs();
    let mut rest = bytes;
    let store = |(length, name): &Chunk| {
        let (chunk, behind) = rest.split_at(*length);
        rest = behind;
        let id = match name {
            Some(name) => blobs.store_named(name.object(), chunk)?,
            None => blobs.store(chunk)?,
        };
        Ok((BlobId(id), *length))
    };
    chunks.iter().map(store).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::fs::SourceDir;
    use crate::object::{ChunkSizes, Content, HashAlgorithm, ListId, Name};
    use crate::ops::snapshot::past::Past;
    use crate::progress::{Interruption, Silent};
    use crate::repo::{self, InitOptions, Session, SharedRepository, WriterOptions};
    use crate::store::{MemoryBackend, codec, layout};

    const LENGTH: usize = 100_000;

    fn session() -> Session<'static> {
        Session {
            host: "host".into(),
            pid: 1,
            command: "test".into(),
            start: Timestamp::UNIX_EPOCH,
            lock_wait: Duration::ZERO,
            progress: &Silent,
            interruption: Interruption::default(),
        }
    }

    /// A repository with one loose list of the chunks of `content`, each of `length` bytes, and what refers to it.
    fn with_list(content: &[u8], length: usize) -> (SharedRepository, Past) {
        let backend = MemoryBackend::new();
        repo::init(Arc::new(backend.clone()), &InitOptions::default(), &session()).unwrap();
        let hash = HashAlgorithm::Blake3;
        let lines: String =
            content.chunks(length).map(|chunk| format!("{} {}\n", hash.hash(chunk), chunk.len())).collect();
        let list = hash.hash(lines.as_bytes());
        backend.set_contents(&layout::object_path(list), codec::compress(lines.as_bytes()).unwrap()).unwrap();
        let repo = SharedRepository::open(Arc::new(backend), &session()).unwrap();
        (repo, (content.len() as u64, Content::Chunks { list: ListId(list), depth: 1 }))
    }

    /// The lengths of the chunks that a part at `offset` of a file is stored in, each of which has the name that it must have.
    fn stored(repo: &SharedRepository, bytes: &[u8], offset: u64, past: &mut PastChunks<'_>) -> Vec<usize> {
        let chunker = Chunker::new(repo.config().chunks);
        let session = session();
        let writer = repo.writer(&session, WriterOptions::default()).unwrap();
        let memory = Arc::new(bytes.to_vec());
        let stored = rayon::in_place_scope(|scope| {
            let mut helpers = Helpers::new(scope);
            helpers.allow(1);
            let mut stretches = Stretches::new(&writer);
            let whole = Part { chunker, memory: &memory, place: 0..bytes.len(), offset, ended: true };
            assert_eq!(whole.store(&mut stretches, &helpers, past), bytes.len());
            stretches.rest().collect::<Result<Vec<_>>>().unwrap()
        });
        let mut rest = bytes;
        let length_of = |(blob, length): Stored| {
            let (chunk, behind) = rest.split_at(length);
            rest = behind;
            assert_eq!(blob, BlobId(HashAlgorithm::Blake3.hash(chunk)));
            length
        };
        stored.into_iter().flatten().map(length_of).collect()
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_the_file_had_is_taken_over_where_it_is_as_it_was() {
        // No chunker would cut there.
        let mut content = noise(20 * LENGTH);
        let (repo, past) = with_list(&content, LENGTH);
        let as_it_was = stored(&repo, &content, 0, &mut PastChunks::of(&repo, Some(past)));
        assert_eq!(as_it_was[..18], [LENGTH; 18]);
        let anew = stored(&repo, &content, 0, &mut PastChunks::of(&repo, None));
        assert!(!anew.contains(&LENGTH));
        content[10 * LENGTH] ^= 1;
        let changed = stored(&repo, &content, 0, &mut PastChunks::of(&repo, Some(past)));
        assert_eq!(changed[..9], [LENGTH; 9]);
        assert!(!changed[9..].contains(&LENGTH), "{changed:?}");
    }

    #[test]
    fn runs_end_where_something_has_changed_and_begin_again_behind_it() {
        let mut content = noise(20 * LENGTH);
        let (repo, past) = with_list(&content, LENGTH);
        let dir = tempfile::tempdir().unwrap();
        let session = session();
        let writer = repo.writer(&session, WriterOptions::default()).unwrap();
        // How many chunks each run has, and how long what has changed seems to be behind them.
        let runs = |content: &[u8], length: usize, cuts: &[usize]| {
            fs::write(dir.path().join("file"), content).unwrap();
            let source = SourceDir::open(dir.path()).unwrap().open_file(&Name::new(*b"file").unwrap()).unwrap();
            let mut past = PastChunks::of(&repo, Some(past));
            let run = |cut: &usize| {
                let run = past
                    .run(&writer, &source, (cut * LENGTH) as u64..length as u64, cut.is_multiple_of(2))
                    .ok()
                    .unwrap();
                assert!(run.iter().all(|(_, length)| *length == LENGTH));
                (run.len(), past.gap() / LENGTH as u64)
            };
            cuts.iter().map(run).collect::<Vec<_>>()
        };
        assert_eq!(runs(&content, content.len(), &[0, 19]), [(19, 0), (0, 0)], "behind the last one there is none");
        content[10 * LENGTH] ^= 1;
        assert_eq!(runs(&content, content.len(), &[0, 9, 11]), [(9, 0), (0, 2), (8, 2)]);
        content[0] ^= 1;
        assert_eq!(runs(&content, content.len(), &[0, 1]), [(0, 1), (8, 1)]);
        content[0] ^= 1;
        // It is shorter than it was, or than it was when it was looked at.
        assert_eq!(runs(&content, 5 * LENGTH + 1, &[0]), [(4, 0)]);
        assert_eq!(runs(&content[..=5 * LENGTH], content.len(), &[0]), [(4, 0)]);
        // Where no chunk began there is nothing to be had, nor later.
        let mut past = PastChunks::of(&repo, Some(past));
        let source = SourceDir::open(dir.path()).unwrap().open_file(&Name::new(*b"file").unwrap()).unwrap();
        for cut in [1, LENGTH] {
            assert_eq!(past.run(&writer, &source, cut as u64..content.len() as u64, false).ok().unwrap(), []);
        }
        assert!(!past.promises());
    }

    #[test]
    fn behind_a_part_in_which_nothing_is_as_it_was_little_is_tried() {
        let content = noise(40 * LENGTH);
        let (repo, past) = with_list(&content, LENGTH);
        let mut past = PastChunks::of(&repo, Some(past));
        let is_taken_over = |lengths: Vec<usize>| lengths.iter().filter(|length| **length == LENGTH).count();
        let (first, rest) = content.split_at(20 * LENGTH);
        let other: Vec<u8> = first.iter().map(|byte| !byte).collect();
        assert_eq!(is_taken_over(stored(&repo, &other, 0, &mut past)), 0);
        let (next, rest) = rest.split_at(10 * LENGTH);
        assert_eq!(is_taken_over(stored(&repo, next, 20 * LENGTH as u64, &mut past)), TRIED_AT_ONCE - 1);
        assert_eq!(is_taken_over(stored(&repo, rest, 30 * LENGTH as u64, &mut past)), 9);
    }

    #[test]
    fn chunks_of_zeros_have_the_name_of_what_they_hold() {
        let longest = ChunkSizes::default().maximum();
        let content = [noise(LENGTH), vec![0; 3 * longest + 1000], noise(LENGTH), vec![0; 2 * longest]].concat();
        // With what it had, which is zeros as well from some chunk on, and without.
        let (repo, past) = with_list(&content, LENGTH);
        for (past, taken_over) in [(None, 0), (Some(past), 1)] {
            let lengths = stored(&repo, &content, 0, &mut PastChunks::of(&repo, past));
            assert_eq!(lengths.iter().filter(|length| **length == LENGTH).count().min(1), taken_over, "{lengths:?}");
        }
        let lengths = stored(&repo, &content, 0, &mut PastChunks::of(&repo, None));
        assert!((3..=5).contains(&lengths.iter().filter(|length| **length == longest).count()), "{lengths:?}");
    }

    #[test]
    fn a_list_that_no_chunker_made_is_not_held() {
        let content = noise(20 * LENGTH);
        for length in [1000, 300_000] {
            let (repo, past) = with_list(&content, length);
            let mut past = PastChunks::of(&repo, Some(past));
            let lengths = stored(&repo, &content, 0, &mut past);
            assert_eq!(lengths, stored(&repo, &content, 0, &mut PastChunks::of(&repo, None)));
            assert_eq!(past.between(0, u64::MAX), [], "none of it is held");
        }
    }
}
