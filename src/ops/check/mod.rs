//! `check`: reads everything and says what is damaged, down to the files and snapshots that it belongs to.
//!
//! 1. Every stored object is read and hashed, on all cores; or as many as [`Extent`] says.
//! 2. Every distinct tree and list is walked once: what it refers to must be stored, whole, and of the length, size and
//!    shape that the reference says.
//! 3. If that found damage, the trees above it are walked once more for each snapshot, to name the files.
//!
//! What is only left over (objects that nothing needs, staging of a run that died, a removal that was interrupted) is no
//! damage: it is noted, and the next prune removes it.

mod extent;
pub(super) mod graph;
mod locate;
pub(super) mod packs;
pub(super) mod read;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZero;
use std::time::{Duration, Instant};

pub use self::extent::{Extent, Part};

use self::graph::Graph;
use self::locate::Locator;
use self::read::Contents;
use super::parallel;
use crate::error::{Error, ObjectProblem, Result};
use crate::object::{ObjectId, Snapshot};
use crate::progress::Progress;
use crate::repo::{Repository, Session, SharedRepository, SnapshotListing};
use crate::store::pack::PackName;
use crate::store::refs::RefListing;
use crate::store::verified::Verified;
use crate::store::{damaged, layout, loose, staging, verified};

/// How to check.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// What is read.
    pub extent: Extent,
    /// How many threads read.
    pub threads: NonZero<usize>,
}

impl CheckOptions {
    /// Everything is read.
    pub fn everything(threads: NonZero<usize>) -> Self {
        Self { extent: Extent::Everything, threads }
    }
}

/// What `check` found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// The snapshots that were checked.
    pub snapshots: u64,
    /// The objects that are stored.
    pub objects: u64,
    /// The bytes of their content, as far as they were read.
    pub bytes: u64,
    /// The objects that are stored and were not read, since they were not asked for: they are there, and that is all that
    /// is known of them, unless they are trees or lists.
    pub unread: u64,
    /// Those of them that an earlier check found damaged.
    pub unread_damaged: u64,
    /// Whether what earlier checks have found is not known for sure, and this one did not read everything: snapshots rely on
    /// nothing that they have not read.
    pub record_is_doubtful: bool,
    /// Objects that are damaged or missing, and what that concerns.
    pub damaged: BTreeMap<ObjectId, Damage>,
    /// Whether more paths are concerned than are named.
    pub more_files: bool,
    /// The packs that are stored.
    pub packs: u64,
    /// Packs that are not as they must be, and why. Objects in them that cannot be had otherwise are among the damaged.
    pub damaged_packs: Vec<(PackName, String)>,
    /// Why the damage could not be recorded in the repository, so that a snapshot would store again what is damaged.
    pub not_recorded: Option<Error>,
    /// Why it could not be recorded which packs are whole, for checks that pass over these.
    pub not_remembered: Option<Error>,
    /// Directories of objects that cannot be listed; what is in them is missing.
    pub unlistable: Vec<Error>,
    /// Whether a pack may not be opened by this process: it need not be damaged.
    pub is_denied: bool,
    /// Snapshots whose ref cannot be read or is wrong, and why.
    pub unreadable: Vec<(u64, Error)>,
    /// Those of them whose refs are lost, ascending.
    pub lost: Vec<u64>,
    /// What is wrong if all refs are lost, and it is sure that there were some.
    pub all_lost: Option<Error>,
    /// Snapshots whose labels cannot be read, and why. They restore all the same.
    pub damaged_labels: Vec<(u64, Error)>,
    /// The numbers of the snapshots that restore wholly.
    pub whole: Vec<u64>,
    /// What is left over and does no harm.
    pub leftovers: Leftovers,
    /// How long it took.
    pub elapsed: Duration,
}

impl CheckReport {
    /// Whether nothing is damaged.
    pub fn is_clean(&self) -> bool {
        self.lacks_nothing() && self.damaged_packs.is_empty()
    }

    /// Whether nothing is damaged but packs, if any: what is needed of them is whole then, there or elsewhere.
    pub fn lacks_nothing(&self) -> bool {
        self.damaged.is_empty()
            && self.unreadable.is_empty()
            && self.unlistable.is_empty()
            && self.damaged_labels.is_empty()
            && self.all_lost.is_none()
    }
}

impl CheckReport {
    /// The snapshots that a restore could not write wholly, and how many of the named paths each would lack.
    pub fn affected(&self) -> BTreeMap<u64, u64> {
        let mut paths: BTreeMap<u64, BTreeSet<&[u8]>> = BTreeMap::new();
        for (path, numbers) in self.damaged.values().flat_map(|damage| &damage.files) {
            for number in numbers {
                paths.entry(*number).or_default().insert(path);
            }
        }
        paths.into_iter().map(|(number, paths)| (number, paths.len() as u64)).collect()
    }
}

