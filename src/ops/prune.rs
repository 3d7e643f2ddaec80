//! `prune`: removes snapshots, and the objects that no other snapshot needs. Mark and sweep.
//!
//! # The order, and why nothing is lost
//!
//! 1. **Plan**, under the shared lock: every snapshot that stays is read and everything it needs is marked. If one of
//!    them, or one of their trees or lists, cannot be read, then what it needs is not known, and nothing is removed. A
//!    missing blob is reported and hinders nothing. What is stored and not marked is dead. Of several copies of a needed
//!    object one that was read and hashed is kept ([`Repository::choose_keepers`]); the others are dead too.
//! 2. **Rewrite**, still under the shared lock: of packs that hold too much that is dead ([`MOST_DEAD_PERCENT`]), the
//!    rest is copied to new packs, which are durable before anything is removed. A pack whose bytes do not give its name
//!    is left as it is. If the disk is full, nothing is rewritten, and what is dead as a whole still goes.
//! 3. The exclusive lock is taken: from here on there is no other process in the repository. Snapshots that were added
//!    since the plan was made are marked now; they may have reused what the plan calls dead.
//! 4. The refs go, and their removal is made durable.
//! 5. Dead objects and packs go, unless it shows that the last good copy of something that is needed now would go with
//!    them ([`ExclusiveRepository::remove_copies`]). What came into being after the plan is not on its list, and stays.
//!
//! An interruption ends it between steps, and in step 5 between files: that is then as far as a crash would have let it
//! come, and the next prune removes the rest. Step 4 is not interrupted: a ref takes one rename.
//!
//! A crash at any point leaves every remaining ref with all its objects. Nothing that must be written is written but for
//! the rewriting, so a full disk can be pruned.
//!
//! [`ExclusiveRepository::remove_copies`]: crate::repo::ExclusiveRepository::remove_copies

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::object::{ObjectId, Snapshot};
use crate::repo::{Copied, Copy, Keepers, Reachable, Removal, Repository, Session, SharedRepository, WriterOptions};
use crate::store::pack::PackName;
use crate::store::packs::Location;
use crate::store::{layout, loose};

/// A pack is rewritten when more than this share of its content is dead.
pub const MOST_DEAD_PERCENT: u64 = 10;

/// What a prune would remove.
#[derive(Debug)]
pub struct PrunePlan {
    /// The snapshots to remove, ascending.
    pub remove: Vec<u64>,
    /// The snapshots that stay, ascending.
    pub keep: Vec<u64>,
    /// The loose objects that no remaining snapshot needs (or of which there is a good copy in a pack), each with the bytes
    /// that its file has.
    pub dead: Vec<(ObjectId, u64)>,
    /// The packs in which nothing is needed.
    pub dead_packs: Vec<PlannedPack>,
    /// The packs that are to be rewritten without what is dead in them.
    pub rewrite: Vec<PlannedPack>,
    /// Blobs that remaining snapshots need and that are not stored.
    pub missing: Vec<ObjectId>,
    marks: Reachable,
    keepers: Keepers,
}

/// A pack of which something is to go.
#[derive(Debug)]
pub struct PlannedPack {
    /// Its name.
    pub name: PackName,
    /// The objects that go.
    pub dead: u64,
    /// The bytes that this frees, roughly.
    pub bytes: u64,
    slot: u32,
}

impl PrunePlan {
    /// The bytes that would be freed, roughly where packs are rewritten.
    pub fn bytes(&self) -> u64 {
        self.dead.iter().map(|(_, bytes)| bytes).sum::<u64>() + self.packs().map(|pack| pack.bytes).sum::<u64>()
    }

    /// The objects that would be removed.
    pub fn objects(&self) -> u64 {
        self.dead.len() as u64 + self.packs().map(|pack| pack.dead).sum::<u64>()
    }

    fn packs(&self) -> impl Iterator<Item = &PlannedPack> {
        self.dead_packs.iter().chain(&self.rewrite)
    }
}

