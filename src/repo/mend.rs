//! Bringing back what is damaged or missing: the files of a repository, from content that somebody else has.
//!
//! # Why nothing wrong comes in, and nothing good is lost
//!
//! - Whatever is brought is verified here, whoever brings it: an object and a pack by the hash that is its name, a ref
//!   and the configuration by their checksum, and a ref by its number as well.
//! - Each file is complete and durable in the staging directory before it gets its name, as everywhere
//!   ([`Batch`], [`PackWriter`](crate::store::pack::PackWriter)), and the name is durable when the call returns. What a
//!   rename replaces is only what was found damaged under this very name: an object or a pack can be nothing else than the
//!   same content then, and a ref or the configuration is replaced only after it was read again and found damaged. A ref
//!   of which there is nothing is published as that of a new snapshot is, which replaces nothing: another run may take
//!   its number at any time, since both hold the lock shared.
//! - Nothing is removed. So a crash leaves what was there, and some of what was brought.
//! - A ref comes last, when what it reaches is durable. Who brings refs calls [`Mender::put_ref`] after the others. (Of
//!   several lost ones the highest comes first: then the others show as lost.)

use std::sync::Arc;

use super::{Repacker, Repository, Session, WriterOptions, begin_writing, lock};
use crate::error::{Error, Result};
use crate::object::{Config, DocumentError, ObjectId, Snapshot};
use crate::store::batch::Batch;
use crate::store::layout::{self, RefFile};
use crate::store::pack::{MAX_PACK, PackKind, PackName};
use crate::store::staging::{self, Staging};
use crate::store::{Backend, Lock, codec, refs};

/// Packs are copied in parts of so many bytes.
const PART: usize = 4 << 20;

/// Brings back what is damaged or missing.
pub struct Mender<'r> {
    repo: &'r Repository,
    lock: Option<&'r dyn Lock>,
    staging: Arc<Staging<'r>>,
    options: WriterOptions,
}

impl<'r> Mender<'r> {
    pub(super) fn begin(
        repo: &'r Repository,
        lock: Option<&'r dyn Lock>,
        session: &Session<'_>,
        options: WriterOptions,
    ) -> Result<Self> {
        let staging = begin_writing(repo.backend(), session)?;
        Ok(Self { repo, lock, staging, options })
    }

