//! Reading what is stored, loose and packed, on all cores: all of it, or as much as was asked for.
//!
//! # Memory
//!
//! What was found out about an object in a pack is two bits at the place where it stands. To ask for an object means to
//! look its place up, in `cache/index` and in the pack, or to see that it stands behind the last one. Only what is loose,
//! and what is damaged, is held by name.
//!
//! `cache/index` may be wrong, and then it hides what is there. So whatever it does not find whole is looked for once more
//! in what the packs themselves say ([`Contents::find`]).

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use super::Extent;
use super::packs::{self, Problem, VerifiedFrame};
use crate::error::{Error, ObjectProblem, Result};
use crate::object::ObjectId;
use crate::progress::Progress;
use crate::repo::{PlaceSet, Repository};
use crate::store::loose;
use crate::store::pack::{Member, PackName};
use crate::store::packs::{Location, Near};
use crate::store::verified::Verified;

/// What is known of a stored object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Stored {
    /// It is whole and has so many bytes.
    Whole(u64),
    /// It is there, and was not read. The index of its pack says how many bytes it has; a loose object's are not known.
    Unread(Option<u64>),
    Damaged,
}

impl Stored {
    /// Its length in bytes, as far as it is known.
    pub(in crate::ops) fn length(self) -> Option<u64> {
        match self {
            Self::Whole(length) => Some(length),
            Self::Unread(length) => length,
            Self::Damaged => None,
        }
    }

    /// Whether it is there and not known to be damaged.
    fn is_usable(self) -> bool {
        self != Self::Damaged
    }

    /// Of two copies of an object the one with the higher rank counts.
    fn rank(self) -> u8 {
        match self {
            Self::Damaged => 0,
            Self::Unread(_) => 1,
            Self::Whole(_) => 2,
        }
    }

    /// Which of the copies of an object counts.
    fn best(copies: impl IntoIterator<Item = Self>) -> Option<Self> {
        copies.into_iter().max_by_key(|stored| stored.rank())
    }
}

/// An object as it is stored.
#[derive(Debug)]
pub(in crate::ops) struct Known {
    /// Nothing if it is not stored. Of several copies a whole one counts, or else one that was not read.
    pub(in crate::ops) stored: Option<Stored>,
    /// Where it stands in packs; nowhere if it is known by its name.
    pub(in crate::ops) places: Vec<Location>,
}

impl Known {
    /// Whether it is there and not known to be damaged.
    pub(in crate::ops) fn is_usable(&self) -> bool {
        self.stored.is_some_and(Stored::is_usable)
    }
}

/// How much is stored. Of several copies of an object one counts.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::ops) struct Totals {
    pub(in crate::ops) objects: u64,
    /// The bytes of those that were read and are whole.
    pub(in crate::ops) bytes: u64,
    pub(in crate::ops) unread: u64,
}

impl Totals {
    fn add(&mut self, stored: Stored) {
        self.objects += 1;
        match stored {
            Stored::Whole(length) => self.bytes += length,
            Stored::Unread(_) => self.unread += 1,
            Stored::Damaged => {}
        }
    }

    fn take_away(&mut self, stored: Stored) {
        // A disk that says something else than the first time must not end the program.
        self.objects = self.objects.saturating_sub(1);
        match stored {
            Stored::Whole(length) => self.bytes = self.bytes.saturating_sub(length),
            Stored::Unread(_) => self.unread = self.unread.saturating_sub(1),
            Stored::Damaged => {}
        }
    }
}