/// What a prune did.
#[derive(Debug)]
pub struct PruneReport {
    /// The snapshots that were removed.
    pub removed: Vec<u64>,
    /// How many objects were removed.
    pub objects: u64,
    /// The bytes that were freed.
    pub bytes: u64,
    /// Packs that were removed because nothing in them is needed.
    pub packs_removed: u64,
    /// Packs that were rewritten.
    pub packs_rewritten: u64,
    /// Packs that should have been rewritten and were not, since their bytes do not give their name.
    pub rotten: Vec<PackName>,
    /// Why packs were not rewritten, if the disk was full.
    pub not_rewritten: Option<Error>,
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
    let keepers = repo.choose_keepers(&stored, |id| marks.needs(id))?;
    let mut dead = Vec::new();
    for id in stored.iter().filter(|id| !marks.needs(id) || keepers.has_better(id, Copy::Loose)) {
        // The length is for the report only.
        dead.push((*id, repo.backend().length(&layout::object_path(*id)).unwrap_or(0)));
    }
    let (mut dead_packs, mut rewrite) = (Vec::new(), Vec::new());
    for (slot, (name, _)) in (0..).zip(repo.packs()?.list()) {
        let (file, index) = match repo.packs()?.file(slot).and_then(|file| Ok((file.index()?, file))) {
            Ok((index, file)) => (file, index),
            // What is in it is not known, so it stays.
            Err(error) if error.is_unreadable() => continue,
            Err(error) => return Err(error),
        };
        let objects = index.members.len();
        let (mut dead, mut dead_bytes, mut all_bytes) = (0, 0, 0);
        for (position, member) in (0..).zip(index.members) {
            all_bytes += u64::from(member.length);
            if !is_alive(&marks, &keepers, Location { slot, position }, &member.id) {
                dead += 1;
                dead_bytes += u64::from(member.length);
            }
        }
        if dead == objects as u64 {
            dead_packs.push(PlannedPack { name, dead, bytes: file.length(), slot });
        } else if u128::from(dead_bytes) * 100 > u128::from(all_bytes) * u128::from(MOST_DEAD_PERCENT) {
            let bytes = u128::from(file.length()) * u128::from(dead_bytes) / u128::from(all_bytes);
            rewrite.push(PlannedPack { name, dead, bytes: u64::try_from(bytes).unwrap_or(0), slot });
        }
    }
    let missing = missing(repo, &stored, &marks)?;
    Ok(PrunePlan { remove, keep, dead, dead_packs, rewrite, missing, marks, keepers })
}

/// What is needed and is neither loose nor in a pack, whatever the index of all packs says; in order.
fn missing(repo: &Repository, loose: &[ObjectId], marks: &Reachable) -> Result<Vec<ObjectId>> {
    let packs = repo.packs()?;
    let mut missing: Vec<ObjectId> = marks.needed().copied().filter(|id| loose.binary_search(id).is_err()).collect();
    loop {
        let mut still = Vec::new();
        for id in missing {
            if !packs.holds(id)? {
                still.push(id);
            }
        }
        missing = still;
        if missing.is_empty() || !packs.look_again()? {
            missing.sort_unstable();
            return Ok(missing);
        }
    }
}

fn is_alive(marks: &Reachable, keepers: &Keepers, location: Location, id: &ObjectId) -> bool {
    marks.needs(id) && !keepers.has_better(id, Copy::Packed(location))
}

/// Executes a plan that was made on the same repository.
pub fn execute(
    repo: SharedRepository,
    mut plan: PrunePlan,
    options: WriterOptions,
    session: &Session<'_>,
) -> Result<PruneReport> {
    let begun = Instant::now();
    let rewriting = rewrite(&repo, &plan, options, session)?;
    let before = stored_bytes(&repo, &plan, &rewriting);

    let mut repo = repo.into_exclusive(session)?;
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

    repo.remove_snapshots(&removed)?;
    // The same objects in the same order give the same pack: one that an interrupted prune left may be new again.
    let going = plan.dead_packs.iter().map(|pack| pack.name).chain(rewriting.superseded.iter().copied());
    let removal = Removal {
        packs: going.filter(|pack| !rewriting.new.contains(pack)).collect(),
        loose: plan.dead.iter().map(|(id, _)| *id).collect(),
        trusted: rewriting.new.iter().copied().collect(),
    };
    let (gone, swept) = repo.remove_copies(&removal, |id| plan.marks.needs(id));
    let tidied = repo.remove_leftovers(announced.as_ref());
    drop(announced);
    let packs_changed = !gone.packs.is_empty() || !rewriting.new.is_empty();
    let indexed = if packs_changed { repo.rebuild_index(session) } else { Ok(()) };
    swept.and(tidied).and(indexed).map_err(|error| {
        if error.is_interrupted() {
            return error
                .interrupted_after("the snapshots are removed, and the next prune frees the rest of their space");
        }
        Error::refused(
            "remove everything that is not needed any more",
            error.to_string(),
            "the snapshots are removed; mend the reason and run the same prune again to free the rest",
        )
    })?;

    let gone_packs: HashSet<PackName> = gone.packs.into_iter().collect();
    let removed_packs = || plan.dead_packs.iter().filter(|pack| gone_packs.contains(&pack.name));
    let rewritten_packs = || plan.rewrite.iter().filter(|pack| gone_packs.contains(&pack.name));
    Ok(PruneReport {
        removed,
        objects: gone.loose.len() as u64 + removed_packs().chain(rewritten_packs()).map(|pack| pack.dead).sum::<u64>(),
        bytes: before.freed(&gone.loose, &gone_packs),
        packs_removed: removed_packs().count() as u64,
        packs_rewritten: rewritten_packs().count() as u64,
        rotten: rewriting.rotten,
        not_rewritten: rewriting.full,
        missing: plan.missing,
        elapsed: begun.elapsed(),
    })
}

