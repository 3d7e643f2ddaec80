//! `prune`: removes snapshots, and the objects that no other snapshot needs. Mark and sweep.
//!
//! # The order, and why nothing is lost
//!
//! 1. **Plan**, under the shared lock: every snapshot that stays is read and everything it needs is marked. If one of
//!    them, or one of their trees or lists, cannot be read, then what it needs is not known, and nothing is removed. A
//!    missing blob is reported and hinders nothing. What is stored and not marked is the plan's list of dead objects.
//! 2. The exclusive lock is taken: from here on there is no other process in the repository. Snapshots that were added
//!    since the plan was made are marked now; they may have reused what the plan calls dead.
//! 3. The refs go, and their removal is made durable.
//! 4. Dead objects go. An object that came into being after the plan is not on its list, and stays.
//!
//! A crash at any point leaves every remaining ref with all its objects. Nothing but `tmp/RUN/info.json`, which is not
//! needed, is written, so a full disk can be pruned.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::object::{ObjectId, Snapshot};
use crate::repo::{Reachable, Repository, Session, SharedRepository};
use crate::store::{layout, loose};

/// What a prune would remove.
#[derive(Debug)]
pub struct PrunePlan {
    /// The snapshots to remove, ascending.
    pub remove: Vec<u64>,
    /// The snapshots that stay, ascending.
    pub keep: Vec<u64>,
    /// The stored objects that no remaining snapshot needs, each with the bytes that its file has.
    pub dead: Vec<(ObjectId, u64)>,
    /// Blobs that remaining snapshots need and that are not stored.
    pub missing: Vec<ObjectId>,
    marks: Reachable,
}

impl PrunePlan {
    /// The bytes that would be freed.
    pub fn bytes(&self) -> u64 {
        self.dead.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What a prune did.
#[derive(Debug)]
pub struct PruneReport {
    /// The snapshots that were removed.
    pub removed: Vec<u64>,
    /// How many objects were removed.
    pub objects: u64,
    /// The bytes that their files had.
    pub bytes: u64,
    /// Blobs that remaining snapshots need and that are not stored.
    pub missing: Vec<ObjectId>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Plans the removal of the snapshots `numbers`. Changes nothing.
pub fn plan(repo: &Repository, numbers: &[u64]) -> Result<PrunePlan> {
    let refs = repo.refs()?;
    // A snapshot whose removal was interrupted can be named again: what it alone needed may still be there.
    let is_known =
        |number: &u64| refs.snapshots.binary_search(number).is_ok() || refs.pruned.binary_search(number).is_ok();
    if let Some(unknown) = numbers.iter().find(|number| !is_known(number)) {
        return Err(Error::NoSnapshot { wanted: unknown.to_string(), existing: refs.snapshots });
    }
    let (remove, keep): (Vec<u64>, Vec<u64>) = refs.snapshots.into_iter().partition(|number| numbers.contains(number));
    let mut marks = Reachable::default();
    mark_all(repo, &keep, &mut marks)?;

    let stored = loose::list(repo.backend())?.complete()?.objects;
    let mut dead = Vec::new();
    for id in stored.iter().filter(|id| !marks.needs(id)) {
        // The length is for the report only.
        dead.push((*id, repo.backend().length(&layout::object_path(*id)).unwrap_or(0)));
    }
    let mut missing: Vec<ObjectId> = marks.needed().filter(|id| stored.binary_search(id).is_err()).copied().collect();
    missing.sort_unstable();
    Ok(PrunePlan { remove, keep, dead, missing, marks })
}

/// Executes a plan that was made on the same repository.
pub fn execute(repo: SharedRepository, mut plan: PrunePlan, session: &Session<'_>) -> Result<PruneReport> {
    let begun = Instant::now();
    let repo = repo.into_exclusive(session)?;
    let announced = repo.announce(session);
    let existing = repo.refs()?.snapshots;
    let new: Vec<u64> = existing
        .iter()
        .copied()
        .filter(|number| plan.keep.binary_search(number).is_err() && plan.remove.binary_search(number).is_err())
        .collect();
    mark_all(&repo, &new, &mut plan.marks)?;
    // Another prune may have removed some of them in the meantime.
    let removed: Vec<u64> =
        plan.remove.iter().copied().filter(|number| existing.binary_search(number).is_ok()).collect();
    plan.dead.retain(|(id, _)| !plan.marks.needs(id));

    repo.remove_snapshots(&removed)?;
    let swept = repo.remove_objects(plan.dead.iter().map(|(id, _)| *id));
    let tidied = repo.remove_leftovers(announced.as_ref());
    swept.and(tidied).map_err(|error| {
        Error::refused(
            "remove everything that is not needed any more",
            error.to_string(),
            "the snapshots are removed; mend the reason and run the same prune again to free the rest",
        )
    })?;
    Ok(PruneReport {
        removed,
        objects: plan.dead.len() as u64,
        bytes: plan.bytes(),
        missing: plan.missing,
        elapsed: begun.elapsed(),
    })
}

fn mark_all(repo: &Repository, numbers: &[u64], marks: &mut Reachable) -> Result<()> {
    for number in numbers {
        let marked = repo.snapshot(*number).and_then(|snapshot: Snapshot| marks.mark(repo, &snapshot));
        marked.map_err(|error| match error {
            Error::Damaged { .. } | Error::Object { .. } | Error::TooNew { .. } | Error::Io { .. } => Error::refused(
                "prune",
                format!("snapshot {number} is to stay and what it needs cannot be found out ({})", error.reason()),
                format!(
                    "run `backuptool check`, then bring the damaged file back from another copy of the repository, or \
                     prune snapshot {number} as well; nothing was removed"
                ),
            ),
            other => other,
        })?;
    }
    Ok(())
}
