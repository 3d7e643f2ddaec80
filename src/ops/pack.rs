//! `pack`: folds loose objects and small packs into large packs, so that the number of files stays small however many
//! snapshots there are.
//!
//! # Which packs
//!
//! Geometrically, as `git repack --geometric` does: of the packs of one kind, ordered by size, one is folded together with
//! all smaller ones if it is less than twice as large as they are together (or small in any case: [`SMALL`]). So what is
//! left at least doubles from pack to pack, an object is copied a number of times that grows with the logarithm of the
//! repository, and packs of half the usual size, in bytes or objects, are never touched again.
//!
//! # The order, and why nothing is lost
//!
//! 1. Under the shared lock, everything is verified and copied to new packs, which become durable and visible. Now there
//!    are two copies of each object, which does no harm.
//!    If the disk becomes full, what is complete by then counts, so that the next step makes room.
//! 2. If the exclusive lock is to be had at once, what was copied is removed, but nothing of which no good copy stays
//!    ([`ExclusiveRepository::remove_copies`]). If it is not, or after a crash, the next `pack` or `prune` removes it: both
//!    recognize copies.
//!
//! A loose object that is damaged and a pack whose bytes do not give its name stay as they are.
//!
//! [`ExclusiveRepository::remove_copies`]: crate::repo::ExclusiveRepository::remove_copies

use std::collections::HashSet;
use std::mem;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::object::{ObjectId, Tree, decode_list};
use crate::repo::{Copied, Copy, Keepers, Removal, Removed, Repository, Session, SharedRepository, WriterOptions};
use crate::store::pack::{PACK_OBJECTS, PackKind, PackName};
use crate::store::packs::Location;
use crate::store::{layout, loose};

/// Packs of fewer bytes are folded whenever there is another one.
pub const SMALL: u64 = 4 << 20;
/// So many loose objects are many: the command `snapshot` runs `pack` when it is done and finds more.
pub const MANY_LOOSE: usize = 4096;
/// One of so many shard directories is looked at to find that out.
const SAMPLED: usize = 16;
/// So many packs that could be folded are many.
pub const MANY_SMALL_PACKS: usize = 32;

/// What is to be folded.
#[derive(Debug)]
pub struct PackPlan {
    /// The loose objects, each with the bytes that its file has.
    pub loose: Vec<(ObjectId, u64)>,
    /// The packs that are folded.
    pub fold: Vec<PackToFold>,
    /// Packs of which every object stands in another one as well: they need not be copied.
    pub superseded: Vec<PackName>,
    keepers: Keepers,
}

/// A pack that is to be folded.
#[derive(Debug)]
pub struct PackToFold {
    /// Its name.
    pub name: PackName,
    /// Its length in bytes.
    pub bytes: u64,
    slot: u32,
}

impl PackPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.loose.is_empty() && self.fold.is_empty() && self.superseded.is_empty()
    }
}

/// What was folded.
#[derive(Debug, Default)]
pub struct PackReport {
    /// Loose objects that are in packs now.
    pub loose: u64,
    /// Packs that were folded.
    pub folded: u64,
    /// Packs of which every object stood in another one as well: they were not copied.
    pub superseded: u64,
    /// The new packs.
    pub new: u64,
    /// Why not everything was packed, if the disk was full.
    pub full: Option<Error>,
    /// Loose objects that are damaged, and packs whose bytes do not give their name: they stay.
    pub damaged: Vec<String>,
    /// Whether some of the files that were copied are still there: others were at work in the repository, or no good copy
    /// would stay.
    pub old_files_remain: bool,
    /// How long it took.
    pub elapsed: Duration,
}

/// Whether so much could be folded that it should be. How many objects are loose is told by a sixteenth of them, as git
/// does it (`gc.auto`): their names are spread evenly, and to list them all takes as long as a snapshot of few files.
pub fn is_due(repo: &Repository, options: WriterOptions) -> Result<bool> {
    let mut loose = 0;
    for shard in loose::list_shards(repo.backend())?.into_iter().filter(|shard| usize::from(*shard) % SAMPLED == 0) {
        // One that cannot be listed says nothing; `check` will name it.
        loose += loose::list_shard(repo.backend(), shard).map_or(0, |objects| objects.len());
    }
    if loose * SAMPLED > MANY_LOOSE {
        return Ok(true);
    }
    let packs = repo.packs()?.list();
    // As many packs can be large ones: only then are their lengths asked for.
    if packs.len() <= MANY_SMALL_PACKS {
        return Ok(false);
    }
    let mut to_fold = 0;
    for (name, objects) in packs {
        if !is_large(repo.backend().length(&name.path())?, objects, options) {
            to_fold += 1;
        }
    }
    Ok(to_fold > MANY_SMALL_PACKS)
}