/// Everything that is stored.
#[derive(Default)]
pub(in crate::ops) struct Contents {
    /// By slot: how many objects the pack has; none if it cannot be used.
    packed: Vec<u32>,
    whole: PlaceSet,
    damaged: PlaceSet,
    /// Where objects stand of which there are several copies.
    shared: PlaceSet,
    /// Those of the copies in packs that do not count, since another one does.
    superfluous: PlaceSet,
    /// What is known by name: what is loose, and what a repair has found elsewhere. Other copies are taken into account.
    apart: HashMap<ObjectId, Stored>,
    totals: Totals,
    /// What is wrong with objects that are damaged, all copies of them.
    pub(in crate::ops) reasons: BTreeMap<ObjectId, String>,
    /// Loose objects whose file is damaged, whether or not there is a whole copy in a pack.
    pub(in crate::ops) damaged_loose: Vec<ObjectId>,
    /// How many packs there are.
    pub(in crate::ops) packs: u64,
    /// Packs that are not as they must be, and what is wrong with each.
    pub(in crate::ops) damaged_packs: Vec<(PackName, String)>,
    /// Objects of which the copy in a pack is damaged and there is no whole one, ascending.
    pub(in crate::ops) damaged_in_packs: Vec<ObjectId>,
    /// Whether the index of all packs covers a pack that cannot be used.
    pub(in crate::ops) index_misleads: bool,
    /// The packs that were read and are whole.
    pub(in crate::ops) whole_packs: Vec<PackName>,
}

impl Contents {
    /// Reads the packs that the extent asks for, and the indexes of the others.
    fn read_packs(
        &mut self,
        repo: &Repository,
        extent: &Extent,
        verified: &Verified,
        progress: &dyn Progress,
    ) -> Result<()> {
        self.damaged_packs = repo.packs()?.unusable();
        let list = repo.packs()?.list();
        self.packs = (list.len() + self.damaged_packs.len()) as u64;
        self.packed = vec![0; list.len()];
        let (to_read, others): (Vec<u32>, Vec<u32>) = (0..)
            .zip(&list)
            .map(|(slot, _)| slot)
            .partition(|slot| extent.reads_pack(list[*slot as usize].0, verified));
        let mut problems = packs::read_all(repo, &to_read, |frame| {
            let before = self.totals;
            let count = frame.objects.len() as u64;
            self.note_frame(frame);
            progress.advance(count, self.totals.bytes - before.bytes);
        })?;
        let is_whole = |slot: &u32| !problems.contains_key(slot);
        self.whole_packs = to_read.into_iter().filter(is_whole).map(|slot| list[slot as usize].0).collect();
        for slot in others {
            match repo.packs()?.file(slot).and_then(|pack| pack.index()) {
                Ok(index) => {
                    // No pack has more than a u32 counts.
                    self.packed[slot as usize] = u32::try_from(index.members.len()).unwrap_or(u32::MAX);
                    self.totals.objects += index.members.len() as u64;
                    self.totals.unread += index.members.len() as u64;
                }
                Err(error) => drop(problems.insert(slot, Problem::Unusable(error.reason()))),
            }
        }
        self.index_misleads = problems.values().any(|problem| matches!(problem, Problem::Unusable(_)));
        for (slot, problem) in problems {
            self.damaged_packs.push((list[slot as usize].0, problem.into_reason()));
        }
        Ok(())
    }

    fn note_frame(&mut self, frame: VerifiedFrame) {
        let VerifiedFrame { slot, first, objects } = frame;
        for (position, (id, verified)) in (first..).zip(objects) {
            let place = Location { slot, position };
            let stored = match verified {
                Ok(length) => {
                    self.whole.add(place);
                    Stored::Whole(length)
                }
                Err(reason) => {
                    self.damaged.add(place);
                    self.reasons.entry(id).or_insert(reason);
                    Stored::Damaged
                }
            };
            let objects = &mut self.packed[slot as usize];
            *objects = (*objects).max(position + 1);
            self.totals.add(stored);
        }
    }

