//! A repository whose `config.json` is damaged or lost, and the copy of the very same repository that has it.
//!
//! The configuration decides how everything else is read, so it is taken only from a repository that is shown to be the
//! same one:
//!
//! - what is left of the damaged file names the id of the copy, which is 32 random digits; or
//! - it is as long as the copy's file, and a few bytes differ; or
//! - both hold a ref that is the same to the byte, which names a moment, a machine and a tree.
//!
//! A file that says it is newer than this program is replaced only in the second case: a file that was really written by
//! a newer one has, if nothing else, another checksum.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::object::{Snapshot, display_path};
use crate::repo::{Session, SharedRepository};
use crate::store::{Backend, layout, refs};

/// A damaged file differs from the whole one in so many bytes at most to be taken for the same.
const FEW_BYTES: usize = 8;
/// The digits of an id.
const ID_LENGTH: usize = 32;
/// A configuration is not longer.
const LONGEST: usize = 1 << 20;

/// The `config.json` that a copy has, and the number of the copy.
pub(super) struct Replacement {
    pub(super) copy: usize,
    pub(super) content: Vec<u8>,
}

/// Opens the repository. If its configuration is not what it must be, the one that it must have stands beside it.
pub(super) fn open(
    backend: Arc<dyn Backend>,
    copies: &[SharedRepository],
    session: &Session<'_>,
) -> Result<(SharedRepository, Option<Replacement>)> {
    let error = match SharedRepository::open(Arc::clone(&backend), session) {
        Ok(repo) => return Ok((repo, None)),
        Err(error @ (Error::Damaged { .. } | Error::TooNew { .. } | Error::NoRepository { .. })) => error,
        Err(error) if error.is_broken_medium() => error,
        Err(error) => return Err(error),
    };
    let is_newer = matches!(error, Error::TooNew { .. });
    for (number, copy) in copies.iter().enumerate() {
        let content = copy.backend().read(layout::CONFIG, 0, LONGEST)?;
        if is_same(&*backend, copy, &content, is_newer)? {
            let repo = SharedRepository::open_as(backend, copy.config().clone(), session)?;
            return Ok((repo, Some(Replacement { copy: number, content })));
        }
    }
    // One that is missing, where nothing says that there ever was a repository, is not damage.
    let is_none = matches!(error, Error::NoRepository { .. }) && refs::list(&*backend)?.snapshots.is_empty();
    if is_newer || is_none {
        return Err(error);
    }
    let reason = if copies.is_empty() {
        "and no other repository was named that has it"
    } else {
        "and none of the other repositories is known to be a copy of this very repository"
    };
    Err(Error::refused(
        format!("repair the repository {}", display_path(&backend.describe(""))),
        format!("its config.json cannot be used ({}), {reason}", error.reason()),
        "name a copy of it with `backuptool repair --from COPY`; nothing was changed",
    ))
}

fn is_same(backend: &dyn Backend, copy: &SharedRepository, content: &[u8], is_newer: bool) -> Result<bool> {
    let present = backend.read(layout::CONFIG, 0, LONGEST).unwrap_or_default();
    let differing = present.iter().zip(content).filter(|(one, other)| one != other).count();
    if present.len() == content.len() && differing <= FEW_BYTES {
        return Ok(true);
    }
    if is_newer {
        return Ok(false);
    }
    let id = copy.config().id.as_bytes();
    if id.len() >= ID_LENGTH && present.windows(id.len()).any(|window| window == id) {
        return Ok(true);
    }
    for number in refs::list(backend)?.snapshots {
        if let (Ok(one), Ok(other)) = (refs::read(backend, number), refs::read(copy.backend(), number))
            && one == other
            && Snapshot::decode(copy.hash(), &one).is_ok_and(|snapshot| snapshot.number == number)
        {
            return Ok(true);
        }
    }
    Ok(false)
}
