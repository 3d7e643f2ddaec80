//! All packs of a repository: which there are, where an object stands in them, and reading it.
//!
//! # What can be relied on
//!
//! - Packs never change, and none goes while the repository is held shared. New ones may come; who misses an object that
//!   must be there looks again ([`Packs::look_again`]).
//! - A hit is confirmed in the pack, by all bytes of the name ([`Packs::holds`], [`Near`]), or by the hash of what was read.
//! - An index that says of an object that it is not there may be wrong (see [`super::index`]): then [`Packs::look_again`]
//!   reads the packs' own indexes, once.
//! - A pack that cannot be used (cut short, an index that does not agree with the file) is left out and kept for a report.
//!
//! # Memory
//!
//! Of packs that `cache/index` covers only its fan-out table is held. Of the others, the entries are (16 bytes an
//! object); [`Packs::save`] moves them to the file, and writers call it whenever they have become many
//! ([`Packs::save_if_much`]). Decoded frames are kept up to 48 MiB, or 16 MiB for each thread if that is more, open
//! files up to a share of what the process may open.

mod cache;
mod near;
mod state;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::backend::{Backend, EntryKind};
use super::index::{self, IndexFile};
use super::layout;
use super::loose::{ReadRules, list_or_empty};
use super::pack::{DecodedFrame, FRAME_CONTENT, FinishedPack, Member, PackFile, PackIndex, PackName};
use super::staging::Staging;
use crate::error::{Error, Result};
use crate::fs::open_file_budget;
use crate::object::ObjectId;
use cache::Cache;
pub use near::Near;
use state::{Covered, State, count};

/// Decoded frames are kept up to so many bytes, and so many for each thread.
const FRAME_CACHE: usize = 48 << 20;
const FRAME_CACHE_OF_THREAD: usize = 4 * FRAME_CONTENT;
/// So many buffers of frames are kept for others.
const MOST_SPARE: usize = 4;
/// With so many entries in memory, and a share of those in the file, the index file is written anew. (So the cost of
/// writing it is at most [`SAVE_SHARE`] times its final size, however much is added.)
const SAVE_ENTRIES: usize = 1 << 19;
const SAVE_SHARE: usize = 16;

/// Where an object may stand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// The number of the pack, in this process.
    pub slot: u32,
    /// The position among all objects of the pack.
    pub position: u32,
}

impl Location {
    /// The place so many objects behind this one.
    fn moved_by(self, objects: usize) -> Self {
        Self { position: self.position.saturating_add(count(objects)), ..self }
    }
}

/// All packs.
#[derive(Debug)]
pub struct Packs {
    backend: Arc<dyn Backend>,
    rules: ReadRules,
    state: RwLock<State>,
    files: Cache<u32, PackFile>,
    frames: Cache<(u32, usize), DecodedFrame>,
    /// Buffers of frames that have left the cache: new memory costs a page fault for each 4 KiB of it.
    spare: Mutex<Vec<Vec<u8>>>,
    saving: Mutex<()>,
}

impl Packs {
    /// Makes room for as many decoded frames as so many threads need that read beside each other.
    pub fn expect_threads(&self, threads: usize) {
        self.frames.keep_at_least(threads.saturating_mul(FRAME_CACHE_OF_THREAD));
    }

    /// Finds out which packs there are. Their content is not looked at, except for the indexes of those that `cache/index`
    /// does not cover.
    pub fn open(backend: Arc<dyn Backend>, rules: ReadRules) -> Result<Self> {
        let packs = Self::closed(backend, rules);
        packs.load(true)?;
        Ok(packs)
    }

    /// The same, from what the packs themselves say, whatever `cache/index` says.
    pub fn open_each(backend: Arc<dyn Backend>, rules: ReadRules) -> Result<Self> {
        let packs = Self::closed(backend, rules);
        packs.state_mut().distrusts_file = true;
        packs.load(false)?;
        Ok(packs)
    }

