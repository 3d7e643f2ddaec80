//! Reading what is stored, loose and packed, on all cores: all of it, or as much as was asked for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rayon::prelude::*;

use super::Extent;
use super::packs::{self, Problem};
use crate::error::{Error, ObjectProblem, Result};
use crate::object::ObjectId;
use crate::progress::Progress;
use crate::repo::Repository;
use crate::store::loose;
use crate::store::pack::PackName;
use crate::store::verified::Verified;

/// What is known of a stored object.
pub(in crate::ops) enum Stored {
    /// It is whole and has so many bytes.
    Whole(u64),
    /// It is there, and was not read. The index of its pack says how many bytes it has; a loose object's are not known.
    Unread(Option<u64>),
    Damaged(String),
}

impl Stored {
    /// Its length in bytes, as far as it is known.
    pub(in crate::ops) fn length(&self) -> Option<u64> {
        match self {
            Self::Whole(length) => Some(*length),
            Self::Unread(length) => *length,
            Self::Damaged(_) => None,
        }
    }

    /// Of two copies of an object the one with the higher rank counts.
    fn rank(&self) -> u8 {
        match self {
            Self::Damaged(_) => 0,
            Self::Unread(_) => 1,
            Self::Whole(_) => 2,
        }
    }
}

/// Everything that is stored.
#[derive(Default)]
pub(in crate::ops) struct Contents {
    /// By name. Of several copies of an object a whole one counts, or else one that was not read.
    pub(in crate::ops) objects: HashMap<ObjectId, Stored>,
    /// Loose objects whose file is damaged, whether or not there is a whole copy in a pack.
    pub(in crate::ops) damaged_loose: Vec<ObjectId>,
    /// How many packs there are.
    pub(in crate::ops) packs: u64,
    /// Packs that are not as they must be, and what is wrong with each.
    pub(in crate::ops) damaged_packs: Vec<(PackName, String)>,
    /// Objects of which the copy in a pack is damaged and there is no whole one.
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
        let (to_read, others): (Vec<u32>, Vec<u32>) = (0..)
            .zip(&list)
            .map(|(slot, _)| slot)
            .partition(|slot| extent.reads_pack(list[*slot as usize].0, verified));
        let mut damaged = Vec::new();
        let mut problems = packs::read_all(repo, &to_read, |objects| {
            let mut bytes = 0;
            let count = objects.len() as u64;
            for (id, stored) in objects {
                match &stored {
                    Stored::Whole(length) => bytes += length,
                    Stored::Damaged(_) => damaged.push(id),
                    Stored::Unread(_) => {}
                }
                self.add(id, stored);
            }
            progress.advance(count, bytes);
        })?;
        let is_whole = |slot: &u32| !problems.contains_key(slot);
        self.whole_packs = to_read.into_iter().filter(is_whole).map(|slot| list[slot as usize].0).collect();
        for slot in others {
            match repo.packs()?.file(slot).and_then(|pack| pack.index()) {
                Ok(index) => {
                    for member in index.members {
                        self.add(member.id, Stored::Unread(Some(member.length.into())));
                    }
                }
                Err(error) => drop(problems.insert(slot, Problem::Unusable(error.reason()))),
            }
        }
        self.index_misleads = problems.values().any(|problem| matches!(problem, Problem::Unusable(_)));
        for (slot, problem) in problems {
            self.damaged_packs.push((list[slot as usize].0, problem.into_reason()));
        }
        damaged.retain(|id| matches!(self.objects.get(id), Some(Stored::Damaged(_))));
        damaged.sort_unstable();
        damaged.dedup();
        self.damaged_in_packs = damaged;
        Ok(())
    }

    fn add(&mut self, id: ObjectId, stored: Stored) {
        match self.objects.entry(id) {
            Entry::Vacant(entry) => drop(entry.insert(stored)),
            Entry::Occupied(mut entry) if entry.get().rank() < stored.rank() => drop(entry.insert(stored)),
            Entry::Occupied(_) => {}
        }
    }
}

/// Reads what the extent asks for; `loose` are the loose objects, `verified` what earlier checks have found whole.
pub(in crate::ops) fn read(
    repo: &Repository,
    loose: &[ObjectId],
    extent: &Extent,
    verified: &Verified,
    progress: &dyn Progress,
) -> Result<Contents> {
    let mut contents = Contents::default();
    let read = |id: &ObjectId| {
        if !extent.reads_loose(*id) {
            return Ok((*id, Stored::Unread(None)));
        }
        let stored = match loose::read(repo.backend(), repo.rules(), *id) {
            Ok(content) => Stored::Whole(content.len() as u64),
            Err(Error::Object { problem: ObjectProblem::Damaged(reason), .. }) => Stored::Damaged(reason),
            Err(Error::Object { problem: ObjectProblem::Missing, .. }) => {
                Stored::Damaged("its file vanished during the check".into())
            }
            Err(error) if error.is_interrupted() => return Err(error),
            // A file that cannot be read (a bad sector, a wrong owner) is damage as well; the others are still checked.
            Err(error) => Stored::Damaged(error.to_string()),
        };
        progress.advance(1, stored.length().unwrap_or(0));
        Ok((*id, stored))
    };
    for (id, stored) in loose.par_iter().map(read).collect::<Result<Vec<_>>>()? {
        if matches!(stored, Stored::Damaged(_)) {
            contents.damaged_loose.push(id);
        }
        contents.add(id, stored);
    }
    contents.read_packs(repo, extent, verified, progress)?;
    Ok(contents)
}
