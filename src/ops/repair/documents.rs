//! The refs and labels that copies of the repository have, in the place of damaged or lost ones.
//!
//! Neither has a name that proves its content, so both come only from a copy of the very same repository: one that has
//! its id, and no other ref under a number that both have (then one of them went its own way). What was brought from a
//! copy counts for those that are asked after it.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::object::{Labels, ObjectId};
use crate::ops::check;
use crate::repo::{Repository, Session, SharedRepository, SnapshotListing};
use crate::store::refs::{self, RefListing};

/// What is to be brought, and what there is then.
#[derive(Default)]
pub(super) struct Documents {
    /// The snapshots that there are then.
    pub(super) listing: SnapshotListing,
    /// Whether there are objects here and no trace of any snapshot.
    pub(super) all_lost: bool,
    /// The number of the snapshot, that of the copy, and the content.
    pub(super) refs: Vec<(u64, usize, Vec<u8>)>,
    pub(super) labels: Vec<(u64, usize, Labels)>,
    /// The labels that no copy has whole.
    pub(super) damaged_labels: Vec<(u64, Error)>,
    /// Snapshots that a copy has, and of which there is no trace here.
    pub(super) not_here: Vec<u64>,
    /// The highest number of a snapshot that was removed, as far as the copies say, if that is lost here.
    pub(super) pruned: Option<u64>,
}

impl Documents {
    /// Finds what is damaged in copies. If there are objects and no trace of a snapshot, `snapshots` was lost, and all that
    /// they have is taken. Where there is a trace of others, a number that is not among them may be that of a snapshot that
    /// was removed, so it is only reported. `loose` are the loose objects that there are.
    pub(super) fn find(repo: &Repository, copies: &[SharedRepository], loose: &[ObjectId]) -> Result<Self> {
        let mut known = repo.refs()?;
        let mut found = Self { listing: repo.snapshots()?, ..Self::default() };
        let all_lost = known.has_no_trace() && !(loose.is_empty() && repo.packs()?.are_none());
        let of_same_id = (0..).zip(copies).filter(|(_, copy)| copy.config().id == repo.config().id);
        let mut copies: Vec<(usize, &SharedRepository)> = Vec::new();
        let mut not_here = BTreeSet::new();
        for (number, copy) in of_same_id {
            if !found.agrees_with(repo, &known, copy) {
                continue;
            }
            copies.push((number, copy));
            for snapshot in copy.snapshots()?.snapshots {
                let at = found.listing.unreadable.iter().position(|(damaged, _)| *damaged == snapshot.number);
                let is_wanted = match at {
                    Some(at) => found.listing.unreadable[at].1.is_unreadable(),
                    None => all_lost && found.listing.snapshots.iter().all(|found| found.number != snapshot.number),
                };
                let is_known = known.snapshots.contains(&snapshot.number) || known.pruned.contains(&snapshot.number);
                if is_wanted {
                    let content = refs::read(copy.backend(), snapshot.number)?;
                    if let Some(at) = at {
                        found.listing.unreadable.remove(at);
                    }
                    found.refs.push((snapshot.number, number, content));
                    found.listing.snapshots.push(snapshot);
                } else if !is_known {
                    not_here.insert(snapshot.number);
                }
            }
        }
        if all_lost {
            found.leave_out_pruned(&copies)?;
        }
        found.listing.snapshots.sort_unstable_by_key(|snapshot| snapshot.number);
        let brought: BTreeSet<u64> = found.refs.iter().map(|(number, ..)| *number).collect();
        found.not_here = not_here.difference(&brought).copied().collect();
        found.all_lost = all_lost;
        known.snapshots.extend(brought);
        known.snapshots.sort_unstable();
        known.snapshots.dedup();
        found.damaged_labels = check::damaged_labels(repo, &known)?;
        let may_be_lost = |number: u64| all_lost && !known.labels.contains(&number);
        found.find_labels(&copies, may_be_lost);
        Ok(found)
    }

    /// Leaves out what was removed as any copy says: a repair must not undo a prune. And no other snapshot shall get the
    /// number of one that was removed.
    fn leave_out_pruned(&mut self, copies: &[(usize, &SharedRepository)]) -> Result<()> {
        let mut pruned = BTreeSet::new();
        for (_, copy) in copies {
            pruned.extend(copy.refs()?.pruned);
        }
        self.refs.retain(|(number, ..)| !pruned.contains(number));
        self.listing.snapshots.retain(|snapshot| !pruned.contains(&snapshot.number));
        self.pruned = pruned.last().copied();
        Ok(())
    }

