//! In place of `linux.rs` elsewhere: there is no `syncfs`, so files and directories are synced one by one.

use std::fs::File;
use std::io;

/// There is no such call here.
pub(super) fn sync_file_system(_dir: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// It cannot.
pub(super) fn can_sync_file_system(_dir: &File) -> io::Result<bool> {
    Ok(false)
}

/// Not known here.
pub(super) fn is_remote(_dir: &File) -> io::Result<bool> {
    Ok(false)
}

/// When it is written is left to the system.
pub(super) fn write_out(_file: &File, _offset: u64, _length: u64) {}

/// Not known here.
pub(super) fn ignores_signal(_signal: u32) -> bool {
    false
}