/// A damaged or missing object.
#[derive(Debug, PartialEq, Eq)]
pub struct Damage {
    /// What is wrong with it.
    pub problem: ObjectProblem,
    /// The paths that cannot be restored without it, and the snapshots in which that is so. Empty if none is known to
    /// need the object. The empty path is the top of a snapshot.
    pub files: BTreeMap<Vec<u8>, Vec<u64>>,
}

/// What is no damage. The next prune removes what is not needed; strangers are left alone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Stored objects that no snapshot needs; 0 while a ref, a tree or a list cannot be read, since what it needs is not
    /// known then.
    pub unneeded: u64,
    /// Staging directories whose writer died.
    pub staging: u64,
    /// Snapshots whose removal was interrupted; they are not listed any more.
    pub half_removed: Vec<u64>,
    /// Whether there are objects and no trace of any snapshot: `snapshots` may have been lost.
    pub lost_snapshots: bool,
    /// Files that are not the repository's.
    pub strangers: Vec<String>,
}

/// Checks the repository.
pub fn check(repo: &SharedRepository, options: &CheckOptions, session: &Session<'_>) -> Result<CheckReport> {
    let begun = Instant::now();
    let progress: &dyn Progress = session.progress;
    let threads = parallel::pool(options.threads)?;
    let refs = repo.refs()?;
    let listing = repo.snapshots()?;
    let mut damaged_before = damaged::read(repo.backend())?;
    // What is doubtful is settled by who reads everything.
    damaged_before.is_doubtful &= options.extent == Extent::Everything;
    let loose = loose::list(repo.backend())?;
    let verified_before = verified::read(repo.backend(), repo.place(), session.start)?;
    let contents = threads.install(|| read::read(repo, &loose.objects, &options.extent, &verified_before, progress))?;
    let graph = threads.install(|| walk_all(repo, &contents, &listing.snapshots))?;
    let mut report = judge(repo, &graph, &contents, listing)?;
    report.damaged_labels = damaged_labels(repo, &refs)?;
    report.all_lost = repo.all_lost()?;
    report.lost.clone_from(&refs.lost);
    // What an interruption kept from being read is among the damaged now: that is no report, and is not recorded.
    repo.go_on()?;
    report.packs = contents.packs;
    report.unlistable = loose.unreadable;
    report.leftovers = Leftovers {
        staging: staging::abandoned(repo.backend())?,
        lost_snapshots: refs.has_no_trace() && contents.totals().objects > 0,
        half_removed: refs.half_removed,
        strangers: strangers(refs.strangers, loose.strangers, repo.packs()?.strangers()),
        ..report.leftovers
    };
    let forgotten = if contents.index_misleads { repo.forget_index() } else { Ok(()) };
    let still_damaged = unread(repo, &contents, &damaged_before.objects)?;
    report.unread_damaged = still_damaged.len() as u64;
    let found = to_store_again(&contents, &report.damaged, still_damaged);
    let noted = repo.change_damaged(session, |noted| noted.replace(&damaged_before, &found));
    report.record_is_doubtful = noted.as_ref().map_or(damaged_before.is_doubtful, |noted| noted.is_doubtful);
    report.not_recorded = noted.err().or(forgotten.err());
    report.is_denied = contents.damaged_packs.iter().any(|(pack, _)| repo.denied(*pack).is_some());
    report.damaged_packs = contents.damaged_packs;
    let listed: HashSet<PackName> = repo.packs()?.list().into_iter().map(|(pack, _)| pack).collect();
    let remembered = repo.change_verified(session, |verified, noted| {
        // Of what another check has said meanwhile this one does not know better.
        let is_own = |pack: &PackName| verified.last(*pack) == verified_before.last(*pack);
        let own: Vec<PackName> = contents.whole_packs.iter().copied().filter(is_own).collect();
        verified.note(&own, session.start);
        let damaged = found.iter().chain(&noted.objects);
        let doubtful = doubtful_packs(repo, &report.damaged_packs, damaged)?;
        verified.retain(|pack| listed.contains(pack) && !doubtful.contains(pack));
        Ok(())
    });
    report.not_remembered = remembered.err();
    report.elapsed = begun.elapsed();
    Ok(report)
}

/// Reads everything; `loose` are the loose objects. Call it in the pool of threads that shall read.
pub(super) fn read_everything(repo: &Repository, loose: &[ObjectId], progress: &dyn Progress) -> Result<Contents> {
    read::read(repo, loose, &Extent::Everything, &Verified::default(), progress)
}

/// Walks what the snapshots refer to. Call it in the pool of threads that shall read.
pub(super) fn walk_all<'a>(repo: &'a Repository, contents: &'a Contents, snapshots: &[Snapshot]) -> Result<Graph<'a>> {
    let mut graph = Graph::new(repo, contents);
    for snapshot in snapshots {
        graph.walk(snapshot)?;
    }
    Ok(graph)
}

