//! The blocks that a file of the change cache consists of, and what of them can be taken over from the file before.
//!
//! The hash of a block is that of its records behind the hash of the block before it. So whether a block has the same
//! records as one of another file can be told without compressing or decoding anything.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

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

/// The records of a block, or what the first block has in their place.
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
        self.rest.extend_from_slice(&length_bytes(bytes.len()));
        self.rest.extend_from_slice(bytes);
    }

    /// The hash of the records alone.
    pub(super) fn hash(&self, hash: HashAlgorithm) -> ObjectId {
        hash_of(hash, &[&length_bytes(self.ids.len()), &self.ids, &self.rest])
    }

    /// A block with this hash.
    fn to_block(&self, check: ObjectId) -> Option<Vec<u8>> {
        let frame = codec::compress_at(&self.rest, codec::LEVEL_FOR_CACHE).ok()?;
        let head = BlockHead { ids: self.ids.len(), frame: frame.len(), check };
        Some([&head.to_bytes()[..], &self.ids, &frame].concat())
    }
}

fn length_bytes(length: usize) -> [u8; 4] {
    // What is too long for it makes a block that no reader takes.
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// What of some records, or of other bytes, is still to be read.
pub(super) struct Cursor<'b> {
    /// The hashes,
    pub(super) ids: &'b [u8],
    /// and the rest.
    pub(super) rest: &'b [u8],
}

impl<'b> Cursor<'b> {
    /// Over bytes without hashes beside them.
    pub(super) fn over(bytes: &'b [u8]) -> Self {
        Self { ids: &[], rest: bytes }
    }

    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn id(&mut self) -> Option<ObjectId> {
        let (id, rest) = self.ids.split_at_checked(ID_LEN)?;
        self.ids = rest;
        Some(ObjectId::from_bytes(id.try_into().ok()?))
    }

    pub(super) fn bytes(&mut self) -> Option<&'b [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }
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
        let mut bytes = Cursor::over(&bytes);
        let (ids, frame) = (bytes.u32()? as usize, bytes.u32()? as usize);
        let check = ObjectId::from_bytes(bytes.array()?);
        (ids <= LONGEST_BLOCK && frame <= codec::max_frame(LONGEST_BLOCK)).then_some(Self { ids, frame, check })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        [&length_bytes(self.ids), &length_bytes(self.frame), &self.check.as_bytes()[..]].concat()
    }

    /// The length of the whole block in bytes.
    pub(super) fn block_length(self) -> u64 {
        (Self::LENGTH + self.ids + self.frame) as u64
    }
}

/// The blocks of the file that the last snapshot wrote, one after the other, as far as its reader has found them whole. (The
/// reader is ahead of who writes: it has had all records of a block before one that is the same can be full.)
pub(super) struct LastBlocks {
    file: Arc<dyn StoredFile>,
    /// The byte at which all of them end.
    end: u64,
    whole_to: Rc<Cell<u64>>,
    /// Where the next block is, and the hash of the one before it.
    offset: u64,
    before: ObjectId,
}

impl LastBlocks {
    /// From the block at this byte on, which is behind one with the hash `before`, to the byte `end`. `whole_to` is the byte
    /// to which a reader has found the file whole so far.
    pub(super) fn new(
        file: Arc<dyn StoredFile>,
        end: u64,
        whole_to: Rc<Cell<u64>>,
        offset: u64,
        before: ObjectId,
    ) -> Self {
        Self { file, end, whole_to, offset, before }
    }

    /// Passes over the next block, and returns where it begins if it has the records of this hash.
    fn next_is(&mut self, hash: HashAlgorithm, records_hash: &ObjectId) -> Option<u64> {
        let head = BlockHead::read(&*self.file, self.offset)?;
        let (start, end) = (self.offset, self.offset + head.block_length());
        let is_same = head.check == chained(hash, &self.before, records_hash.as_bytes());
        (self.offset, self.before) = (end, head.check);
        (is_same && end <= self.whole_to.get()).then_some(start)
    }

    /// The block that begins there, to stand behind another one: with this hash.
    fn block(&self, start: u64, check: ObjectId) -> Option<Vec<u8>> {
        let head = BlockHead::read(&*self.file, start)?;
        let mut rest = vec![0; head.ids + head.frame];
        let is_all = self.file.read_at(start + BlockHead::LENGTH as u64, &mut rest).ok()? == rest.len();
        is_all.then(|| [BlockHead { check, ..head }.to_bytes(), rest].concat())
    }

    /// Whether the reader has found all of them whole.
    fn are_whole(&self) -> bool {
        self.whole_to.get() == self.end
    }
}

/// Writes a file of blocks, as soon as one is not as it was. Where something returns nothing, there is no such file any more.
pub(super) struct BlockWriter<'s> {
    staging: Arc<Staging<'s>>,
    hash: HashAlgorithm,
    /// What the first block holds, which has no records.
    head: Records,
    last_blocks: Option<LastBlocks>,
    /// As long as nothing is written: for each block so far the hash of its records, and where it begins in the file of the
    /// last snapshot. (40 bytes for 64 KiB, some thousand files.)
    same: Vec<(ObjectId, u64)>,
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

    /// For blocks behind a first one, which is always new. What has the records of the block of the same number in
    /// `last_blocks` is taken over.
    pub(super) fn new(
        staging: Arc<Staging<'s>>,
        hash: HashAlgorithm,
        head: Records,
        last_blocks: Option<LastBlocks>,
    ) -> Self {
        Self { staging, hash, head, last_blocks, same: Vec::new(), output: None }
    }

    /// Whether the file of the last snapshot could be read to its end.
    pub(super) fn last_is_whole(&self) -> bool {
        self.last_blocks.as_ref().is_some_and(LastBlocks::are_whole)
    }

    /// Adds a block with these records.
    pub(super) fn push(&mut self, records: &Records) -> Option<()> {
        let hash = self.hash;
        let records_hash = records.hash(hash);
        let start = self.last_blocks.as_mut().and_then(|last| last.next_is(hash, &records_hash));
        if let (Some(start), None) = (start, &self.output) {
            self.same.push((records_hash, start));
            return Some(());
        }
        let check = chained(hash, &self.output()?.before, records_hash.as_bytes());
        let block = match start.and_then(|start| self.last_blocks.as_ref()?.block(start, check)) {
            Some(block) => block,
            None => records.to_block(check)?,
        };
        self.output()?.append(check, &block)
    }

    /// What is written; it begins with what is as it was.
    fn output(&mut self) -> Option<&mut Output> {
        if self.output.is_none() {
            let first = chained(self.hash, &NOTHING, self.head.hash(self.hash).as_bytes());
            let mut output = Output { file: self.staging.create(Self::STAGED).ok()?, first, before: NOTHING };
            output.append(first, &self.head.to_block(first)?)?;
            for (records_hash, start) in self.same.drain(..) {
                let check = chained(self.hash, &output.before, records_hash.as_bytes());
                output.append(check, &self.last_blocks.as_ref()?.block(start, check)?)?;
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
    fn append(&mut self, check: ObjectId, block: &[u8]) -> Option<()> {
        self.before = check;
        self.file.append(block).ok()
    }
}
