//! Writing packs.
//!
//! Frames come from several threads and are appended one after the other to the pack that is open. A complete pack is
//! made durable and then visible at once, before anything needs it: so an interrupted run loses no more than the packs
//! that it had open. The order is that of every object ([`super::super::batch`]): the content is synced in the staging
//! directory, renamed to its name, and the directory is synced. What the rename replaces can only be the same bytes, or a
//! damaged pack of this name.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::index::{FrameEntry, PackIndex};
use super::{Frame, FrameBuilder, MAX_PACK, Member, PACK_OBJECTS, PackKind, PackName};
use crate::error::{Error, Result};
use crate::object::{HashAlgorithm, Hasher};
use crate::store::layout;
use crate::store::staging::Staging;
use crate::store::{Backend, StagedFile};

/// Writes the packs of one kind.
pub struct PackWriter<'s> {
    backend: &'s dyn Backend,
    staging: Arc<Staging<'s>>,
    kind: PackKind,
    hash: HashAlgorithm,
    /// A pack is complete when it has so many bytes, if it has not [`PACK_OBJECTS`] before.
    size: u64,
    open: Mutex<Option<OpenPack>>,
    begun: AtomicU64,
}

struct OpenPack {
    file: Box<dyn StagedFile>,
    path: String,
    hasher: Hasher,
    length: u64,
    index: PackIndex,
}

/// A pack that is durable and visible.
#[derive(Debug)]
pub struct FinishedPack {
    /// Its name.
    pub name: PackName,
    /// Its length in bytes.
    pub length: u64,
    /// The objects in it.
    pub members: Vec<Member>,
}

impl<'s> PackWriter<'s> {
    /// A writer for packs of about `size` bytes, and at most half of what a pack may have, or of [`PACK_OBJECTS`].
    pub fn new(
        backend: &'s dyn Backend,
        staging: Arc<Staging<'s>>,
        kind: PackKind,
        hash: HashAlgorithm,
        size: u64,
    ) -> Self {
        let size = size.min(MAX_PACK / 2);
        Self { backend, staging, kind, hash, size, open: Mutex::default(), begun: AtomicU64::new(0) }
    }

    fn open(&self) -> MutexGuard<'_, Option<OpenPack>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Result<OpenPack> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.kind.name());
        let file = self.staging.create(&name)?;
        let path = self.staging.path(&name);
        Ok(OpenPack { file, path, hasher: self.hash.hasher(), length: 0, index: PackIndex::default() })
    }

    /// Appends a frame. If that completes a pack, it is published, by this thread, while others go on with the next one.
    pub fn append(&self, frame: Frame) -> Result<Option<FinishedPack>> {
        let complete = {
            let mut slot = self.open();
            let mut pack = match slot.take() {
                Some(pack) => pack,
                None => self.begin()?,
            };
            // If this fails the pack is not put back: what is in it is unknown, and the run ends.
            pack.append(frame)?;
            if pack.length < self.size && pack.index.members.len() < PACK_OBJECTS {
                *slot = Some(pack);
                return Ok(None);
            }
            pack
        };
        self.publish(complete).map(Some)
    }

    /// Publishes the pack that is open, if there is one.
    pub fn finish(&self) -> Result<Option<FinishedPack>> {
        let open = self.open().take();
        open.map(|pack| self.publish(pack)).transpose()
    }

    fn publish(&self, mut pack: OpenPack) -> Result<FinishedPack> {
        let end = FrameBuilder::end_of_archive().map_err(|reason| {
            Error::io("end the pack", self.backend.describe(&pack.path), std::io::Error::other(reason))
        })?;
        pack.append(end)?;
        let OpenPack { mut file, path, mut hasher, length, index } = pack;
        let tail = index.encode(self.hash);
        file.append(&tail)?;
        hasher.update(&tail);
        file.sync()?;
        drop(file);
        let name = PackName { hash: hasher.finish(), kind: self.kind };
        self.backend.replace(&path, &name.path())?;
        self.backend.sync_dir(layout::PACKS)?;
        Ok(FinishedPack { name, length: length + tail.len() as u64, members: index.members })
    }
}

impl OpenPack {
    fn append(&mut self, frame: Frame) -> Result<()> {
        self.file.append(&frame.bytes)?;
        self.hasher.update(&frame.bytes);
        self.length += frame.bytes.len() as u64;
        let [length, objects] =
            [frame.bytes.len(), frame.members.len()].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        self.index.frames.push(FrameEntry { length, objects });
        self.index.members.extend(frame.members);
        Ok(())
    }
}
