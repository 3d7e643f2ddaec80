//! The blocks that a file of the change cache consists of, and what of them can be taken over from the file before.
//!
//! The hash of a block is that of its records behind the hash of the block before it. So whether a block has the same
//! records as one of another file can be told without compressing or decoding anything.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::read::Record;
use crate::object::{HashAlgorithm, ID_LEN, ObjectId};
use crate::store::staging::Staging;
use crate::store::{StagedFile, StoredFile, codec};

/// A block ends when its records have so many bytes of hashes, or of the rest.
pub(super) const BLOCK: usize = 64 << 10;
/// No block has more of either: a record is never as long as a block.
pub(super) const LONGEST_BLOCK: usize = 2 * BLOCK;

/// The hash of a block, or of the footer, behind the hash of what it follows.
pub(super) fn chained(hash: HashAlgorithm, before: &ObjectId, what: &[u8]) -> ObjectId {
    hash_of(hash, &[before.as_bytes(), what])
}

fn hash_of(hash: HashAlgorithm, parts: &[&[u8]]) -> ObjectId {
    let mut hasher = hash.hasher();
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// What the first block follows.
pub(super) const NOTHING: ObjectId = ObjectId::from_bytes([0; ID_LEN]);

/// The records of a block.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// The hashes in them, which do not compress.
    pub(super) ids: Vec<u8>,
    /// The rest.
    pub(super) rest: Vec<u8>,
}

impl Records {
    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.rest.clear();
    }

    /// Adds bytes to the rest, behind their length.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(&length(bytes.len()));
        self.rest.extend_from_slice(bytes);
    }

    /// The hash of the records alone.
    pub(super) fn hash(&self, hash: HashAlgorithm) -> ObjectId {
        hash_of(hash, &[&length(self.ids.len()), &self.ids, &self.rest])
    }
}

fn length(length: usize) -> [u8; 4] {
    // What is too long for it makes a block that no reader takes.
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// What a block begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockHead {
    /// The bytes of the hashes behind it,
    pub(super) ids: usize,
    /// and those of the frame behind these, which holds the rest.
    pub(super) frame: usize,
    /// The hash of the block.
    pub(super) check: ObjectId,
}

impl BlockHead {
    /// Its own length in bytes.
    pub(super) const LENGTH: usize = 4 + 4 + ID_LEN;

    /// Reads the one at this byte of a file, unless it cannot be one.
    pub(super) fn read(file: &dyn StoredFile, offset: u64) -> Option<Self> {
        let mut bytes = [0; Self::LENGTH];
        if file.read_at(offset, &mut bytes).ok()? != Self::LENGTH {
            return None;
        }
        let mut lengths = Record { bytes: &bytes, ids: &[] };
        let (ids, frame) = (lengths.u32()? as usize, lengths.u32()? as usize);
        let check = ObjectId::from_bytes(lengths.array()?);
        (ids <= LONGEST_BLOCK && frame <= codec::max_frame(LONGEST_BLOCK)).then_some(Self { ids, frame, check })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        [&length(self.ids), &length(self.frame), &self.check.as_bytes()[..]].concat()
    }

    /// The length of the whole block in bytes.
    pub(super) fn block_length(self) -> u64 {
        (Self::LENGTH + self.ids + self.frame) as u64
    }
}

/// The blocks of the file that the last snapshot wrote, one after the other, as far as its reader has found them whole.
pub(super) struct LastBlocks {
    file: Arc<dyn StoredFile>,
    whole_to: Arc<AtomicU64>,
    /// Where the next block is, and the hash of the one before it.
    offset: u64,
    before: ObjectId,
}

impl LastBlocks {
    /// From the block at this byte on, which is behind one with the hash `before`. `whole_to` is the byte to which a reader
    /// has found the file whole so far.
    pub(super) fn new(file: Arc<dyn StoredFile>, whole_to: Arc<AtomicU64>, offset: u64, before: ObjectId) -> Self {
        Self { file, whole_to, offset, before }
    }

    /// Passes over the next block, and returns its place if it has the records of this hash.
    pub(super) fn next_is(&mut self, hash: HashAlgorithm, records: &ObjectId) -> Option<Range<u64>> {
        let head = BlockHead::read(&*self.file, self.offset)?;
        let place = self.offset..self.offset + head.block_length();
        let is_same = head.check == chained(hash, &self.before, records.as_bytes());
        (self.offset, self.before) = (place.end, head.check);
        (is_same && place.end <= self.whole_to.load(Ordering::Relaxed)).then_some(place)
    }

