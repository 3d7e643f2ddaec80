//! `prune`: removes snapshots, and the objects that no other snapshot needs. Mark and sweep.
//!
//! Which snapshots go is said by number, or by rules ([`super::retention`]). Pinned ones never go.
//!
//! # The order, and why nothing is lost
//!
//! 1. **Plan**, under the shared lock: every snapshot that stays is read and everything it needs is marked. If one of
//!    them, or one of their trees or lists, cannot be read, then what it needs is not known, and nothing is removed. A
//!    missing blob is reported and hinders nothing. What is stored and not marked is dead. Of several copies of a needed
//!    object one that was read and hashed is kept ([`Repository::choose_keepers`]); the others are dead too.
//! 2. **Rewrite**, still under the shared lock: of packs that hold too much that is dead ([`PruneOptions::max_dead`]), the
//!    rest is copied to new packs, which are durable before anything is removed. A pack whose bytes do not give its name
//!    is left as it is. If the disk is full, nothing is rewritten, and what is dead as a whole still goes.
//! 3. The exclusive lock is taken: from here on there is no other process in the repository. What goes is decided once more,
//!    from the snapshots and labels that are there now, and of that only what was planned goes: what was pinned or tagged
//!    since stays, and so does what a rule keeps now because another prune has removed what the rule had kept. Snapshots
//!    that were not marked for the plan and stay (those that were added since, too) are marked now; they may need what the
//!    plan calls dead.
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

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use jiff::Zoned;

use super::retention::{self, Decision, Policy, Protection, Reason, Source, SourceFilter, Subject};
use crate::error::{Error, Result, number_ranges};
use crate::object::{ObjectId, Snapshot, display_bytes};
use crate::repo::{
    Copied, Copy, Keepers, Reachable, Removal, Repository, Session, SharedRepository, SnapshotListing, WriterOptions,
};
use crate::store::pack::PackName;
use crate::store::packs::Location;
use crate::store::{layout, loose};

/// A pack is rewritten when more than this share of its content is dead, in percent, unless another one is asked for.
pub const MOST_DEAD_PERCENT: u8 = 10;

/// What to prune, and how.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Which snapshots go.
    pub what: What,
    /// A pack is rewritten when more than this share of its content is dead, in percent.
    pub max_dead: u8,
}

/// Which snapshots go.
#[derive(Debug, Clone)]
pub enum What {
    /// None: only what no snapshot needs.
    Unreferenced {
        /// Whether that may be everything, where there is no trace of any snapshot.
        allow_empty: bool,
    },
    /// Those with these numbers.
    Numbers(Vec<u64>),
    /// Those that no rule keeps.
    Rules(Box<Rules>),
}

impl What {
    /// Those that are named.
    fn named(&self) -> &[u64] {
        match self {
            Self::Numbers(numbers) => numbers,
            Self::Unreferenced { .. } | Self::Rules(_) => &[],
        }
    }
}

/// Rules, and what they are applied with.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The rules.
    pub policy: Policy,
    /// The time, and the zone whose calendar counts.
    pub now: Zoned,
    /// Whether they may remove all snapshots of a source (or all there are, if they are applied to all together); and, where
    /// there is no trace of any snapshot, everything.
    pub allow_empty: bool,
}

impl PruneOptions {
    /// To remove these snapshots, or none and only what no snapshot needs.
    pub fn numbers(numbers: &[u64]) -> Self {
        let what =
            if numbers.is_empty() { What::Unreferenced { allow_empty: true } } else { What::Numbers(numbers.to_vec()) };
        Self { what, max_dead: MOST_DEAD_PERCENT }
    }

    /// To remove what these rules do not keep.
    pub fn rules(rules: Rules) -> Self {
        Self { what: What::Rules(Box::new(rules)), max_dead: MOST_DEAD_PERCENT }
    }
}

/// A snapshot, and what becomes of it.
#[derive(Debug, Clone)]
pub struct Considered {
    /// What its ref says, if that can be read.
    pub snapshot: Option<Snapshot>,
    /// What becomes of it.
    pub decision: Decision,
}