/// Whether a pack is large enough to stay as it is.
fn is_large(bytes: u64, objects: u32, options: WriterOptions) -> bool {
    bytes >= options.pack_size / 2 || objects as usize >= PACK_OBJECTS / 2
}

/// Plans what to fold. Changes nothing.
pub fn plan(repo: &Repository, options: WriterOptions) -> Result<PackPlan> {
    repo.refuse_denied("pack what is stored")?;
    let stored = loose::list(repo.backend())?.complete()?.objects;
    let keepers = repo.choose_keepers(&stored, |_| true)?;
    let length = |path: &str| repo.backend().length(path);
    let loose = stored.into_iter().map(|id| Ok((id, length(&layout::object_path(id))?))).collect::<Result<Vec<_>>>()?;
    let loose_bytes: u64 = loose.iter().map(|(_, bytes)| bytes).sum();
    let mut packs = Vec::new();
    let mut superseded = Vec::new();
    for (slot, (name, objects)) in (0..).zip(repo.packs()?.list()) {
        if is_superseded(repo, &keepers, slot)? {
            superseded.push(name);
            continue;
        }
        let bytes = length(&name.path())?;
        if !is_large(bytes, objects, options) {
            packs.push(PackToFold { name, bytes, slot });
        }
    }
    let mut fold = Vec::new();
    for kind in PackKind::ALL {
        let (mut of_kind, rest) = packs.into_iter().partition::<Vec<_>, _>(|pack| pack.name.kind == kind);
        packs = rest;
        of_kind.sort_unstable_by_key(|pack| (pack.bytes, pack.name));
        // Which of the loose objects are trees is not known before they are read. They are small.
        let loose = if kind == PackKind::Blobs { loose_bytes } else { loose_bytes.min(SMALL) };
        let count = geometric(&of_kind.iter().map(|pack| pack.bytes).collect::<Vec<_>>(), loose);
        of_kind.truncate(count);
        fold.append(&mut of_kind);
    }
    Ok(PackPlan { loose, fold, superseded, keepers })
}

/// How many of the packs of these sizes, ascending, are folded together with `loose` bytes of loose objects.
fn geometric(sizes: &[u64], loose: u64) -> usize {
    let mut count = 0;
    let mut smaller = loose;
    for (number, size) in sizes.iter().enumerate() {
        if *size < smaller.saturating_mul(2).max(SMALL) {
            count = number + 1;
        }
        smaller = smaller.saturating_add(*size);
    }
    // One alone has nothing to be folded with.
    if count == 1 && loose == 0 { 0 } else { count }
}

