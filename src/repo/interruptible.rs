//! A backend that takes no further step forward once the operation is to stop.
//!
//! # Why an interruption leaves a repository that needs nothing
//!
//! Every operation reads and writes a repository through its [`Backend`], so it is here that it is asked whether to go
//! on: before each step that reads, or that begins or lengthens a file. Once it is to stop, such a step fails. To the
//! operation that is a step that failed from then on, and that nothing is lost then, whichever step it is, is what the
//! sweeps over this seam try (`tests/it/sweeps.rs`). What was stored in complete packs stays and is found again.
//!
//! Three kinds of steps are never refused. Those that *complete* what is begun (syncs, publishing, replacing): they are
//! few, and refusing them would only waste what they complete; after a ref is published none of the others follows that
//! counts. Those that *remove*, and listings and locks, which removing needs: so the staging directory goes on the way
//! out. Loops that remove many files of a repository ask themselves, between files
//! ([`ExclusiveRepository::remove_copies`](super::ExclusiveRepository::remove_copies)).
//!
//! What does not pass through here (waiting for the lock, walking and reading a source) asks [`Interruption::check`]
//! itself. An error of this kind is never damage, nor one of a single file: who gathers errors and goes on lets it
//! through.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::progress::Interruption;
use crate::store::{Backend, Entry, Lock, LockMode, StagedFile, StoredFile};

/// A backend, as long as nobody wants to stop.
#[derive(Debug)]
pub(super) struct Interruptible {
    backend: Arc<dyn Backend>,
    interruption: Interruption,
}

impl Interruptible {
    pub(super) fn new(backend: Arc<dyn Backend>, interruption: Interruption) -> Self {
        Self { backend, interruption }
    }
}

impl Backend for Interruptible {
    fn describe(&self, path: &str) -> PathBuf {
        self.backend.describe(path)
    }

    fn local_root(&self) -> Option<&Path> {
        self.backend.local_root()
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        self.interruption.check()?;
        self.backend.create_dir(path)
    }

    fn create(&self, path: &str) -> Result<Box<dyn StagedFile>> {
        self.interruption.check()?;
        let file = self.backend.create(path)?;
        Ok(Box::new(Staged { file, interruption: self.interruption.clone() }))
    }

    fn sync_all(&self) -> Result<()> {
        self.backend.sync_all()
    }

    fn can_sync_all(&self) -> bool {
        self.backend.can_sync_all()
    }

    fn publish_new(&self, from: &str, to: &str) -> Result<bool> {
        self.backend.publish_new(from, to)
    }

    fn replace(&self, from: &str, to: &str) -> Result<()> {
        self.backend.replace(from, to)
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        self.backend.sync_dir(path)
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.backend.remove(path)
    }

    fn remove_dir(&self, path: &str) -> Result<()> {
        self.backend.remove_dir(path)
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>> {
        self.backend.list(path)
    }

    fn length(&self, path: &str) -> Result<u64> {
        self.interruption.check()?;
        self.backend.length(path)
    }

    fn last_change(&self, path: &str) -> Result<(i64, i64)> {
        self.interruption.check()?;
        self.backend.last_change(path)
    }

    fn read(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.interruption.check()?;
        self.backend.read(path, offset, len)
    }

    fn open(&self, path: &str) -> Result<Box<dyn StoredFile>> {
        self.interruption.check()?;
        let file = self.backend.open(path)?;
        Ok(Box::new(Stored { file, interruption: self.interruption.clone() }))
    }

    fn try_lock(&self, path: &str, mode: LockMode, create: bool) -> Result<Option<Box<dyn Lock>>> {
        self.backend.try_lock(path, mode, create)
    }
}

#[derive(Debug)]
struct Stored {
    file: Box<dyn StoredFile>,
    interruption: Interruption,
}

impl StoredFile for Stored {
    fn length(&self) -> u64 {
        self.file.length()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.interruption.check()?;
        self.file.read_at(offset, buffer)
    }
}

struct Staged {
    file: Box<dyn StagedFile>,
    interruption: Interruption,
}

impl StagedFile for Staged {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.interruption.check()?;
        self.file.append(bytes)
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync()
    }
}
