//! Files locked with flock(2): the kernel's lock, released when its holder dies, so no lock is ever stale.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::AtFlags;

use crate::error::{Error, Result};

/// A locked file; dropping it releases the lock.
#[derive(Debug)]
pub struct LockedFile {
    file: File,
    /// The directory that the name was looked up in, which stays the same if one above it is renamed.
    dir: Arc<File>,
    name: String,
    /// For messages.
    path: PathBuf,
}

impl LockedFile {
    /// Locks the open file called `name` in `dir` without waiting. Returns nothing if another holder conflicts.
    pub(super) fn try_lock(
        file: File,
        dir: Arc<File>,
        name: &str,
        path: PathBuf,
        exclusive: bool,
    ) -> Result<Option<Self>> {
        let locked =
            if exclusive { fs2::FileExt::try_lock_exclusive(&file) } else { fs2::FileExt::try_lock_shared(&file) };
        match locked {
            Ok(()) => Ok(Some(Self { file, dir, name: name.to_string(), path })),
            Err(error) if is_contended(&error) => Ok(None),
            Err(error) => Err(Error::io("lock the file", path, error)),
        }
    }

    /// Whether the path still names the locked file.
    pub fn is_current(&self) -> Result<bool> {
        let failed = |error| Error::io("look at the lock", &self.path, error);
        let held = rustix::fs::fstat(&self.file).map_err(failed)?;
        match rustix::fs::statat(&*self.dir, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Replaces the content of the file; not atomic and not durable.
    pub fn write(&mut self, content: &[u8]) -> Result<()> {
        let mut write = || {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(content)
        };
        write().map_err(|error| Error::io("write the file", &self.path, error))
    }
}

fn is_contended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == fs2::lock_contended_error().raw_os_error()
}
