//! Reading what the last snapshot of a source saw.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::block::{BlockHead, LONGEST_BLOCK, LastBlocks, NOTHING, Records, chained};
use super::{FOOTER, FileMark, LONG_AGO, MAGIC, Moment, Seen, Settled, SourceId, Tag, seen_files};
use crate::error::Result;
use crate::object::{BlobId, Content, HashAlgorithm, ID_LEN, ListId, Name, ObjectId, TreeId};
use crate::repo::Repository;
use crate::store::{StoredFile, codec, layout};

/// What the last snapshot of a source saw, record by record. It ends early where the file is damaged.
pub struct SeenReader {
    file: Arc<dyn StoredFile>,
    hash: HashAlgorithm,
    settled: Settled,
    /// The second in which that snapshot had looked at everything.
    end: i64,
    pub(super) tree: TreeId,
    /// Whether it is of the same path.
    pub(super) is_own: bool,
    /// Whether it is of the same directory, not of another one at its path.
    pub(super) is_same_top: bool,
    block: Records,
    /// The next record in the block,
    at: usize,
    /// and the next hash.
    id_at: usize,
    /// A block as it is read, and its frame.
    next: Records,
    frame: Vec<u8>,
    /// The next block in the file, and the hash of the one before it.
    offset: u64,
    last: ObjectId,
    /// The same for the first block with records.
    records_at: (u64, ObjectId),
    /// So far the file is whole.
    whole_to: Arc<AtomicU64>,
}

impl Repository {
    /// What the last snapshot of a source saw, if that is known and can be relied on. Not to be asked while objects are
    /// known to be damaged.
    pub(in crate::repo) fn seen(&self, source: &SourceId) -> Result<Option<SeenReader>> {
        let key = layout::source_key(self.hash(), &source.host, &source.path);
        let (own, others): (Vec<_>, Vec<_>) = seen_files(self.backend())?.into_iter().partition(|(of, _)| *of == key);
        // Its own first, then those of sources that may have been moved to where it is.
        for files in [own, others] {
            let open = |(of, tree)| {
                let file = self.backend().open(&layout::seen_path(of, tree)).ok()?;
                SeenReader::open(file, self.hash(), tree, source)
            };
            let candidates: Vec<SeenReader> = files.into_iter().filter_map(open).collect();
            if let Some(reader) = self.with_ref(candidates)? {
                return Ok(Some(reader));
            }
        }
        Ok(None)
    }

    /// The first of these whose tree a ref has, the newest refs first: mostly the last snapshot is the one.
    fn with_ref(&self, mut candidates: Vec<SeenReader>) -> Result<Option<SeenReader>> {
        if candidates.is_empty() {
            return Ok(None);
        }
        let newest = self.newest(|snapshot| candidates.iter().any(|candidate| candidate.tree == snapshot.tree))?;
        let at = newest.and_then(|newest| candidates.iter().position(|candidate| candidate.tree == newest.tree));
        Ok(at.map(|at| candidates.swap_remove(at)))
    }
}

impl SeenReader {
    /// Opens a file, if it is whole as far as its beginning and its end tell, and of this source.
    fn open(file: Box<dyn StoredFile>, hash: HashAlgorithm, tree: TreeId, source: &SourceId) -> Option<Self> {
        let end = file.length().checked_sub(FOOTER as u64)?;
        let mut footer = [0; FOOTER];
        if file.read_at(end, &mut footer).ok()? != FOOTER || footer[..8] != MAGIC {
            return None;
        }
        let mut reader = Self {
            file: file.into(),
            hash,
            settled: Settled { before: 0, newest: LONG_AGO, met_before: LONG_AGO },
            end: 0,
            tree,
            is_own: false,
            is_same_top: false,
            block: Records::default(),
            at: 0,
            id_at: 0,
            next: Records::default(),
            frame: Vec::new(),
            offset: 0,
            last: NOTHING,
            records_at: (0, NOTHING),
            whole_to: Arc::new(AtomicU64::new(0)),
        };
        reader.next_block()?;
        reader.records_at = (reader.offset, reader.last);
        let (facts, check) = footer.split_at(FOOTER - ID_LEN);
        if chained(hash, &reader.last, facts).as_bytes() != check {
            return None;
        }
        let (root, facts) = facts[8..].split_at(ID_LEN);
        if root != tree.object().as_bytes() {
            return None;
        }
        let mut facts = Record { bytes: facts, ids: &[] };
        reader.settled.newest = (facts.i64()?, facts.i64()?);
        if facts.array()? == [1] {
            reader.settled.met_before = reader.settled.newest;
        }
        reader.end = facts.i64()?;
        let mut head = Record { bytes: &reader.block.rest, ids: &[] };
        reader.settled.before = head.i64()?;
        let top = (head.u64()?, head.u64()?);
        let (host, path) = (head.bytes()?, head.bytes()?);
        reader.is_own = (host, path) == (&source.host, &source.path);
        reader.is_same_top = top == source.top;
        let is_same = host == source.host && (reader.is_own || reader.is_same_top);
        reader.at = reader.block.rest.len();
        is_same.then_some(reader)
    }