/// What a prune would remove.
#[derive(Debug)]
pub struct PrunePlan {
    /// All snapshots by number, with what becomes of each.
    pub considered: Vec<Considered>,
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
    what: What,
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
    /// All snapshots that there were, with what became of each.
    pub considered: Vec<Considered>,
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

/// Plans a prune. Changes nothing.
pub fn plan(repo: &Repository, options: &PruneOptions) -> Result<PrunePlan> {
    if let What::Numbers(numbers) = &options.what {
        // A snapshot whose removal was interrupted can be named again: what it alone needed may still be there.
        let refs = repo.refs()?;
        let expected = refs.expected();
        let is_known = |number: &u64| [&expected, &refs.pruned].iter().any(|known| known.binary_search(number).is_ok());
        if let Some(unknown) = numbers.iter().find(|number| !is_known(number)) {
            return Err(Error::NoSnapshot { wanted: unknown.to_string(), existing: refs.snapshots });
        }
    }
    refuse_without_trace(repo, &options.what)?;
    repo.refuse_denied("prune")?;
    let considered = consider(repo, &options.what)?;
    refuse_to_empty(&options.what, &considered)?;
    let (remove, keep) = split(&considered);
    let mut marks = Reachable::default();
    mark_all(repo, &keep, options.what.named(), &mut marks)?;

    let stored = loose::list(repo.backend())?.complete()?.objects;
    marks.note_loose(repo, &stored);
    let keepers = repo.choose_keepers(&stored, |id| marks.needs(repo, id))?;
    let mut dead = Vec::new();
    for id in stored.iter().filter(|id| !marks.needs(repo, id) || keepers.has_better(id, Copy::Loose)) {
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
            let location = Location { slot, position };
            if !marks.needs_at(repo, name, position, &member.id)
                || keepers.has_better(&member.id, Copy::Packed(location))
            {
                dead += 1;
                dead_bytes += u64::from(member.length);
            }
        }
        if dead == objects as u64 {
            dead_packs.push(PlannedPack { name, dead, bytes: file.length(), slot });
        } else if u128::from(dead_bytes) * 100 > u128::from(all_bytes) * u128::from(options.max_dead) {
            let bytes = u128::from(file.length()) * u128::from(dead_bytes) / u128::from(all_bytes);
            rewrite.push(PlannedPack { name, dead, bytes: u64::try_from(bytes).unwrap_or(0), slot });
        }
    }
    let missing = missing(repo, &stored, &marks)?;
    let what = options.what.clone();
    Ok(PrunePlan { considered, remove, keep, dead, dead_packs, rewrite, missing, what, marks, keepers })
}

/// Decides on each snapshot that there is now.
fn consider(repo: &Repository, what: &What) -> Result<Vec<Considered>> {
    let SnapshotListing { snapshots, unreadable } = repo.snapshots()?;
    let unreadable: Vec<u64> = unreadable.into_iter().map(|(number, _)| number).collect();
    let decide_alone = |number: u64| match what {
        What::Numbers(numbers) if numbers.contains(&number) => {
            refuse_pinned(repo, number)?;
            Ok(Decision { number, keep: false, reasons: vec![Reason::Named] })
        }
        What::Numbers(_) => Ok(Decision { number, keep: true, reasons: vec![Reason::NotNamed] }),
        // What cannot be read has no date and no source.
        What::Rules(_) => Ok(Decision { number, keep: true, reasons: vec![Reason::Unreadable] }),
        What::Unreferenced { .. } => Ok(Decision { number, keep: true, reasons: Vec::new() }),
    };
    let decisions = match what {
        What::Rules(rules) => {
            let subjects = snapshots.iter().map(|snapshot| subject(repo, snapshot)).collect::<Result<Vec<_>>>()?;
            refuse_unknown_sources(&rules.policy, &subjects)?;
            retention::decide(&subjects, &rules.policy, &rules.now)
        }
        _ => snapshots.iter().map(|snapshot| decide_alone(snapshot.number)).collect::<Result<_>>()?,
    };
    let readable = snapshots.into_iter().zip(decisions);
    let mut considered: Vec<Considered> =
        readable.map(|(snapshot, decision)| Considered { snapshot: Some(snapshot), decision }).collect();
    for number in unreadable {
        considered.push(Considered { snapshot: None, decision: decide_alone(number)? });
    }
    considered.sort_unstable_by_key(|one| one.decision.number);
    Ok(considered)
}

/// A snapshot as rules look at it. If its labels cannot be read, for whatever reason, it may be pinned.
fn subject(repo: &Repository, snapshot: &Snapshot) -> Result<Subject> {
    let (tags, protection) = match repo.labels(snapshot.number) {
        Ok(labels) => (labels.tags, labels.pinned.then_some(Protection::Pinned)),
        Err(error) if error.is_interrupted() => return Err(error),
        Err(error) => (BTreeSet::new(), Some(Protection::Unknown(error.to_string()))),
    };
    let source = Source { host: snapshot.host.clone(), path: snapshot.source.clone() };
    Ok(Subject { number: snapshot.number, time: snapshot.start, source, tags, protection })
}