    fn closed(backend: Arc<dyn Backend>, rules: ReadRules) -> Self {
        let most_files = (open_file_budget() / 8).clamp(8, 2048);
        Self {
            backend,
            rules,
            state: RwLock::default(),
            files: Cache::new(most_files),
            frames: Cache::new(FRAME_CACHE),
            spare: Mutex::default(),
            saving: Mutex::default(),
        }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what is there and not yet known.
    fn load(&self, trust_file: bool) -> Result<()> {
        let mut state = self.state_mut();
        let mut listed = Vec::new();
        state.strangers.clear();
        for entry in list_or_empty(&*self.backend, layout::PACKS)? {
            match layout::parse_pack(&entry.name) {
                Some(name) if entry.kind == EntryKind::File => listed.push(name),
                _ => state.strangers.push(format!("{}/{}", layout::PACKS, entry.name)),
            }
        }
        let known = |state: &State, name: &PackName| state.slots.contains_key(name) || state.is_unusable(name);
        let mut new: Vec<PackName> = listed.into_iter().filter(|name| !known(&state, name)).collect();
        if new.is_empty() {
            return Ok(());
        }
        state.edition += 1;
        if trust_file
            && state.packs.is_empty()
            && let Some(file) = IndexFile::open(&*self.backend, self.rules.hash)
        {
            let mut slots = Vec::with_capacity(file.packs().len());
            for (name, objects) in file.packs() {
                // `new` is as the directory is listed: sorted.
                let listed = new.binary_search(name).is_ok();
                slots.push(listed.then(|| state.add(*name, *objects)));
            }
            new.retain(|name| !state.slots.contains_key(name));
            state.file = Some(Covered { file, slots });
        }
        for name in new {
            if let Some(index) = self.usable_index(&mut state, name)? {
                let slot = state.add(name, count(index.members.len()));
                state.add_entries(slot, &index.members);
            }
        }
        Ok(())
    }

    /// The index of a pack. Nothing is returned for one that cannot be used, which is noted.
    fn usable_index(&self, state: &mut State, name: PackName) -> Result<Option<PackIndex>> {
        match PackFile::open(&*self.backend, self.rules, name).and_then(|pack| pack.index()) {
            Ok(index) => Ok(Some(index)),
            Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => {
                if !state.is_unusable(&name) {
                    state.unusable.push((name, error));
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A number that changes with what is known of the packs: see [`Packs::look_again`].
    pub fn edition(&self) -> u64 {
        self.state().edition
    }

    /// Looks for packs that have come since, and no longer relies on the index file. To be called when an object is missing
    /// that must be there. `edition` is the one in which it was not found. Returns whether there is another one now: it may be
    /// another thread that has brought it about.
    pub fn look_again(&self, edition: u64) -> Result<bool> {
        if self.edition() == edition {
            if !self.distrusts_file() {
                self.distrust_file()?;
            }
            self.load(false)?;
        }
        Ok(self.edition() != edition)
    }

    /// Puts what the packs themselves say in the place of what the index file says. Slots stay as they are: others may be
    /// about to read what they have found.
    fn read_indexes(&self, state: &mut State) -> Result<()> {
        state.file = None;
        state.recent = state::Recent::default();
        for slot in 0..count(state.packs.len()) {
            let (name, _) = state.packs[slot as usize];
            if let Some(index) = self.usable_index(state, name)? {
                state.packs[slot as usize].1 = count(index.members.len());
                state.add_entries(slot, &index.members);
            }
        }
        Ok(())
    }

    /// The packs, by slot, and how many objects each has; without those that were seen at once not to be usable.
    pub fn list(&self) -> Vec<(PackName, u32)> {
        self.state().packs.clone()
    }

    /// The pack in a slot.
    pub fn name(&self, slot: u32) -> PackName {
        self.state().packs[slot as usize].0
    }

    /// Describes the packs that cannot be used.
    pub fn unusable(&self) -> Vec<(PackName, String)> {
        self.state().unusable.iter().map(|(name, error)| (*name, error.reason())).collect()
    }

    /// Whether there is no pack, not even one that cannot be used.
    pub fn are_none(&self) -> bool {
        let state = self.state();
        state.packs.is_empty() && state.unusable.is_empty()
    }

    /// Whether there are packs that cannot be used, or the index file covers some that are gone: what was stored once may not
    /// be there.
    pub fn lack_some(&self) -> bool {
        let state = self.state();
        let is_gone = |covered: &Covered| covered.slots.iter().any(Option::is_none);
        !state.unusable.is_empty() || state.file.as_ref().is_some_and(is_gone)
    }

    /// Paths below `packs` that are not packs.
    pub fn strangers(&self) -> Vec<String> {
        self.state().strangers.clone()
    }

    /// Where an object may stand: at each of these places an object of this name, or one whose name begins the same.
    pub fn find(&self, id: ObjectId) -> Result<Vec<Location>> {
        self.with_index(|state| state.find(index::prefix(id)))
    }

    /// Does what needs the index. If the index file cannot be read, or does not say what the packs say, it is done once
    /// more with what the packs themselves say.
    fn with_index<T>(&self, work: impl Fn(&State) -> Result<T>) -> Result<T> {
        match work(&self.state()) {
            Err(Error::Refused { .. }) => {}
            other => return other,
        }
        self.distrust_file()?;
        work(&self.state())
    }

    /// No longer relies on the index file that is there now.
    fn distrust_file(&self) -> Result<()> {
        let mut state = self.state_mut();
        state.distrusts_file = true;
        if state.file.is_some() {
            state.edition += 1;
            self.read_indexes(&mut state)?;
        }
        Ok(())
    }

    /// Whether the index file was found not to say what the packs say.
    pub fn distrusts_file(&self) -> bool {
        self.state().distrusts_file
    }

    /// Whether a pack holds the object, as far as the packs' indexes say. A pack that cannot be read holds nothing.
    pub fn holds(&self, id: ObjectId) -> Result<bool> {
        self.near().holds(id)
    }

    /// For who asks for objects about in the order in which they were stored.
    pub fn near(&self) -> Near<'_> {
        Near::nothing(self)
    }

    /// What stands at a location, as the pack's index says; nothing if there is nothing, or the pack cannot be read.
    pub fn member(&self, location: Location) -> Result<Option<Member>> {
        match self.file(location.slot).and_then(|pack| pack.member(location.position)) {
            Err(error) if error.is_unreadable() => Ok(None),
            other => other,
        }
    }

    /// Whether the whole index of a pack can be read and is right: what stands in a pack of which it is not counts as damaged
    /// for all who have no other index.
    pub fn has_right_index(&self, slot: u32) -> Result<bool> {
        match self.file(slot).and_then(|pack| pack.verify_index()) {
            Err(error) if error.is_unreadable() => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// What stands at a location and behind it, as the pack's index says: at most as much as is read at once. Nothing if there
    /// is nothing, or the pack cannot be read.
    fn some_members(&self, location: Location) -> Result<Vec<Member>> {
        match self.file(location.slot).and_then(|pack| pack.some_members(location.position)) {
            Err(error) if error.is_unreadable() => Ok(Vec::new()),
            other => other,
        }
    }

    /// The pack in a slot, open.
    pub fn file(&self, slot: u32) -> Result<Arc<PackFile>> {
        let open = || {
            let (name, _) = self.state().packs[slot as usize];
            Ok((PackFile::open(&*self.backend, self.rules, name)?, 1))
        };
        Ok(self.files.get_or_make(slot, open)?.0)
    }

    /// The frame at a location and the object's position in it; nothing if what stands there has another name.
    pub fn frame(&self, location: Location, id: ObjectId) -> Result<Option<(Arc<DecodedFrame>, usize)>> {
        let pack = self.file(location.slot)?;
        let Some((number, position)) = pack.frame_of(location.position) else { return Ok(None) };
        let decode = || {
            let buffer = self.spare().pop().unwrap_or_default();
            let frame = pack.decode(number, buffer)?;
            let size = frame.size();
            Ok((frame, size))
        };
        let (frame, gone) = self.frames.get_or_make((location.slot, number), decode)?;
        for frame in gone.into_iter().filter_map(Arc::into_inner) {
            let mut spare = self.spare();
            if spare.len() < MOST_SPARE {
                spare.push(frame.into_buffer());
            }
        }
        Ok((frame.members()[position].id == id).then_some((frame, position)))
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a pack that this process has just published.
    pub fn add(&self, pack: &FinishedPack) {
        let mut state = self.state_mut();
        let unusable = state.unusable.len();
        state.unusable.retain(|(name, _)| *name != pack.name);
        let objects = count(pack.members.len());
        let slot = match state.slots.get(&pack.name).copied() {
            // One that could not be used was made again.
            Some(slot) if state.unusable.len() < unusable => {
                state.packs[slot as usize].1 = objects;
                slot
            }
            Some(_) => return,
            None => state.add(pack.name, objects),
        };
        state.add_entries(slot, &pack.members);
    }

    /// Whether so many entries are held in memory that it is time for [`Packs::save_if_much`].
    fn has_much_to_save(&self) -> bool {
        let state = self.state();
        let covered = state.file.as_ref().map_or(0, |covered| covered.file.entry_count() as usize);
        state.recent.len() >= SAVE_ENTRIES.max(covered / SAVE_SHARE)
    }

    /// Whether `cache/index` does not cover at least `entries` objects.
    pub fn has_unsaved(&self, entries: usize) -> bool {
        self.state().recent.len() >= entries
    }

    /// Writes `cache/index` for all packs that can be used, and goes on with it.
    pub fn save(&self, staging: &Staging<'_>) -> Result<()> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.save_alone(staging)
    }

    /// The same, if it is time for it and no other thread is at it.
    pub fn save_if_much(&self, staging: &Staging<'_>) -> Result<()> {
        match self.saving.try_lock() {
            Ok(_saving) if self.has_much_to_save() => self.save_alone(staging),
            _ => Ok(()),
        }
    }

    fn save_alone(&self, staging: &Staging<'_>) -> Result<()> {
        // A check removes an index that misleads. Who has opened it before must not write back what it said.
        if matches!(self.backend.length(layout::INDEX), Err(error) if error.is_not_found()) {
            self.distrust_file()?;
        }
        let (packs, known) = self.with_index(|state| self.write_index(state, staging))?;
        // Another process may have replaced it already, by one that is as good.
        if let Some(file) = IndexFile::open(&*self.backend, self.rules.hash) {
            let mut state = self.state_mut();
            let covered = file.packs().iter().map(|(name, _)| state.slots.get(name).copied()).collect();
            if packs.iter().all(|pack| file.packs().binary_search(pack).is_ok()) {
                state.file = Some(Covered { file, slots: covered });
                // Slots only grow: those above came while the file was written.
                state.recent.forget_below(known);
            }
        }
        Ok(())
    }

    /// Writes `cache/index`. Returns the packs that it covers, and the slot from which on none is.
    fn write_index(&self, state: &State, staging: &Staging<'_>) -> Result<(Vec<(PackName, u32)>, u32)> {
        let mut slots = state.sorted_slots();
        slots.retain(|slot| !state.is_unusable(&state.packs[*slot as usize].0));
        let packs: Vec<_> = slots.iter().map(|slot| state.packs[*slot as usize]).collect();
        index::write(&*self.backend, staging, self.rules.hash, &packs, state.entries(&slots))?;
        Ok((packs, count(state.packs.len())))
    }

    /// Whether `cache/index`, if there is one, says what the packs say of those that it covers, and covers none that cannot be
    /// used. (That it does not cover all, or some that are gone, is usual.)
    pub fn agree_with_file(&self) -> Result<bool> {
        let Some(file) = IndexFile::open(&*self.backend, self.rules.hash) else {
            let entries = list_or_empty(&*self.backend, layout::CACHE)?;
            return Ok(!entries.iter().any(|entry| format!("{}/{}", layout::CACHE, entry.name) == layout::INDEX));
        };
        self.with_index(|state| {
            if file.packs().iter().any(|(name, _)| state.is_unusable(name)) {
                return Ok(false);
            }
            let covered: Vec<Option<u32>> =
                file.packs().iter().map(|(name, _)| state.slots.get(name).copied()).collect();
            let counts_agree = file
                .packs()
                .iter()
                .zip(&covered)
                .all(|((_, objects), slot)| slot.is_none_or(|slot| state.packs[slot as usize].1 == *objects));
            if !counts_agree {
                return Ok(false);
            }
            let slots = state.sorted_slots();
            let is_covered: HashSet<u32> = covered.iter().flatten().copied().collect();
            let mut own = state.entries(&slots).filter_map(|entry| match entry {
                Ok(entry) => {
                    let slot = slots[entry.pack as usize];
                    is_covered.contains(&slot).then_some(Ok((entry.prefix, slot, entry.position)))
                }
                Err(error) => Some(Err(error)),
            });
            for entry in file.entries() {
                let Ok(entry) = entry else { return Ok(false) };
                let Some(slot) = covered.get(entry.pack as usize) else { return Ok(false) };
                let Some(slot) = slot else { continue };
                if own.next().transpose()? != Some((entry.prefix, *slot, entry.position)) {
                    return Ok(false);
                }
            }
            Ok(own.next().is_none())
        })
    }

    /// The entries whose prefix is not theirs alone, in order: objects of which there may be several copies.
    pub fn shared_prefixes(&self) -> Result<Vec<Location>> {
        self.with_index(State::shared_prefixes)
    }
}
