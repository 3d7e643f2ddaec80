//! `repair`: brings back what is damaged or missing, and clears away what is damaged and superseded.
//!
//! # The plan
//!
//! [`plan`] changes nothing. It reads everything, as `check` does, and looks for what is needed and not whole: in the
//! damaged packs themselves ([`Salvage`]), in other repositories, in a directory. A tree that is found may need more, which
//! is looked for in turn, until nothing more is found. What is found is taken for stored, and the snapshots are walked
//! once more: so the plan says what `check` would say after it.
//!
//! # The order, and why nothing is lost
//!
//! [`execute`] keeps to what durability asks for, everywhere: first what comes, then what goes.
//!
//! 1. **Bring**, under the shared lock, beside others: the configuration, whole packs, objects; what stays damaged is
//!    noted, lest a snapshot relies on it; then refs with their labels, in an order that shows what is still lost if it is
//!    stopped (`documents.rs`). Each is verified and durable before it is visible ([`Mender`](crate::repo::Mender), and for
//!    labels [`LabelsWriter`](crate::repo::LabelsWriter)). A crash leaves what was there, and some of what was brought.
//! 2. **Remove snapshots**, if that was asked for: those that are not whole even now, by a prune
//!    ([`prune`]): refs, sync, objects.
//! 3. **Clear away**, under the exclusive lock. First it is noted which snapshots copies know to be removed, if their refs
//!    were lost, so that no other gets the number. The marks of all refs that there are then decide what is needed; if any of
//!    them, or a tree or list, cannot be read, everything is. A damaged loose file goes if a whole copy of the object stands
//!    in a pack, or nothing needs it. A rotten pack goes if all that is needed of it was read and hashed elsewhere under
//!    this lock ([`ExclusiveRepository::remove_rotten`](crate::repo::ExclusiveRepository::remove_rotten)). What the plan
//!    believed does not count here: only what is there.
//! 4. Still under it `cache/index` is written anew from the packs themselves. At last what is damaged now is noted instead
//!    of what was.
//!
//! What was not any more as the plan had seen it is not done, and nothing that comes after bringing either: the next run
//! plans anew.
//!
//! Nobody can hide behind a name: whatever another repository or a directory gives has the hash that is its name, or is
//! not taken. Refs, labels and the configuration have no such name; they come only from a copy of the very same repository
//! (`config.rs`, `documents.rs`), and only in the place of what is damaged, or where all refs are lost. (Of labels
//! the copy may have older ones: they are the only documents that change.)
//!
//! A second run finds nothing to do.

mod config;
mod directory;
mod documents;
mod origins;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use self::directory::{Directory, Interest};
pub use self::documents::Brought;
use self::documents::Documents;
pub use self::origins::Whence;
use self::origins::{Found, Origin, Origins};
use super::check::graph::{Graph, Wanted};
use super::check::read::{Contents, Stored};
use super::check::{self, CheckReport, packs};
use super::parallel;
use super::prune::{self, PruneOptions};
use crate::error::{Error, Result};
use crate::fs::{Identity, SourceDir};
use crate::object::{Labels, ObjectId, Snapshot, display_path};
use crate::repo::{
    Copy, Elsewhere, ExclusiveRepository, Reachable, Repository, Rotten, Session, SharedRepository, SnapshotListing,
    WriterOptions,
};
use crate::store::damaged::{self, Damaged};
use crate::store::pack::{PackName, Salvage};
use crate::store::{Backend, loose};

/// Where to look, and what to do.
#[derive(Debug, Default)]
pub struct RepairOptions<'a> {
    /// Other repositories, the first one first.
    pub copies: Vec<SharedRepository>,
    /// A directory whose files may be what is missing.
    pub directory: Option<&'a Path>,
    /// Whether snapshots that cannot be made whole are to be removed.
    pub remove_damaged_snapshots: bool,
}

