//! A backend in memory: the model of a disk that the crash sweeps run the real protocols on.
//!
//! The model has a table of inodes, the names as a process sees them now, the names that are on the disk, and the steps
//! between the two that no sync has made durable yet. For every file it knows how much of the content is on the disk.
//! [`MemoryBackend::crash`] gives what the next process would find, for one of several ways to lose the power.
//!
//! Names belong to directory inodes, not to paths. So a directory that was removed and made again is a new one, and
//! what was put into a directory that does not survive is lost with it.
//!
//! The model is as harsh as the contract of [`Backend`] allows: syncing a directory makes durable only what happened in
//! it, and what that cannot be undone without (the new name of a file whose old name goes, the removals that
//! emptied a removed directory).

mod disk;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::io::ErrorKind::{DirectoryNotEmpty, NotFound, PermissionDenied};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::disk::{Change, Disk, File, Ino, Wanted};
use super::backend::{Backend, Entry, EntryKind, Lock, LockMode, StagedFile, StoredFile};
use crate::error::{Error, Result};
use crate::object::display_path;

/// A repository's place in memory. Clones are handles to the same place.
#[derive(Clone, Debug)]
pub struct MemoryBackend {
    disk: Arc<Mutex<Disk>>,
    can_sync_all: bool,
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// Nothing: neither names nor content.
    LoseAll,
    /// All names as they are now, but only the synced content.
    KeepNames,
    /// Everything, as when only the process dies. What was not synced can still be lost in a later crash.
    KeepAll,
    /// Chosen by this seed: any consistent subset of the steps that changed names, and of each file any prefix of the
    /// content that was not synced.
    Random(u64),
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBackend {
    /// An empty place.
    pub fn new() -> Self {
        Self::over(Disk::empty(), true)
    }

    /// The same place where [`Backend::sync_all`] succeeds and does nothing, as it does on FUSE.
    #[must_use]
    pub fn without_sync_all(self) -> Self {
        Self { can_sync_all: false, ..self }
    }

    fn over(disk: Disk, can_sync_all: bool) -> Self {
        Self { disk: Arc::new(Mutex::new(disk)), can_sync_all }
    }

    /// A new place that holds what is found here after a crash at this moment. This one goes on as if nothing had
    /// happened. All locks are gone in the new one.
    #[must_use]
    pub fn crash(&self, how: Crash) -> Self {
        Self::over(self.disk().after(how), self.can_sync_all)
    }

    /// The paths of all files, sorted.
    pub fn paths(&self) -> Vec<String> {
        let mut paths: Vec<_> = self.disk().files().into_iter().map(|(path, _)| path).collect();
        paths.sort();
        paths
    }

    /// The content of a file, if there is one at this path.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let mut disk = self.disk();
        let ino = disk.find_file(path).ok()?;
        disk.file(ino).ok().map(|file| file.data.clone())
    }

    /// Damages a file, or plants one together with the directories above it: durable at once, and under any name.
    pub fn set_contents(&self, path: &str, data: Vec<u8>) -> Result<()> {
        self.on("change the content of", path, |disk| disk.plant(path, data))
    }

    /// How many bytes all files hold together.
    pub fn total_bytes(&self) -> u64 {
        let mut disk = self.disk();
        let inodes: BTreeSet<Ino> = disk.files().into_iter().map(|(_, ino)| ino).collect();
        inodes.into_iter().filter_map(|ino| disk.file(ino).ok().map(|file| file.data.len() as u64)).sum()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }

    /// Performs one step, and gives its error the context.
    fn on<T>(&self, action: &'static str, path: &str, step: impl FnOnce(&mut Disk) -> io::Result<T>) -> Result<T> {
        step(&mut self.disk()).map_err(|e| Error::io(action, self.describe(path), e))
    }

    fn rename(&self, from: &str, to: &str, over: bool) -> Result<bool> {
        self.disk()
            .rename(from, to, over)
            .map_err(|e| Error::io(format!("rename {} to", display_path(&self.describe(from))), self.describe(to), e))
    }
}

