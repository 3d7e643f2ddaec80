//! How the labels of a snapshot are read and changed.
//!
//! # Why a change is whole, and none is lost
//!
//! - The new file is written to staging, synced, and renamed over the one that is there; then the directory is synced, and
//!   only then is the change reported. A crash leaves the old labels or the new ones. Where nothing is left to say, the
//!   file is removed, which is as atomic.
//! - Who changes labels reads them first, so two must not do that at the same time. They hold the repository shared, so
//!   that a prune reads labels that stay as they are, and beside that `tmp/labels`, a staging directory like any other
//!   except that its name is fixed: whoever holds its `info.json` is the only one ([`LabelsWriter::try_begin`]). What a
//!   writer that died has left there is removed like other staging, or taken over by the next.
//! - Labels are written for a snapshot whose ref is durable, never before: a number that was not given out yet could
//!   be given to another snapshot, which would inherit them. Only where a lost ref is brought back they come first: its
//!   number is not given out again, and nothing would show afterwards that they are missing.

use super::backend::{Backend, remove_if_there};
use super::layout::{RefFile, SNAPSHOTS};
use super::staging::{RunInfo, Staging, random_hex};
use crate::error::{Error, Result};

/// No file of labels is longer than this, in bytes.
pub const MAX_LABELS: usize = 1 << 20;

/// The name of the staging directory of who changes labels.
const RUN: &str = "labels";

/// Reads the labels of a snapshot, unverified; nothing if there are none.
pub fn read(backend: &dyn Backend, number: u64) -> Result<Option<Vec<u8>>> {
    match backend.read(&RefFile::Labels(number).path(), 0, MAX_LABELS + 1) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The only one that changes labels, as long as it lives. To be held together with the repository's shared lock.
#[derive(Debug)]
pub struct LabelsWriter<'b> {
    backend: &'b dyn Backend,
    staging: Staging<'b>,
}

/// Labels that are written and durable, and not visible yet.
#[derive(Debug)]
pub struct StagedLabels {
    number: u64,
    /// Nothing if the file is to go.
    path: Option<String>,
}

impl<'b> LabelsWriter<'b> {
    /// Begins, unless another one is at it. `tmp` must exist.
    pub fn try_begin(backend: &'b dyn Backend, info: &RunInfo) -> Result<Option<Self>> {
        let staging = Staging::try_begin_as(backend, info, RUN)?;
        Ok(staging.map(|staging| Self { backend, staging }))
    }

    /// Writes the content for the labels of a snapshot, or plans their removal if there is none.
    pub fn stage(&self, number: u64, content: Option<&[u8]>) -> Result<StagedLabels> {
        let Some(content) = content else { return Ok(StagedLabels { number, path: None }) };
        if content.len() > MAX_LABELS {
            return Err(Error::refused(
                format!("write the labels of snapshot {number}"),
                format!("they have {} bytes, and the most that labels can have is {MAX_LABELS}", content.len()),
                "use fewer tags and a shorter message; nothing was changed",
            ));
        }
        let path = self.staging.write(&format!("labels-{}", random_hex(4)?), content)?;
        Ok(StagedLabels { number, path: Some(path) })
    }

    /// Puts staged labels in place, durably. The ref of the snapshot must be durable, or lost and about to come.
    pub fn publish(&self, staged: &StagedLabels) -> Result<()> {
        let labels = RefFile::Labels(staged.number).path();
        match &staged.path {
            Some(path) => self.backend.replace(path, &labels)?,
            None => remove_if_there(self.backend, &labels)?,
        }
        self.backend.sync_dir(SNAPSHOTS)
    }
}