    /// Whether a file that looks as it looked then is the same file.
    pub fn is_settled(&self, mark: &FileMark, ignores_changed: bool) -> bool {
        self.settled.covers(mark, ignores_changed)
    }

    /// The time that the next snapshot need not fear to meet as the newest one. That snapshot takes times before the second
    /// `before` for settled, which is its start less [`UNSETTLED_SECONDS`].
    pub(super) fn met_before(&self, before: i64) -> Moment {
        let Settled { newest, met_before, .. } = self.settled;
        let is_long_ago = self.end < before || met_before == newest;
        if self.is_same_top && is_long_ago { newest } else { LONG_AGO }
    }

    /// The blocks with its records, for who may write the same again.
    pub(super) fn blocks(&self) -> LastBlocks {
        let (offset, before) = self.records_at;
        LastBlocks::new(Arc::clone(&self.file), Arc::clone(&self.whole_to), offset, before)
    }

    fn next_block(&mut self) -> Option<()> {
        // Should anything be wrong with it, there is nothing more.
        self.block.clear();
        (self.at, self.id_at) = (0, 0);
        let head = BlockHead::read(&*self.file, self.offset)?;
        let after = self.offset + head.block_length();
        if after > self.file.length() - FOOTER as u64 {
            return None;
        }
        let Records { ids, rest } = &mut self.next;
        ids.resize(head.ids, 0);
        self.frame.resize(head.frame, 0);
        let offset = self.offset + BlockHead::LENGTH as u64;
        if self.file.read_at(offset, ids).ok()? != ids.len()
            || self.file.read_at(offset + ids.len() as u64, &mut self.frame).ok()? != self.frame.len()
        {
            return None;
        }
        *rest = codec::decompress_into(&self.frame, LONGEST_BLOCK, mem::take(rest)).ok()?;
        if chained(self.hash, &self.last, self.next.hash(self.hash).as_bytes()) != head.check {
            return None;
        }
        mem::swap(&mut self.block, &mut self.next);
        (self.last, self.offset) = (head.check, after);
        self.whole_to.store(after, Ordering::Relaxed);
        Some(())
    }
}

impl Iterator for SeenReader {
    type Item = Seen;

    fn next(&mut self) -> Option<Seen> {
        while self.at == self.block.rest.len() {
            self.next_block()?;
        }
        let Records { ids, rest } = &self.block;
        let mut record = Record { bytes: &rest[self.at..], ids: &ids[self.id_at..] };
        let seen = record.seen()?;
        (self.at, self.id_at) = (rest.len() - record.bytes.len(), ids.len() - record.ids.len());
        Some(seen)
    }
}

/// What of a block is still to be read.
pub(super) struct Record<'b> {
    pub(super) bytes: &'b [u8],
    pub(super) ids: &'b [u8],
}

impl<'b> Record<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    fn id(&mut self) -> Option<ObjectId> {
        let (id, rest) = self.ids.split_at_checked(ID_LEN)?;
        self.ids = rest;
        Some(ObjectId::from_bytes(id.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn name(&mut self) -> Option<Name> {
        Name::new(self.bytes()?).ok()
    }

    fn seen(&mut self) -> Option<Seen> {
        match self.array()? {
            [Tag::DIR] => Some(Seen::Dir(self.name()?)),
            [Tag::FILE] => {
                let name = self.name()?;
                let (size, inode) = (self.u64()?, self.u64()?);
                let (modified, changed) = ((self.i64()?, self.i64()?), (self.i64()?, self.i64()?));
                let content = match (self.array()?, self.id()?) {
                    ([0], id) => Content::Blob(BlobId(id)),
                    ([depth], id) => Content::Chunks { list: ListId(id), depth },
                };
                Some(Seen::File { name, mark: FileMark { size, modified, changed, inode }, content })
            }
            [Tag::SYMLINK] => Some(Seen::Symlink { name: self.name()?, target: self.bytes()?.to_vec() }),
            [Tag::END] => Some(Seen::End { tree: TreeId(self.id()?), size: self.u64()? }),
            _ => None,
        }
    }
}