/// What a repair would do.
#[derive(Debug)]
pub struct RepairPlan {
    /// The other repository that `config.json` comes from, if it has to.
    pub config: Option<PathBuf>,
    /// The refs to bring back, by number.
    pub refs: Vec<Brought<Vec<u8>>>,
    /// The labels to bring back.
    pub labels: Vec<Brought<Labels>>,
    /// The number of a snapshot that was removed, as a copy says: no other snapshot shall get it.
    pub pruned: Option<u64>,
    /// The packs to bring back as they are.
    pub packs: Vec<BroughtPack>,
    /// The bytes of their content.
    pub bytes: u64,
    /// Damaged packs that go, since nothing is needed of them that does not stand elsewhere then.
    pub superseded_packs: Vec<PackName>,
    /// Damaged files of loose objects that go: nothing needs the object, or it stands in a pack then.
    pub superseded_loose: Vec<ObjectId>,
    /// The snapshots to remove, ascending.
    pub remove: Vec<u64>,
    /// The snapshots that are not whole even then, ascending; those to be removed are among them.
    pub damaged_snapshots: Vec<u64>,
    /// Whether `cache/index` says otherwise than the packs.
    pub index_is_wrong: bool,
    /// Whether `cache/damaged` is out of date.
    pub record_is_old: bool,
    /// Snapshots of which a copy of this repository has the ref, and this one no trace: they were never here, were removed,
    /// or their refs were lost.
    pub not_here: Vec<u64>,
    /// The highest number of a snapshot that is known to be removed here; 0 if there is none.
    pub removed_up_to: u64,
    /// Copies of this repository that have another ref under a number that both have: neither refs nor labels come from
    /// them.
    pub strayed: Vec<PathBuf>,
    /// What `check` would find then.
    pub remaining: CheckReport,
    repo: SharedRepository,
    backend: Arc<dyn Backend>,
    origins: Arc<Origins>,
    config_content: Option<Vec<u8>>,
    found: BTreeMap<ObjectId, Found>,
    as_loose: bool,
    rotten: Vec<Rotten>,
    /// What `cache/damaged` said before everything was read, and what it is to say instead.
    recorded: Damaged,
    still_damaged: Vec<ObjectId>,
}

/// A pack that a copy has whole.
#[derive(Debug)]
pub struct BroughtPack {
    /// Its name.
    pub name: PackName,
    /// The repository that it comes from.
    pub from: PathBuf,
    copy: usize,
}

impl RepairPlan {
    /// The objects to store again, and from where.
    pub fn objects(&self) -> impl ExactSizeIterator<Item = (ObjectId, Whence)> {
        self.found.iter().map(|(id, found)| (*id, self.origins.whence(found.origin)))
    }

    /// Whether there is nothing to do.
    pub fn is_nothing(&self) -> bool {
        let notes_nothing = self.pruned.is_none() && !self.index_is_wrong && !self.record_is_old;
        !self.brings() && !self.clears() && self.remove.is_empty() && notes_nothing
    }

    fn brings(&self) -> bool {
        let brings_documents = self.config.is_some() || !self.refs.is_empty() || !self.labels.is_empty();
        brings_documents || !self.packs.is_empty() || !self.found.is_empty()
    }

    fn clears(&self) -> bool {
        !self.superseded_packs.is_empty() || !self.superseded_loose.is_empty()
    }
}