    /// The block at a place, to stand behind another one.
    fn block(&self, place: &Range<u64>, check: ObjectId) -> Option<Vec<u8>> {
        let head = BlockHead::read(&*self.file, place.start)?;
        let mut rest = vec![0; head.ids + head.frame];
        let is_all = self.file.read_at(place.start + BlockHead::LENGTH as u64, &mut rest).ok()? == rest.len();
        is_all.then(|| [BlockHead { check, ..head }.to_bytes(), rest].concat())
    }
}

/// Writes blocks, from the first one on that is not as it was. Where something returns nothing, nothing more can be written.
pub(super) struct BlockWriter<'s> {
    staging: Arc<Staging<'s>>,
    hash: HashAlgorithm,
    /// The first block.
    head: Records,
    last_blocks: Option<LastBlocks>,
    /// The hashes of the records of the blocks so far, and where these are, as long as nothing is written.
    same: Vec<(ObjectId, Range<u64>)>,
    output: Option<Output>,
}

/// What is written.
struct Output {
    file: Box<dyn StagedFile>,
    /// The hash of the first block, and of the one before the next.
    first: ObjectId,
    before: ObjectId,
}

impl<'s> BlockWriter<'s> {
    /// The name of the file among those that are staged.
    pub(super) const STAGED: &'static str = "seen";

    /// Behind a first block that is always new, all that is in `last_blocks` is taken over.
    pub(super) fn new(
        staging: Arc<Staging<'s>>,
        hash: HashAlgorithm,
        head: Records,
        last_blocks: Option<LastBlocks>,
    ) -> Self {
        Self { staging, hash, head, last_blocks, same: Vec::new(), output: None }
    }

    /// Adds a block with these records.
    pub(super) fn push(&mut self, records: &Records) -> Option<()> {
        let own = records.hash(self.hash);
        let place = self.last_blocks.as_mut().and_then(|last| last.next_is(self.hash, &own));
        match (place, &mut self.output) {
            (Some(place), None) => {
                self.same.push((own, place));
                Some(())
            }
            (Some(place), Some(output)) => output.copy(self.hash, &own, self.last_blocks.as_ref()?, &place),
            (None, _) => {
                let hash = self.hash;
                self.output()?.write(hash, &own, records)
            }
        }
    }

    /// What is written; it begins with what is as it was.
    fn output(&mut self) -> Option<&mut Output> {
        if self.output.is_none() {
            let mut output = Output { file: self.staging.create(Self::STAGED).ok()?, first: NOTHING, before: NOTHING };
            output.write(self.hash, &self.head.hash(self.hash), &self.head)?;
            output.first = output.before;
            for (own, place) in self.same.drain(..) {
                output.copy(self.hash, &own, self.last_blocks.as_ref()?, &place)?;
            }
            self.output = Some(output);
        }
        self.output.as_mut()
    }

    /// Ends the file with a footer: these facts, and their hash.
    pub(super) fn finish(mut self, facts: &[u8]) -> Option<()> {
        let hash = self.hash;
        let output = self.output()?;
        let check = chained(hash, &output.first, facts);
        output.file.append(&[facts, check.as_bytes()].concat()).ok()
    }
}

impl Output {
    fn write(&mut self, hash: HashAlgorithm, own: &ObjectId, records: &Records) -> Option<()> {
        let frame = codec::compress_at(&records.rest, codec::LEVEL_FOR_CACHE).ok()?;
        let check = chained(hash, &self.before, own.as_bytes());
        let head = BlockHead { ids: records.ids.len(), frame: frame.len(), check };
        self.append(check, &[&head.to_bytes()[..], &records.ids, &frame].concat())
    }

    fn copy(&mut self, hash: HashAlgorithm, own: &ObjectId, from: &LastBlocks, place: &Range<u64>) -> Option<()> {
        let check = chained(hash, &self.before, own.as_bytes());
        self.append(check, &from.block(place, check)?)
    }

    fn append(&mut self, check: ObjectId, block: &[u8]) -> Option<()> {
        self.before = check;
        self.file.append(block).ok()
    }
}