    fn backend(&self) -> &'r dyn Backend {
        self.repo.backend()
    }

    /// Replaces `config.json` by this, unless it is whole by now.
    pub fn put_config(&self, content: &[u8], session: &Session<'_>) -> Result<()> {
        if Config::decode(content).ok().as_ref() != Some(self.repo.config()) {
            return Err(unexpected("the configuration"));
        }
        if Repository::load(Arc::clone(&self.repo.backend), session).is_ok() {
            return Ok(());
        }
        self.put(layout::CONFIG, content, layout::CONFIG, "")
    }

    /// Publishes the ref of a snapshot, or replaces a damaged one. Returns whether it is there now: it is not if another
    /// snapshot has the number by now.
    pub fn put_ref(&self, number: u64, content: &[u8]) -> Result<bool> {
        match Snapshot::decode(self.repo.hash(), content) {
            Ok(snapshot) if snapshot.number == number => {}
            _ => return Err(unexpected("a ref")),
        }
        match refs::read(self.backend(), number) {
            Err(error) if error.is_not_found() => {
                let staged = self.staging.write(&format!("ref-{number}"), content)?;
                lock::confirm(self.backend(), self.lock)?;
                let is_new = refs::publish_staged(self.backend(), &staged, RefFile::Ref(number))?;
                self.backend().sync_dir(layout::SNAPSHOTS)?;
                Ok(is_new || refs::read(self.backend(), number)? == content)
            }
            Err(error) if !error.is_unreadable() => Err(error),
            Ok(present) if !self.is_damaged_ref(number, &present) => {
                // Who has written it may not have come so far.
                self.backend().sync_dir(layout::SNAPSHOTS)?;
                Ok(present == content)
            }
            _ => {
                self.put(&format!("ref-{number}"), content, &RefFile::Ref(number).path(), layout::SNAPSHOTS)?;
                Ok(true)
            }
        }
    }

    /// Whether what is there for a ref is none. One that is newer than this program is whole.
    fn is_damaged_ref(&self, number: u64, content: &[u8]) -> bool {
        match Snapshot::decode(self.repo.hash(), content) {
            Ok(snapshot) => snapshot.number != number,
            Err(error) => matches!(error, DocumentError::Damaged(_)),
        }
    }

    /// Writes a file, whole and durable, and gives it its name.
    fn put(&self, staged: &str, content: &[u8], path: &str, dir: &str) -> Result<()> {
        let staged = self.staging.write(staged, content)?;
        lock::confirm(self.backend(), self.lock)?;
        self.backend().replace(&staged, path)?;
        self.backend().sync_dir(dir)
    }

    /// Copies a pack, as it is, from another repository. Returns whether it is here now: it is not if what the other has
    /// under this name does not give the name, or cannot be read.
    pub fn put_pack(&self, from: &Repository, name: PackName) -> Result<bool> {
        let file = match from.backend().open(&name.path()) {
            Err(error) if error.is_unreadable() => return Ok(false),
            other => other?,
        };
        if file.length() > MAX_PACK {
            return Ok(false);
        }
        let staged = format!("{}-{}", name.kind.name(), staging::random_hex(4)?);
        let mut copy = self.staging.create(&staged)?;
        let (mut hasher, mut at) = (self.repo.hash().hasher(), 0);
        let mut part = vec![0; PART];
        while at < file.length() {
            let count = match file.read_at(at, &mut part) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.is_unreadable() => return self.give_up(&staged),
                Err(error) => return Err(error),
            };
            hasher.update(&part[..count]);
            copy.append(&part[..count])?;
            at += count as u64;
        }
        if hasher.finish() != name.hash {
            return self.give_up(&staged);
        }
        copy.sync()?;
        drop(copy);
        self.backend().replace(&self.staging.path(&staged), &name.path())?;
        self.backend().sync_dir(layout::PACKS)?;
        Ok(true)
    }

    fn give_up(&self, staged: &str) -> Result<bool> {
        self.backend().remove(&self.staging.path(staged))?;
        Ok(false)
    }

    /// Stores objects, whether or not something of their names is there: as loose ones, in place of damaged files, or in
    /// new packs. When this returns they are durable and visible. Content that does not have the hash that is its name is
    /// left out; returns the names of what was.
    pub fn put_objects(
        &self,
        objects: impl Iterator<Item = (PackKind, ObjectId, Option<Vec<u8>>)>,
        as_loose: bool,
        session: &Session<'_>,
    ) -> Result<Vec<ObjectId>> {
        let mut left_out = Vec::new();
        let whole = objects.filter_map(|(kind, id, content)| {
            let is_whole =
                |content: &Vec<u8>| content.len() <= self.repo.max_object() && self.repo.hash().hash(content) == id;
            let content = content.filter(is_whole);
            if content.is_none() {
                left_out.push(id);
            }
            content.map(|content| (kind, id, content))
        });
        if as_loose {
            let batch = Batch::new(self.backend(), Arc::clone(&self.staging), self.options.sync, []);
            for (_, id, content) in whole {
                let frame = codec::compress(&content).map_err(|reason| {
                    let error = std::io::Error::other(reason);
                    Error::io("compress an object for", self.backend().describe(""), error)
                })?;
                batch.stage(id, &frame)?;
            }
            batch.publish()?;
        } else {
            let mut packs = Repacker::begin(self.repo, session, self.options)?;
            for (kind, id, content) in whole {
                packs.add(kind, id, &content)?;
            }
            packs.finish()?;
        }
        // What an interruption kept from being read is not left out for good.
        self.repo.go_on()?;
        Ok(left_out)
    }
}

fn unexpected(what: &str) -> Error {
    Error::refused(
        format!("bring back {what}"),
        "what was found for it is not whole",
        "nothing was replaced by it; run `backuptool check`",
    )
}
