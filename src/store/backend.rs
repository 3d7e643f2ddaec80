//! The storage seam: what a place that holds a repository must be able to do, step by durable step.
//!
//! [`Backend`] is the list of durable steps that the protocols above (publishing objects, refs, pruning) are made of.
//! An implementation performs each step and adds none of its own, so the sweeps that run the protocols over the
//! in-memory backend, which forgets at a simulated crash what was not synced, test the real protocol.
//!
//! # The contract
//!
//! - Paths are relative to the repository, separated by `/`, of lower-case ASCII letters, digits, `.`, `-` and `_`
//!   (`README` aside). The empty path is the repository itself.
//! - **Content**: what was appended to a file is durable after [`StagedFile::sync`] on that handle, or after
//!   [`Backend::sync_all`]. Before that, a crash may leave any prefix of it.
//! - **Names**: a created, published, replaced or removed name (and a created directory) is durable after
//!   [`Backend::sync_dir`] of the directory that holds it, or after [`Backend::sync_all`]. Before that, a crash may
//!   keep or undo each such step independently of the others, but undoes or keeps it whole. A rename between two
//!   directories may be seen under both names until both are synced; it never vanishes from both.
//! - A failed sync says nothing about what is durable and must not be tried again: the kernel reports a lost write
//!   once, and then calls the same pages clean.
//! - Every error carries the action and the full path. A missing file or directory is an error for which
//!   [`Error::is_not_found`](crate::Error::is_not_found) is true.
//! - All methods may be called from several threads and, on the same place, from several processes.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use crate::error::Result;

/// A place that can hold a repository. See the module for the contract.
pub trait Backend: Send + Sync + Debug {
    /// The full path of a file or directory of the repository, for messages.
    fn describe(&self, path: &str) -> PathBuf;

    /// The directory of this machine that the repository is, if it is one; so that it can be kept out of snapshots.
    fn local_root(&self) -> Option<&Path>;

    /// Makes a directory, readable only to its owner. It is no error if it exists. The parent must exist.
    fn create_dir(&self, path: &str) -> Result<()>;

    /// Creates a new, empty file, readable only to its owner. It is an error if the name exists.
    fn create(&self, path: &str) -> Result<Box<dyn StagedFile>>;

    /// Makes everything that was written, created, published, replaced or removed so far durable.
    fn sync_all(&self) -> Result<()>;

    /// Whether [`Backend::sync_all`] does what it says in this place. Where it does not, files and directories have
    /// to be synced one by one.
    fn can_sync_all(&self) -> bool;

    /// Renames `from` to `to` unless `to` exists. Returns whether it was renamed; if not, `from` is still there.
    fn publish_new(&self, from: &str, to: &str) -> Result<bool>;

    /// Renames `from` to `to`, in place of what may be there, atomically.
    fn replace(&self, from: &str, to: &str) -> Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &str) -> Result<()>;

    /// Removes a file.
    fn remove(&self, path: &str) -> Result<()>;

    /// Removes a directory, which must be empty.
    fn remove_dir(&self, path: &str) -> Result<()>;

    /// The entries of a directory, sorted by name.
    fn list(&self, path: &str) -> Result<Vec<Entry>>;

    /// The length of a file in bytes.
    fn length(&self, path: &str) -> Result<u64>;

    /// When anything of a file changed last, as the system says (ctime): seconds since 1970, and nanoseconds. Nobody can set
    /// it, so no copy has the same.
    fn last_change(&self, path: &str) -> Result<(i64, i64)>;

    /// Reads up to `len` bytes from byte `offset` of a file; fewer only where the file ends.
    fn read(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>>;

    /// Opens a file, to read parts of it again and again. What was opened stays readable as it is when the name is removed
    /// or replaced.
    fn open(&self, path: &str) -> Result<Box<dyn StoredFile>>;

    /// Tries, without waiting, to lock a file that exists or, with `create`, is made (empty). Returns nothing if another
    /// holder conflicts. When a lock is returned, `path` names the locked file. Dropping the lock, or the death of the
    /// process, releases it.
    fn try_lock(&self, path: &str, mode: LockMode, create: bool) -> Result<Option<Box<dyn Lock>>>;
}

/// A file that is open for reading. May be used from several threads.
pub trait StoredFile: Send + Sync + Debug {
    /// Its length in bytes when it was opened.
    fn length(&self) -> u64;

    /// Reads from byte `offset` until `buffer` is full or the file ends, and returns how many bytes were read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;
}

/// A file that is being written and that no one else refers to yet.
pub trait StagedFile: Send {
    /// Appends bytes.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Makes the content (not the name) durable. Call it at most once after an error-free series of appends.
    fn sync(&mut self) -> Result<()>;
}

/// A held lock.
pub trait Lock: Send + Sync + Debug {
    /// Whether the path still names the locked file. If not (another copy of the repository was copied over this one),
    /// others may hold a lock of the new file at the same time, and this one protects nothing.
    fn is_current(&self) -> Result<bool>;

    /// Replaces the content of the locked file, for others to read; neither atomic nor durable. Only for an exclusive
    /// lock that was taken with `create`.
    fn write(&mut self, content: &[u8]) -> Result<()>;
}

/// Whether a lock can be held together with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// Together with other shared locks.
    Shared,
    /// Alone.
    Exclusive,
}

/// One entry of a directory of the repository.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// The name. Bytes that are not UTF-8 are replaced: such names are never the repository's own.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry of a directory of the repository is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Anything else: never made by this tool.
    Other,
}

/// Removes a file; that it is not there is no error.
pub fn remove_if_there(backend: &dyn Backend, path: &str) -> Result<()> {
    match backend.remove(path) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
