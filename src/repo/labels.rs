//! Reading and changing the labels of snapshots: tags, a message, the pin.
//!
//! Nothing else depends on them: a snapshot whose labels cannot be read is listed, restored and checked like any other.
//! Only who removes by rule must know them, and takes a snapshot whose labels it cannot read for pinned.

use super::{Repository, Session, lock, make_dirs};
use crate::error::{Error, Result};
use crate::object::{DocumentError, Labels, display_path};
use crate::store::labels::{self, StagedLabels};
use crate::store::layout::RefFile;
use crate::store::{Lock, staging};

impl Repository {
    /// Reads the labels of a snapshot; empty ones if there are none.
    pub fn labels(&self, number: u64) -> Result<Labels> {
        let Some(bytes) = labels::read(self.backend(), number)? else { return Ok(Labels::default()) };
        let path = self.backend().describe(&RefFile::Labels(number).path());
        Labels::decode(self.hash(), number, &bytes).map_err(|error| match error {
            DocumentError::Damaged(reason) => {
                let next = format!(
                    "run `backuptool repair --from COPY` with another copy of the repository, or delete the file ({}), \
                     which takes the tags, the message and the pin of snapshot {number} away",
                    display_path(&path)
                );
                Error::Damaged { path, reason, next }
            }
            DocumentError::TooNew(what) => Error::TooNew { path, what },
        })
    }
}

/// The only one that changes labels, as long as it lives: see [`crate::store::labels`]. To be held shortly.
#[derive(Debug)]
pub struct LabelsWriter<'r> {
    repo: &'r Repository,
    lock: Option<&'r dyn Lock>,
    writer: labels::LabelsWriter<'r>,
}

impl<'r> LabelsWriter<'r> {
    pub(super) fn begin(repo: &'r Repository, lock: Option<&'r dyn Lock>, session: &Session<'_>) -> Result<Self> {
        let backend = repo.backend();
        make_dirs(backend)?;
        staging::remove_abandoned(backend)?;
        let writer = lock::wait(backend, session, &mut || labels::LabelsWriter::try_begin(backend, &session.info()))?;
        Ok(Self { repo, lock, writer })
    }

    /// Writes labels for a snapshot, which are not seen before they are published.
    pub fn stage(&self, number: u64, labels: &Labels) -> Result<StagedLabels> {
        let content = (!labels.is_empty()).then(|| labels.encode(self.repo.hash(), number));
        self.writer.stage(number, content.as_deref())
    }

    /// Puts staged labels in the place of those that a snapshot has. The snapshot's ref must be durable, or lost and about
    /// to be brought back. When this returns, the change is durable.
    pub fn publish(&self, staged: &StagedLabels) -> Result<()> {
        lock::confirm(self.repo.backend(), self.lock)?;
        self.writer.publish(staged)
    }
}
