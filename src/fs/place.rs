//! A directory that holds a repository, and the durable steps on it.
//!
//! Every method is one step: no retries, nothing implied. (Two have more than one way to do their step, for file systems
//! that lack the usual one: [`Place::rename_new`] and [`Place::sync_dir`].) All paths are relative to the
//! directory, which is held open, so that the repository stays the same one if a directory above it is renamed. The
//! handle is opened before anything is written, which is what lets `syncfs` report a background write that failed.
//! Directories are made for their owner only, files readable for their owner only and never writable again.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::linux::{can_sync_file_system, sync_file_system, write_out};
use super::lock::LockedFile;
use super::read_full;
use super::source::Stat;
use crate::error::{Error, Result};
use crate::object::display_path;

/// An open directory that holds, or will hold, a repository.
#[derive(Debug)]
pub struct Place {
    dir: Arc<File>,
    path: PathBuf,
    can_sync_all: bool,
}

/// A new file that is being written.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
    written: u64,
    /// As far as this the kernel was told to begin.
    begun: u64,
}

/// A file that is open for reading.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    path: PathBuf,
    length: u64,
}

/// An entry of a directory.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// What it is.
    pub shape: Shape,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Anything else.
    Other,
}

/// The kernel begins to write so many bytes of a file together.
const WRITE_AT_ONCE: u64 = 8 << 20;
/// So many bytes at the end of a file are probably still on their way to the storage. What is before them does not stay in
/// the kernel's cache: it would drive out what others use, and is seldom read soon.
const ON_THE_WAY: u64 = 32 << 20;

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);
const DIR: OFlags = READ.union(OFlags::DIRECTORY);
const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);