/// What a repair did: what was planned, if `not_done` is empty.
#[derive(Debug)]
pub struct RepairReport {
    /// What was planned and could not be done, since something was not any more what the plan had seen. Then nothing was
    /// removed either, and refs and labels are not brought if an object or a pack is among it.
    pub not_done: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Plans a repair of the repository on `backend`. Changes nothing.
pub fn plan(
    backend: Arc<dyn Backend>,
    options: RepairOptions<'_>,
    writing: WriterOptions,
    threads: NonZero<usize>,
    session: &Session<'_>,
) -> Result<RepairPlan> {
    let RepairOptions { copies, directory, remove_damaged_snapshots } = options;
    refuse_itself(&*backend, &copies)?;
    // Before it is known whether it is needed: a name that is mistyped should not be found out on the day on which it is.
    directory.map(SourceDir::open).transpose().map_err(|error| {
        Error::refused("repair", error.to_string(), "name a directory that you may read; nothing was changed")
    })?;
    let (mut repo, config) = config::open(Arc::clone(&backend), &copies, session)?;
    refuse_other_hash(&repo, &copies)?;
    let pool = parallel::pool(threads)?;
    repo.look_elsewhere(None)?;
    let loose = loose::list(repo.backend())?;
    let mut brought = Documents::find(&repo, &copies, &loose.objects)?;
    let recorded = damaged::read(repo.backend())?;
    let mut contents = pool.install(|| check::read_everything(&repo, &loose.objects, session.progress))?;
    let (salvages, untouchable) = pool.install(|| salvage(&repo, &contents));
    let rotten = salvages.iter().map(Salvage::name).collect();
    let origins = Arc::new(Origins::new(repo.rules(), salvages, copies, directory));
    let mut taken = Taken::default();
    pool.install(|| taken.replace(&repo, &origins, &mut contents))?;
    repo.look_elsewhere(Some(Arc::clone(&origins) as Arc<dyn Elsewhere>))?;
    let search = Search { repo: &repo, origins: &origins, directory, threads, session };
    pool.install(|| search.run(&mut contents, &brought.listing.snapshots))?;
    pool.install(|| taken.take_wanted(&repo, &origins, &mut contents))?;

    // What an interruption kept from being read or found is no plan.
    repo.go_on()?;

    // What is to be then.
    let walk = |snapshots: &[Snapshot]| pool.install(|| check::walk_all(&repo, &contents, snapshots));
    let graph = walk(&brought.listing.snapshots)?;
    let damaged_snapshots = damaged_snapshots(&graph, &brought.listing)?;
    let remove = if remove_damaged_snapshots { damaged_snapshots.clone() } else { Vec::new() };
    let listing = brought.leave_out(&repo, &remove)?;
    let graph = if remove.is_empty() { graph } else { walk(&listing.snapshots)? };
    // Where all refs are lost and none is brought, it is not known what they needed.
    let is_all_lost = brought.all_lost && listing.snapshots.is_empty();
    let is_all_known =
        !is_all_lost && listing.unreadable.is_empty() && graph.is_complete() && loose.unreadable.is_empty();
    taken.leave_out(|id| is_all_known && !graph.needs(id));
    let is_damaged_loose: HashSet<ObjectId> = contents.damaged_loose.iter().copied().collect();
    let whole_loose = loose.objects.into_iter().filter(|id| !is_damaged_loose.contains(id)).collect();
    let verdict = Verdict {
        repo: &repo,
        graph: &graph,
        contents: &contents,
        origins: &origins,
        taken: &taken,
        rotten,
        whole_loose,
        is_all_known,
    };
    let found = verdict.to_store()?;
    let bytes = found.values().map(|found| found.length).sum();
    let as_loose = loose.unreadable.is_empty() && writing.stay_loose(found.len(), bytes);
    let (going, staying) = verdict.packs(&found)?;
    let (superseded_loose, kept_loose) = verdict.loose(&found, as_loose)?;
    let remaining = CheckReport {
        unlistable: loose.unreadable,
        damaged_labels: brought.damaged_labels,
        lost: brought.lost,
        all_lost: if brought.refs.is_empty() && brought.pruned.is_none() { repo.all_lost()? } else { None },
        ..verdict.remaining(listing, &staying, &untouchable, kept_loose)?
    };
    repo.go_on()?;
    let still_damaged: Vec<ObjectId> = remaining.damaged.keys().copied().collect();
    Ok(RepairPlan {
        config: config.as_ref().map(|config| origins.path_of(config.copy)),
        refs: brought.refs,
        labels: brought.labels,
        packs: taken.packs.iter().map(|pack| pack.brought(&origins)).collect(),
        bytes,
        superseded_packs: going.iter().map(|salvage| salvage.name()).collect(),
        superseded_loose,
        remove,
        damaged_snapshots,
        index_is_wrong: !repo.packs()?.agree_with_file()?,
        record_is_old: recorded.is_doubtful || recorded.objects != still_damaged.iter().copied().collect(),
        not_here: brought.not_here,
        removed_up_to: repo.refs()?.pruned.last().copied().unwrap_or(0),
        strayed: brought.strayed,
        remaining,
        rotten: going.iter().map(|gone| Rotten { name: gone.name(), held: gone.objects().collect() }).collect(),
        config_content: config.map(|config| config.content),
        pruned: brought.pruned,
        found,
        as_loose,
        recorded,
        still_damaged,
        origins: Arc::clone(&origins),
        backend,
        repo,
    })
}

fn refuse_itself(backend: &dyn Backend, copies: &[SharedRepository]) -> Result<()> {
    let identity = |backend: &dyn Backend| backend.local_root().map(Identity::of).transpose();
    let own = identity(backend)?;
    for copy in copies {
        if own.is_some() && own == identity(copy.backend())? {
            return Err(Error::refused(
                format!("repair the repository {} from itself", display_path(&backend.describe(""))),
                "what is damaged in it cannot come from there",
                "name another copy of it, or another repository that holds the same files",
            ));
        }
    }
    Ok(())
}

fn refuse_other_hash(repo: &Repository, copies: &[SharedRepository]) -> Result<()> {
    for copy in copies {
        let [own, other] = [repo, copy].map(|repo| repo.hash().name());
        if own != other {
            return Err(Error::refused(
                format!(
                    "repair the repository {} from {}",
                    display_path(&repo.backend().describe("")),
                    display_path(&copy.backend().describe(""))
                ),
                format!("the other one names objects by another hash ({other}, not {own})"),
                "name a repository that uses the same hash; nothing was changed",
            ));
        }
    }
    Ok(())
}

/// The damaged packs with what is whole in them, and those that cannot be looked into for another reason.
fn salvage(repo: &Repository, contents: &Contents) -> (Vec<Salvage>, HashSet<PackName>) {
    let names: BTreeSet<PackName> = contents.damaged_packs.iter().map(|(name, _)| *name).collect();
    let read = |name: PackName| (name, Salvage::read(repo.backend(), repo.rules(), name));
    let read: Vec<_> = names.into_par_iter().map(read).collect();
    let (mut salvages, mut untouchable) = (Vec::new(), HashSet::new());
    for (name, salvage) in read {
        match salvage {
            Ok(salvage) => salvages.push(salvage),
            // It may be whole, for who may read it.
            Err(_) => drop(untouchable.insert(name)),
        }
    }
    (salvages, untouchable)
}

/// Packs that are to be taken from copies as they are.
#[derive(Default)]
struct Taken {
    packs: Vec<TakenPack>,
    /// What is in them.
    objects: HashSet<ObjectId>,
}

struct TakenPack {
    copy: usize,
    name: PackName,
    members: Vec<ObjectId>,
}

impl TakenPack {
    fn brought(&self, origins: &Origins) -> BroughtPack {
        BroughtPack { name: self.name, from: origins.path_of(self.copy), copy: self.copy }
    }
}

impl Taken {
    /// Takes the packs of which the repository has a damaged one.
    fn replace(&mut self, repo: &Repository, origins: &Origins, contents: &mut Contents) -> Result<()> {
        for salvage in &origins.salvages {
            for (number, copy) in origins.copies.iter().enumerate() {
                let list = copy.packs()?.list();
                let slot = (0..).zip(list).find(|(_, (name, _))| *name == salvage.name()).map(|(slot, _)| slot);
                if let Some(slot) = slot
                    && self.take(repo, origins, (number, slot), contents)?
                {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes the packs that consist of what was found in them for the greater part.
    fn take_wanted(&mut self, repo: &Repository, origins: &Origins, contents: &mut Contents) -> Result<()> {
        let mut wanted: BTreeMap<(usize, u32), u64> = BTreeMap::new();
        let found: Vec<(ObjectId, Found)> = origins.found().iter().map(|(id, found)| (*id, *found)).collect();
        for (id, found) in found.into_iter().filter(|(id, _)| !self.objects.contains(id)) {
            if let Origin::Copy(copy) = found.origin
                && let Some(location) = origins.copies[copy].packed_copies(id)?.first()
            {
                *wanted.entry((copy, location.slot)).or_default() += found.length + MEMBER_OVERHEAD;
            }
        }
        let own: HashSet<PackName> = repo.packs()?.list().into_iter().map(|(name, _)| name).collect();
        for ((number, slot), wanted) in wanted {
            let Ok(index) =
                origins.copies[number].packs()?.file(slot).and_then(|pack| Ok((pack.name(), pack.index()?)))
            else {
                continue;
            };
            let (name, index) = index;
            let all: u64 = index.members.iter().map(|member| u64::from(member.length) + MEMBER_OVERHEAD).sum();
            if wanted.saturating_mul(2) >= all && !own.contains(&name) {
                self.take(repo, origins, (number, slot), contents)?;
            }
        }
        Ok(())
    }

    /// Takes the pack in a slot of a copy, if all of it is whole.
    fn take(
        &mut self,
        repo: &Repository,
        origins: &Origins,
        (copy, slot): (usize, u32),
        contents: &mut Contents,
    ) -> Result<bool> {
        let mut objects = Vec::new();
        let problems = packs::read_all(&origins.copies[copy], &[slot], |frame| objects.extend(frame.objects))?;
        if !problems.is_empty() {
            return Ok(false);
        }
        let name = origins.copies[copy].packs()?.file(slot)?.name();
        let mut members = Vec::with_capacity(objects.len());
        for (id, stored) in objects {
            // There are no problems, so all are whole.
            let Ok(length) = stored else { continue };
            origins.note(id, Found { origin: Origin::Copy(copy), kind: name.kind, length });
            members.push(id);
            contents.add(repo, id, Stored::Whole(length))?;
        }
        self.objects.extend(&members);
        self.packs.push(TakenPack { copy, name, members });
        Ok(true)
    }

    /// Leaves packs out of which nothing is needed.
    fn leave_out(&mut self, is_dead: impl Fn(&ObjectId) -> bool) {
        self.packs.retain(|pack| !pack.members.iter().all(&is_dead));
        self.objects = self.packs.iter().flat_map(|pack| &pack.members).copied().collect();
    }

    fn has(&self, name: PackName) -> bool {
        self.packs.iter().any(|pack| pack.name == name)
    }
}

/// What an object costs in a pack besides its content, roughly.
const MEMBER_OVERHEAD: u64 = 64;

/// Looks for what is needed and not whole.
struct Search<'a> {
    repo: &'a Repository,
    origins: &'a Origins,
    directory: Option<&'a Path>,
    threads: NonZero<usize>,
    session: &'a Session<'a>,
}

impl Search<'_> {
    /// Takes what is found for stored, and looks again: what was found may need more.
    fn run(&self, contents: &mut Contents, snapshots: &[Snapshot]) -> Result<()> {
        let mut interest = Interest::default();
        loop {
            let wanted = check::walk_all(self.repo, contents, snapshots)?.wanted();
            self.look_for(wanted, contents, &mut interest)?;
            let found = self.origins.found();
            let is_new = |(id, _): &(&ObjectId, &Found)| !contents.is_whole(self.repo, **id);
            let new: Vec<(ObjectId, u64)> =
                found.iter().filter(is_new).map(|(id, found)| (*id, found.length)).collect();
            drop(found);
            if new.is_empty() {
                return Ok(());
            }
            for (id, length) in new {
                contents.add(self.repo, id, Stored::Whole(length))?;
            }
        }
    }

    /// `read` is what the directory was read for so far.
    fn look_for(&self, wanted: Vec<Wanted>, contents: &Contents, read: &mut Interest) -> Result<()> {
        let missing = self.origins.look_for(wanted.clone(), |id| contents.is_whole(self.repo, *id));
        let Some(path) = self.directory.filter(|_| !missing.is_empty()) else { return Ok(()) };
        let mut interest = read.clone();
        for wanted in missing {
            interest.add(wanted);
        }
        if interest == *read {
            return Ok(());
        }
        *read = interest;
        let found: HashSet<ObjectId> = self.origins.found().keys().copied().collect();
        let is_here = |id: &ObjectId| contents.is_whole(self.repo, *id) && !found.contains(id);
        let handles = parallel::Handles::for_threads(self.threads);
        let directory = Directory::read(path, read, self.repo, handles, is_here, self.session.progress)?;
        *self.origins.directory.write().unwrap_or_else(PoisonError::into_inner) = directory;
        self.origins.look_for(wanted, |id| contents.is_whole(self.repo, *id));
        Ok(())
    }
}

/// The snapshots that do not restore wholly. One that is too new for this program is not among them.
fn damaged_snapshots(graph: &Graph<'_>, listing: &SnapshotListing) -> Result<Vec<u64>> {
    let whole = check::whole(graph, &listing.snapshots)?;
    let numbers = listing.snapshots.iter().map(|snapshot| snapshot.number);
    let lacking = numbers.filter(|number| !whole.contains(number));
    let unreadable = listing.unreadable.iter().filter(|(_, error)| error.is_unreadable()).map(|(number, _)| *number);
    let all: BTreeSet<u64> = lacking.chain(unreadable).collect();
    Ok(all.into_iter().collect())
}

/// What is to be stored and what goes, when all that can be found was found.
struct Verdict<'a> {
    repo: &'a Repository,
    graph: &'a Graph<'a>,
    contents: &'a Contents,
    origins: &'a Origins,
    taken: &'a Taken,
    rotten: HashSet<PackName>,
    whole_loose: HashSet<ObjectId>,
    is_all_known: bool,
}

impl Verdict<'_> {
    /// The objects to be stored again: what was found and is needed, and what is whole in damaged packs alone.
    fn to_store(&self) -> Result<BTreeMap<ObjectId, Found>> {
        let is_to_be = |id: &ObjectId| self.graph.needs(id) && !self.taken.objects.contains(id);
        let found = self.origins.found();
        let mut objects: BTreeMap<ObjectId, Found> =
            found.iter().filter(|(id, _)| is_to_be(id)).map(|(id, found)| (*id, *found)).collect();
        for (number, salvage) in self.origins.salvages.iter().enumerate() {
            for id in salvage.objects().filter(is_to_be) {
                if let Some(Stored::Whole(length)) = self.contents.find(self.repo, id)?.stored
                    && !objects.contains_key(&id)
                    && !self.stands_outside(id)?
                {
                    let (origin, kind) = (Origin::Salvage(number), salvage.name().kind);
                    objects.insert(id, Found { origin, kind, length });
                }
            }
        }
        Ok(objects)
    }

