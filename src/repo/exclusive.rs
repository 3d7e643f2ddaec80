//! A repository that is held alone: the only one from which anything can be removed.
//!
//! # Why what is removed is not missed
//!
//! - Every process that reads or adds holds the shared lock, so while this is held there is none, and no snapshot is
//!   being made that could come to rely on an object that is removed.
//! - Refs are removed, and their removal made durable, before any object goes ([`ExclusiveRepository::remove_snapshots`]
//!   returns only then). A crash at any point leaves refs all of whose objects exist, and at worst objects that nothing
//!   needs, which the next prune removes.
//! - Which objects are needed is the caller's knowledge: it must have marked from *all* refs that are left. Which refs
//!   are left has to be read under this lock; what one of them needs may have been marked before, since refs and
//!   objects never change.
//! - A copy of a needed object goes only if another one stays that this process has written, or that was read and hashed
//!   under this lock ([`ExclusiveRepository::remove_copies`]). What another process has removed between the plan and this
//!   lock is thereby taken into account. It is in a pack whose own index can be read, since any other pack counts as damaged
//!   for all who come after; and the names of what stays are made durable before anything goes.
//! - What nothing needs may be needed again. So where a copy of it goes and only damaged ones stay in packs, which a
//!   snapshot would take for stored, it is noted as damaged before ([`ExclusiveRepository::remove_copies`]).
//! - A rotten pack goes only if its bytes still do not give its name, and each needed object that its index names, or that
//!   was found whole in it, is read and hashed under this lock in a place that is not rotten. If its index is damaged,
//!   what else was in it, and could not be read, is not known; then it goes only if every needed object stands in such a
//!   place, as the index there says ([`ExclusiveRepository::remove_rotten`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Deref;
use std::sync::OnceLock;

use super::copies::Copy;
use super::{Reachable, Repository, Session, begin_staging, lock};
use crate::error::{Error, Result};
use crate::object::ObjectId;
use crate::store::layout::RefFile;
use crate::store::pack::{PackFile, PackName};
use crate::store::packs::Location;
use crate::store::staging::{self, Staging};
use crate::store::{Lock, LockMode, layout, loose, refs, remove_if_there};

/// A repository with its exclusive lock.
#[derive(Debug)]
pub struct ExclusiveRepository {
    repo: Repository,
    lock: Option<Box<dyn Lock>>,
}

/// What is to be removed, if nothing that is needed goes with it.
#[derive(Debug, Default)]
pub struct Removal {
    /// Packs.
    pub packs: Vec<PackName>,
    /// Loose objects.
    pub loose: Vec<ObjectId>,
    /// Packs that this process has written itself, from what it verified: their objects need not be read again.
    pub trusted: HashSet<PackName>,
    /// Whether all objects are needed, as far as anybody knows.
    pub is_all_needed: bool,
}

/// What was removed.
#[derive(Debug, Default)]
pub struct Removed {
    /// Packs.
    pub packs: Vec<PackName>,
    /// Loose objects.
    pub loose: Vec<ObjectId>,
}

/// A pack whose bytes do not give its name.
#[derive(Debug, Clone)]
pub struct Rotten {
    /// Its name.
    pub name: PackName,
    /// The objects that were found whole in it.
    pub held: Vec<ObjectId>,
}

/// What goes.
struct Going {
    /// All packs, by slot, with the number of their objects.
    listed: Vec<(PackName, u32)>,
    /// By slot: whether the pack goes.
    packs: Vec<bool>,
    loose: BTreeSet<ObjectId>,
    /// What was found in packs that go, besides what the indexes of all packs say.
    held: BTreeSet<ObjectId>,
}

impl Going {
    fn is_nothing(&self) -> bool {
        self.loose.is_empty() && self.held.is_empty() && !self.packs.contains(&true)
    }

    fn packs(&self) -> impl Iterator<Item = PackName> {
        self.listed.iter().zip(&self.packs).filter(|(_, goes)| **goes).map(|((name, _), _)| *name)
    }

