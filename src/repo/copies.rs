//! Objects of which there are several copies: in two packs, or in a pack and loose.
//!
//! They do no harm, and come about where a run that packed was interrupted before it removed what it had packed, where
//! two runs stored the same at the same time, and where something damaged was stored again. Before one of them goes,
//! another one is read and hashed: of a good copy and a rotten one, the good one stays, whichever pack it is in.

use std::collections::{HashMap, HashSet};

use super::Repository;
use crate::error::Result;
use crate::object::ObjectId;
use crate::store::loose;
use crate::store::packs::{Location, Near};

/// Where one copy of an object is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Copy {
    /// In the pack in this slot.
    Packed(Location),
    /// Loose.
    Loose,
}

/// For objects of which there are several copies, the one that stays.
#[derive(Debug, Default)]
pub struct Keepers(HashMap<ObjectId, Copy>);

impl Keepers {
    /// Whether no object has several copies.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this copy of an object can go because another one stays.
    pub fn has_better(&self, id: &ObjectId, copy: Copy) -> bool {
        self.0.get(id).is_some_and(|keeper| *keeper != copy)
    }
}

impl Repository {
    /// Chooses, for each needed object of which there are several copies, one that was read and found whole: in the pack
    /// with the most objects where there is a choice, so that small packs become superfluous. Where no copy is whole,
    /// none is chosen, and all stay. `loose` are the loose objects, ascending.
    pub fn choose_keepers(&self, loose: &[ObjectId], is_needed: impl Fn(&ObjectId) -> bool) -> Result<Keepers> {
        let packs = self.packs()?;
        let in_packs = self.copies_in_packs(&is_needed)?;
        let packed = |copies: Vec<Location>| copies.into_iter().map(Copy::Packed).collect();
        let mut copies: HashMap<ObjectId, HashSet<Copy>> =
            in_packs.into_iter().map(|(id, copies)| (id, packed(copies))).collect();
        for id in loose.iter().filter(|id| is_needed(id)) {
            let mut packed = self.packed_copies(*id)?.into_iter().map(Copy::Packed).peekable();
            if packed.peek().is_some() {
                let copies = copies.entry(*id).or_default();
                copies.extend(packed);
                copies.insert(Copy::Loose);
            }
        }
        let sizes: Vec<u32> = packs.list().into_iter().map(|(_, objects)| objects).collect();
        let best_first = |copies: HashSet<Copy>| {
            let mut copies: Vec<Copy> = copies.into_iter().collect();
            copies.sort_unstable_by_key(|copy| match copy {
                Copy::Packed(location) => (u32::MAX - sizes[location.slot as usize], *copy),
                Copy::Loose => (u32::MAX, *copy),
            });
            copies
        };
        let several = copies.into_iter().filter(|(_, copies)| copies.len() > 1);
        let mut several: Vec<_> = several.map(|(id, copies)| (best_first(copies), id)).collect();
        // In the order of the packs, so that each frame is decoded once.
        several.sort_unstable_by_key(|(copies, _)| copies[0]);
        let mut keepers = HashMap::new();
        for (copies, id) in several {
            for copy in copies {
                if self.is_whole(id, copy)? {
                    keepers.insert(id, copy);
                    break;
                }
            }
        }
        Ok(Keepers(keepers))
    }

    /// The places in packs of all wanted objects of which packs hold several copies, as their indexes say. (Among them may
    /// be some with one copy.)
    pub(super) fn copies_in_packs(
        &self,
        is_wanted: impl Fn(&ObjectId) -> bool,
    ) -> Result<HashMap<ObjectId, Vec<Location>>> {
        let mut copies: HashMap<ObjectId, Vec<Location>> = HashMap::new();
        for location in self.packs()?.shared_prefixes()? {
            if let Some(id) = self.name_at(location)?
                && is_wanted(&id)
            {
                copies.entry(id).or_default().push(location);
            }
        }
        Ok(copies)
    }

    /// The places in packs where the object stands, as their indexes say.
    pub fn packed_copies(&self, id: ObjectId) -> Result<Vec<Location>> {
        let mut copies = Vec::new();
        for location in self.packs()?.find(id)? {
            if self.name_at(location)? == Some(id) {
                copies.push(location);
            }
        }
        Ok(copies)
    }

    /// The same, for who asks for objects about in the order in which they were stored. (The index is asked all the same:
    /// there may be other copies. And what it hides stays hidden: it is to be what others find who ask in no order.)
    pub(super) fn packed_copies_near(&self, near: &mut Near<'_>, id: ObjectId) -> Result<Vec<Location>> {
        let ahead = near.next(id)?.map(|(place, _)| place);
        let mut copies = Vec::new();
        for location in near.packs().find(id)? {
            if ahead == Some(location) || self.name_at(location)? == Some(id) {
                copies.push(location);
            }
        }
        if ahead.is_none()
            && let Some(first) = copies.first()
        {
            near.go_behind(*first);
        }
        Ok(copies)
    }

    /// The name of the object at a place in a pack, as far as the pack can be read.
    fn name_at(&self, location: Location) -> Result<Option<ObjectId>> {
        Ok(self.packs()?.member(location)?.map(|member| member.id))
    }

    /// Whether packs hold copies of the object, and none of them is whole.
    pub fn is_damaged_in_packs(&self, id: ObjectId) -> Result<bool> {
        let copies = self.packed_copies(id)?;
        for location in &copies {
            if self.is_whole(id, Copy::Packed(*location))? {
                return Ok(false);
            }
        }
        Ok(!copies.is_empty())
    }

    /// Whether a copy, read and hashed now, is what its name says.
    pub fn is_whole(&self, id: ObjectId, copy: Copy) -> Result<bool> {
        let read = match copy {
            Copy::Packed(location) => self.read_packed(location, id).map(|found| found.is_some()),
            Copy::Loose => loose::read(self.backend(), self.rules(), id).map(|_| true),
        };
        match read {
            Err(error) if error.is_unreadable() => Ok(false),
            other => other,
        }
    }
}