    /// Finds out which copies do not count, once all were read. (An index that hides one makes the totals too high, and that
    /// is all.) `loose` says what is known of the loose objects.
    fn settle(&mut self, repo: &Repository, loose: Vec<(ObjectId, ReadLoose)>) -> Result<()> {
        // The copies of an object stand together, unless others begin like it; to be settled twice does it no harm.
        let mut last = None;
        for place in repo.packs()?.shared_prefixes()? {
            if self.is_readable(place)
                && let Some(Member { id, .. }) = repo.packs()?.member(place)?
                && last.replace(id) != Some(id)
            {
                self.keep_one(repo, id)?;
            }
        }
        for (id, read) in loose {
            let stored = match read {
                Some(Ok(length)) => Stored::Whole(length),
                None => Stored::Unread(None),
                Some(Err(reason)) => {
                    self.damaged_loose.push(id);
                    self.reasons.insert(id, reason);
                    Stored::Damaged
                }
            };
            self.add(repo, id, stored)?;
        }
        let damaged: Vec<ObjectId> = self.reasons.keys().copied().collect();
        for id in damaged {
            if self.find(repo, id)?.is_usable() {
                self.reasons.remove(&id);
            } else if self.copies(repo, id)?.iter().any(|(place, _)| self.damaged.has(*place)) {
                self.damaged_in_packs.push(id);
            }
        }
        Ok(())
    }

    /// Of several copies of an object, one stays that counts.
    fn keep_one(&mut self, repo: &Repository, id: ObjectId) -> Result<()> {
        let mut copies = self.copies(repo, id)?;
        copies.sort_by_key(|(place, stored)| (u8::MAX - stored.rank(), *place));
        for (number, (place, stored)) in copies.iter().enumerate().filter(|_| copies.len() > 1) {
            self.shared.add(*place);
            if number > 0 && self.superfluous.add(*place) {
                self.totals.take_away(*stored);
            }
        }
        Ok(())
    }

    /// Takes an object for stored, beside the copies that may be in packs, and in place of what was taken before.
    pub(in crate::ops) fn add(&mut self, repo: &Repository, id: ObjectId, stored: Stored) -> Result<()> {
        let copies = if stored.is_usable() { self.copies(repo, id)? } else { self.all_copies(repo, id)? };
        for (place, packed) in &copies {
            self.shared.add(*place);
            if self.superfluous.add(*place) {
                self.totals.take_away(*packed);
            }
        }
        let packed = copies.into_iter().map(|(_, packed)| packed);
        let best = Stored::best(packed.chain([stored])).unwrap_or(stored);
        if let Some(before) = self.apart.insert(id, best) {
            self.totals.take_away(before);
        }
        self.totals.add(best);
        if best.is_usable() {
            self.reasons.remove(&id);
        }
        Ok(())
    }

    /// What is known of an object.
    pub(in crate::ops) fn find(&self, repo: &Repository, id: ObjectId) -> Result<Known> {
        if let Some(stored) = self.apart.get(&id) {
            return Ok(Known { stored: Some(*stored), places: Vec::new() });
        }
        let copies = self.all_copies(repo, id)?;
        let stored = Stored::best(copies.iter().map(|(_, stored)| *stored));
        let mut places: Vec<Location> = copies.into_iter().map(|(place, _)| place).collect();
        places.sort_unstable();
        Ok(Known { stored, places })
    }

    /// The same, for who asks for objects in the order in which a snapshot has stored them: each probably stands not far
    /// behind the last one.
    pub(in crate::ops) fn find_next(&self, repo: &Repository, near: &mut Near<'_>, id: ObjectId) -> Result<Known> {
        if let Some((place, member)) = near.next(id)?
            && self.is_readable(place)
            && !self.shared.has(place)
        {
            let known = Known { stored: Some(self.at(place, member.length.into())), places: vec![place] };
            if known.is_usable() {
                return Ok(known);
            }
        }
        let known = self.find(repo, id)?;
        if let Some(place) = known.places.first() {
            near.go_behind(*place);
        }
        Ok(known)
    }

    /// Whether an object is there and was not read. What the index of all packs hides does not count.
    pub(in crate::ops) fn is_unread(&self, repo: &Repository, id: ObjectId) -> Result<bool> {
        let best = match self.apart.get(&id) {
            Some(stored) => Some(*stored),
            None => Stored::best(self.copies(repo, id)?.into_iter().map(|(_, stored)| stored)),
        };
        Ok(matches!(best, Some(Stored::Unread(_))))
    }

