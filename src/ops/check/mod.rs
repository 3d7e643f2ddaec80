//! `check`: reads everything and says what is damaged, down to the files and snapshots that it belongs to.
//!
//! 1. Every stored object is read and hashed, on all cores.
//! 2. Every distinct tree and list is walked once: what it refers to must be stored, whole, and of the length, size and
//!    shape that the reference says.
//! 3. If that found damage, the trees above it are walked once more for each snapshot, to name the files.
//!
//! What is only left over (objects that nothing needs, staging of a run that died, a removal that was interrupted) is no
//! damage: it is noted, and the next prune removes it.

mod graph;
mod locate;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZero;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use self::graph::Graph;
use super::parallel;
use crate::error::{Error, ObjectProblem, Result};
use crate::object::{ObjectId, Snapshot};
use crate::progress::Progress;
use crate::repo::Repository;
use crate::store::{layout, loose, staging};

/// What `check` found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// The snapshots that were checked.
    pub snapshots: u64,
    /// The objects that are stored.
    pub objects: u64,
    /// The bytes of their content.
    pub bytes: u64,
    /// Objects that are damaged or missing, and what that concerns.
    pub damaged: BTreeMap<ObjectId, Damage>,
    /// Whether more paths are concerned than are named.
    pub more_files: bool,
    /// Directories of objects that cannot be listed; what is in them is missing.
    pub unlistable: Vec<Error>,
    /// Snapshots whose ref cannot be read or is wrong, and why.
    pub unreadable: Vec<(u64, Error)>,
    /// The numbers of the snapshots that restore wholly.
    pub whole: Vec<u64>,
    /// What is left over and does no harm.
    pub leftovers: Leftovers,
    /// How long it took.
    pub elapsed: Duration,
}

impl CheckReport {
    /// Whether anything is damaged.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.unreadable.is_empty() && self.unlistable.is_empty()
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

/// What does no harm and is removed by the next prune.
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

/// What is known of a stored object.
enum Stored {
    /// It is whole and has so many bytes.
    Whole(u64),
    Damaged(String),
}

/// Checks everything, reading everything.
pub fn check(repo: &Repository, threads: NonZero<usize>, progress: &dyn Progress) -> Result<CheckReport> {
    let begun = Instant::now();
    let threads = parallel::pool(threads)?;
    let refs = repo.refs()?;
    let listing = repo.snapshots()?;
    let loose = loose::list(repo.backend())?;
    let stored = threads.install(|| read_all(repo, &loose.objects, progress));

    let mut graph = Graph::new(repo, &stored);
    for snapshot in &listing.snapshots {
        graph.walk(snapshot);
    }
    graph.settle();
    // What is needed through something that cannot be read is not known.
    let all_known = listing.unreadable.is_empty() && graph.is_complete();
    let unneeded = if all_known { stored.keys().filter(|id| !graph.needs(id)).count() as u64 } else { 0 };
    let mut report = CheckReport {
        snapshots: listing.snapshots.len() as u64,
        objects: loose.objects.len() as u64,
        bytes: stored.values().map(|stored| if let Stored::Whole(length) = stored { *length } else { 0 }).sum(),
        unlistable: loose.unreadable,
        unreadable: listing.unreadable,
        leftovers: Leftovers {
            unneeded,
            staging: staging::abandoned(repo.backend())?,
            lost_snapshots: refs.snapshots.is_empty() && refs.pruned.is_empty() && !loose.objects.is_empty(),
            half_removed: refs.half_removed,
            strangers: strangers(refs.strangers, loose.strangers),
        },
        ..CheckReport::default()
    };
    for (id, problem) in graph.problems() {
        report.damaged.insert(id, Damage { problem, files: BTreeMap::new() });
    }
    for (number, reason) in graph.wrong_refs() {
        let next = "copy this file from another copy of the repository; what it refers to can be restored".into();
        let path = repo.backend().describe(&layout::RefFile::Ref(number).path());
        report.unreadable.push((number, Error::Damaged { path, reason: reason.to_string(), next }));
    }
    name_files(&graph, &listing.snapshots, &mut report);
    report.elapsed = begun.elapsed();
    Ok(report)
}

fn read_all(repo: &Repository, ids: &[ObjectId], progress: &dyn Progress) -> HashMap<ObjectId, Stored> {
    let read = |id: &ObjectId| {
        let stored = match repo.read_object(*id) {
            Ok(content) => Stored::Whole(content.len() as u64),
            Err(Error::Object { problem: ObjectProblem::Damaged(reason), .. }) => Stored::Damaged(reason),
            Err(Error::Object { problem: ObjectProblem::Missing, .. }) => {
                Stored::Damaged("its file vanished during the check".into())
            }
            // A file that cannot be read (a bad sector, a wrong owner) is damage as well; the others are still checked.
            Err(error) => Stored::Damaged(error.to_string()),
        };
        progress.advance(1, if let Stored::Whole(length) = &stored { *length } else { 0 });
        (*id, stored)
    };
    ids.par_iter().map(read).collect()
}

fn strangers(in_snapshots: Vec<String>, in_objects: Vec<String>) -> Vec<String> {
    let in_snapshots = in_snapshots.into_iter().map(|name| format!("{}/{name}", layout::SNAPSHOTS));
    in_snapshots.chain(in_objects).collect()
}

fn name_files(graph: &Graph<'_>, snapshots: &[Snapshot], report: &mut CheckReport) {
    for snapshot in snapshots {
        let places = locate::locate(graph, snapshot);
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
}