    /// Whether a whole copy is in a pack that is not damaged.
    fn stands_in_pack(&self, id: ObjectId) -> Result<bool> {
        let list = self.repo.packs()?.list();
        let copies = self.repo.packed_copies(id)?;
        Ok(copies.iter().any(|location| !self.rotten.contains(&list[location.slot as usize].0)))
    }

    /// Whether a whole copy is in a pack that is not damaged, or loose.
    fn stands_outside(&self, id: ObjectId) -> Result<bool> {
        Ok(self.whole_loose.contains(&id) || self.stands_in_pack(id)?)
    }

    /// Whether a whole copy will be outside damaged packs.
    fn will_stand(&self, id: ObjectId, to_store: &BTreeMap<ObjectId, Found>) -> Result<bool> {
        Ok(to_store.contains_key(&id) || self.taken.objects.contains(&id) || self.stands_outside(id)?)
    }

    /// The damaged packs that go, and those that stay. (Those that are replaced do neither.)
    fn packs(&self, to_store: &BTreeMap<ObjectId, Found>) -> Result<(Vec<&Salvage>, Vec<&Salvage>)> {
        let (mut going, mut staying) = (Vec::new(), Vec::new());
        let lacks_something = !self.graph.wanted().is_empty();
        for salvage in self.origins.salvages.iter().filter(|salvage| !self.taken.has(salvage.name())) {
            let goes = match salvage.members() {
                None => self.is_all_known && !lacks_something,
                Some(members) => {
                    let mut goes = true;
                    for id in members {
                        let is_needed = !self.is_all_known || self.graph.needs(id);
                        goes &= !is_needed || self.will_stand(*id, to_store)?;
                    }
                    goes
                }
            };
            if goes { going.push(salvage) } else { staying.push(salvage) }
        }
        Ok((going, staying))
    }

