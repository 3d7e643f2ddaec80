//! Writing down what a snapshot sees.

use std::sync::Arc;

use jiff::Timestamp;

use super::block::{BLOCK, BlockWriter, Records};
use super::{FileMark, LONG_AGO, MAGIC, NEVER, SeenReader, Settled, SourceId, Tag, UNSETTLED_SECONDS, seen_files};
use crate::error::Result;
use crate::object::{Content, Name, TreeId};
use crate::repo::Repository;
use crate::store::staging::Staging;
use crate::store::{Backend, layout, remove_if_there};

/// Writes down what a snapshot sees. A failure is none of the snapshot: there is no such file then.
pub struct SeenWriter<'s> {
    staging: Arc<Staging<'s>>,
    /// Nothing after a failure.
    blocks: Option<BlockWriter<'s>>,
    key: layout::SourceKey,
    settled: Settled,
    /// The same of the last snapshot.
    last_settled: Option<Settled>,
    ignores_changed: bool,
    /// The tree of which there is such a file of this source already, with the same top directory.
    last_tree: Option<TreeId>,
    /// Files that were read.
    read: u64,
    /// Files that are not settled because they are too new, and because they are the newest.
    too_new: u64,
    newest: u64,
    /// The records of the block that is being filled.
    block: Records,
}

impl<'s> SeenWriter<'s> {
    /// Begins to write down what a snapshot of `source` sees that begins at `start`. `last` is what the last one saw. Whether
    /// they ignore [`FileMark::changed`] decides what is worth being published.
    pub(in crate::repo) fn begin(
        staging: Arc<Staging<'s>>,
        repo: &Repository,
        source: &SourceId,
        start: Timestamp,
        ignores_changed: bool,
        last: Option<&SeenReader>,
    ) -> Self {
        let before = start.as_second().saturating_sub(UNSETTLED_SECONDS);
        // Who ignores these times does not read what has the newest.
        let met_before = last.filter(|_| !ignores_changed).map_or(LONG_AGO, |last| last.met_before(before));
        let (hash, place) = (repo.hash(), repo.place());
        let mut head = Records::default();
        head.rest.extend_from_slice(&before.to_le_bytes());
        head.rest.extend([source.top.0, source.top.1].map(u64::to_le_bytes).as_flattened());
        head.rest.extend([place.0, place.1].map(i64::to_le_bytes).as_flattened());
        head.bytes(&source.host);
        head.bytes(&source.path);
        let blocks = BlockWriter::new(Arc::clone(&staging), hash, head, last.map(SeenReader::blocks));
        Self {
            blocks: Some(blocks),
            staging,
            key: layout::source_key(hash, &source.host, &source.path),
            settled: Settled { before, newest: LONG_AGO, met_before },
            last_settled: last.map(SeenReader::settled),
            last_tree: last.filter(|last| last.is_own && last.is_same_top).map(|last| last.tree),
            ignores_changed,
            read: 0,
            too_new: 0,
            newest: 0,
            block: Records { ids: Vec::with_capacity(BLOCK), rest: Vec::with_capacity(BLOCK + BLOCK / 8) },
        }
    }

    fn end_block(&mut self) {
        if self.blocks.as_mut().is_some_and(|blocks| blocks.push(&self.block).is_none()) {
            self.blocks = None;
        }
        self.block.clear();
    }

    fn begin_record(&mut self, tag: u8) {
        if self.block.rest.len().max(self.block.ids.len()) >= BLOCK {
            self.end_block();
        }
        self.block.rest.push(tag);
    }

    /// A directory begins.
    pub fn dir(&mut self, name: &Name) {
        self.begin_record(Tag::DIR);
        self.block.bytes(name.as_bytes());
    }

    /// A file was read.
    pub fn read_file(&mut self, name: &Name, mark: &FileMark, content: Content) {
        self.read += 1;
        self.note(mark);
        self.record_file(name, mark, content);
    }