    fn kept(&self) -> impl Iterator<Item = PackName> {
        self.listed.iter().zip(&self.packs).filter(|(_, goes)| !**goes).map(|((name, _), _)| *name)
    }

    /// Whether this copy of the object is among it.
    fn has(&self, copy: Copy, id: ObjectId) -> bool {
        match copy {
            Copy::Packed(location) => self.packs[location.slot as usize],
            Copy::Loose => self.loose.contains(&id),
        }
    }
}

/// What is found under the name of a pack that was rotten.
enum Rot {
    /// Nothing, or a whole pack.
    None,
    /// A rotten pack, and what its index names if that is whole.
    Of(Option<Vec<ObjectId>>),
}

impl ExclusiveRepository {
    pub(super) fn lock(mut repo: Repository, session: &Session<'_>) -> Result<Self> {
        // While nothing was held, packs may have come and gone.
        repo.packs = OnceLock::new();
        // Whoever removes must not take for stored what is not.
        repo.elsewhere = None;
        let lock = lock::acquire(repo.backend(), LockMode::Exclusive, session)?;
        Ok(Self { repo, lock })
    }

    /// Says to those who wait for the lock who holds it, by an otherwise empty staging directory. A full disk is no
    /// reason not to prune, so nothing is returned if the directory cannot be made.
    pub fn announce(&self, session: &Session<'_>) -> Option<Staging<'_>> {
        Staging::begin(self.repo.backend(), &session.info()).ok()
    }

    /// Removes snapshots, durably. Their numbers are not used again. Once begun this is not interrupted: it is short.
    ///
    /// Of those whose refs are lost it is noted that they were removed. All of them must be among the numbers: a note says
    /// the same of all lower ones.
    pub fn remove_snapshots(&self, numbers: &[u64], session: &Session<'_>) -> Result<()> {
        self.repo.go_on()?;
        let known = self.repo.refs()?.lost;
        let (lost, there): (Vec<u64>, Vec<u64>) =
            numbers.iter().partition(|number| known.binary_search(number).is_ok());
        if let Some(highest) = lost.last() {
            self.note_removed(*highest, session)?;
        }
        lock::confirm(self.repo.backend(), self.lock.as_deref())?;
        refs::remove(self.repo.backend(), &there)
    }

    /// Notes, durably, that the snapshot of this number was removed, and all lower ones of which there is no ref: so no other
    /// one gets the number, and none of them counts as lost. If there is such a note, or the snapshot, nothing is done.
    /// (Beside others that could not be done: a snapshot that takes the number at the same time would count as removed.)
    pub fn note_removed(&self, number: u64, session: &Session<'_>) -> Result<()> {
        let backend = self.repo.backend();
        let refs = refs::list(backend)?;
        if refs.is_removed(number) || refs.snapshots.binary_search(&number).is_ok() {
            return Ok(());
        }
        let staging = begin_staging(backend, session)?;
        let staged = staging.write("pruned", &[])?;
        lock::confirm(backend, self.lock.as_deref())?;
        refs::publish_staged(backend, &staged, RefFile::Pruned(number))?;
        backend.sync_dir(layout::SNAPSHOTS)
    }

    /// Removes packs and loose objects, except those that hold the last good copy of an object that is needed; see the
    /// module. It is no error if another process has removed one. One that cannot be removed does not keep the others: the
    /// first such error is returned when all were tried. It can be interrupted between files: the next prune removes the rest.
    pub fn remove_copies(
        &self,
        removal: &Removal,
        is_needed: impl Fn(&ObjectId) -> bool,
        session: &Session<'_>,
    ) -> (Removed, Result<()>) {
        let mut removed = Removed::default();
        let result = self.what_can_go(removal, &is_needed).and_then(|mut going| {
            let noted = if removal.is_all_needed {
                BTreeMap::new()
            } else {
                self.note_exposed(&mut going, &is_needed, session)?
            };
            self.remove(&going, &mut removed)?;
            self.forget_gone(&noted, &going, session)
        });
        (removed, result)
    }

    /// What of this can go without the last good copy of an object that is needed.
    fn what_can_go(&self, removal: &Removal, is_needed: &dyn Fn(&ObjectId) -> bool) -> Result<Going> {
        let packs = self.repo.packs()?;
        let listed = packs.list();
        let names: HashSet<PackName> = listed.iter().map(|(name, _)| *name).collect();
        if names.len() < listed.len() {
            // A pack is no copy of itself.
            return Err(Error::refused(
                "remove packs",
                "one is listed twice",
                "this is an error in the program; please report it",
            ));
        }
        let mut going = Going {
            packs: listed.iter().map(|(name, _)| removal.packs.contains(name)).collect(),
            loose: removal.loose.iter().copied().collect(),
            held: BTreeSet::new(),
            listed,
        };
        for slot in 0..going.packs.len() {
            if going.packs[slot] {
                let index = packs.file(u32::try_from(slot).unwrap_or(u32::MAX)).and_then(|pack| pack.index());
                let members = match index {
                    Ok(index) => index.members,
                    // What is in it is not known any more, so it stays.
                    Err(error) if error.is_unreadable() => {
                        going.packs[slot] = false;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                for member in members {
                    if is_needed(&member.id) && !self.has_good_copy(member.id, &going, &removal.trusted)? {
                        going.packs[slot] = false;
                        break;
                    }
                }
            }
        }
        let mut loose = BTreeSet::new();
        for id in &removal.loose {
            if !is_needed(id) || self.has_good_copy(*id, &going, &removal.trusted)? {
                loose.insert(*id);
            }
        }
        going.loose = loose;
        Ok(going)
    }

    /// Notes as damaged what nothing needs and of which only damaged copies in packs may stay: when it is needed again it
    /// must not be taken for stored. If there is no space to note that, what else holds it stays as well. Returns what was
    /// noted, with its places in packs.
    fn note_exposed(
        &self,
        going: &mut Going,
        is_needed: &dyn Fn(&ObjectId) -> bool,
        session: &Session<'_>,
    ) -> Result<BTreeMap<ObjectId, Vec<Location>>> {
        let exposed = self.exposed(going, is_needed)?;
        let noted = self.repo.change_damaged(session, |noted| noted.objects.extend(exposed.keys()));
        match noted {
            Err(error) if error.is_full() => {
                going.loose.retain(|id| !exposed.contains_key(id));
                for location in exposed.values().flatten() {
                    going.packs[location.slot as usize] = false;
                }
                Ok(BTreeMap::new())
            }
            other => other.map(|_| exposed),
        }
    }

    /// Takes what stands in no pack any more off the list again, when the power cannot bring the packs back.
    fn forget_gone(
        &self,
        noted: &BTreeMap<ObjectId, Vec<Location>>,
        going: &Going,
        session: &Session<'_>,
    ) -> Result<()> {
        let is_gone = |(id, places): &(&ObjectId, &Vec<Location>)| {
            places.iter().all(|location| going.has(Copy::Packed(*location), **id))
        };
        let gone: BTreeSet<ObjectId> = noted.iter().filter(is_gone).map(|(id, _)| *id).collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.repo.backend().sync_dir(layout::PACKS)?;
        self.repo.change_damaged(session, |noted| noted.objects.retain(|id| !gone.contains(id))).map(|_| ())
    }

    /// The objects that nothing needs and of which a copy goes and only damaged ones may stay, with their places in packs.
    /// What goes may stay as well: if this is stopped, or the power fails before it is durable.
    fn exposed(
        &self,
        going: &Going,
        is_needed: &dyn Fn(&ObjectId) -> bool,
    ) -> Result<BTreeMap<ObjectId, Vec<Location>>> {
        let mut exposed = BTreeMap::new();
        if going.is_nothing() {
            return Ok(exposed);
        }
        let in_packs = self.repo.copies_in_packs(|id| !is_needed(id))?;
        let others = going.loose.union(&going.held).filter(|id| !is_needed(id) && !in_packs.contains_key(*id));
        let others = others.map(|id| Ok((*id, self.repo.packed_copies(*id)?))).collect::<Result<Vec<_>>>()?;
        let is_one_less = |id: ObjectId, copies: &[Location]| {
            let goes = |copy: &Location| going.has(Copy::Packed(*copy), id);
            copies.iter().any(goes) || going.has(Copy::Loose, id) || going.held.contains(&id)
        };
        let mut candidates: Vec<(ObjectId, Vec<Location>)> =
            in_packs.into_iter().chain(others).filter(|(id, copies)| is_one_less(*id, copies)).collect();
        // In the order of their places, so that each frame is decoded once.
        candidates.sort_unstable_by_key(|(_, copies)| copies.first().copied());
        for (id, copies) in candidates {
            let (goes, stays): (Vec<&Location>, Vec<_>) =
                copies.iter().partition(|copy| going.has(Copy::Packed(**copy), id));
            if self.stays_whole(id, &stays, going)? {
                continue;
            }
            let mut is_damaged = !stays.is_empty();
            for location in goes {
                is_damaged = is_damaged || !self.is_whole_in(id, [location])?;
            }
            if is_damaged {
                exposed.insert(id, copies);
            }
        }
        Ok(exposed)
    }

    /// Whether a copy, in these places or loose, is whole and stays.
    fn stays_whole(&self, id: ObjectId, staying: &[&Location], going: &Going) -> Result<bool> {
        Ok(self.is_whole_in(id, staying.iter().copied())?
            || !going.has(Copy::Loose, id) && self.repo.is_whole(id, Copy::Loose)?)
    }

    /// Whether a copy in one of these places is whole, in a pack whose own index says that it is there.
    fn is_whole_in<'l>(&self, id: ObjectId, places: impl IntoIterator<Item = &'l Location>) -> Result<bool> {
        for location in places {
            let is_readable = self.repo.packs()?.has_right_index(location.slot)?;
            if is_readable && self.repo.is_whole(id, Copy::Packed(*location))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remove(&self, going: &Going, removed: &mut Removed) -> Result<()> {
        lock::confirm(self.repo.backend(), self.lock.as_deref())?;
        if !going.is_nothing() {
            self.secure_names()?;
        }
        let mut result = Ok(());
        let mut remove = |path: &str| {
            let gone = self.repo.go_on().and_then(|()| remove_if_there(self.repo.backend(), path));
            let is_gone = gone.is_ok();
            if result.is_ok() {
                result = gone;
            }
            is_gone
        };
        removed.loose.extend(going.loose.iter().copied().filter(|id| remove(&layout::object_path(*id))));
        removed.packs.extend(going.packs().filter(|name| remove(&name.path())));
        result
    }

    /// Makes the names of all objects durable. What stays may have got its name from a run that died before it did so: no
    /// copy goes for the sake of one that a power failure can take away.
    fn secure_names(&self) -> Result<()> {
        let backend = self.repo.backend();
        let shards = loose::list_shards(backend)?.into_iter().map(layout::shard_path);
        for dir in shards.chain([layout::PACKS.into(), layout::OBJECTS.into()]) {
            match backend.sync_dir(&dir) {
                // Ways of copying drop those that are empty.
                Err(error) if error.is_not_found() => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Whether a copy of the object stays that this process has written or that is whole.
    fn has_good_copy(&self, id: ObjectId, going: &Going, trusted: &HashSet<PackName>) -> Result<bool> {
        let copies = self.repo.packed_copies(id)?;
        let staying: Vec<&Location> = copies.iter().filter(|copy| !going.has(Copy::Packed(**copy), id)).collect();
        let is_trusted = |location: &&Location| trusted.contains(&going.listed[location.slot as usize].0);
        Ok(staying.iter().any(is_trusted) || self.stays_whole(id, &staying, going)?)
    }

    /// Reads the indexes of all packs, and does not believe `cache/index`.
    pub fn read_each_pack(&mut self) -> Result<()> {
        self.repo.read_each_pack()
    }

    /// Removes packs whose bytes do not give their names, except those with which anything needed would go that is not whole
    /// elsewhere; see the module. `needed` are the marks of all refs that there are; without them everything counts as
    /// needed; they must have noted by name ([`Reachable::note_loose`]) what the rotten packs held. Returns the packs that
    /// stay. One that another process has removed, or that was made again (the same objects in
    /// the same order give the same pack), does neither.
    pub fn remove_rotten(
        &self,
        rotten: &[Rotten],
        needed: Option<&Reachable>,
        session: &Session<'_>,
    ) -> Result<Vec<PackName>> {
        lock::confirm(self.repo.backend(), self.lock.as_deref())?;
        let mut still = Vec::new();
        for rotten in rotten {
            match self.look_at_rotten(rotten.name)? {
                Rot::None => {}
                Rot::Of(members) => still.push((rotten, members)),
            }
        }
        let names: HashSet<PackName> = still.iter().map(|(rotten, _)| rotten.name).collect();
        let listed = self.repo.packs()?.list();
        // By slot.
        let is_rotten: Vec<bool> = listed.iter().map(|(name, _)| names.contains(name)).collect();
        let (mut goes, mut stays) = (HashSet::new(), Vec::new());
        for (rotten, members) in still {
            self.repo.go_on()?;
            if self.can_go(rotten, members.as_deref(), needed, &is_rotten)? {
                goes.insert(rotten.name);
            } else {
                stays.push(rotten.name);
            }
        }
        let packs = listed.iter().map(|(name, _)| goes.contains(name)).collect();
        let still_going = rotten.iter().filter(|rotten| goes.contains(&rotten.name));
        let held = still_going.flat_map(|rotten| &rotten.held).copied().collect();
        let mut going = Going { listed, packs, loose: BTreeSet::new(), held };
        let is_needed = |id: &ObjectId| needed.is_none_or(|needed| needed.needs(&self.repo, id));
        let noted = self.note_exposed(&mut going, &is_needed, session)?;
        stays.extend(going.kept().filter(|name| goes.remove(name)));
        if !goes.is_empty() {
            self.secure_names()?;
        }
        for name in goes {
            self.repo.go_on()?;
            remove_if_there(self.repo.backend(), &name.path())?;
        }
        if stays.len() < rotten.len() {
            // So that none comes back with a power failure, and is damage again; nor one that a prune has just removed.
            self.repo.backend().sync_dir(layout::PACKS)?;
        }
        self.forget_gone(&noted, &going, session)?;
        Ok(stays)
    }

    /// Removes the files of loose objects, as far as they are damaged now and no needed object goes with them that is not
    /// whole in a pack; durably. `needed` are the marks of all refs that there are; without them everything counts as
    /// needed. Returns those that stay.
    pub fn remove_damaged_loose(
        &self,
        loose: &[ObjectId],
        needed: Option<&Reachable>,
        session: &Session<'_>,
    ) -> Result<Vec<ObjectId>> {
        let mut removal = Removal::default();
        for id in loose {
            // Another process may have mended or removed it.
            match self.repo.backend().length(&layout::object_path(*id)) {
                Err(error) if error.is_not_found() => continue,
                // One that cannot even be asked for its length is damaged.
                Err(error) if !error.is_unreadable() => return Err(error),
                _ => {}
            }
            if !self.repo.is_whole(*id, Copy::Loose)? {
                removal.loose.push(*id);
            }
        }
        let (gone, result) =
            self.remove_copies(&removal, |id| needed.is_none_or(|needed| needed.needs(&self.repo, id)), session);
        result?;
        // Those that a prune has just removed as well.
        let shards: BTreeSet<u8> = loose.iter().map(|id| id.as_bytes()[0]).collect();
        for shard in shards {
            self.repo.backend().sync_dir(&layout::shard_path(shard))?;
        }
        Ok(removal.loose.into_iter().filter(|id| !gone.loose.contains(id)).collect())
    }

    fn look_at_rotten(&self, name: PackName) -> Result<Rot> {
        let pack = PackFile::open(self.repo.backend(), self.repo.rules(), name);
        match pack.and_then(|pack| Ok((pack.index()?, pack))) {
            Err(error) if error.is_not_found() => Ok(Rot::None),
            // It was made again.
            Ok((_, pack)) if matches!(pack.verify(|_, _| Ok(())), Ok(true)) => Ok(Rot::None),
            Ok((index, _)) => Ok(Rot::Of(Some(index.members.into_iter().map(|member| member.id).collect()))),
            Err(error) if error.is_unreadable() => Ok(Rot::Of(None)),
            Err(error) => Err(error),
        }
    }

    fn can_go(
        &self,
        rotten: &Rotten,
        members: Option<&[ObjectId]>,
        needed: Option<&Reachable>,
        is_rotten: &[bool],
    ) -> Result<bool> {
        let is_needed = |id: &ObjectId| needed.is_none_or(|needed| needed.needs(&self.repo, id));
        let held: HashSet<ObjectId> = rotten.held.iter().chain(members.unwrap_or_default()).copied().collect();
        let packs = self.repo.packs()?;
        let mut to_read: Vec<&ObjectId> = held.iter().filter(|id| is_needed(id)).collect();
        // In the order of their places, so that each frame is decoded once.
        to_read.sort_by_cached_key(|id| packs.find(**id).map(|found| found.into_iter().max()).unwrap_or_default());
        for id in to_read {
            if !self.is_whole_outside(*id, is_rotten)? {
                return Ok(false);
            }
        }
        if members.is_some() {
            return Ok(true);
        }
        // What else was in it is not known, nor could it be read: so all that is needed must stand elsewhere. What is marked in
        // a pack does.
        let Some(needed) = needed else { return Ok(false) };
        let loose = loose::list(self.repo.backend())?.complete()?.objects;
        for id in needed.apart().filter(|id| !held.contains(id) && loose.binary_search(id).is_err()) {
            if !self.repo.packed_copies(*id)?.iter().any(|location| !is_rotten[location.slot as usize]) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a copy that is read and hashed now is whole, loose or in a pack that is not rotten.
    fn is_whole_outside(&self, id: ObjectId, is_rotten: &[bool]) -> Result<bool> {
        let copies = self.repo.packed_copies(id)?;
        let outside = copies.iter().filter(|location| !is_rotten[location.slot as usize]);
        Ok(self.is_whole_in(id, outside)? || self.repo.is_whole(id, Copy::Loose)?)
    }

    /// Removes what removed snapshots and writers that died have left. `own` is this process's staging directory.
    pub fn remove_leftovers(&self, own: Option<&Staging<'_>>) -> Result<()> {
        refs::sweep(self.repo.backend())?;
        staging::remove_all_but(self.repo.backend(), own)?;
        self.repo.sweep_seen()
    }

    /// Writes the index of all packs anew. What the one that is there says of packs that are still there is taken over,
    /// unless it was found wrong. On a full disk it is not written, which is no error: what the old one says of packs that
    /// stay is right, and new packs are found without it.
    pub fn rebuild_index(&mut self, session: &Session<'_>) -> Result<()> {
        if self.repo.packs()?.distrusts_file() {
            remove_if_there(self.repo.backend(), layout::INDEX)?;
        }
        self.repo.packs = OnceLock::new();
        let packs = self.repo.packs()?;
        if packs.list().is_empty() {
            return Ok(());
        }
        let backend = self.repo.backend();
        match begin_staging(backend, session).and_then(|staging| packs.save(&staging)) {
            Err(error) if error.is_full() => Ok(()),
            other => other,
        }
    }
}

impl Deref for ExclusiveRepository {
    type Target = Repository;

    fn deref(&self) -> &Repository {
        &self.repo
    }
}
