//! Which packs are known, and the entries of all their indexes together.

use std::collections::HashMap;

use super::Location;
use crate::error::{Error, Result};
use crate::store::index::{self, IndexEntry, IndexFile};
use crate::store::pack::{Member, PackName};

/// What is known of all packs.
#[derive(Debug, Default)]
pub(super) struct State {
    /// By slot: the pack and how many objects it has.
    pub(super) packs: Vec<(PackName, u32)>,
    pub(super) slots: HashMap<PackName, u32>,
    pub(super) file: Option<Covered>,
    pub(super) recent: Recent,
    pub(super) unusable: Vec<(PackName, Error)>,
    pub(super) strangers: Vec<String>,
    /// Whether everything was read from the packs themselves.
    pub(super) distrusts_file: bool,
    /// How often packs came that others have made, or the index file was given up.
    pub(super) edition: u64,
}

/// The index file, and the slots of the packs that it covers; nothing for one that is gone.
#[derive(Debug)]
pub(super) struct Covered {
    pub(super) file: IndexFile,
    pub(super) slots: Vec<Option<u32>>,
}

/// Entries in memory, as sorted runs that are merged so that each is longer than all after it. The packs' numbers in
/// them are slots.
#[derive(Debug, Default)]
pub(super) struct Recent {
    runs: Vec<Vec<IndexEntry>>,
}

impl Recent {
    fn add(&mut self, mut run: Vec<IndexEntry>) {
        run.sort_unstable();
        while let Some(last) = self.runs.pop_if(|last| last.len() <= 2 * run.len()) {
            run.extend(last);
            // Sorted runs are merged in linear time by this sort.
            run.sort();
        }
        self.runs.push(run);
    }

    fn find(&self, prefix: u64, mut each: impl FnMut(IndexEntry)) {
        for run in &self.runs {
            let first = run.partition_point(|entry| entry.prefix < prefix);
            run[first..].iter().take_while(|entry| entry.prefix == prefix).for_each(|entry| each(*entry));
        }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.runs.iter().map(Vec::len).sum()
    }

    /// Forgets the entries of all packs in slots below this one.
    pub(super) fn forget_below(&mut self, slot: u32) {
        for run in &mut self.runs {
            run.retain(|entry| entry.pack >= slot);
        }
        self.runs.retain(|run| !run.is_empty());
    }
}

impl State {
    /// Whether the pack was seen not to be usable.
    pub(super) fn is_unusable(&self, name: &PackName) -> bool {
        self.unusable.iter().any(|(unusable, _)| unusable == name)
    }

    /// Takes in a pack of so many objects, without their entries, and returns its slot.
    pub(super) fn add(&mut self, name: PackName, objects: u32) -> u32 {
        let slot = count(self.packs.len());
        self.packs.push((name, objects));
        self.slots.insert(name, slot);
        slot
    }

    /// Adds the entries of a pack.
    pub(super) fn add_entries(&mut self, slot: u32, members: &[Member]) {
        let entry = |(position, member): (usize, &Member)| IndexEntry {
            prefix: index::prefix(member.id),
            pack: slot,
            position: count(position),
        };
        self.recent.add(members.iter().enumerate().map(entry).collect());
    }

    /// Where objects may stand whose names begin so.
    pub(super) fn find(&self, prefix: u64) -> Result<Vec<Location>> {
        let mut found = Vec::new();
        if let Some(Covered { file, slots }) = &self.file {
            file.find(prefix, |entry| {
                if let Some(Some(slot)) = slots.get(entry.pack as usize) {
                    found.push(Location { slot: *slot, position: entry.position });
                }
            })?;
        }
        self.recent.find(prefix, |entry| found.push(Location { slot: entry.pack, position: entry.position }));
        Ok(found)
    }

    /// The entries whose prefix is not theirs alone, in order.
    pub(super) fn shared_prefixes(&self) -> Result<Vec<Location>> {
        let slots = self.sorted_slots();
        let mut found = Vec::new();
        let mut previous: Option<IndexEntry> = None;
        for entry in self.entries(&slots) {
            let entry = entry?;
            if let Some(before) = previous.filter(|before| before.prefix == entry.prefix) {
                for entry in [before, entry] {
                    let location = Location { slot: slots[entry.pack as usize], position: entry.position };
                    if found.last() != Some(&location) {
                        found.push(location);
                    }
                }
            }
            previous = Some(entry);
        }
        Ok(found)
    }

    /// All slots, in the order of their packs' names.
    pub(super) fn sorted_slots(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = (0..count(self.packs.len())).collect();
        slots.sort_unstable_by_key(|slot| self.packs[*slot as usize].0);
        slots
    }

    /// All entries in the order of the file, the packs numbered by their place in `sorted`.
    pub(super) fn entries(&self, sorted: &[u32]) -> impl Iterator<Item = Result<IndexEntry>> {
        let mut numbers = vec![0; self.packs.len()];
        for (number, slot) in sorted.iter().enumerate() {
            numbers[*slot as usize] = count(number);
        }
        let renumbered = |entry: &IndexEntry| IndexEntry { pack: numbers[entry.pack as usize], ..*entry };
        let mut recent: Vec<IndexEntry> = self.recent.runs.iter().flatten().map(renumbered).collect();
        recent.sort_unstable();
        let mut recent = recent.into_iter().peekable();
        // In the file, too, packs are numbered by name, so new numbers leave the order as it is.
        let covered = self.file.iter().flat_map(move |Covered { file, slots }| {
            let numbers = numbers.clone();
            file.entries().filter_map(move |entry| {
                let renumber = |entry: IndexEntry| {
                    let slot = (*slots.get(entry.pack as usize)?)?;
                    Some(IndexEntry { pack: numbers[slot as usize], ..entry })
                };
                entry.map(renumber).transpose()
            })
        });
        let mut covered = covered.peekable();
        std::iter::from_fn(move || match (covered.peek(), recent.peek()) {
            (Some(Err(_)), _) | (Some(_), None) => covered.next(),
            (Some(Ok(a)), Some(b)) if a <= b => covered.next(),
            _ => recent.next().map(Ok),
        })
    }
}

/// A number of packs or objects, which the format counts with 32 bits.
pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn recent_entries_are_found_whatever_the_runs(
            runs in proptest::collection::vec(proptest::collection::vec((0..40_u64, 0..5_u32, any::<u32>()), 0..30), 0..30),
        ) {
            let mut recent = Recent::default();
            let mut model: BTreeMap<u64, Vec<IndexEntry>> = BTreeMap::new();
            for run in runs {
                let entry = |(prefix, pack, position)| IndexEntry { prefix, pack, position };
                let run: Vec<IndexEntry> = run.into_iter().map(entry).collect();
                for entry in &run {
                    model.entry(entry.prefix).or_default().push(*entry);
                }
                recent.add(run);
                prop_assert!(recent.runs.iter().all(|run| run.is_sorted()));
                prop_assert!(recent.runs.windows(2).all(|pair| pair[0].len() > 2 * pair[1].len()));
            }
            prop_assert_eq!(recent.len(), model.values().map(Vec::len).sum::<usize>());
            for prefix in 0..41 {
                let mut found = Vec::new();
                recent.find(prefix, |entry| found.push(entry));
                found.sort_unstable();
                let mut expected = model.remove(&prefix).unwrap_or_default();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
