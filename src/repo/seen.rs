//! The change cache: what a snapshot saw, so that the next one need not read again what is as it was.
//!
//! A file `cache/seen-SOURCE-TREE` holds one record for each directory, file and symbolic link of a snapshot, in the
//! order of the walk: of a file its size, times and inode beside where its content is stored, and at the end of each
//! directory the tree that it became. The next snapshot of the source reads it from beginning to end beside its walk,
//! in bounded memory. (The idea is that of git's index and of the files cache of borg; the walk order makes it a merge.)
//! The hashes in the records, which do not compress, stand beside the rest, which does.
//!
//! # Why it never makes a snapshot wrong
//!
//! - What it names is stored. A file is opened only if a ref with its root tree is there
//!   ([`super::ObjectWriter::last_seen`]), the shared lock is held until the new ref is published, and everything that a ref
//!   needs is stored as long as the ref is. While objects are known to be damaged no such file is used: what is damaged
//!   would not be met and stored again.
//! - What it says is what was written: each block is read only if its hash is right, which covers the hash of the block
//!   before it, and so the beginning of the file, which says of which source it is. What is cut short, damaged or of
//!   another version is as good as not there from that point on.
//! - A file that has changed is not taken for unchanged: its size, both times and its inode must be what they were, and
//!   the times must have been *settled* then, that is older by [`UNSETTLED_SECONDS`] than the clock when that snapshot
//!   began. A change after the file was read gives it a time that is not, as long as the clock that makes the times and
//!   the one that was read agree that well. As a guard where they do not (a server's clock is behind), what has the very
//!   newest time of all is not settled either, unless it was the newest one for the snapshot before too, and that had ended
//!   so long before: then the clock that makes the times has gone on since, wherever it stands. (It takes two faults to
//!   make that wrong: a clock that is behind, and the other one set forward, or that one back, between the two snapshots.
//!   That git's index is racy without such a rule is known: see `racy-git` in its documentation.)
//!
//! Like everything in `cache` it can be deleted. It is not synced: a crash may leave it cut short.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;

use jiff::Timestamp;

use super::Repository;
use crate::error::Result;
use crate::object::{BlobId, Content, HashAlgorithm, ID_LEN, ListId, Name, ObjectId, TreeId};
use crate::store::staging::Staging;
use crate::store::{Backend, EntryKind, StagedFile, StoredFile, codec, layout, remove_if_there};

/// Times that are less than so much older than the beginning of a snapshot may be met again: some file systems count in
/// steps of two seconds.
pub const UNSETTLED_SECONDS: i64 = 2;

/// A source: the same directory of the same machine, as far as can be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceId {
    /// The machine.
    pub host: Vec<u8>,
    /// The path.
    pub path: Vec<u8>,
    /// The device and the inode of the top directory: a source that was moved is still the same.
    pub top: (u64, u64),
}

/// Seconds since 1970, and nanoseconds.
pub type Moment = (i64, i64);

/// What is compared to see whether a file is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMark {
    /// Its length in bytes.
    pub size: u64,
    /// When its content changed.
    pub modified: Moment,
    /// When anything of it changed, as the system says.
    pub changed: Moment,
    /// Its inode.
    pub inode: u64,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A directory begins: what follows is in it, up to its end.
    Dir(Name),
    /// A file.
    File {
        /// Its name.
        name: Name,
        /// What it looked like.
        mark: FileMark,
        /// Where its content is.
        content: Content,
    },
    /// A symbolic link.
    Symlink {
        /// Its name.
        name: Name,
        /// Where it leads.
        target: Vec<u8>,
    },
    /// The directory ends, or the whole source does.
    End {
        /// Its tree.
        tree: TreeId,
        /// The bytes of all files below it.
        size: u64,
    },
}

impl Seen {
    /// The name of what begins here.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Dir(name) | Self::File { name, .. } | Self::Symlink { name, .. } => Some(name),
            Self::End { .. } => None,
        }
    }
}

const MAGIC: [u8; 8] = *b"BTseen\0\x03";
/// A block ends when its records have so many bytes of hashes, or of the rest.
const BLOCK: usize = 64 << 10;
/// No block has more of either: a record is never as long as a block.
const LONGEST_BLOCK: usize = 2 * BLOCK;
/// The length of its hashes, the length of the frame that the rest is in, and the hash of both.
const BLOCK_HEAD: usize = 4 + 4 + ID_LEN;
/// The magic number, the root tree, the newest time and whether it was met before, the second of the end, and the hash of
/// that.
const FOOTER: usize = 8 + ID_LEN + 8 + 8 + 1 + 8 + ID_LEN;