/// Fails if a snapshot that was named is pinned. (Damaged labels are no obstacle: it was named.)
fn refuse_pinned(repo: &Repository, number: u64) -> Result<()> {
    match repo.labels(number) {
        Ok(labels) if labels.pinned => Err(Error::refused(
            format!("prune snapshot {number}"),
            "it is pinned",
            format!("if it is to go, run `backuptool unpin {number}` first; nothing was removed"),
        )),
        Ok(_) => Ok(()),
        Err(error) if error.is_unreadable() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Fails if a source was chosen of which there is no snapshot: it may have been mistyped.
fn refuse_unknown_sources(policy: &Policy, subjects: &[Subject]) -> Result<()> {
    let unknown = |filter: &&SourceFilter| !subjects.iter().any(|subject| filter.admits(&subject.source));
    let Some(filter) = policy.sources.iter().find(unknown) else { return Ok(()) };
    let host = filter.host.as_ref().map_or(String::new(), |host| format!("{}:", display_bytes(host)));
    let existing: BTreeSet<String> = subjects.iter().map(|subject| subject.source.to_string()).collect();
    let existing = existing.into_iter().collect::<Vec<_>>().join(", ");
    Err(Error::refused(
        format!("prune snapshots of {host}{}", display_bytes(&filter.path)),
        "there is none",
        format!("the repository holds those of: {existing}; nothing was removed"),
    ))
}

/// Fails if rules would leave nothing of what they were applied to, unless that was allowed.
fn refuse_to_empty(what: &What, considered: &[Considered]) -> Result<()> {
    let What::Rules(rules) = what else { return Ok(()) };
    if rules.allow_empty {
        return Ok(());
    }
    let policy = &rules.policy;
    let mut groups: BTreeMap<Option<Source>, (Vec<u64>, bool)> = BTreeMap::new();
    for Considered { snapshot, decision } in considered {
        let Some(snapshot) = snapshot else { continue };
        let source = Source { host: snapshot.host.clone(), path: snapshot.source.clone() };
        if policy.concerns(&source) {
            let (numbers, stays) = groups.entry(policy.group(&source).cloned()).or_default();
            numbers.push(decision.number);
            *stays |= decision.keep;
        }
    }
    let Some((source, (numbers, _))) = groups.into_iter().find(|(_, (_, stays))| !stays) else { return Ok(()) };
    let whose = source.map_or(String::new(), |source| format!(" of {source}"));
    Err(Error::refused(
        "prune by these rules",
        format!("they would remove every snapshot{whose} ({})", number_ranges(&numbers)),
        "add a rule that keeps some, choose sources with --source, or say --allow-empty; nothing was removed",
    ))
}

/// Fails if there are objects and no trace of any snapshot, unless that was allowed: the directory of the refs may be lost, or
/// not be there yet, and all objects would be removed.
fn refuse_without_trace(repo: &Repository, what: &What) -> Result<()> {
    let allows_empty = match what {
        What::Numbers(_) => true,
        What::Rules(rules) => rules.allow_empty,
        What::Unreferenced { allow_empty } => *allow_empty,
    };
    if allows_empty || !repo.refs()?.has_no_trace() {
        return Ok(());
    }
    if repo.packs()?.are_none() && loose::list(repo.backend())?.objects.is_empty() {
        return Ok(());
    }
    Err(Error::refused(
        "prune",
        "there is no trace of any snapshot, so everything that is stored would be removed; the directory `snapshots` may be \
         lost, or not be copied yet",
        "see that all of the repository is there, or bring the snapshots back with `backuptool repair --from COPY`; if there \
         never was one, say --allow-empty; nothing was removed",
    ))
}

/// Fails if one of the snapshots that are to stay is lost: nobody knows what it needs.
fn refuse_lost(repo: &Repository, stay: &[u64]) -> Result<()> {
    let mut lost = repo.refs()?.lost;
    lost.retain(|number| stay.binary_search(number).is_ok());
    if lost.is_empty() {
        return Ok(());
    }
    let numbers = number_ranges(&lost);
    let named = numbers.replace(", ", ",");
    Err(Error::refused(
        "prune",
        format!("the ref of snapshot {numbers} is lost: there is none, and nothing says that the snapshot was removed"),
        format!(
            "run `backuptool repair --from COPY` with another copy of the repository; if there is none, `backuptool prune \
             --snapshot={named}` gives the snapshot up; nothing was removed"
        ),
    ))
}

/// The numbers of those that go, and of those that stay.
fn split(considered: &[Considered]) -> (Vec<u64>, Vec<u64>) {
    let (stay, go): (Vec<&Considered>, Vec<_>) = considered.iter().partition(|one| one.decision.keep);
    let numbers = |of: Vec<&Considered>| of.into_iter().map(|one| one.decision.number).collect();
    (numbers(go), numbers(stay))
}

/// Decides once more, with nobody else in the repository: of what goes now, what was planned.
fn reconsider(repo: &Repository, plan: &PrunePlan) -> Result<Vec<Considered>> {
    let mut considered = consider(repo, &plan.what)?;
    for Considered { decision, .. } in &mut considered {
        if !decision.keep && plan.remove.binary_search(&decision.number).is_err() {
            decision.keep = true;
            decision.reasons = vec![Reason::NotPlanned];
        }
    }
    refuse_to_empty(&plan.what, &considered)?;
    Ok(considered)
}

/// What is needed and is neither loose nor in a pack, whatever the index of all packs says; in order.
fn missing(repo: &Repository, loose: &[ObjectId], marks: &Reachable) -> Result<Vec<ObjectId>> {
    let packs = repo.packs()?;
    let mut missing: Vec<ObjectId> = marks.apart().copied().filter(|id| loose.binary_search(id).is_err()).collect();
    loop {
        let edition = packs.edition();
        let mut still = Vec::new();
        for id in missing {
            if !packs.holds(id)? {
                still.push(id);
            }
        }
        missing = still;
        if missing.is_empty() || !packs.look_again(edition)? {
            missing.sort_unstable();
            return Ok(missing);
        }
    }
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
    let considered = reconsider(&repo, &plan)?;
    let (removed, kept) = split(&considered);
    refuse_lost(&repo, &kept)?;
    let unmarked: Vec<u64> = kept.into_iter().filter(|number| plan.keep.binary_search(number).is_err()).collect();
    mark_all(&repo, &unmarked, plan.what.named(), &mut plan.marks)?;

    repo.remove_snapshots(&removed, session)?;
    // The same objects in the same order give the same pack: one that an interrupted prune left may be new again.
    let going = plan.dead_packs.iter().map(|pack| pack.name).chain(rewriting.superseded.iter().copied());
    let removal = Removal {
        packs: going.filter(|pack| !rewriting.new.contains(pack)).collect(),
        loose: plan.dead.iter().map(|(id, _)| *id).collect(),
        trusted: rewriting.new.iter().copied().collect(),
        is_all_needed: false,
    };
    let (gone, swept) = repo.remove_copies(&removal, |id| plan.marks.needs(&repo, id), session);
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
        considered,
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
        let is_wanted = |position, id: &ObjectId| {
            let copy = Copy::Packed(Location { slot, position });
            plan.marks.needs_at(repo, pack.name, position, id) && !plan.keepers.has_better(id, copy)
        };
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

/// Marks what these snapshots need, which are to stay, beside those that are `named` to go. Fails if that cannot be found out.
fn mark_all(repo: &Repository, numbers: &[u64], named: &[u64], marks: &mut Reachable) -> Result<()> {
    refuse_lost(repo, numbers)?;
    let mut marking = marks.marking(repo)?;
    let mut unknown: Vec<(u64, Error)> = Vec::new();
    for number in numbers {
        match repo.read_snapshot(*number).and_then(|snapshot: Snapshot| marking.mark(&snapshot)) {
            // Those that are like it are to be named together: one alone could not be given up.
            Err(error) if error.is_unreadable() || matches!(error, Error::TooNew { .. }) => {
                unknown.push((*number, error));
            }
            Err(error @ Error::Io { .. }) => {
                return Err(Error::refused(
                    "prune",
                    format!("what snapshot {number} needs, which is to stay, cannot be read now ({error})"),
                    "mend the reason and run it again; nothing was removed",
                ));
            }
            other => other?,
        }
    }
    let Some((first, error)) = unknown.first() else { return Ok(()) };
    let unknown: Vec<u64> = unknown.iter().map(|(number, _)| *number).collect();
    let mut all = [named, &unknown[..]].concat();
    all.sort_unstable();
    let (unknown, all) = (number_ranges(&unknown), number_ranges(&all).replace(", ", ","));
    Err(Error::refused(
        "prune",
        format!("what snapshot {unknown} needs, which is to stay, cannot be found out ({first}: {})", error.reason()),
        format!(
            "run `backuptool check`, then `backuptool repair --from COPY` with another copy of the repository, or give \
             snapshot {unknown} up as well, with `backuptool prune --snapshot={all}`; nothing was removed"
        ),
    ))
}
