//! The only place that touches the file system.
//!
//! - [`Place`]: a directory that holds a repository, with the durable steps that the storage seam is made of;
//! - [`SourceDir`]: walking a source over directory handles, never following a symbolic link below its top;
//! - [`TargetDir`]: writing a restore, never through a symbolic link and never outside.
//!
//! What only Linux has (`syncfs`, the types of network file systems) sits in `linux.rs` with a portable answer beside it.

#[cfg_attr(not(target_os = "linux"), path = "portable.rs")]
mod linux;
mod lock;
mod place;
mod source;
mod target;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::object::Name;

pub use lock::LockedFile;
pub use place::{Listed, NewFile, OpenFile, Place, Shape};
pub use source::{DirListing, Identity, SourceDir, SourceEntry, SourceFile, SourceKind, Stat};
pub use target::{TargetDir, TargetFile};

/// No path below a source's or an output's top is longer than this, in bytes: four times what the system takes in one
/// call. The walks go further down over handles, and a hostile or broken tree must not exhaust memory by its depth.
const LONGEST_PATH: usize = 16 * 1024;

/// The path of a directory in another one, unless that becomes too long.
fn path_below(above: &Path, name: &Name, action: &'static str) -> Result<PathBuf> {
    let path = above.join(OsStr::from_bytes(name.as_bytes()));
    if path.as_os_str().len() <= LONGEST_PATH {
        return Ok(path);
    }
    let error = io::Error::new(io::ErrorKind::InvalidFilename, "it is nested too deep");
    Err(Error::io(action, path, error))
}

/// Reads until `buffer` is full or the file at `path` ends, and returns how much was read. `read` reads into a part of the
/// buffer that begins after so many bytes of it.
fn read_full(
    path: &Path,
    buffer: &mut [u8],
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read the file", path, error)),
        }
    }
    Ok(filled)
}

/// How many more files this process may have open, roughly: the limit less what it always needs.
pub fn open_file_budget() -> usize {
    const RESERVE: u64 = 128;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    // No limit at all is still no reason to hold more than this.
    let limit = limit.unwrap_or(1 << 20).min(1 << 20);
    usize::try_from(limit.saturating_sub(RESERVE)).unwrap_or(0).max(32)
}

/// Lets this process hold as many open files as the system allows it. Deep source trees are walked over one open
/// directory a level.
pub fn raise_open_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // macOS refuses more than 10,240, whatever it says of the maximum.
    for wanted in [limit.maximum, Some(10_240)] {
        if setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: limit.maximum }).is_ok() {
            return;
        }
    }
    // With the old limit, what is nested too deep for it is reported directory by directory.
}

/// Whether this process ignores the signal with this number, as one that was begun by `nohup` does. Where the system does
/// not say, it does not.
pub fn ignores_signal(signal: i32) -> bool {
    linux::ignores_signal(signal.unsigned_abs())
}
