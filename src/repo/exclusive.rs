//! A repository that is held alone: the only one from which anything can be removed.
//!
//! # Why what is removed is not missed
//!
//! - Every process that reads or adds holds the shared lock, so while this is held there is none, and no snapshot is
//!   being made that could come to rely on an object that is removed.
//! - Refs are removed, and their removal made durable, before any object goes ([`ExclusiveRepository::remove_snapshots`]
//!   returns only then). A crash at any point leaves refs all of whose objects exist, and at worst objects that nothing
//!   needs, which the next prune removes.
//! - Which objects are needed is the caller's knowledge: it must have marked from *all* refs that are left. Which refs
//!   are left has to be read under this lock; what one of them needs may have been marked before, since refs and
//!   objects never change.

use std::ops::Deref;

use super::{Repository, Session, lock};
use crate::error::Result;
use crate::object::ObjectId;
use crate::store::staging::{self, Staging};
use crate::store::{Lock, LockMode, layout, refs};

/// A repository with its exclusive lock.
#[derive(Debug)]
pub struct ExclusiveRepository {
    repo: Repository,
    lock: Option<Box<dyn Lock>>,
}

impl ExclusiveRepository {
    pub(super) fn lock(repo: Repository, session: &Session<'_>) -> Result<Self> {
        let lock = lock::acquire(repo.backend(), LockMode::Exclusive, session)?;
        Ok(Self { repo, lock })
    }

    /// Says to those who wait for the lock who holds it, by an otherwise empty staging directory. A full disk is no
    /// reason not to prune, so nothing is returned if the directory cannot be made.
    pub fn announce(&self, session: &Session<'_>) -> Option<Staging<'_>> {
        Staging::begin(self.repo.backend(), &session.info()).ok()
    }

    /// Removes snapshots, durably. Their numbers are not used again.
    pub fn remove_snapshots(&self, numbers: &[u64]) -> Result<()> {
        lock::confirm(self.repo.backend(), self.lock.as_deref())?;
        refs::remove(self.repo.backend(), numbers)
    }

    /// Removes loose objects that no ref needs; see the module. It is no error if another prune has removed one. One that
    /// cannot be removed does not keep the others: the first such error is returned when all were tried.
    pub fn remove_objects(&self, ids: impl IntoIterator<Item = ObjectId>) -> Result<()> {
        let mut result = Ok(());
        for id in ids {
            match self.repo.backend().remove(&layout::object_path(id)) {
                Err(error) if !error.is_not_found() && result.is_ok() => result = Err(error),
                _ => {}
            }
        }
        result
    }

    /// Removes what removed snapshots and writers that died have left. `own` is this process's staging directory.
    pub fn remove_leftovers(&self, own: Option<&Staging<'_>>) -> Result<()> {
        refs::sweep(self.repo.backend())?;
        staging::remove_all_but(self.repo.backend(), own)?;
        Ok(())
    }
}

impl Deref for ExclusiveRepository {
    type Target = Repository;

    fn deref(&self) -> &Repository {
        &self.repo
    }
}