    /// The damaged loose files that go, and those that stay. (Those that are replaced do neither.)
    fn loose(
        &self,
        to_store: &BTreeMap<ObjectId, Found>,
        as_loose: bool,
    ) -> Result<(Vec<ObjectId>, HashSet<ObjectId>)> {
        let (mut going, mut staying) = (Vec::new(), HashSet::new());
        for id in &self.contents.damaged_loose {
            let is_stored = to_store.contains_key(id);
            if is_stored && as_loose {
                continue;
            }
            let is_dead = self.is_all_known && !self.graph.needs(id);
            if is_stored || is_dead || self.taken.objects.contains(id) || self.stands_in_pack(*id)? {
                going.push(*id);
            } else {
                staying.insert(*id);
            }
        }
        going.sort_unstable();
        Ok((going, staying))
    }

    /// What a check would find of these snapshots when everything is done, if these damaged packs, those that could not be
    /// looked into, and these damaged loose files stay.
    fn remaining(
        &self,
        listing: SnapshotListing,
        packs: &[&Salvage],
        untouchable: &HashSet<PackName>,
        loose: HashSet<ObjectId>,
    ) -> Result<CheckReport> {
        let mut remaining = check::judge(self.repo, self.graph, self.contents, listing)?;
        let in_packs = packs.iter().flat_map(|salvage| salvage.members().unwrap_or_default()).copied();
        let kept: HashSet<ObjectId> = loose.into_iter().chain(in_packs).collect();
        remaining.damaged.retain(|id, _| self.graph.needs(id) || kept.contains(id));
        let stays = |name: &PackName| untouchable.contains(name) || packs.iter().any(|kept| kept.name() == *name);
        let damaged = self.contents.damaged_packs.iter();
        remaining.damaged_packs = damaged.filter(|(name, _)| stays(name)).cloned().collect();
        Ok(remaining)
    }
}

/// Carries out a plan.
pub fn execute(plan: RepairPlan, options: WriterOptions, session: &Session<'_>) -> Result<RepairReport> {
    let begun = Instant::now();
    let mut not_done = Vec::new();
    if plan.is_nothing() {
        return Ok(RepairReport { not_done, elapsed: begun.elapsed() });
    }
    let changes_packs = !plan.packs.is_empty() || !plan.rotten.is_empty() || !(plan.as_loose || plan.found.is_empty());
    let rebuilds_index = changes_packs || plan.index_is_wrong;
    let (brings, clears) = (plan.brings(), plan.clears());
    let RepairPlan { mut repo, origins, .. } = plan;
    // From here on only what is stored counts.
    repo.look_elsewhere(None)?;
    let mender = if brings { Some(repo.mender(session, options)?) } else { None };
    if let Some(mender) = &mender {
        if let Some(config) = &plan.config_content {
            mender.put_config(config, session)?;
        }
        for BroughtPack { name, copy, .. } in &plan.packs {
            if !mender.put_pack(&origins.copies[*copy], *name)? {
                not_done.push(format!("{name} could not be read again where it was found"));
            }
        }
        let mut found: Vec<(&ObjectId, &Found)> = plan.found.iter().collect();
        // What stands together is read together, and stays together.
        found.sort_by_cached_key(|(id, found)| (found.origin, origins.place(**id)));
        let objects = found.into_iter().map(|(id, found)| (found.kind, *id, origins.read(found.origin, *id)));
        for id in mender.put_objects(objects, plan.as_loose, session)? {
            not_done.push(format!("object {id} could not be read again where it was found"));
        }
    }
    // Before the refs: a snapshot must not rely on what one of them still lacks. What is damaged until it is removed stays
    // recorded as long: it may not come to that.
    repo.change_damaged(session, |noted| noted.objects.extend(&plan.still_damaged))?;
    if let Some(mender) = &mender
        && not_done.is_empty()
    {
        let taken = documents::bring(&repo, mender, &plan.refs, &plan.labels, session)?;
        not_done.extend(
            taken.iter().map(|number| format!("another snapshot has the number {number} by now, and its ref stays")),
        );
    }
    drop(mender);
    // The copies are not needed any more, and nobody shall wait for their locks.
    drop(origins);
    if !not_done.is_empty() {
        return Ok(RepairReport { not_done, elapsed: begun.elapsed() });
    }
    if !plan.remove.is_empty() {
        if let Some(number) = plan.pruned {
            // Else it would be lost, and what it needs not be known.
            repo.into_exclusive(session)?.note_removed(number, session)?;
            repo = SharedRepository::open(Arc::clone(&plan.backend), session)?;
        }
        repo.look_elsewhere(None)?;
        let pruning = prune::plan(&repo, &PruneOptions::numbers(&plan.remove))?;
        prune::execute(repo, pruning, options, session)?;
        repo = SharedRepository::open(Arc::clone(&plan.backend), session)?;
    }
    let shared = if clears || rebuilds_index || plan.pruned.is_some() {
        repo.look_elsewhere(None)?;
        let mut cleared = clear_away(repo, plan.pruned, &plan.rotten, &plan.superseded_loose, session, &mut not_done)?;
        if rebuilds_index {
            cleared.rebuild_index(session)?;
        }
        None
    } else {
        Some(repo)
    };
    if plan.record_is_old && not_done.is_empty() {
        let repo = shared.map_or_else(|| SharedRepository::open(plan.backend, session), Ok)?;
        // But for what was whole only in what went, if nothing needs it.
        let mut damaged = plan.still_damaged;
        for id in &plan.recorded.objects {
            if repo.is_damaged_in_packs(*id)? && !repo.is_whole(*id, Copy::Loose)? {
                damaged.push(*id);
            }
        }
        repo.change_damaged(session, |noted| noted.replace(&plan.recorded, &damaged))?;
    }
    Ok(RepairReport { not_done, elapsed: begun.elapsed() })
}

/// Takes the exclusive lock, notes what was `removed`, and removes what is damaged and superseded.
fn clear_away(
    repo: SharedRepository,
    removed: Option<u64>,
    rotten: &[Rotten],
    loose: &[ObjectId],
    session: &Session<'_>,
    not_done: &mut Vec<String>,
) -> Result<ExclusiveRepository> {
    let clears = !rotten.is_empty() || !loose.is_empty();
    let mut marks = (!repo.refs()?.has_no_trace()).then(Reachable::default);
    let mut marked = BTreeSet::new();
    // By name: where copies stand may change until the lock is there.
    let held = rotten.iter().flat_map(|rotten| &rotten.held).chain(loose).copied().collect::<Vec<_>>();
    if clears {
        mark(&repo, &held, &mut marks, &mut marked)?;
    }
    let mut repo = repo.into_exclusive(session)?;
    repo.read_each_pack()?;
    let announced = repo.announce(session);
    // Before anything counts as lost.
    if let Some(number) = removed {
        repo.note_removed(number, session)?;
    }
    if clears {
        if !repo.refs()?.lost.is_empty() {
            marks = None;
        }
        // Those that came in between.
        mark(&repo, &held, &mut marks, &mut marked)?;
        let stays = repo.remove_damaged_loose(loose, marks.as_ref(), session)?;
        not_done
            .extend(stays.iter().map(|id| format!("the damaged file of object {id} stays: no copy is whole by now")));
        let stays = repo.remove_rotten(rotten, marks.as_ref(), session)?;
        not_done.extend(stays.iter().map(|name| format!("{name} stays: something needed stands in it alone by now")));
    }
    drop(announced);
    Ok(repo)
}

/// Marks what the snapshots need that were not marked before, and notes by name which of `held` they need. There are no
/// marks if that cannot be found out.
fn mark(repo: &Repository, held: &[ObjectId], marks: &mut Option<Reachable>, marked: &mut BTreeSet<u64>) -> Result<()> {
    let Some(known) = marks else { return Ok(()) };
    let mut marking = known.marking(repo)?;
    for number in repo.refs()?.snapshots {
        if !marked.insert(number) {
            continue;
        }
        match repo.read_snapshot(number).and_then(|snapshot| marking.mark(&snapshot)) {
            Err(error) if error.is_unreadable() || matches!(error, Error::TooNew { .. }) => {
                *marks = None;
                return Ok(());
            }
            other => other?,
        }
    }
    known.note_loose(repo, held);
    Ok(())
}
