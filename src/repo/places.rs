//! Sets of objects by where they stand: a bit each, so that a set of ten million takes little more than a megabyte.

use crate::store::packs::Location;

/// A set of numbers that grows with the highest.
#[derive(Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn has(&self, position: u32) -> bool {
        self.0.get(position as usize / 64).is_some_and(|word| word >> (position % 64) & 1 == 1)
    }

    /// Sets a bit; returns whether it was not set before.
    pub(super) fn set(&mut self, position: u32) -> bool {
        let at = position as usize / 64;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        let bit = 1 << (position % 64);
        let is_new = self.0[at] & bit == 0;
        self.0[at] |= bit;
        is_new
    }
}

/// A set of places in packs, by their slots: it is of use only as long as the packs are not listed anew.
#[derive(Debug, Default)]
pub struct PlaceSet(Vec<Bits>);

impl PlaceSet {
    /// Whether a place is in it.
    pub fn has(&self, place: Location) -> bool {
        self.0.get(place.slot as usize).is_some_and(|bits| bits.has(place.position))
    }

    /// Adds a place; returns whether it was not in it before.
    pub fn add(&mut self, place: Location) -> bool {
        let at = place.slot as usize;
        if self.0.len() <= at {
            self.0.resize_with(at + 1, Bits::default);
        }
        self.0[at].set(place.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_one_by_one() {
        let mut bits = Bits::default();
        for position in [0, 63, 64, 1000, 65_536] {
            assert!(!bits.has(position) && bits.set(position) && bits.has(position) && !bits.set(position));
            assert!(!bits.has(position + 1) && !bits.has(u32::MAX));
        }
        assert_eq!(bits.0.iter().map(|word| word.count_ones()).sum::<u32>(), 5);
    }

    #[test]
    fn places_are_those_of_a_pack() {
        let mut set = PlaceSet::default();
        let place = |slot, position| Location { slot, position };
        assert!(set.add(place(3, 5)) && !set.add(place(3, 5)) && set.has(place(3, 5)));
        assert!(!set.has(place(3, 4)) && !set.has(place(0, 5)) && !set.has(place(4, 5)));
    }
}