    /// A file is as it was: it looked like this then.
    pub fn known_file(&mut self, name: &Name, mark: &FileMark, content: Content) {
        self.note(mark);
        // Who ignores these times must not settle them for others.
        let is_settled = !self.ignores_changed || self.last_settled.is_none_or(|last| last.covers(mark, false));
        let changed = if is_settled { mark.changed } else { NEVER };
        self.record_file(name, &FileMark { changed, ..*mark }, content);
    }

    fn note(&mut self, mark: &FileMark) {
        if mark.changed > self.settled.newest && mark.changed != NEVER {
            self.settled.newest = mark.changed;
            self.newest = 0;
        }
        if !self.settled.is_old(mark, self.ignores_changed) {
            self.too_new += 1;
        } else if !self.settled.covers(mark, self.ignores_changed) {
            self.newest += 1;
        }
    }

    /// A file that has to be read again, whatever it looks like then: it changed each time it was read, or is longer than it
    /// says. It has a record all the same, which is left over when the file is gone: its directory is not as it was then.
    pub fn unsettled_file(&mut self, name: &Name, size: u64, content: Content) {
        self.record_file(name, &FileMark { size, modified: NEVER, changed: NEVER, inode: 0 }, content);
    }

    fn record_file(&mut self, name: &Name, mark: &FileMark, content: Content) {
        self.begin_record(Tag::FILE);
        self.block.bytes(name.as_bytes());
        let times = [mark.modified.0, mark.modified.1, mark.changed.0, mark.changed.1];
        for number in [mark.size, mark.inode].map(u64::to_le_bytes).into_iter().chain(times.map(i64::to_le_bytes)) {
            self.block.rest.extend_from_slice(&number);
        }
        let (depth, id) = match content {
            Content::Blob(blob) => (0, blob.object()),
            Content::Chunks { list, depth } => (depth, list.object()),
        };
        self.block.rest.push(depth);
        self.block.ids.extend_from_slice(id.as_bytes());
    }

    /// A symbolic link.
    pub fn symlink(&mut self, name: &Name, target: &[u8]) {
        self.begin_record(Tag::SYMLINK);
        self.block.bytes(name.as_bytes());
        self.block.bytes(target);
    }

    /// The directory, or the whole source, ends.
    pub fn end(&mut self, tree: TreeId, size: u64) {
        self.begin_record(Tag::END);
        self.block.ids.extend_from_slice(tree.object().as_bytes());
        self.block.rest.extend_from_slice(&size.to_le_bytes());
    }

    /// Replaces what the last snapshot of the source saw by this, unless that says as much: it is whole, the tree is the same,
    /// and what was read will be read again, since it is not settled. To be called when a ref with the tree is visible; the
    /// snapshot had looked at everything at `end`.
    pub(in crate::repo) fn publish(mut self, backend: &dyn Backend, tree: TreeId, end: Timestamp) -> Result<()> {
        let unsettled = self.too_new + self.newest;
        let says_as_much = self.read <= unsettled && self.last_tree == Some(tree);
        if says_as_much && self.blocks.as_ref().is_some_and(BlockWriter::last_is_whole) {
            return Ok(());
        }
        self.end_block();
        let Settled { newest, met_before, .. } = self.settled;
        let times = [newest.0, newest.1].map(i64::to_le_bytes);
        let (was_met, end) = ([u8::from(newest == met_before)], end.as_second().to_le_bytes());
        let facts = [&MAGIC[..], tree.object().as_bytes(), times.as_flattened(), &was_met, &end].concat();
        if self.blocks.take().and_then(|blocks| blocks.finish(&facts)).is_none() {
            return Ok(());
        }
        let old = seen_files(backend)?;
        backend.replace(&self.staging.path(BlockWriter::STAGED), &layout::seen_path(self.key, tree))?;
        for (_, old) in old.into_iter().filter(|(key, old)| *key == self.key && *old != tree) {
            remove_if_there(backend, &layout::seen_path(self.key, old))?;
        }
        Ok(())
    }
}