/// What came of the rewriting.
#[derive(Debug, Default)]
struct Rewriting {
    /// Packs that can go: what was needed in them is in new packs. (Or new packs themselves, where the disk became full.)
    superseded: Vec<PackName>,
    /// The new packs.
    new: Vec<PackName>,
    rotten: Vec<PackName>,
    full: Option<Error>,
}

fn rewrite(
    repo: &SharedRepository,
    plan: &PrunePlan,
    options: WriterOptions,
    session: &Session<'_>,
) -> Result<Rewriting> {
    let mut rewriting = Rewriting::default();
    if plan.rewrite.is_empty() {
        return Ok(rewriting);
    }
    let mut new = Vec::new();
    match copy_alive(repo, plan, options, session, &mut rewriting, &mut new) {
        Ok(()) => rewriting.new = new,
        Err(error) if error.is_full() => {
            // What was copied so far is still in the old packs as well.
            rewriting.superseded = new;
            rewriting.full = Some(error);
        }
        Err(error) => return Err(error),
    }
    Ok(rewriting)
}

fn copy_alive(
    repo: &SharedRepository,
    plan: &PrunePlan,
    options: WriterOptions,
    session: &Session<'_>,
    rewriting: &mut Rewriting,
    new: &mut Vec<PackName>,
) -> Result<()> {
    let mut repacker = repo.repacker(session, options)?;
    let copied = plan.rewrite.iter().try_for_each(|pack| {
        let slot = pack.slot;
        let is_wanted = |position, id: &ObjectId| is_alive(&plan.marks, &plan.keepers, Location { slot, position }, id);
        match repacker.copy(slot, is_wanted)? {
            Copied::Wholly => rewriting.superseded.push(pack.name),
            Copied::Rotten => rewriting.rotten.push(pack.name),
        }
        Ok(())
    });
    let finished = copied.and_then(|()| repacker.finish());
    *new = repacker.finished().to_vec();
    finished
}

/// The lengths of the files that may go, and of those that came.
struct StoredBytes {
    loose: Vec<(ObjectId, u64)>,
    packs: Vec<(PackName, u64)>,
    new: u64,
}

fn stored_bytes(repo: &Repository, plan: &PrunePlan, rewriting: &Rewriting) -> StoredBytes {
    // Lengths are for the report only.
    let length = |name: &PackName| repo.backend().length(&name.path()).unwrap_or(0);
    let names = plan.packs().map(|pack| pack.name).chain(rewriting.superseded.iter().copied());
    StoredBytes {
        loose: plan.dead.clone(),
        packs: names.map(|name| (name, length(&name))).collect(),
        new: rewriting.new.iter().map(length).sum(),
    }
}

impl StoredBytes {
    fn freed(&self, loose: &[ObjectId], packs: &HashSet<PackName>) -> u64 {
        let loose: HashSet<&ObjectId> = loose.iter().collect();
        let loose: u64 = self.loose.iter().filter(|(id, _)| loose.contains(id)).map(|(_, bytes)| bytes).sum();
        let mut counted = HashSet::new();
        let gone = self.packs.iter().filter(|(name, _)| packs.contains(name) && counted.insert(*name));
        (loose + gone.map(|(_, bytes)| bytes).sum::<u64>()).saturating_sub(self.new)
    }
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
