//! Staging: the directory `tmp/RUN` in which a writer prepares files before they are published.
//!
//! A writer keeps `tmp/RUN/info.json` locked as long as it lives. So whether a staging directory is in use is known from
//! the kernel: a directory whose `info.json` can be locked belongs to a process that died, and any writer removes it.
//!
//! # Why no live writer's files are removed
//!
//! - A writer that has returned from [`Staging::begin`] holds the lock of the file that `info.json` names (see
//!   [`Backend::try_lock`]), so nobody else gets it.
//! - A writer that is still in [`Staging::begin`] may lose its directory or its `info.json` to a cleaner that was faster;
//!   it sees that (the directory is gone, or the lock is not to be had) and begins again under another name. It has
//!   staged nothing yet.
//! - One directory has a fixed name ([`Staging::try_begin_as`]), so it may be made anew while the one before is being
//!   cleared. `info.json` goes last, by whoever holds its lock, so until it is gone nobody else is in there; after it, only
//!   the directory itself is removed, which fails if it is not empty.
//! - A cleaner removes `info.json` last. A directory without one is removed only if it is empty. (After a crash names may
//!   survive in any combination; files without an `info.json` beside them then stay until a prune, which runs alone,
//!   removes them.)

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backend::{Backend, EntryKind, Lock, LockMode, StagedFile, remove_if_there};
use super::layout::{RUN_INFO, TMP};
use super::loose::list_or_empty;
use crate::error::{Error, Result};
use crate::object::{display_path, printable};

/// Who is writing, for others to read while they wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// What it does.
    pub command: String,
    /// Since when.
    pub start: Timestamp,
}

impl RunInfo {
    fn describe(&self) -> String {
        printable(&format!("{} (process {} on {}, since {})", self.command, self.pid, self.host, self.start))
    }
}

/// A writer's staging directory; removed with all that is left in it when the writer is done.
#[derive(Debug)]
pub struct Staging<'b> {
    backend: &'b dyn Backend,
    dir: String,
    lock: Box<dyn Lock>,
}

/// So often a writer tries another name when a cleaner took its directory away while it was being made.
const ATTEMPTS: u32 = 100;

impl<'b> Staging<'b> {
    /// Makes and locks a staging directory. `tmp` must exist.
    pub fn begin(backend: &'b dyn Backend, info: &RunInfo) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let dir = format!("{TMP}/{}", random_hex(8)?);
            match Self::try_begin_in(backend, info, dir) {
                Ok(Some(staging)) => return Ok(staging),
                Ok(None) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::refused(
            format!("make a staging directory in {}", display_path(&backend.describe(TMP))),
            "each one was removed at once by another process",
            "run the command again",
        ))
    }

    /// Makes and locks the staging directory of this name, which no other writer uses while it exists: so only one process
    /// at a time does what the name stands for. Nothing is returned if another one holds it (or a cleaner does, for a
    /// moment). What is found in it was left by one that died, and is removed with the rest. `tmp` must exist.
    pub fn try_begin_as(backend: &'b dyn Backend, info: &RunInfo, name: &str) -> Result<Option<Self>> {
        for _ in 0..ATTEMPTS {
            match Self::try_begin_in(backend, info, format!("{TMP}/{name}")) {
                // Who held it is just done, and took the directory away.
                Err(error) if error.is_not_found() => {}
                other => return other,
            }
        }
        Ok(None)
    }

