//! How much of what is stored a check reads.

use jiff::Timestamp;

use crate::object::ObjectId;
use crate::store::pack::PackName;
use crate::store::verified::Verified;

/// What a check reads. Whatever it is, every tree and list that a snapshot needs is read, and everything that they refer
/// to must be there with the right length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every object and every pack is read and hashed.
    Everything,
    /// Nothing else is read.
    Structure,
    /// The packs and loose objects of one part.
    Part(Part),
    /// All loose objects, and the packs that no check has read and found whole since this moment.
    NotSince(Timestamp),
}

/// One of several parts of a repository. Names decide what belongs to which, so whoever checks each part once has checked
/// all that was there all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    number: u64,
    of: u64,
}

impl Part {
    /// Part `number`, from 1, of `of`; nothing if there is no such part.
    pub fn new(number: u64, of: u64) -> Option<Self> {
        (1..=of).contains(&number).then_some(Self { number, of })
    }

    fn has(self, id: &ObjectId) -> bool {
        // Hashes are evenly spread.
        let mut start = [0; 8];
        start.copy_from_slice(&id.as_bytes()[..8]);
        u64::from_be_bytes(start) % self.of == self.number - 1
    }
}

impl Extent {
    pub(super) fn reads_loose(&self, id: ObjectId) -> bool {
        match self {
            Self::Everything | Self::NotSince(_) => true,
            Self::Structure => false,
            Self::Part(part) => part.has(&id),
        }
    }

    pub(super) fn reads_pack(&self, pack: PackName, verified: &Verified) -> bool {
        match self {
            Self::Everything => true,
            Self::Structure => false,
            Self::Part(part) => part.has(&pack.hash),
            Self::NotSince(moment) => verified.last(pack).is_none_or(|last| last < *moment),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::HashAlgorithm;

    #[test]
    fn each_object_is_in_one_part() {
        for of in [1, 2, 3, 10, 1000] {
            for number in 0..200_u64 {
                let id = HashAlgorithm::Blake3.hash(&number.to_le_bytes());
                let parts = (1..=of).filter(|part| Part::new(*part, of).is_some_and(|part| part.has(&id)));
                assert_eq!(parts.count(), 1, "{id} of {of}");
            }
        }
        assert_eq!((Part::new(0, 3), Part::new(4, 3), Part::new(1, 0)), (None, None, None));
    }
}