/// Whether every object of a pack has a copy that was chosen to stay elsewhere.
fn is_superseded(repo: &Repository, keepers: &Keepers, slot: u32) -> Result<bool> {
    if keepers.is_empty() {
        return Ok(false);
    }
    match repo.packs()?.file(slot).and_then(|pack| pack.index()) {
        Ok(index) => {
            let mut members = (0..).zip(&index.members);
            Ok(members
                .all(|(position, member)| keepers.has_better(&member.id, Copy::Packed(Location { slot, position }))))
        }
        Err(error) if error.is_unreadable() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Executes a plan that was made on the same repository.
pub fn execute(
    repo: SharedRepository,
    plan: &PackPlan,
    options: WriterOptions,
    session: &Session<'_>,
) -> Result<PackReport> {
    let begun = Instant::now();
    let mut report = PackReport::default();
    let mut removal = Removal::default();
    match copy(&repo, plan, options, session, &mut removal, &mut report) {
        // What stands in packs that are complete need not stand elsewhere: to remove that makes room for the rest.
        Err(error) if error.is_full() => report.full = Some(error),
        other => other?,
    }
    // The same objects in the same order give the same pack.
    let is_old = |pack: &PackName| !removal.trusted.contains(pack);
    let mut folded = mem::take(&mut removal.packs);
    folded.retain(is_old);
    let mut superseded = plan.superseded.clone();
    superseded.retain(is_old);
    removal.packs = [&folded[..], &superseded].concat();

    let removed = remove_old(repo, &removal, session)?;
    let gone: HashSet<PackName> = removed.packs.into_iter().collect();
    if report.full.is_some() {
        // What stood in packs that were not complete is still where it was.
        report.loose = removed.loose.len() as u64;
        folded.retain(|pack| gone.contains(pack));
    } else {
        report.loose = removal.loose.len() as u64;
        report.old_files_remain = removed.loose.len() < removal.loose.len() || gone.len() < removal.packs.len();
    }
    report.folded = folded.len() as u64;
    report.superseded = superseded.len() as u64;
    report.new = removal.trusted.len() as u64;
    report.elapsed = begun.elapsed();
    Ok(report)
}

/// Copies what the plan says to new packs. What can go then, as far as it has come, is in `removal`, also if it fails.
fn copy(
    repo: &SharedRepository,
    plan: &PackPlan,
    options: WriterOptions,
    session: &Session<'_>,
    removal: &mut Removal,
    report: &mut PackReport,
) -> Result<()> {
    if plan.loose.is_empty() && plan.fold.is_empty() {
        return Ok(());
    }
    let mut repacker = repo.repacker(session, options)?;
    let mut all = || {
        for (id, _) in &plan.loose {
            if !plan.keepers.has_better(id, Copy::Loose) {
                match loose::read(repo.backend(), repo.rules(), *id) {
                    Ok(content) => repacker.add(kind_of(&content), *id, &content)?,
                    Err(error) if error.is_unreadable() => {
                        report.damaged.push(layout::object_path(*id));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            session.progress.advance(1, 0);
            removal.loose.push(*id);
        }
        for pack in &plan.fold {
            let slot = pack.slot;
            let is_wanted =
                |position, id: &ObjectId| !plan.keepers.has_better(id, Copy::Packed(Location { slot, position }));
            match repacker.copy(slot, is_wanted)? {
                Copied::Wholly => removal.packs.push(pack.name),
                Copied::Rotten => report.damaged.push(pack.name.path()),
            }
        }
        repacker.finish()
    };
    let result = all();
    removal.trusted = repacker.finished().iter().copied().collect();
    removal.is_all_needed = true;
    result
}

/// Removes what was copied, if nobody else is at work. Returns what is gone.
fn remove_old(repo: SharedRepository, removal: &Removal, session: &Session<'_>) -> Result<Removed> {
    if removal.packs.is_empty() && removal.loose.is_empty() {
        return Ok(Removed::default());
    }
    let at_once = Session { lock_wait: Duration::ZERO, ..session.clone() };
    let mut repo = match repo.into_exclusive(&at_once) {
        Ok(repo) => repo,
        Err(Error::Locked { .. }) => return Ok(Removed::default()),
        Err(error) => return Err(error),
    };
    let announced = repo.announce(session);
    let (removed, result) = repo.remove_copies(removal, |_| true, session);
    drop(announced);
    result?;
    repo.rebuild_index(session)?;
    Ok(removed)
}

/// The kind of pack that an object belongs in, by its content: what it is, is known only from what refers to it, and a file
/// that happens to hold a tree does no harm among the trees.
fn kind_of(content: &[u8]) -> PackKind {
    if Tree::decode(content).is_ok() || decode_list(content).is_ok() { PackKind::Trees } else { PackKind::Blobs }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_left_doubles_from_pack_to_pack() {
        for (sizes, loose, expected) in [
            (&[][..], 0, 0),
            (&[1], 0, 0),
            (&[1], 1, 1),
            (&[1, 1], 0, 2),
            (&[10 * MIB], 4 * MIB, 0),
            (&[10 * MIB], 6 * MIB, 1),
            (&[10 * MIB, 20 * MIB, 60 * MIB], 0, 0),
            (&[10 * MIB, 19 * MIB, 60 * MIB], 0, 2),
            (&[10 * MIB, 20 * MIB, 40 * MIB], 0, 3),
            (&[10 * MIB, 20 * MIB, 59 * MIB], 0, 3),
            (&[MIB, MIB, 100 * MIB], 0, 2),
        ] {
            assert_eq!(geometric(sizes, loose), expected, "{sizes:?} and {loose}");
        }
    }
}