    /// That the directory is not found is an error here: a cleaner took it away while it was being made.
    fn try_begin_in(backend: &'b dyn Backend, info: &RunInfo, dir: String) -> Result<Option<Self>> {
        backend.create_dir(&dir)?;
        match backend.try_lock(&format!("{dir}/{RUN_INFO}"), LockMode::Exclusive, true) {
            Ok(Some(lock)) => {
                let mut staging = Self { backend, dir, lock };
                staging.write_info(info)?;
                Ok(Some(staging))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write_info(&mut self, info: &RunInfo) -> Result<()> {
        // A plain struct of numbers and texts always has a JSON form.
        let mut text = serde_json::to_vec_pretty(info).unwrap_or_default();
        text.push(b'\n');
        self.lock.write(&text)
    }

    /// The path of a file of this name in the staging directory.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// Writes a whole file in the staging directory, durably, and returns its path.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<String> {
        let mut file = self.create(name)?;
        file.append(content)?;
        file.sync()?;
        Ok(self.path(name))
    }

    /// Creates a file in the staging directory.
    pub fn create(&self, name: &str) -> Result<Box<dyn StagedFile>> {
        self.backend.create(&self.path(name))
    }
}

impl Drop for Staging<'_> {
    /// Removes the directory with what is left in it, so that a run that failed, perhaps because the disk is full, gives
    /// back its space at once.
    fn drop(&mut self) {
        if clear(self.backend, &self.dir).is_err() {
            // What is left is in nobody's way: the next writer removes it.
        }
    }
}

/// Removes a staging directory; the file that says whose it is goes last.
fn clear(backend: &dyn Backend, dir: &str) -> Result<()> {
    for entry in backend.list(dir)? {
        if entry.kind == EntryKind::File && entry.name != RUN_INFO {
            backend.remove(&format!("{dir}/{}", entry.name))?;
        }
    }
    remove_if_there(backend, &format!("{dir}/{RUN_INFO}"))?;
    backend.remove_dir(dir)
}

/// Removes the staging directories of writers that died. May run beside other writers and cleaners. Returns how many
/// were removed.
pub fn remove_abandoned(backend: &dyn Backend) -> Result<u64> {
    let mut removed = 0;
    for dir in runs(backend)? {
        let result = match backend.try_lock(&format!("{dir}/{RUN_INFO}"), LockMode::Exclusive, false) {
            Ok(Some(lock)) => {
                let cleared = clear(backend, &dir);
                drop(lock);
                cleared
            }
            Err(error) if error.is_not_found() => backend.remove_dir(&dir),
            // It is in use, or whose it is cannot be found out (it may belong to another user): it is left alone.
            Ok(None) | Err(_) => continue,
        };
        match result {
            Ok(()) => removed += 1,
            Err(error) if is_someone_elses(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// How many staging directories there are whose writer died.
pub fn abandoned(backend: &dyn Backend) -> Result<u64> {
    let mut count = 0;
    for dir in runs(backend)? {
        // A shared lock says as much as an exclusive one, and is to be had on read-only media. Where it cannot be tried
        // at all, or there is no file to lock (yet, or any more), nothing is known.
        if let Ok(Some(_)) = backend.try_lock(&format!("{dir}/{RUN_INFO}"), LockMode::Shared, false) {
            count += 1;
        }
    }
    Ok(count)
}

/// Removes everything below `tmp` except the directory of `own`. Only for who holds the repository exclusively: then
/// there is no other writer. Returns how many directories were removed.
pub fn remove_all_but(backend: &dyn Backend, own: Option<&Staging<'_>>) -> Result<u64> {
    let mut removed = 0;
    for dir in runs(backend)? {
        if own.is_none_or(|own| own.dir != dir) {
            match clear(backend, &dir) {
                Ok(()) => removed += 1,
                // It holds something that no writer makes; that is not ours to remove.
                Err(error) if is_someone_elses(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}

/// The writers that are at work now, one line each.
pub fn holders(backend: &dyn Backend) -> Result<Vec<String>> {
    let mut holders = Vec::new();
    for dir in runs(backend)? {
        let path = format!("{dir}/{RUN_INFO}");
        if !matches!(backend.try_lock(&path, LockMode::Shared, false), Ok(None)) {
            continue;
        }
        let info = backend.read(&path, 0, 64 * 1024).ok();
        let info = info.and_then(|bytes| serde_json::from_slice::<RunInfo>(&bytes).ok());
        holders.push(info.map_or_else(|| format!("a process that writes {dir}"), |info| info.describe()));
    }
    Ok(holders)
}

/// The staging directories that exist, of the living and of the dead.
pub fn runs(backend: &dyn Backend) -> Result<Vec<String>> {
    let entries = list_or_empty(backend, TMP)?.into_iter();
    Ok(entries.filter(|entry| entry.kind == EntryKind::Dir).map(|entry| format!("{TMP}/{}", entry.name)).collect())
}

/// Another cleaner was here at the same time, a writer is just beginning, or another user's writer died.
fn is_someone_elses(error: &Error) -> bool {
    use std::io::ErrorKind::{DirectoryNotEmpty, NotFound, PermissionDenied};
    matches!(error.io_kind(), Some(NotFound | DirectoryNotEmpty | PermissionDenied))
}

/// Random hex digits for names that must not meet.
pub fn random_hex(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|error| {
        Error::io("get random numbers from", "the operating system", std::io::Error::other(error.to_string()))
    })?;
    Ok(hex::encode(random))
}
