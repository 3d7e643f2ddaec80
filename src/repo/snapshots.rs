//! Reading the snapshots of a repository.

use std::sync::atomic::Ordering;

use super::Repository;
use crate::error::{Error, Result};
use crate::object::{DocumentError, Snapshot};
use crate::store::layout::{RefFile, SNAPSHOTS};
use crate::store::refs::{self, RefListing};

/// The snapshots of a repository.
#[derive(Debug, Default)]
pub struct SnapshotListing {
    /// Those that can be read, by number.
    pub snapshots: Vec<Snapshot>,
    /// The numbers of those that cannot, and why not.
    pub unreadable: Vec<(u64, Error)>,
}

impl Repository {
    /// The numbers of the snapshots and of the removed ones, without reading any.
    pub fn refs(&self) -> Result<RefListing> {
        let listing = refs::list(self.backend())?;
        // Where all refs are lost they may come back at any time.
        if !listing.has_no_trace() {
            self.next_number.fetch_max(listing.next_number(), Ordering::Relaxed);
        }
        Ok(listing)
    }

    /// The number after all that were in use when the refs were last listed, if they were: with thousands of them a listing
    /// takes longer than all else that a small snapshot does.
    pub(super) fn next_number(&self) -> Option<u64> {
        Some(self.next_number.load(Ordering::Relaxed)).filter(|next| *next > 0)
    }

    /// Reads every snapshot. One that cannot be read, or whose ref is lost, does not hide the others.
    pub fn snapshots(&self) -> Result<SnapshotListing> {
        let mut listing = SnapshotListing::default();
        for number in self.refs()?.expected() {
            match self.read_snapshot(number) {
                Ok(snapshot) => listing.snapshots.push(snapshot),
                Err(error) if error.is_interrupted() => return Err(error),
                Err(error) => listing.unreadable.push((number, error)),
            }
        }
        Ok(listing)
    }

    /// What is wrong if there is no trace of any snapshot in `snapshots`, and `cache` shows that there have been some. (What
    /// a snapshot saw is written down only after its ref is durable, and what prune removed leaves a trace.)
    pub fn all_lost(&self) -> Result<Option<Error>> {
        let is_lost = self.has_seen_some()? && self.refs()?.has_no_trace();
        Ok(is_lost.then(|| Error::Damaged {
            path: self.backend().describe(SNAPSHOTS),
            reason: "there were snapshots, and there is no trace of any".into(),
            next: "bring them back with `backuptool repair --from COPY`, from another copy of the repository, before anything \
                   else is done; to give them up, delete the directory `cache`"
                .into(),
        }))
    }

    /// Reads one snapshot.
    pub fn snapshot(&self, number: u64) -> Result<Snapshot> {
        let refs = self.refs()?;
        if refs.expected().binary_search(&number).is_err() {
            if let Some(lost) = self.all_lost()? {
                return Err(lost);
            }
            return Err(Error::NoSnapshot { wanted: number.to_string(), existing: refs.snapshots });
        }
        self.read_snapshot(number)
    }

    /// The newest snapshot that can be read and is one of those that are looked for.
    pub fn newest(&self, is_one: impl Fn(&Snapshot) -> bool) -> Result<Option<Snapshot>> {
        for number in self.refs()?.snapshots.into_iter().rev() {
            match self.read_snapshot(number) {
                Ok(snapshot) if is_one(&snapshot) => return Ok(Some(snapshot)),
                Err(error) if error.is_interrupted() => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Reads one snapshot that a listing has named: it does not list them all again to say which there are.
    pub fn read_snapshot(&self, number: u64) -> Result<Snapshot> {
        let path = || self.backend().describe(&RefFile::Ref(number).path());
        let damaged = |reason: String| Error::Damaged {
            path: path(),
            reason,
            next: format!(
                "run `backuptool repair --from COPY` with another copy of the repository, or remove the snapshot with \
                 `backuptool prune --snapshot={number}`"
            ),
        };
        let bytes = match refs::read(self.backend(), number) {
            Err(error) if error.is_not_found() => {
                return Err(damaged(
                    "its ref is lost: there is none, and nothing says that the snapshot was removed".into(),
                ));
            }
            other => other?,
        };
        let snapshot = Snapshot::decode(self.hash(), &bytes).map_err(|error| match error {
            DocumentError::Damaged(reason) => damaged(reason),
            DocumentError::TooNew(what) => Error::TooNew { path: path(), what },
        })?;
        if snapshot.number == number {
            Ok(snapshot)
        } else {
            Err(damaged(format!("it is the ref of snapshot {}", snapshot.number)))
        }
    }
}
