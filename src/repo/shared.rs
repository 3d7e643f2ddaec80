//! A repository that is held together with others: for reading, and for adding.

use std::ops::Deref;
use std::sync::Arc;

use super::exclusive::ExclusiveRepository;
use super::labels::LabelsWriter;
use super::mend::Mender;
use super::objects::Elsewhere;
use super::repack::Repacker;
use super::write::{ObjectWriter, WriterOptions};
use super::{Repository, Session, interruptible, lock};
use crate::error::Result;
use crate::object::Config;
use crate::store::damaged::Damaged;
use crate::store::verified::Verified;
use crate::store::{Backend, Lock, LockMode, layout, remove_if_there};

/// A repository with its shared lock: nothing in it is removed while this is held.
#[derive(Debug)]
pub struct SharedRepository {
    repo: Repository,
    lock: Option<Box<dyn Lock>>,
}

impl SharedRepository {
    /// Opens the repository on `backend`, waiting for its lock.
    pub fn open(backend: Arc<dyn Backend>, session: &Session<'_>) -> Result<Self> {
        let repo = Repository::load(backend, session)?;
        let lock = lock::acquire(repo.backend(), LockMode::Shared, session)?;
        Ok(Self { repo, lock })
    }

    /// Opens the repository on `backend` with this configuration, whatever `config.json` holds: for a repair.
    pub fn open_as(backend: Arc<dyn Backend>, config: Config, session: &Session<'_>) -> Result<Self> {
        let repo = Repository::new(interruptible(backend, session), config, session);
        let lock = lock::acquire(repo.backend(), LockMode::Shared, session)?;
        Ok(Self { repo, lock })
    }

    /// Reads the indexes of all packs, and from now on objects that are not whole here also from elsewhere. Nothing that
    /// relies on what is stored must be done as long as there is an elsewhere.
    pub fn look_elsewhere(&mut self, elsewhere: Option<Arc<dyn Elsewhere>>) -> Result<()> {
        self.repo.elsewhere = elsewhere;
        self.repo.read_each_pack()
    }

    /// Brings back what is damaged or missing.
    pub fn mender(&self, session: &Session<'_>, options: WriterOptions) -> Result<Mender<'_>> {
        Mender::begin(&self.repo, self.lock.as_deref(), session, options)
    }

    /// A writer for objects and one snapshot.
    pub fn writer(&self, session: &Session<'_>, options: WriterOptions) -> Result<ObjectWriter<'_>> {
        ObjectWriter::begin(&self.repo, self.lock.as_deref(), session, options)
    }

    /// Copies objects into new packs.
    pub fn repacker(&self, session: &Session<'_>, options: WriterOptions) -> Result<Repacker<'_>> {
        Repacker::begin(&self.repo, session, options)
    }

    /// Becomes the only one that changes labels, waiting for others that do. To be dropped soon.
    pub fn labels_writer(&self, session: &Session<'_>) -> Result<LabelsWriter<'_>> {
        LabelsWriter::begin(&self.repo, self.lock.as_deref(), session)
    }

    /// Changes what is noted as damaged, so that a snapshot which meets it stores it again; returns what is noted then.
    pub fn change_damaged(&self, session: &Session<'_>, change: impl Fn(&mut Damaged)) -> Result<Damaged> {
        self.repo.change_damaged(session, change)
    }

    /// Changes what is noted of packs that were found whole, given what is noted as damaged; returns what is noted then.
    pub fn change_verified(
        &self,
        session: &Session<'_>,
        change: impl Fn(&mut Verified, &Damaged) -> Result<()>,
    ) -> Result<Verified> {
        self.repo.change_verified(session, change)
    }

    /// Removes the index of all packs, which covers packs that cannot be used: a snapshot must not rely on what only this
    /// index says to be in them. Who comes next reads the packs' own indexes.
    pub fn forget_index(&self) -> Result<()> {
        remove_if_there(self.repo.backend(), layout::INDEX)
    }

    /// Exchanges the shared lock for the exclusive one. The shared lock is released first, so others may add snapshots
    /// in between: what was learnt before must be looked at again.
    pub fn into_exclusive(self, session: &Session<'_>) -> Result<ExclusiveRepository> {
        let Self { repo, lock } = self;
        drop(lock);
        ExclusiveRepository::lock(repo, session)
    }
}

impl Deref for SharedRepository {
    type Target = Repository;

    fn deref(&self) -> &Repository {
        &self.repo
    }
}