/// The hash of a block, or of the footer, behind the hash of what it follows.
fn chained(hash: HashAlgorithm, before: &ObjectId, parts: &[&[u8]]) -> ObjectId {
    let mut hasher = hash.hasher();
    hasher.update(before.as_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

const NOTHING: ObjectId = ObjectId::from_bytes([0; ID_LEN]);

/// Which times of a snapshot are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settled {
    /// In seconds: times before it are.
    before: i64,
    /// The newest time at which a file changed is not, whatever it is, but for the next case.
    newest: Moment,
    /// The time that was the newest one for the snapshot before, if that had ended long enough before this one began.
    met_before: Moment,
}

/// A time before all others.
const LONG_AGO: Moment = (i64::MIN, 0);

impl Settled {
    fn covers(self, mark: &FileMark, ignores_changed: bool) -> bool {
        let is_newest = mark.changed == self.newest && mark.changed != self.met_before;
        self.is_old(mark, ignores_changed) && (ignores_changed || !is_newest)
    }

    fn is_old(self, mark: &FileMark, ignores_changed: bool) -> bool {
        let is_old = |moment: Moment| moment.0 < self.before;
        is_old(mark.modified) && (ignores_changed || is_old(mark.changed))
    }
}

// ---- reading

/// What the last snapshot of a source saw, record by record. It ends early where the file is damaged.
pub struct SeenReader {
    file: Box<dyn StoredFile>,
    hash: HashAlgorithm,
    settled: Settled,
    /// The second in which that snapshot had looked at everything.
    end: i64,
    tree: TreeId,
    is_own: bool,
    /// Whether it is of the same directory, not of another one at its path.
    is_same_top: bool,
    block: Vec<u8>,
    /// The next record in the block.
    at: usize,
    /// The hashes of the records of the block.
    ids: Vec<u8>,
    /// The hash of the next record that has one.
    id_at: usize,
    /// A frame as it is read.
    frame: Vec<u8>,
    /// The next block in the file.
    offset: u64,
    last: ObjectId,
}

impl Repository {
    /// What the last snapshot of a source saw, if that is known and can be relied on. Not to be asked while objects are
    /// known to be damaged.
    pub(super) fn seen(&self, source: &SourceId) -> Result<Option<SeenReader>> {
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

impl Repository {
    /// Removes what was written down of snapshots that are gone: nobody will use it again.
    pub(super) fn sweep_seen(&self) -> Result<()> {
        let files = seen_files(self.backend())?;
        if files.is_empty() {
            return Ok(());
        }
        let trees: HashSet<TreeId> = self.snapshots()?.snapshots.into_iter().map(|snapshot| snapshot.tree).collect();
        let mut stale = files.into_iter().filter(|(_, tree)| !trees.contains(tree));
        stale.try_for_each(|(of, tree)| remove_if_there(self.backend(), &layout::seen_path(of, tree)))
    }
}

/// The sources and the trees of the files that are there.
fn seen_files(backend: &dyn Backend) -> Result<Vec<(layout::SourceKey, TreeId)>> {
    let entries = match backend.list(layout::CACHE) {
        Err(error) if error.is_unreadable() => Vec::new(),
        other => other?,
    };
    let files = entries.into_iter().filter(|entry| entry.kind == EntryKind::File);
    Ok(files.filter_map(|entry| layout::parse_seen(&entry.name)).collect())
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
            file,
            hash,
            settled: Settled { before: 0, newest: LONG_AGO, met_before: LONG_AGO },
            end: 0,
            tree,
            is_own: false,
            is_same_top: false,
            block: Vec::new(),
            at: 0,
            ids: Vec::new(),
            id_at: 0,
            frame: Vec::new(),
            offset: 0,
            last: NOTHING,
        };
        reader.next_block()?;
        let (facts, check) = footer.split_at(FOOTER - ID_LEN);
        if chained(hash, &reader.last, &[facts]).as_bytes() != check {
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
        let mut head = Record { bytes: &reader.block, ids: &[] };
        reader.settled.before = head.i64()?;
        let top = (head.u64()?, head.u64()?);
        let (host, path) = (head.bytes()?, head.bytes()?);
        reader.is_own = (host, path) == (&source.host, &source.path);
        reader.is_same_top = top == source.top;
        let is_same = host == source.host && (reader.is_own || reader.is_same_top);
        reader.at = reader.block.len();
        is_same.then_some(reader)
    }

    /// Whether a file that looks as it looked then is the same file.
    pub fn is_settled(&self, mark: &FileMark, ignores_changed: bool) -> bool {
        self.settled.covers(mark, ignores_changed)
    }

    /// The time that the next snapshot need not fear to meet as the newest one. That snapshot takes times before the second
    /// `before` for settled, which is its start less [`UNSETTLED_SECONDS`].
    fn met_before(&self, before: i64) -> Moment {
        let Settled { newest, met_before, .. } = self.settled;
        let is_long_ago = self.end < before || met_before == newest;
        if self.is_same_top && is_long_ago { newest } else { LONG_AGO }
    }

    fn next_block(&mut self) -> Option<()> {
        // Should anything be wrong with it, there is nothing more.
        self.block.clear();
        self.ids.clear();
        (self.at, self.id_at) = (0, 0);
        let mut head = [0; BLOCK_HEAD];
        if self.file.read_at(self.offset, &mut head).ok()? != BLOCK_HEAD {
            return None;
        }
        let (lengths, expected) = head.split_at(BLOCK_HEAD - ID_LEN);
        let mut lengths = Record { bytes: lengths, ids: &[] };
        let (ids, frame) = (lengths.u32()? as usize, lengths.u32()? as usize);
        if ids > LONGEST_BLOCK || frame > codec::max_frame(LONGEST_BLOCK) {
            return None;
        }
        let after = self.offset + (BLOCK_HEAD + ids + frame) as u64;
        if after > self.file.length() - FOOTER as u64 {
            return None;
        }
        self.ids.resize(ids, 0);
        self.frame.resize(frame, 0);
        let offset = self.offset + BLOCK_HEAD as u64;
        if self.file.read_at(offset, &mut self.ids).ok()? != ids
            || self.file.read_at(offset + ids as u64, &mut self.frame).ok()? != frame
        {
            return None;
        }
        let check = chained(self.hash, &self.last, &[&self.ids, &self.frame]);
        if check.as_bytes() != expected {
            return None;
        }
        self.block = codec::decompress_into(&self.frame, LONGEST_BLOCK, mem::take(&mut self.block)).ok()?;
        (self.last, self.offset) = (check, after);
        Some(())
    }
}

impl Iterator for SeenReader {
    type Item = Seen;

    fn next(&mut self) -> Option<Seen> {
        while self.at == self.block.len() {
            self.next_block()?;
        }
        let mut record = Record { bytes: &self.block[self.at..], ids: &self.ids[self.id_at..] };
        let seen = record.seen()?;
        (self.at, self.id_at) = (self.block.len() - record.bytes.len(), self.ids.len() - record.ids.len());
        Some(seen)
    }
}

/// What of a block is still to be read.
struct Record<'b> {
    bytes: &'b [u8],
    ids: &'b [u8],
}

impl<'b> Record<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Option<u32> {
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

/// The first byte of a record.
struct Tag;

impl Tag {
    const DIR: u8 = 1;
    const FILE: u8 = 2;
    const SYMLINK: u8 = 3;
    const END: u8 = 4;
}

// ---- writing

/// Writes down what a snapshot sees. A failure is none of the snapshot: there is no such file then.
pub struct SeenWriter<'s> {
    staging: Arc<Staging<'s>>,
    /// Nothing after a failure.
    file: Option<Box<dyn StagedFile>>,
    hash: HashAlgorithm,
    key: layout::SourceKey,
    settled: Settled,
    ignores_changed: bool,
    /// The tree of which there is such a file of this source already, with the same top directory.
    last_tree: Option<TreeId>,
    /// Files that were read.
    read: u64,
    /// Files that are not settled because they are too new, and because they are the newest.
    too_new: u64,
    newest: u64,
    block: Vec<u8>,
    ids: Vec<u8>,
    first: Option<ObjectId>,
    last: ObjectId,
}