    /// Whether a copy has no other ref under a number that both have.
    fn agrees_with(&self, repo: &Repository, known: &RefListing, copy: &Repository) -> bool {
        // What is damaged says nothing. What is newer than this program is whole.
        let is_whole =
            |repo: &Repository, number| !repo.read_snapshot(number).is_err_and(|error| error.is_unreadable());
        let differs = |number: u64, content: &[u8]| {
            refs::read(copy.backend(), number).is_ok_and(|other| other != content) && is_whole(copy, number)
        };
        let own_differs = |number: u64| {
            refs::read(repo.backend(), number).is_ok_and(|content| differs(number, &content)) && is_whole(repo, number)
        };
        let brought_differs = |(number, _, content): &(u64, usize, Vec<u8>)| differs(*number, content);
        !known.snapshots.iter().any(|number| own_differs(*number)) && !self.refs.iter().any(brought_differs)
    }

    /// Finds labels for those that are damaged, or that may have been lost; else they were never given, or taken away.
    /// Newer ones are not for this program to judge.
    fn find_labels(&mut self, copies: &[(usize, &SharedRepository)], may_be_lost: impl Fn(u64) -> bool) {
        for snapshot in &self.listing.snapshots {
            let number = snapshot.number;
            let damaged = self.damaged_labels.iter().position(|(damaged, _)| *damaged == number);
            if !damaged.map_or_else(|| may_be_lost(number), |at| self.damaged_labels[at].1.is_unreadable()) {
                continue;
            }
            let labels = |(at, copy): &(usize, &SharedRepository)| {
                let is_same = copy.read_snapshot(number).is_ok_and(|other| other == *snapshot);
                let labels = is_same.then(|| copy.labels(number).ok())??;
                (!labels.is_empty()).then_some((number, *at, labels))
            };
            // The first that say that it is pinned, or else the first.
            let found = copies.iter().filter_map(labels).min_by_key(|(.., labels)| !labels.pinned);
            if let Some(labels) = found {
                self.labels.push(labels);
                damaged.map(|at| self.damaged_labels.remove(at));
            }
        }
    }

    /// Fails before anything is done if a snapshot that is to be removed is pinned, or will be by labels that are brought,
    /// or if nobody can say whether it is.
    pub(super) fn refuse_pinned(&self, repo: &Repository, numbers: &[u64]) -> Result<()> {
        for number in numbers {
            let is_pinned = match self.labels.iter().find(|(brought, ..)| brought == number) {
                Some((.., brought)) => Ok(brought.pinned),
                None => repo.labels(*number).map(|labels| labels.pinned),
            };
            let (reason, next) = match is_pinned {
                Ok(false) => continue,
                Ok(true) => (
                    "it is pinned",
                    format!(
                        "if it is to go, repair without removing anything, which brings the pin back if it comes from a \
                         copy, and then run `backuptool unpin {number}`"
                    ),
                ),
                Err(error) if error.is_unreadable() => (
                    "its labels are damaged as well, and they may have said that it is pinned",
                    format!("`backuptool prune --snapshot={number}` removes it all the same"),
                ),
                Err(error) => return Err(error),
            };
            let attempted = format!("remove the damaged snapshot {number}");
            return Err(Error::refused(attempted, reason, format!("nothing was changed; {next}")));
        }
        Ok(())
    }
}

/// Brings the labels that were found for snapshots whose labels are still damaged, or, where the refs had been lost and
/// `brought` are there again, not there. What somebody else wrote since then stays.
pub(super) fn bring_labels(
    repo: &SharedRepository,
    found: &[(u64, Labels)],
    brought: &[u64],
    session: &Session<'_>,
) -> Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let writer = repo.labels_writer(session)?;
    for (number, labels) in found {
        let is_wanted = match repo.labels(*number) {
            Ok(there) => there.is_empty() && brought.contains(number),
            Err(error) if error.is_interrupted() => return Err(error),
            Err(error) => error.is_unreadable(),
        };
        if is_wanted {
            writer.publish(&writer.stage(*number, labels)?)?;
        }
    }
    Ok(())
}
