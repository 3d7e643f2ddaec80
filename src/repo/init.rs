//! Making a repository.
//!
//! The configuration is published last, after everything else is durable. So a directory either has a `config.json` and
//! is a repository, or has none and holds only what an interrupted `init` leaves, which the next `init` completes.

use std::sync::Arc;

use super::{Repository, Session, lock, readme};
use crate::error::{Error, Result};
use crate::object::{ChunkSizes, Config, HashAlgorithm, display_path};
use crate::store::loose::list_or_empty;
use crate::store::staging::{self, Staging, random_hex};
use crate::store::{Backend, EntryKind, LockMode, layout};

/// What is fixed when a repository is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct InitOptions {
    /// The hash that names objects.
    pub hash: HashAlgorithm,
    /// Where files are cut.
    pub chunks: ChunkSizes,
}

/// Makes a repository in the directory of `backend`, which must be empty or hold what an interrupted `init` left.
pub fn init(backend: Arc<dyn Backend>, options: &InitOptions, session: &Session<'_>) -> Result<Repository> {
    refuse_foreign(&*backend)?;
    // Alone: two that begin at the same time must not both believe that they made it.
    let lock = lock::acquire(&*backend, LockMode::Exclusive, session)?;
    refuse_foreign(&*backend)?;
    for dir in layout::DIRS {
        backend.create_dir(dir)?;
    }
    staging::remove_all_but(&*backend, None)?;
    let staging = Staging::begin(&*backend, &session.info())?;
    let config = Config { id: random_hex(16)?, hash: options.hash, chunks: options.chunks };
    for (name, content) in [(layout::README, readme::text(&config).into_bytes()), (layout::CONFIG, config.encode())] {
        staging.write(&name.to_lowercase(), &content)?;
    }
    backend.replace(&staging.path(&layout::README.to_lowercase()), layout::README)?;
    for dir in layout::DIRS {
        backend.sync_dir(dir)?;
    }
    backend.sync_dir("")?;
    if !backend.publish_new(&staging.path(layout::CONFIG), layout::CONFIG)? {
        return Err(already(&*backend));
    }
    backend.sync_dir("")?;
    drop(staging);
    drop(lock);
    Repository::load(backend, session)
}

fn already(backend: &dyn Backend) -> Error {
    Error::refused(
        format!("make a repository in {}", display_path(&backend.describe(""))),
        "there is one already",
        "use it as it is (its hash and chunk size are fixed; see its config.json), or name another directory; nothing was \
         changed",
    )
}

fn refuse_foreign(backend: &dyn Backend) -> Result<()> {
    let entries = backend.list("")?;
    if entries.iter().any(|entry| entry.name == layout::CONFIG) {
        return Err(already(backend));
    }
    if interrupted_or_empty(backend)? {
        return Ok(());
    }
    Err(Error::refused(
        format!("make a repository in {}", display_path(&backend.describe(""))),
        "the directory holds other files",
        "name a directory that does not exist or is empty, perhaps one inside it; nothing was changed",
    ))
}

/// Whether the directory holds what an interrupted `init` leaves, and at least something of it.
pub(super) fn interrupted(backend: &dyn Backend) -> Result<bool> {
    Ok(!backend.list("")?.is_empty() && interrupted_or_empty(backend)?)
}

fn interrupted_or_empty(backend: &dyn Backend) -> Result<bool> {
    for entry in backend.list("")? {
        let expected = match entry.kind {
            EntryKind::File if entry.name == layout::README => {
                let begin = readme::FIRST_LINE.as_bytes();
                backend.read(layout::README, 0, begin.len())? == begin
            }
            EntryKind::File => entry.name == layout::LOCK && backend.length(layout::LOCK)? == 0,
            EntryKind::Dir if entry.name == layout::TMP => only_staging(backend)?,
            EntryKind::Dir if layout::DIRS.contains(&entry.name.as_str()) => backend.list(&entry.name)?.is_empty(),
            _ => false,
        };
        if !expected {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether `tmp` holds nothing but staging directories of `init`.
fn only_staging(backend: &dyn Backend) -> Result<bool> {
    let readme = layout::README.to_lowercase();
    let staged = [layout::RUN_INFO, layout::CONFIG, &readme];
    for entry in list_or_empty(backend, layout::TMP)? {
        let dir = format!("{}/{}", layout::TMP, entry.name);
        let known = entry.kind == EntryKind::Dir
            && list_or_empty(backend, &dir)?.iter().all(|entry| staged.contains(&entry.name.as_str()));
        if !known {
            return Ok(false);
        }
    }
    Ok(true)
}
