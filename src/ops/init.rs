//! `init`: makes a repository in a directory of this machine.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
pub use crate::repo::InitOptions;
use crate::repo::{self, Session};
use crate::store::LocalBackend;

/// Makes a repository in `path`, which must not exist, be empty, or hold what an interrupted `init` left. Missing
/// directories above it are made as well.
pub fn init(path: &Path, options: &InitOptions, session: &Session<'_>) -> Result<()> {
    repo::init(Arc::new(LocalBackend::make(path)?), options, session).map(|_| ())
}