    /// The copies of an object in packs. If the index of all packs knows of none that is usable, those that the packs
    /// themselves say.
    fn all_copies(&self, repo: &Repository, id: ObjectId) -> Result<Vec<(Location, Stored)>> {
        let packs = repo.packs()?;
        // Before it is looked for: another thread may give the index file up meanwhile.
        let (edition, relied_on_file) = (packs.edition(), !packs.distrusts_file());
        let copies = self.copies(repo, id)?;
        let is_usable = copies.iter().any(|(_, stored)| stored.is_usable());
        if is_usable || !relied_on_file || !packs.look_again(edition)? {
            return Ok(copies);
        }
        self.copies(repo, id)
    }

    /// The copies of an object that the index of all packs knows of, in packs that could be used when they were read.
    fn copies(&self, repo: &Repository, id: ObjectId) -> Result<Vec<(Location, Stored)>> {
        let packs = repo.packs()?;
        let mut copies: Vec<(Location, Stored)> = Vec::new();
        for place in packs.find(id)? {
            // Others are not asked: it is known already why they cannot be.
            if self.is_readable(place)
                && let Some(member) = packs.member(place)?.filter(|member| member.id == id)
                && copies.iter().all(|(known, _)| *known != place)
            {
                copies.push((place, self.at(place, member.length.into())));
            }
        }
        Ok(copies)
    }

    /// Whether there is an object at this place of a pack that could be used when it was read.
    fn is_readable(&self, place: Location) -> bool {
        self.packed.get(place.slot as usize).is_some_and(|objects| place.position < *objects)
    }

    fn at(&self, place: Location, length: u64) -> Stored {
        match (self.whole.has(place), self.damaged.has(place)) {
            (true, _) => Stored::Whole(length),
            (false, true) => Stored::Damaged,
            (false, false) => Stored::Unread(Some(length)),
        }
    }

    /// Whether an object was read and is whole.
    pub(in crate::ops) fn is_whole(&self, repo: &Repository, id: ObjectId) -> bool {
        matches!(self.find(repo, id), Ok(Known { stored: Some(Stored::Whole(_)), .. }))
    }

    /// How much is stored.
    pub(in crate::ops) fn totals(&self) -> Totals {
        self.totals
    }

    /// How many objects are not needed. All places where something needed stands in packs must be in `places`.
    pub(in crate::ops) fn unneeded(&self, places: &PlaceSet, is_needed: impl Fn(&ObjectId) -> bool) -> u64 {
        let apart = self.apart.keys().filter(|id| !is_needed(id)).count();
        let packed = (0..).zip(&self.packed).map(|(slot, objects)| {
            let in_pack = (0..*objects).map(|position| Location { slot, position });
            in_pack.filter(|place| !places.has(*place) && !self.superfluous.has(*place)).count()
        });
        (apart + packed.sum::<usize>()) as u64
    }
}

/// What is known of a loose object that was read: its length, or what is wrong with it. Nothing if it was not asked for.
type ReadLoose = Option<Result<u64, String>>;

/// Reads what the extent asks for; `loose` are the loose objects, `verified` what earlier checks have found whole.
pub(in crate::ops) fn read(
    repo: &Repository,
    loose: &[ObjectId],
    extent: &Extent,
    verified: &Verified,
    progress: &dyn Progress,
) -> Result<Contents> {
    let read = |id: &ObjectId| {
        if !extent.reads_loose(*id) {
            return Ok((*id, None));
        }
        let read = match loose::read(repo.backend(), repo.rules(), *id) {
            Ok(content) => Ok(content.len() as u64),
            Err(Error::Object { problem: ObjectProblem::Damaged(reason), .. }) => Err(reason),
            Err(Error::Object { problem: ObjectProblem::Missing, .. }) => {
                Err("its file vanished during the check".into())
            }
            Err(error) if error.is_interrupted() => return Err(error),
            // A file that cannot be read (a bad sector, a wrong owner) is damage as well; the others are still checked.
            Err(error) => Err(error.to_string()),
        };
        progress.advance(1, *read.as_ref().unwrap_or(&0));
        Ok((*id, Some(read)))
    };
    let loose = loose.par_iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut contents = Contents::default();
    contents.read_packs(repo, extent, verified, progress)?;
    contents.settle(repo, loose)?;
    Ok(contents)
}