const STAGED: &str = "seen";

/// Appends to the file that is written. After a failure there is none.
fn append(file: &mut Option<Box<dyn StagedFile>>, bytes: &[u8]) {
    if file.as_mut().is_some_and(|file| file.append(bytes).is_err()) {
        *file = None;
    }
}

impl<'s> SeenWriter<'s> {
    /// Begins to write down what a snapshot of `source` sees that begins at `start`. `last` is what the last one saw. Whether
    /// they ignore [`FileMark::changed`] decides what is worth being published.
    pub(super) fn begin(
        staging: Arc<Staging<'s>>,
        hash: HashAlgorithm,
        source: &SourceId,
        start: Timestamp,
        ignores_changed: bool,
        last: Option<&SeenReader>,
    ) -> Self {
        let before = start.as_second().saturating_sub(UNSETTLED_SECONDS);
        // Who ignores these times does not read what has the newest.
        let met_before = last.filter(|_| !ignores_changed).map_or(LONG_AGO, |last| last.met_before(before));
        let mut writer = Self {
            file: staging.create(STAGED).ok(),
            staging,
            hash,
            key: layout::source_key(hash, &source.host, &source.path),
            settled: Settled { before, newest: LONG_AGO, met_before },
            last_tree: last.filter(|last| last.is_own && last.is_same_top).map(|last| last.tree),
            ignores_changed,
            read: 0,
            too_new: 0,
            newest: 0,
            block: Vec::with_capacity(BLOCK + BLOCK / 8),
            ids: Vec::with_capacity(BLOCK),
            first: None,
            last: NOTHING,
        };
        for number in [before.to_le_bytes(), source.top.0.to_le_bytes(), source.top.1.to_le_bytes()] {
            writer.block.extend_from_slice(&number);
        }
        writer.bytes(&source.host);
        writer.bytes(&source.path);
        writer.end_block();
        writer
    }

