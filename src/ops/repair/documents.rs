//! The refs and labels that copies of the repository have, in the place of damaged or lost ones.
//!
//! Neither has a name that proves its content, so both come only from a copy of the very same repository: one that has
//! its id, and no other ref under a number that both have (then one of them went its own way). What was brought from a
//! copy counts for those that are asked after it.
//!
//! # Why what is lost can be brought back in several runs
//!
//! Where all refs were lost nothing here says which there were, so all that copies have is taken. The highest comes first:
//! as soon as it is there, the lower ones show as lost ([`RefListing::lost`]), to the next repair, to a check, and to a
//! prune, which refuses to remove anything then. The labels of a lost ref come right before it: a run that is stopped in
//! between leaves a ref to bring, and never a snapshot whose pin nobody misses. The number cannot be given out meanwhile,
//! but to one who looked for a free number before a higher ref came: if that shows, the labels are taken away again. What
//! copies say was removed does not come, and is noted last, since such a note says the same of all lower numbers.

use std::collections::BTreeSet;
use std::mem;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::object::{Labels, ObjectId};
use crate::ops::check;
use crate::repo::{LabelsWriter, Mender, Repository, Session, SharedRepository, SnapshotListing};
use crate::store::refs::{self, RefListing};

/// What a copy has of a snapshot, and this repository not, or not whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Brought<T> {
    /// The number of the snapshot.
    pub number: u64,
    /// The repository that it comes from.
    pub from: PathBuf,
    pub(super) content: T,
}

/// What is to be brought, and what there is then.
#[derive(Default)]
pub(super) struct Documents {
    /// The snapshots that there are then.
    pub(super) listing: SnapshotListing,
    /// Those of them whose refs stay lost, ascending.
    pub(super) lost: Vec<u64>,
    /// Whether there are objects here and no trace of any snapshot.
    pub(super) all_lost: bool,
    /// Ascending.
    pub(super) refs: Vec<Brought<Vec<u8>>>,
    pub(super) labels: Vec<Brought<Labels>>,
    /// The labels that no copy has whole.
    pub(super) damaged_labels: Vec<(u64, Error)>,
    /// Snapshots that a copy has, and of which there is no trace here.
    pub(super) not_here: Vec<u64>,
    /// Copies that went their own way, from which neither refs nor labels come.
    pub(super) strayed: Vec<PathBuf>,
    /// The highest number of a snapshot that was removed, as far as the copies say, if that is to be noted here.
    pub(super) pruned: Option<u64>,
}

