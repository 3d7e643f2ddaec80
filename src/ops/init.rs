//! `init`: makes a repository in a directory of this machine.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::object::display_path;
pub use crate::repo::InitOptions;
use crate::repo::{self, Session};
use crate::store::LocalBackend;

/// Makes a repository in `path`, which must not exist, be empty, or hold what an interrupted `init` left. Missing
/// directories above it are made as well.
pub fn init(path: &Path, options: &InitOptions, session: &Session<'_>) -> Result<()> {
    let backend = LocalBackend::make(path).map_err(|error| match error {
        Error::Io { .. } => Error::refused(
            format!("make a repository in {}", display_path(path)),
            error.to_string(),
            "name a directory that does not exist or is empty, where you may write",
        ),
        other => other,
    })?;
    repo::init(Arc::new(backend), options, session).map(|_| ())
}