impl Backend for MemoryBackend {
    fn describe(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("memory:/{path}"))
    }

    fn local_root(&self) -> Option<&Path> {
        None
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        self.on("create the directory", path, |disk| disk.create_dir(path))
    }

    fn create(&self, path: &str) -> Result<Box<dyn StagedFile>> {
        let ino = self.on("create the file", path, |disk| disk.create_file(path))?;
        Ok(Box::new(OpenFile { disk: Arc::clone(&self.disk), ino, path: self.describe(path) }))
    }

    fn sync_all(&self) -> Result<()> {
        if self.can_sync_all {
            self.disk().sync_all();
        }
        Ok(())
    }

    fn can_sync_all(&self) -> bool {
        self.can_sync_all
    }

    fn publish_new(&self, from: &str, to: &str) -> Result<bool> {
        self.rename(from, to, false)
    }

    fn replace(&self, from: &str, to: &str) -> Result<()> {
        self.rename(from, to, true).map(|_| ())
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        self.on("sync the directory", path, |disk| {
            let dir = disk.find_dir(path)?;
            disk.make_durable(Wanted::in_dir(dir));
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.on("remove the file", path, |disk| {
            let ino = disk.find_file(path)?;
            let at = disk.place(path)?;
            disk.take(Change::Remove { at, ino, renamed: None });
            Ok(())
        })
    }

    fn remove_dir(&self, path: &str) -> Result<()> {
        self.on("remove the directory", path, |disk| {
            let ino = disk.find_dir(path)?;
            let at = disk.place(path)?;
            if !disk.names.is_empty(ino) {
                return Err(DirectoryNotEmpty.into());
            }
            disk.take(Change::RemoveDir { at, ino });
            Ok(())
        })
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>> {
        self.on("list the directory", path, |disk| {
            let dir = disk.find_dir(path)?;
            let entry = |(name, ino): (&String, Ino)| {
                let kind = if disk.is_dir(ino) { EntryKind::Dir } else { EntryKind::File };
                Entry { name: name.clone(), kind }
            };
            Ok(disk.names.children(dir).map(entry).collect())
        })
    }

    fn length(&self, path: &str) -> Result<u64> {
        self.on("read the length of", path, |disk| {
            let ino = disk.find_file(path)?;
            Ok(disk.file(ino)?.data.len() as u64)
        })
    }

    /// There is no clock here, and copies count as the same.
    fn last_change(&self, path: &str) -> Result<(i64, i64)> {
        self.length(path).map(|_| (0, 0))
    }

    fn read(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.on("read", path, |disk| {
            let ino = disk.find_file(path)?;
            let data = &disk.file(ino)?.data;
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
            let end = start.saturating_add(len).min(data.len());
            Ok(data[start..end].to_vec())
        })
    }

    fn open(&self, path: &str) -> Result<Box<dyn StoredFile>> {
        let (ino, length) = self.on("open the file", path, |disk| {
            let ino = disk.find_file(path)?;
            Ok((ino, disk.file(ino)?.data.len() as u64))
        })?;
        let file = OpenFile { disk: Arc::clone(&self.disk), ino, path: self.describe(path) };
        Ok(Box::new(FileToRead { file, length }))
    }

    fn try_lock(&self, path: &str, mode: LockMode, create: bool) -> Result<Option<Box<dyn Lock>>> {
        // One critical section from the look-up to the lock, so the path cannot come to name another file meanwhile.
        let locked = self.on("lock", path, |disk| {
            let ino = match disk.find_file(path) {
                Err(e) if e.kind() == NotFound && create => disk.create_file(path)?,
                found => found?,
            };
            Ok(disk.lock(ino, mode).then_some(ino))
        })?;
        Ok(locked.map(|ino| {
            let file = OpenFile { disk: Arc::clone(&self.disk), ino, path: self.describe(path) };
            Box::new(HeldLock { file, name: path.to_string(), mode }) as Box<dyn Lock>
        }))
    }
}

/// A file by its inode: it stays the same file whatever happens to its name.
#[derive(Debug)]
struct OpenFile {
    disk: Arc<Mutex<Disk>>,
    ino: Ino,
    path: PathBuf,
}

impl OpenFile {
    fn on(&self, action: &'static str, step: impl FnOnce(&mut File)) -> Result<()> {
        lock(&self.disk).file(self.ino).map(step).map_err(|e| Error::io(action, &self.path, e))
    }
}

impl StagedFile for OpenFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.on("write to", |file| file.data.extend_from_slice(bytes))
    }

    fn sync(&mut self) -> Result<()> {
        self.on("sync", File::sync)
    }
}

#[derive(Debug)]
struct FileToRead {
    file: OpenFile,
    length: u64,
}

impl StoredFile for FileToRead {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut disk = lock(&self.file.disk);
        let file = disk.file(self.file.ino).map_err(|e| Error::io("read", &self.file.path, e))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.data.len());
        let count = buffer.len().min(file.data.len() - start);
        buffer[..count].copy_from_slice(&file.data[start..start + count]);
        Ok(count)
    }
}

#[derive(Debug)]
struct HeldLock {
    file: OpenFile,
    name: String,
    mode: LockMode,
}

impl Lock for HeldLock {
    fn is_current(&self) -> Result<bool> {
        let found = lock(&self.file.disk).find_file(&self.name);
        Ok(found.is_ok_and(|ino| ino == self.file.ino))
    }

    fn write(&mut self, content: &[u8]) -> Result<()> {
        if self.mode == LockMode::Shared {
            return Err(Error::io("write to", &self.file.path, PermissionDenied));
        }
        self.file.on("write to", |file| file.overwrite(content))
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        lock(&self.file.disk).unlock(self.file.ino);
    }
}

/// A thread that panicked with the lock held left the model between two of its own statements at worst, and its test
/// fails anyway.
fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}