impl Documents {
    /// Finds what is damaged or lost in copies. If there are objects and no trace of a snapshot, `snapshots` was lost, and
    /// all that they have is taken. Else a number that is not there and does not show as lost may be that of a snapshot that
    /// was removed, so it is only reported. `loose` are the loose objects that there are.
    pub(super) fn find(repo: &Repository, copies: &[SharedRepository], loose: &[ObjectId]) -> Result<Self> {
        let mut known = repo.refs()?;
        let mut found = Self { listing: repo.snapshots()?, ..Self::default() };
        let all_lost = known.has_no_trace() && !(loose.is_empty() && repo.packs()?.are_none());
        let of_same_id = copies.iter().filter(|copy| copy.config().id == repo.config().id);
        let mut copies: Vec<&SharedRepository> = Vec::new();
        let mut not_here = BTreeSet::new();
        for copy in of_same_id {
            if !found.agrees_with(repo, &known, copy) {
                found.strayed.push(copy.backend().describe(""));
                continue;
            }
            copies.push(copy);
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
                    found.refs.push(Brought { number: snapshot.number, from: copy.backend().describe(""), content });
                    found.listing.snapshots.push(snapshot);
                } else if !is_known {
                    not_here.insert(snapshot.number);
                }
            }
        }
        let removed = found.leave_out_removed(&copies, &known, all_lost)?;
        found.listing.snapshots.sort_unstable_by_key(|snapshot| snapshot.number);
        found.refs.sort_unstable_by_key(|brought| brought.number);
        let brought: BTreeSet<u64> = found.refs.iter().map(|brought| brought.number).collect();
        found.not_here = not_here.difference(&brought).copied().collect();
        found.all_lost = all_lost;
        found.lost = found.listing.unreadable.iter().map(|(number, _)| *number).collect();
        found.lost.retain(|number| known.lost.binary_search(number).is_ok());
        found.pruned = removed.into_iter().filter(|number| found.is_to_note(*number, &known, all_lost)).max();
        known.snapshots.extend(brought);
        known.snapshots.sort_unstable();
        known.snapshots.dedup();
        found.damaged_labels = check::damaged_labels(repo, &known)?;
        let may_be_lost = |number: u64| all_lost || known.lost.binary_search(&number).is_ok();
        found.find_labels(&copies, |number| may_be_lost(number) && known.labels.binary_search(&number).is_err());
        Ok(found)
    }

    /// Leaves out what was removed as copies say: a repair must not undo a prune. Where all refs are lost any of them may say
    /// so. But a single one that is lost was not removed here, so it comes back if any copy has it. Returns the numbers of
    /// removed snapshots that may have to be noted: of lost ones that no copy has, and the highest that copies know.
    fn leave_out_removed(
        &mut self,
        copies: &[&SharedRepository],
        known: &RefListing,
        all_lost: bool,
    ) -> Result<Vec<u64>> {
        let of_copies = copies.iter().map(|copy| copy.refs()).collect::<Result<Vec<_>>>()?;
        let is_removed = |number: u64| of_copies.iter().any(|refs| refs.is_removed(number));
        if all_lost {
            self.refs.retain(|brought| !is_removed(brought.number));
            self.listing.snapshots.retain(|snapshot| !is_removed(snapshot.number));
        }
        let is_lost = |number: u64| known.lost.binary_search(&number).is_ok();
        let lost = self.listing.unreadable.iter().map(|(number, _)| *number).filter(|number| is_lost(*number));
        let gone: Vec<u64> = lost.filter(|number| is_removed(*number)).collect();
        self.listing.unreadable.retain(|(number, _)| !gone.contains(number));
        let highest = of_copies.iter().filter_map(|refs| refs.pruned.last()).max().copied();
        let is_here = |number: &u64| self.listing.snapshots.iter().any(|snapshot| snapshot.number == *number);
        Ok(gone.into_iter().chain(highest.filter(|number| !is_here(number))).collect())
    }

    /// Whether it is to be noted that there was a snapshot of this number, which copies know to be removed: lest it and
    /// lower ones count as lost, or another one get the number. Not as long as a lower one is lost, which would not show
    /// any more then; nor where a copy just has more snapshots.
    fn is_to_note(&self, removed: u64, known: &RefListing, all_lost: bool) -> bool {
        let numbers = || self.listing.snapshots.iter().map(|snapshot| snapshot.number);
        let stays_lost = |(number, _): &(u64, Error)| *number < removed && known.lost.binary_search(number).is_ok();
        let next = known.next_number().max(numbers().max().map_or(1, |highest| highest + 1));
        let concerns =
            all_lost || !known.lost.is_empty() || removed >= next && self.not_here.iter().all(|more| *more < next);
        known.pruned.last() < Some(&removed) && concerns && !self.listing.unreadable.iter().any(stays_lost)
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
        let brought_differs = |brought: &Brought<Vec<u8>>| differs(brought.number, &brought.content);
        !known.snapshots.iter().any(|number| own_differs(*number)) && !self.refs.iter().any(brought_differs)
    }

    /// Finds labels for those that are damaged, or that may have been lost; else they were never given, or taken away.
    /// Newer ones are not for this program to judge.
    fn find_labels(&mut self, copies: &[&SharedRepository], may_be_lost: impl Fn(u64) -> bool) {
        for snapshot in &self.listing.snapshots {
            let number = snapshot.number;
            let damaged = self.damaged_labels.iter().position(|(damaged, _)| *damaged == number);
            if !damaged.map_or_else(|| may_be_lost(number), |at| self.damaged_labels[at].1.is_unreadable()) {
                continue;
            }
            let labels = |copy: &&SharedRepository| {
                let is_same = copy.read_snapshot(number).is_ok_and(|other| other == *snapshot);
                let content = is_same.then(|| copy.labels(number).ok())??;
                let from = copy.backend().describe("");
                (!content.is_empty()).then_some(Brought { number, from, content })
            };
            // The first that say that it is pinned, or else the first.
            let found = copies.iter().filter_map(labels).min_by_key(|labels| !labels.content.pinned);
            if let Some(labels) = found {
                self.labels.push(labels);
                damaged.map(|at| self.damaged_labels.remove(at));
            }
        }
    }

    /// Leaves these snapshots out, unless one of them is pinned. Returns the others.
    pub(super) fn leave_out(&mut self, repo: &Repository, numbers: &[u64]) -> Result<SnapshotListing> {
        self.refuse_pinned(repo, numbers)?;
        let stays = |number: u64| numbers.binary_search(&number).is_err();
        self.lost.retain(|number| stays(*number));
        self.labels.retain(|labels| stays(labels.number));
        self.damaged_labels.retain(|(number, _)| stays(*number));
        let mut listing = mem::take(&mut self.listing);
        listing.snapshots.retain(|snapshot| stays(snapshot.number));
        listing.unreadable.retain(|(number, _)| stays(*number));
        Ok(listing)
    }

    /// Fails before anything is done if a snapshot that is to be removed is pinned, or will be by labels that are brought,
    /// or if nobody can say whether it is.
    fn refuse_pinned(&self, repo: &Repository, numbers: &[u64]) -> Result<()> {
        for number in numbers {
            let is_pinned = match self.labels.iter().find(|brought| brought.number == *number) {
                Some(brought) => Ok(brought.content.pinned),
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

/// Brings refs, ascending, the highest first, each after its labels; then the labels of others, which were damaged. Returns
/// the refs that did not come, since another snapshot has the number by now. What somebody else wrote since then stays.
pub(super) fn bring(
    repo: &SharedRepository,
    mender: &Mender<'_>,
    refs: &[Brought<Vec<u8>>],
    labels: &[Brought<Labels>],
    session: &Session<'_>,
) -> Result<Vec<u64>> {
    let mut taken = Vec::new();
    let writer = if labels.is_empty() { None } else { Some(repo.labels_writer(session)?) };
    let bring_labels_of = |number: u64| match (&writer, labels.iter().find(|labels| labels.number == number)) {
        (Some(writer), Some(labels)) => bring_labels(repo, writer, labels, true),
        _ => Ok(false),
    };
    for Brought { number, content, .. } in refs.iter().rev() {
        let is_free = repo.read_snapshot(*number).is_err();
        let is_labelled = is_free && bring_labels_of(*number)?;
        if mender.put_ref(*number, content)? {
            bring_labels_of(*number)?;
            continue;
        }
        taken.push(*number);
        if let Some(writer) = writer.as_ref().filter(|_| is_labelled) {
            writer.publish(&writer.stage(*number, &Labels::default())?)?;
        }
    }
    for labels in labels.iter().filter(|labels| refs.iter().all(|brought| brought.number != labels.number)) {
        if let Some(writer) = &writer {
            bring_labels(repo, writer, labels, false)?;
        }
    }
    Ok(taken)
}

/// Brings labels in the place of those that are damaged, or, if their ref was lost, not there. Returns whether it did.
fn bring_labels(
    repo: &SharedRepository,
    writer: &LabelsWriter<'_>,
    Brought { number, content, .. }: &Brought<Labels>,
    was_lost: bool,
) -> Result<bool> {
    let is_wanted = match repo.labels(*number) {
        Ok(there) => there.is_empty() && was_lost,
        Err(error) if error.is_interrupted() => return Err(error),
        Err(error) => error.is_unreadable(),
    };
    if is_wanted {
        writer.publish(&writer.stage(*number, content)?)?;
    }
    Ok(is_wanted)
}
