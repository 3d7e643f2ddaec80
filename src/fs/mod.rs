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

pub use lock::LockedFile;
pub use place::{Listed, NewFile, Place, Shape};
pub use source::{DirListing, Identity, SourceDir, SourceEntry, SourceFile, SourceKind, Stat};
pub use target::{TargetDir, TargetFile};

/// Lets this process hold as many open files as the system allows it. Deep source trees are walked over one open
/// directory a level.
pub fn raise_open_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        // Only trees that are deeper than the old limit need more, and those are then reported file by file.
    }
}
