//! Reading everything that is stored, loose and packed, on all cores.

use std::collections::HashMap;

use rayon::prelude::*;

use super::packs::{self, Problem};
use crate::error::{Error, ObjectProblem, Result};
use crate::object::ObjectId;
use crate::progress::Progress;
use crate::repo::Repository;
use crate::store::loose;
use crate::store::pack::PackName;

/// What is known of a stored object.
pub(super) enum Stored {
    /// It is whole and has so many bytes.
    Whole(u64),
    Damaged(String),
}

/// Everything that is stored.
#[derive(Default)]
pub(super) struct Contents {
    /// By name. Of several copies of an object a whole one counts.
    pub(super) objects: HashMap<ObjectId, Stored>,
    /// How many packs there are.
    pub(super) packs: u64,
    /// Packs that are not as they must be, and what is wrong with each.
    pub(super) damaged_packs: Vec<(PackName, String)>,
    /// Objects of which the copy in a pack is damaged and there is no whole one.
    pub(super) damaged_in_packs: Vec<ObjectId>,
    /// Whether the index of all packs covers a pack that cannot be used.
    pub(super) index_misleads: bool,
}

impl Contents {
    /// Reads all packs.
    fn read_packs(&mut self, repo: &Repository, progress: &dyn Progress) -> Result<()> {
        self.damaged_packs = repo.packs()?.unusable();
        let list = repo.packs()?.list();
        self.packs = (list.len() + self.damaged_packs.len()) as u64;
        let mut damaged = Vec::new();
        let slots = u32::try_from(list.len()).unwrap_or(u32::MAX);
        let problems = packs::read_all(repo, slots, |objects| {
            let mut bytes = 0;
            let count = objects.len() as u64;
            for (id, stored) in objects {
                match &stored {
                    Stored::Whole(length) => bytes += length,
                    Stored::Damaged(_) => damaged.push(id),
                }
                self.add(id, stored);
            }
            progress.advance(count, bytes);
        })?;
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
        match self.objects.get(&id) {
            Some(Stored::Whole(_)) => {}
            _ => {
                self.objects.insert(id, stored);
            }
        }
    }
}

/// Reads everything; `loose` are the loose objects.
pub(super) fn read_all(repo: &Repository, loose: &[ObjectId], progress: &dyn Progress) -> Result<Contents> {
    let mut contents = Contents::default();
    let read = |id: &ObjectId| {
        let stored = match loose::read(repo.backend(), repo.rules(), *id) {
            Ok(content) => Stored::Whole(content.len() as u64),
            Err(Error::Object { problem: ObjectProblem::Damaged(reason), .. }) => Stored::Damaged(reason),
            Err(Error::Object { problem: ObjectProblem::Missing, .. }) => {
                Stored::Damaged("its file vanished during the check".into())
            }
            // A file that cannot be read (a bad sector, a wrong owner) is damage as well; the others are still checked.
            Err(error) => Stored::Damaged(error.to_string()),
        };
        progress.advance(1, if let Stored::Whole(length) = &stored { *length } else { 0 });
        (*id, stored)
    };
    for (id, stored) in loose.par_iter().map(read).collect::<Vec<_>>() {
        contents.add(id, stored);
    }
    contents.read_packs(repo, progress)?;
    Ok(contents)
}