impl Place {
    /// Opens an existing directory.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| Error::io("open the directory", path, error);
        let dir = File::from(rustix::fs::open(path, DIR, Mode::empty()).map_err(|error| failed(error.into()))?);
        let can_sync_all = can_sync_file_system(&dir).map_err(failed)?;
        Ok(Self { dir: Arc::new(dir), path: path.to_path_buf(), can_sync_all })
    }

    /// Makes a directory, and those above it, and makes them durable. It is no error if it exists. New directories are
    /// for their owner only.
    pub fn make(path: &Path) -> Result<()> {
        let mut missing = vec![];
        for ancestor in path.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            match ancestor.symlink_metadata() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor),
                Err(error) => return Err(Error::io("look at the directory", ancestor, error)),
            }
        }
        if missing.is_empty() {
            // It may have been made a moment ago, by a process that died before this step.
            missing.push(path);
        }
        for dir in missing.into_iter().rev() {
            match rustix::fs::mkdir(dir, Mode::RWXU) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(Error::io("create the directory", dir, error)),
            }
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let synced = File::open(parent).and_then(|parent| parent.sync_all());
            synced.map_err(|error| Error::io("sync the directory", parent, error))?;
        }
        Ok(())
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The full path of something in it.
    pub fn full(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.path.clone() } else { self.path.join(path) }
    }

    fn failed<'a>(&'a self, action: &'static str, path: &'a str) -> impl FnOnce(rustix::io::Errno) -> Error + 'a {
        move |error| Error::io(action, self.full(path), error)
    }

    fn failed_io<'a>(&'a self, action: &'static str, path: &'a str) -> impl FnOnce(io::Error) -> Error + 'a {
        move |error| Error::io(action, self.full(path), error)
    }

    /// Makes a directory; it is no error if it exists.
    pub fn create_dir(&self, path: &str) -> Result<()> {
        let error = match rustix::fs::mkdirat(&self.dir, path, Mode::RWXU) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if error == rustix::io::Errno::EXIST && self.open_dir("open the directory", path).is_ok() {
            return Ok(());
        }
        Err(self.failed("create the directory", path)(error))
    }

    /// Creates a file that does not exist.
    pub fn create(&self, path: &str) -> Result<NewFile> {
        let file =
            rustix::fs::openat(&self.dir, path, NEW, Mode::RUSR).map_err(self.failed("create the file", path))?;
        Ok(NewFile { file: file.into(), path: self.full(path), written: 0, begun: 0 })
    }

    /// Makes everything on the file system durable.
    pub fn sync_all(&self) -> Result<()> {
        sync_file_system(&self.dir).map_err(self.failed_io("sync the file system of", ""))
    }

    /// Whether [`Place::sync_all`] can be relied on.
    pub fn can_sync_all(&self) -> bool {
        self.can_sync_all
    }

    /// Renames a file unless the new name exists, and returns whether it did rename.
    ///
    /// `renameat2` with `RENAME_NOREPLACE` where there is one; else a link and an unlink; where there are no links either,
    /// the new name is taken by an empty file that the rename then replaces (a crash in between leaves an empty file,
    /// which is never a valid file of a repository).
    pub fn rename_new(&self, from: &str, to: &str) -> Result<bool> {
        use rustix::io::Errno;
        const NOT_HERE: [Errno; 5] = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::PERM, Errno::NOTSUP];
        match rename_no_replace(&self.dir, from, to) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => return Ok(false),
            Err(error) if NOT_HERE.contains(&error) => {}
            Err(error) => return Err(self.failed("publish", to)(error)),
        }
        match rustix::fs::linkat(&self.dir, from, &self.dir, to, AtFlags::empty()) {
            Ok(()) => {
                if self.remove(from).is_err() {
                    // The file is published. Its staged name is left over, and goes with the staging directory.
                }
                return Ok(true);
            }
            Err(Errno::EXIST) => return Ok(false),
            Err(error) if NOT_HERE.contains(&error) => {}
            Err(error) => return Err(self.failed("publish", to)(error)),
        }
        match self.create(to) {
            Ok(_) => {}
            Err(error) if error.io_kind() == Some(io::ErrorKind::AlreadyExists) => return Ok(false),
            Err(error) => return Err(error),
        }
        self.rename(from, to).map(|()| true)
    }

    /// Renames a file, in place of what may be there.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        rustix::fs::renameat(&self.dir, from, &self.dir, to)
            .map_err(|error| Error::io(format!("rename {} to", display_path(&self.full(from))), self.full(to), error))
    }

    /// Makes the names in a directory durable.
    pub fn sync_dir(&self, path: &str) -> Result<()> {
        let dir = self.open_dir("sync the directory", path)?;
        match File::from(dir).sync_all() {
            // Some file systems of virtual machines and some servers have no such step for directories: there is then
            // nothing that could be done.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            other => other.map_err(self.failed_io("sync the directory", path)),
        }
    }

    fn open_dir(&self, action: &'static str, path: &str) -> Result<rustix::fd::OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        rustix::fs::openat(&self.dir, path, DIR, Mode::empty()).map_err(self.failed(action, path))
    }

    /// Removes a file.
    pub fn remove(&self, path: &str) -> Result<()> {
        rustix::fs::unlinkat(&self.dir, path, AtFlags::empty()).map_err(self.failed("remove the file", path))
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, path: &str) -> Result<()> {
        rustix::fs::unlinkat(&self.dir, path, AtFlags::REMOVEDIR).map_err(self.failed("remove the directory", path))
    }

    /// The entries of a directory, sorted by name.
    pub fn list(&self, path: &str) -> Result<Vec<Listed>> {
        const ACTION: &str = "list the directory";
        let listed = self.open_dir(ACTION, path)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&listed).map_err(self.failed(ACTION, path))? {
            let entry = entry.map_err(self.failed(ACTION, path))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                kind = match rustix::fs::statat(&listed, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(error) => return Err(self.failed("look into", path)(error)),
                };
            }
            let shape = match kind {
                FileType::RegularFile => Shape::File,
                FileType::Directory => Shape::Dir,
                _ => Shape::Other,
            };
            entries.push(Listed { name: name.to_string_lossy().into_owned(), shape });
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn open_file(&self, path: &str) -> Result<File> {
        // Not through a symbolic link, and without waiting at a FIFO: neither is the repository's.
        let flags = READ | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file =
            rustix::fs::openat(&self.dir, path, flags, Mode::empty()).map_err(self.failed("open the file", path))?;
        Ok(file.into())
    }

    fn regular_length(&self, stat: &rustix::fs::Stat, path: &str) -> Result<u64> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let error = io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file");
            return Err(Error::io("read", self.full(path), error));
        }
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// The length of a file in bytes.
    pub fn length(&self, path: &str) -> Result<u64> {
        let stat =
            rustix::fs::statat(&self.dir, path, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed("look at", path))?;
        self.regular_length(&stat, path)
    }

    /// When anything of a file changed last, as the system says: seconds since 1970, and nanoseconds.
    pub fn last_change(&self, path: &str) -> Result<(i64, i64)> {
        let stat =
            rustix::fs::statat(&self.dir, path, AtFlags::SYMLINK_NOFOLLOW).map_err(self.failed("look at", path))?;
        Ok(Stat::from_raw(&stat).changed)
    }

    /// Opens a file for reading.
    pub fn open_to_read(&self, path: &str) -> Result<OpenFile> {
        let file = self.open_file(path)?;
        let stat = rustix::fs::fstat(&file).map_err(self.failed("look at", path))?;
        Ok(OpenFile { length: self.regular_length(&stat, path)?, path: self.full(path), file })
    }

    /// Reads up to `len` bytes from byte `offset` of a file.
    pub fn read(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        let file = self.open_to_read(path)?;
        let available = file.length.saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(available).unwrap_or(usize::MAX).min(len)];
        let filled = file.read_at(offset, &mut bytes)?;
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Tries to lock a file, which is made if it is missing and `create` is set. Returns nothing if another holder
    /// conflicts, or if the file was removed or replaced at the same moment.
    pub fn try_lock(&self, path: &str, exclusive: bool, create: bool) -> Result<Option<LockedFile>> {
        // NFS gives an exclusive lock only to who may write.
        let access = if exclusive || create { OFlags::RDWR } else { OFlags::RDONLY };
        let creation = if create { OFlags::CREATE } else { OFlags::empty() };
        let (flags, mode) = (access | creation | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR);
        let file = rustix::fs::openat(&self.dir, path, flags, mode).map_err(self.failed("open the lock", path))?;
        let dir = Arc::clone(&self.dir);
        let Some(locked) = LockedFile::try_lock(file.into(), dir, path, self.full(path), exclusive)? else {
            return Ok(None);
        };
        // Who locks a file that was unlinked while it was being opened has locked nothing.
        Ok(if locked.is_current()? { Some(locked) } else { None })
    }
}

impl OpenFile {
    /// The length when it was opened, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads from byte `offset` until `buffer` is full or the file ends; returns how many bytes were read.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        read_full(&self.path, buffer, |part, at| self.file.read_at(part, offset + at))
    }
}

impl NewFile {
    /// Appends bytes. Of a large file the kernel begins to write to the storage on the way, while the rest is still being
    /// made: the sync at the end has less to wait for. And it does not stay in its cache, but for the last 32 MiB.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::io("write the file", &self.path, error))?;
        self.written += bytes.len() as u64;
        if self.written - self.begun >= WRITE_AT_ONCE {
            write_out(&self.file, self.begun, self.written - self.begun);
            self.begun = self.written;
            if self.written > ON_THE_WAY {
                write_out(&self.file, 0, self.written - ON_THE_WAY);
            }
        }
        Ok(())
    }

    /// Makes the content durable.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::io("sync the file", &self.path, error))
    }
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn rename_no_replace(dir: &File, from: &str, to: &str) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(dir, from, dir, to, rustix::fs::RenameFlags::NOREPLACE)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn rename_no_replace(_dir: &File, _from: &str, _to: &str) -> rustix::io::Result<()> {
    Err(rustix::io::Errno::NOSYS)
}