    fn bytes(&mut self, bytes: &[u8]) {
        // What is too long for a block makes a block that no reader takes.
        self.block.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.block.extend_from_slice(bytes);
    }

    fn end_block(&mut self) {
        let Ok(frame) = codec::compress_at(&self.block, codec::LEVEL_FOR_CACHE) else {
            self.file = None;
            return;
        };
        let check = chained(self.hash, &self.last, &[&self.ids, &frame]);
        let lengths =
            [self.ids.len(), frame.len()].map(|length| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        for part in [lengths.as_flattened(), check.as_bytes(), &self.ids, &frame] {
            append(&mut self.file, part);
        }
        self.ids.clear();
        self.block.clear();
        self.last = check;
        self.first.get_or_insert(check);
    }

    fn begin_record(&mut self, tag: u8) {
        if self.block.len().max(self.ids.len()) >= BLOCK {
            self.end_block();
        }
        self.block.push(tag);
    }

    /// A directory begins.
    pub fn dir(&mut self, name: &Name) {
        self.begin_record(Tag::DIR);
        self.bytes(name.as_bytes());
    }

    /// A file was read.
    pub fn read_file(&mut self, name: &Name, mark: &FileMark, content: Content) {
        self.read += 1;
        self.file(name, mark, content);
    }

    /// A file is as it was, or was read.
    pub fn file(&mut self, name: &Name, mark: &FileMark, content: Content) {
        if mark.changed > self.settled.newest {
            self.settled.newest = mark.changed;
            self.newest = 0;
        }
        if !self.settled.is_old(mark, self.ignores_changed) {
            self.too_new += 1;
        } else if !self.settled.covers(mark, self.ignores_changed) {
            self.newest += 1;
        }
        self.begin_record(Tag::FILE);
        self.bytes(name.as_bytes());
        let times = [mark.modified.0, mark.modified.1, mark.changed.0, mark.changed.1];
        for number in [mark.size, mark.inode].map(u64::to_le_bytes).into_iter().chain(times.map(i64::to_le_bytes)) {
            self.block.extend_from_slice(&number);
        }
        let (depth, id) = match content {
            Content::Blob(blob) => (0, blob.object()),
            Content::Chunks { list, depth } => (depth, list.object()),
        };
        self.block.push(depth);
        self.ids.extend_from_slice(id.as_bytes());
    }

    /// A symbolic link.
    pub fn symlink(&mut self, name: &Name, target: &[u8]) {
        self.begin_record(Tag::SYMLINK);
        self.bytes(name.as_bytes());
        self.bytes(target);
    }

    /// The directory, or the whole source, ends.
    pub fn end(&mut self, tree: TreeId, size: u64) {
        self.begin_record(Tag::END);
        self.ids.extend_from_slice(tree.object().as_bytes());
        self.block.extend_from_slice(&size.to_le_bytes());
    }

    /// Replaces what the last snapshot of the source saw by this, unless that says as much: the tree is the same, and what
    /// was read will be read again, since it is not settled. To be called when a ref with the tree is visible; the snapshot had
    /// looked at everything at `end`.
    pub(super) fn publish(mut self, backend: &dyn Backend, tree: TreeId, end: Timestamp) -> Result<()> {
        let unsettled = self.too_new + self.newest;
        if self.read <= unsettled && self.last_tree == Some(tree) {
            return Ok(());
        }
        self.end_block();
        let Settled { newest, met_before, .. } = self.settled;
        let times = [newest.0, newest.1].map(i64::to_le_bytes);
        let (was_met, end) = ([u8::from(newest == met_before)], end.as_second().to_le_bytes());
        let facts = [&MAGIC[..], tree.object().as_bytes(), times.as_flattened(), &was_met, &end].concat();
        let check = chained(self.hash, self.first.as_ref().unwrap_or(&NOTHING), &[&facts]);
        append(&mut self.file, &facts);
        append(&mut self.file, check.as_bytes());
        if self.file.take().is_none() {
            return Ok(());
        }
        let old = seen_files(backend)?;
        backend.replace(&self.staging.path(STAGED), &layout::seen_path(self.key, tree))?;
        for (_, old) in old.into_iter().filter(|(key, old)| *key == self.key && *old != tree) {
            remove_if_there(backend, &layout::seen_path(self.key, old))?;
        }
        Ok(())
    }
}