/// The snapshots that restore wholly.
pub(super) fn whole(graph: &Graph<'_>, snapshots: &[Snapshot]) -> Result<Vec<u64>> {
    let mut locator = Locator::new(graph);
    let mut whole = Vec::new();
    for snapshot in snapshots {
        if locator.locate(snapshot)?.found.is_empty() {
            whole.push(snapshot.number);
        }
    }
    Ok(whole)
}

/// What a walk over the snapshots says of them and of the objects that are stored.
pub(super) fn judge(
    repo: &Repository,
    graph: &Graph<'_>,
    contents: &Contents,
    listing: SnapshotListing,
) -> Result<CheckReport> {
    // What is needed through something that cannot be read is not known.
    let all_known = listing.unreadable.is_empty() && graph.is_complete();
    let unneeded = if all_known { graph.unneeded() } else { 0 };
    let totals = contents.totals();
    let mut report = CheckReport {
        snapshots: listing.snapshots.len() as u64,
        objects: totals.objects,
        bytes: totals.bytes,
        unread: totals.unread,
        unreadable: listing.unreadable,
        leftovers: Leftovers { unneeded, ..Leftovers::default() },
        ..CheckReport::default()
    };
    for (id, problem) in graph.problems() {
        report.damaged.insert(id, Damage { problem, files: BTreeMap::new() });
    }
    for (number, reason) in graph.wrong_refs() {
        let next =
            "run `backuptool repair --from COPY` with another copy of the repository; what the ref refers to can be \
                    restored"
                .into();
        let path = repo.backend().describe(&layout::RefFile::Ref(number).path());
        report.unreadable.push((number, Error::Damaged { path, reason: reason.to_string(), next }));
    }
    name_files(graph, &listing.snapshots, &mut report)?;
    Ok(report)
}

/// Those of these objects that are there and were not read.
fn unread(repo: &Repository, contents: &Contents, objects: &HashSet<ObjectId>) -> Result<Vec<ObjectId>> {
    let mut unread = Vec::new();
    for id in objects {
        if contents.is_unread(repo, *id)? {
            unread.push(*id);
        }
    }
    Ok(unread)
}

/// The objects that a snapshot must not rely on: what is damaged or missing now, and what was found so before and was not
/// read again.
fn to_store_again(
    contents: &Contents,
    damaged: &BTreeMap<ObjectId, Damage>,
    still_damaged: Vec<ObjectId>,
) -> Vec<ObjectId> {
    let mut all = still_damaged;
    all.extend(contents.damaged_in_packs.iter().chain(damaged.keys()));
    all.sort_unstable();
    all.dedup();
    all
}

/// The packs that are damaged, or hold something that is.
fn doubtful_packs<'o>(
    repo: &Repository,
    damaged: &[(PackName, String)],
    objects: impl Iterator<Item = &'o ObjectId>,
) -> Result<HashSet<PackName>> {
    let mut packs: HashSet<PackName> = damaged.iter().map(|(pack, _)| *pack).collect();
    for id in objects {
        // Or something whose name begins the same: then one pack more is read the next time.
        for location in repo.packs()?.find(*id)? {
            packs.insert(repo.packs()?.name(location.slot));
        }
    }
    Ok(packs)
}

/// The labels that cannot be read, of snapshots that there are; what a removed one has left is nobody's.
pub(super) fn damaged_labels(repo: &Repository, refs: &RefListing) -> Result<Vec<(u64, Error)>> {
    let mut damaged = Vec::new();
    for number in refs.labels.iter().filter(|number| refs.snapshots.binary_search(number).is_ok()) {
        match repo.labels(*number) {
            Ok(_) => {}
            Err(error) if error.is_interrupted() => return Err(error),
            Err(error) => damaged.push((*number, error)),
        }
    }
    Ok(damaged)
}

fn strangers(in_snapshots: Vec<String>, in_objects: Vec<String>, in_packs: Vec<String>) -> Vec<String> {
    let in_snapshots = in_snapshots.into_iter().map(|name| format!("{}/{name}", layout::SNAPSHOTS));
    in_snapshots.chain(in_objects).chain(in_packs).collect()
}

fn name_files(graph: &Graph<'_>, snapshots: &[Snapshot], report: &mut CheckReport) -> Result<()> {
    let mut locator = Locator::new(graph);
    for snapshot in snapshots {
        let places = locator.locate(snapshot)?;
        report.more_files |= places.more;
        if places.found.is_empty() {
            report.whole.push(snapshot.number);
        }
        for (id, path) in places.found {
            if let Some(damage) = report.damaged.get_mut(&id) {
                let numbers = damage.files.entry(path).or_default();
                if numbers.last() != Some(&snapshot.number) {
                    numbers.push(snapshot.number);
                }
            }
        }
    }
    Ok(())
}
