//! The operations, one module each.
//!
//! Each takes a repository and its options and returns a report; none knows of terminals. What an operation would
//! remove, it first plans; a dry run is a plan that is not executed.

pub mod address;
pub mod check;
pub mod init;
pub mod labels;
pub mod list;
pub mod pack;
mod parallel;
pub mod prune;
pub mod repair;
pub mod restore;
pub mod retention;
pub mod snapshot;

use std::path::Path;

use crate::error::Result;
pub use crate::fs::{ignores_signal, raise_open_file_limit};
use crate::repo::{self, Session, SharedRepository};

/// Opens the repository in the directory `path`, for every operation but `init`.
pub fn open(path: &Path, session: &Session<'_>) -> Result<SharedRepository> {
    SharedRepository::open(repo::local(path)?, session)
}
