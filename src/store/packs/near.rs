//! Finding objects that stand one behind the other, without asking the index for each.

use super::{Location, Packs};
use crate::error::Result;
use crate::object::ObjectId;
use crate::store::pack::Member;

/// With fewer than so many left of what was read, more is read: the next one may not be the very next.
const FEW: usize = 8;

/// What stands behind the object that was found last. Who asks for objects in the order in which a snapshot has stored them
/// finds most of them here: a pack's index is read once for a few dozen, and `cache/index` not at all.
///
/// It holds what packs say of themselves, and packs never change. But a place is one only among packs that are listed as
/// they were: that it borrows them says so. So it is as right as to ask each time.
#[derive(Debug)]
pub struct Near<'p> {
    packs: &'p Packs,
    /// What was read and is not passed yet, and where its first stands. Without any, what stands there was not read yet.
    place: Option<Location>,
    members: Vec<Member>,
    /// So many of `members` are passed.
    passed: usize,
}

impl<'p> Near<'p> {
    /// Nothing was found yet.
    pub(super) fn nothing(packs: &'p Packs) -> Self {
        Self { packs, place: None, members: Vec::new(), passed: 0 }
    }

    /// The packs that it looks into.
    pub fn packs(&self) -> &'p Packs {
        self.packs
    }

    /// Goes to what stands behind this place.
    pub fn go_behind(&mut self, place: Location) {
        self.place = Some(place.moved_by(1));
        self.members.clear();
        self.passed = 0;
    }

    /// Goes behind the object if it stands not far behind the last one. Returns its place, and what the pack says of it.
    pub fn next(&mut self, id: ObjectId) -> Result<Option<(Location, Member)>> {
        let Some(place) = self.place else { return Ok(None) };
        let is_near_end = self.members.len() - self.passed < FEW;
        if self.members.is_empty() || self.passed > 0 && is_near_end {
            self.read(place)?;
        }
        Ok(self.pass(id))
    }

    /// Whether a pack holds the object, as [`Packs::holds`] says. Then it goes behind it.
    pub fn holds(&mut self, id: ObjectId) -> Result<bool> {
        if self.next(id)?.is_some() {
            return Ok(true);
        }
        for place in self.packs.find(id)? {
            self.read(place)?;
            if self.members.first().is_some_and(|first| first.id == id) {
                self.pass(id);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read(&mut self, place: Location) -> Result<()> {
        self.members = self.packs.some_members(place)?;
        self.place = (!self.members.is_empty()).then_some(place);
        self.passed = 0;
        Ok(())
    }

    fn pass(&mut self, id: ObjectId) -> Option<(Location, Member)> {
        let ahead = &self.members[self.passed..];
        let (at, member) = ahead.iter().enumerate().find(|(_, member)| member.id == id)?;
        let place = self.place?.moved_by(at);
        self.passed += at + 1;
        self.place = Some(place.moved_by(1));
        Some((place, *member))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::object::{HashAlgorithm, MAX_OBJECT};
    use crate::store::loose::ReadRules;
    use crate::store::pack::{FrameEntry, PackIndex, PackKind, PackName};
    use crate::store::{Backend, MemoryBackend, layout};

    const HASH: HashAlgorithm = HashAlgorithm::Blake3;

    fn id(number: u32) -> ObjectId {
        HASH.hash(&number.to_le_bytes())
    }

    /// Packs of objects with these numbers as their lengths, and nothing where the frames would be.
    fn packs(contents: &[Vec<u32>]) -> Packs {
        let memory = MemoryBackend::new();
        for dir in layout::DIRS {
            memory.create_dir(dir).unwrap();
        }
        for numbers in contents.iter().filter(|numbers| !numbers.is_empty()) {
            let members = numbers.iter().map(|number| Member { id: id(*number), length: *number }).collect();
            let frames = vec![FrameEntry { length: 100, objects: u32::try_from(numbers.len()).unwrap() }];
            let bytes = [vec![0; 100], PackIndex { members, frames }.encode(HASH)].concat();
            let name = PackName { hash: HASH.hash(&bytes), kind: PackKind::Blobs };
            memory.set_contents(&name.path(), bytes).unwrap();
        }
        Packs::open(Arc::new(memory), ReadRules { hash: HASH, max_object: MAX_OBJECT }).unwrap()
    }

    #[test]
    fn what_stands_behind_is_found_without_the_index() {
        let packs = packs(&[(0..100).collect()]);
        let mut near = packs.near();
        assert_eq!(near.next(id(0)).unwrap(), None);
        assert!(near.holds(id(0)).unwrap());
        // Now and then one is left out, and now and then one is asked for that is not there.
        for number in (1..100).filter(|number| number % 7 > 0) {
            let found = (Location { slot: 0, position: number }, Member { id: id(number), length: number });
            assert_eq!(near.next(id(number)).unwrap(), Some(found));
            assert_eq!(near.next(id(1000 + number)).unwrap(), None);
        }
        assert_eq!(near.next(id(99)).unwrap(), None, "it was passed");
        assert!(near.holds(id(99)).unwrap());
        assert_eq!(near.next(id(0)).unwrap(), None, "nothing stands behind the last one");
        near.go_behind(Location { slot: 0, position: 48 });
        assert_eq!(near.next(id(50)).unwrap().unwrap().0.position, 50);
    }

    proptest! {
        #[test]
        fn what_packs_hold_is_found_whatever_was_asked_before(
            contents in proptest::collection::vec(proptest::collection::vec(0..200_u32, 0..80), 1..4),
            asked in proptest::collection::vec((0..220_u32, 1..50_u32), 1..20),
        ) {
            let packs = packs(&contents);
            let stored: BTreeSet<u32> = contents.iter().flatten().copied().collect();
            let mut near = packs.near();
            let in_order = contents.iter().flatten().copied();
            for number in asked.into_iter().flat_map(|(first, count)| first..first + count).chain(in_order) {
                let found = near.next(id(number)).unwrap();
                if let Some((place, member)) = found {
                    prop_assert_eq!(packs.member(place).unwrap(), Some(member));
                    prop_assert_eq!(member.id, id(number));
                    near.go_behind(place);
                }
                prop_assert_eq!(near.holds(id(number)).unwrap(), stored.contains(&number));
            }
        }
    }
}
