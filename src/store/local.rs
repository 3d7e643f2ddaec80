//! The backend for a directory of this machine. It adds no step of its own: each method is one call of [`Place`].

use std::path::{Path, PathBuf};

use super::backend::{Backend, Entry, EntryKind, Lock, LockMode, StagedFile, StoredFile};
use crate::error::Result;
use crate::fs::{LockedFile, NewFile, OpenFile, Place, Shape};

/// A repository in a directory.
#[derive(Debug)]
pub struct LocalBackend {
    place: Place,
}

impl LocalBackend {
    /// Opens an existing directory.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { place: Place::open(path)? })
    }

    /// Makes the directory (for its owner only) if it does not exist, durably, and opens it.
    pub fn make(path: &Path) -> Result<Self> {
        Place::make(path)?;
        Self::open(path)
    }
}

impl Backend for LocalBackend {
    fn describe(&self, path: &str) -> PathBuf {
        self.place.full(path)
    }

    fn local_root(&self) -> Option<&Path> {
        Some(self.place.path())
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        self.place.create_dir(path)
    }

    fn create(&self, path: &str) -> Result<Box<dyn StagedFile>> {
        Ok(Box::new(self.place.create(path)?))
    }

    fn sync_all(&self) -> Result<()> {
        self.place.sync_all()
    }

    fn can_sync_all(&self) -> bool {
        self.place.can_sync_all()
    }

    fn publish_new(&self, from: &str, to: &str) -> Result<bool> {
        self.place.rename_new(from, to)
    }

    fn replace(&self, from: &str, to: &str) -> Result<()> {
        self.place.rename(from, to)
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        self.place.sync_dir(path)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.place.remove(path)
    }

    fn remove_dir(&self, path: &str) -> Result<()> {
        self.place.remove_dir(path)
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>> {
        let entries = self.place.list(path)?.into_iter().map(|listed| {
            let kind = match listed.shape {
                Shape::File => EntryKind::File,
                Shape::Dir => EntryKind::Dir,
                Shape::Other => EntryKind::Other,
            };
            Entry { name: listed.name, kind }
        });
        Ok(entries.collect())
    }

    fn length(&self, path: &str) -> Result<u64> {
        self.place.length(path)
    }

    fn last_change(&self, path: &str) -> Result<(i64, i64)> {
        self.place.last_change(path)
    }

    fn read(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.place.read(path, offset, len)
    }

    fn open(&self, path: &str) -> Result<Box<dyn StoredFile>> {
        Ok(Box::new(self.place.open_to_read(path)?))
    }

    fn try_lock(&self, path: &str, mode: LockMode, create: bool) -> Result<Option<Box<dyn Lock>>> {
        let locked = self.place.try_lock(path, mode == LockMode::Exclusive, create)?;
        Ok(locked.map(|locked| Box::new(locked) as Box<dyn Lock>))
    }
}

impl StagedFile for NewFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        NewFile::append(self, bytes)
    }

    fn sync(&mut self) -> Result<()> {
        NewFile::sync(self)
    }
}

impl StoredFile for OpenFile {
    fn length(&self) -> u64 {
        OpenFile::length(self)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        OpenFile::read_at(self, offset, buffer)
    }
}

impl Lock for LockedFile {
    fn is_current(&self) -> Result<bool> {
        LockedFile::is_current(self)
    }

    fn write(&mut self, content: &[u8]) -> Result<()> {
        LockedFile::write(self, content)
    }
}
