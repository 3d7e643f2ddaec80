//! Reading what the last snapshot of a source saw.

use std::cell::Cell;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use super::block::{BlockHead, Cursor, LONGEST_BLOCK, LastBlocks, NOTHING, Records, chained};
use super::{FOOTER, FileMark, LONG_AGO, MAGIC, Moment, Seen, Settled, SourceId, Tag, seen_files};
use crate::error::Result;
use crate::object::{BlobId, Content, HashAlgorithm, ID_LEN, ListId, Name, ObjectId, TreeId};
use crate::repo::Repository;
use crate::store::layout::SourceKey;
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
    /// Where the next block in the file begins: so far it is whole. And the hash of the block before it.
    offset: Rc<Cell<u64>>,
    last: ObjectId,
    /// The same for the first block with records.
    records_at: (u64, ObjectId),
}

impl Repository {
    /// What the last snapshot of a source saw, if that is known and can be relied on. Not to be asked while objects are
    /// known to be damaged.
    pub(in crate::repo) fn seen(&self, source: &SourceId) -> Result<Option<SeenReader>> {
        let (key, place) = (layout::source_key(self.hash(), &source.host, &source.path), self.place());
        let (own, others): (Vec<_>, Vec<_>) = seen_files(self.backend())?.into_iter().partition(|(of, _)| *of == key);
        // Its own first, then those of sources that may have been moved to where it is.
        for files in [own, others] {
            let open = |(of, tree)| {
                let file = self.backend().open(&layout::seen_path(of, tree)).ok()?;
                SeenReader::open(file, self.hash(), tree, source, place)
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
    /// Whether a file, of whatever source, was written where the repository is now.
    pub(super) fn is_of(repo: &Repository, of: SourceKey, tree: TreeId) -> bool {
        let file = repo.backend().open(&layout::seen_path(of, tree)).ok();
        file.and_then(|file| Self::open_any(file, repo.hash(), tree, repo.place())).is_some()
    }

    /// Opens a file, if it is whole as far as its beginning and its end tell, of this source, and was written where the
    /// repository is now.
    fn open(
        file: Box<dyn StoredFile>,
        hash: HashAlgorithm,
        tree: TreeId,
        source: &SourceId,
        place: Moment,
    ) -> Option<Self> {
        let (mut reader, of) = Self::open_any(file, hash, tree, place)?;
        reader.is_own = (&of.host, &of.path) == (&source.host, &source.path);
        reader.is_same_top = of.top == source.top;
        (of.host == source.host && (reader.is_own || reader.is_same_top)).then_some(reader)
    }

    /// The same for any source, and which that is.
    fn open_any(
        file: Box<dyn StoredFile>,
        hash: HashAlgorithm,
        tree: TreeId,
        place: Moment,
    ) -> Option<(Self, SourceId)> {
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
            offset: Rc::default(),
            last: NOTHING,
            records_at: (0, NOTHING),
        };
        reader.next_block()?;
        reader.records_at = (reader.offset.get(), reader.last);
        let (facts, check) = footer.split_at(FOOTER - ID_LEN);
        if chained(hash, &reader.last, facts).as_bytes() != check {
            return None;
        }
        let (root, facts) = facts[8..].split_at(ID_LEN);
        if root != tree.object().as_bytes() {
            return None;
        }
        let mut facts = Cursor::over(facts);
        reader.settled.newest = (facts.i64()?, facts.i64()?);
        if facts.array()? == [1] {
            reader.settled.met_before = reader.settled.newest;
        }
        reader.end = facts.i64()?;
        let mut head = Cursor::over(&reader.block.rest);
        reader.settled.before = head.i64()?;
        let top = (head.u64()?, head.u64()?);
        let is_here = (head.i64()?, head.i64()?) == place;
        let (host, path) = (head.bytes()?.to_vec(), head.bytes()?.to_vec());
        reader.at = reader.block.rest.len();
        is_here.then_some((reader, SourceId { host, path, top }))
    }

    pub(super) fn settled(&self) -> Settled {
        self.settled
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
        let end = self.file.length() - FOOTER as u64;
        LastBlocks::new(Arc::clone(&self.file), end, Rc::clone(&self.offset), offset, before)
    }

    fn next_block(&mut self) -> Option<()> {
        // Should anything be wrong with it, there is nothing more.
        self.block.clear();
        (self.at, self.id_at) = (0, 0);
        let start = self.offset.get();
        let head = BlockHead::read(&*self.file, start)?;
        let after = start + head.block_length();
        if after > self.file.length() - FOOTER as u64 {
            return None;
        }
        let Records { ids, rest } = &mut self.next;
        ids.resize(head.ids, 0);
        self.frame.resize(head.frame, 0);
        let offset = start + BlockHead::LENGTH as u64;
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
        self.last = head.check;
        self.offset.set(after);
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
        let mut cursor = Cursor { ids: &ids[self.id_at..], rest: &rest[self.at..] };
        let seen = Seen::decode(&mut cursor)?;
        (self.at, self.id_at) = (rest.len() - cursor.rest.len(), ids.len() - cursor.ids.len());
        Some(seen)
    }
}

impl Seen {
    fn decode(from: &mut Cursor<'_>) -> Option<Self> {
        match from.array()? {
            [Tag::DIR] => Some(Self::Dir(name(from)?)),
            [Tag::FILE] => {
                let name = name(from)?;
                let (size, inode) = (from.u64()?, from.u64()?);
                let (modified, changed) = ((from.i64()?, from.i64()?), (from.i64()?, from.i64()?));
                let content = match (from.array()?, from.id()?) {
                    ([0], id) => Content::Blob(BlobId(id)),
                    ([depth], id) => Content::Chunks { list: ListId(id), depth },
                };
                Some(Self::File { name, mark: FileMark { size, modified, changed, inode }, content })
            }
            [Tag::SYMLINK] => Some(Self::Symlink { name: name(from)?, target: from.bytes()?.to_vec() }),
            [Tag::END] => Some(Self::End { tree: TreeId(from.id()?), size: from.u64()? }),
            _ => None,
        }
    }
}

fn name(from: &mut Cursor<'_>) -> Option<Name> {
    Name::new(from.bytes()?).ok()
}
