//! The disk that is modelled: what is there now, what is on the platters, and the steps between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind::{AlreadyExists, InvalidInput, IsADirectory, NotADirectory, NotFound};
use std::{fmt, io, mem};

use super::Crash;
use crate::store::LockMode;

/// The index of an inode in the table. Inodes are never reused.
pub(super) type Ino = usize;

/// The inode of the repository itself.
pub(super) const ROOT: Ino = 0;

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    dir: Ino,
    name: String,
}

#[derive(Clone)]
pub(super) enum Inode {
    /// A directory and where it was made, which is where it stays: directories are not renamed. The root is nowhere.
    Dir(Option<Place>),
    File(File),
}

#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) data: Vec<u8>,
    /// How much of `data` is on the disk.
    synced: usize,
    /// What is on the disk instead, since `data` was overwritten in place.
    before: Option<Vec<u8>>,
}

impl File {
    pub(super) fn durable(data: Vec<u8>) -> Self {
        Self { synced: data.len(), data, before: None }
    }

    pub(super) fn sync(&mut self) {
        self.synced = self.data.len();
        self.before = None;
    }

    pub(super) fn overwrite(&mut self, data: &[u8]) {
        if self.before.is_none() {
            self.before = Some(self.synced_data().to_vec());
        }
        self.data = data.to_vec();
        self.synced = 0;
    }

    pub(super) fn synced_data(&self) -> &[u8] {
        self.before.as_deref().unwrap_or(&self.data[..self.synced])
    }

    /// What a crash may leave: the old content of an overwritten file, or any prefix that has all that is synced.
    pub(super) fn survivor(&self, rng: &mut Rng) -> &[u8] {
        if let Some(before) = &self.before
            && rng.below(2) == 0
        {
            return before;
        }
        let unsynced = self.data.len() - self.synced;
        // Nothing and everything are the likely outcomes on real disks, so they get more than their share.
        let kept = match rng.below(4) {
            0 => 0,
            1 => unsynced,
            _ => rng.below(unsynced + 1),
        };
        &self.data[..self.synced + kept]
    }
}

/// What the names in all directories refer to.
#[derive(Clone, Default)]
pub(super) struct Names(BTreeMap<Ino, BTreeMap<String, Ino>>);

impl Names {
    pub(super) fn get(&self, dir: Ino, name: &str) -> Option<Ino> {
        self.0.get(&dir)?.get(name).copied()
    }

    pub(super) fn at(&self, place: &Place) -> Option<Ino> {
        self.get(place.dir, &place.name)
    }

    pub(super) fn set(&mut self, place: &Place, ino: Ino) {
        self.0.entry(place.dir).or_default().insert(place.name.clone(), ino);
    }

    pub(super) fn clear(&mut self, place: &Place) {
        if let Some(names) = self.0.get_mut(&place.dir) {
            names.remove(&place.name);
        }
    }

    pub(super) fn children(&self, dir: Ino) -> impl Iterator<Item = (&String, Ino)> {
        self.0.get(&dir).into_iter().flatten().map(|(name, ino)| (name, *ino))
    }

    pub(super) fn is_empty(&self, dir: Ino) -> bool {
        self.0.get(&dir).is_none_or(BTreeMap::is_empty)
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Add { at, ino, .. } => self.set(at, *ino),
            Change::Remove { at, .. } | Change::RemoveDir { at, .. } => self.clear(at),
            Change::Move { from, to, ino, .. } => {
                self.clear(from);
                self.set(to, *ino);
            }
        }
    }
}

/// One change of names that is durable as a whole or not at all.
#[derive(Clone)]
pub(super) enum Change {
    /// A new file or directory, or the new name of one renamed from another directory.
    Add { at: Place, ino: Ino, over: bool },
    /// A removed file, or the old name of one renamed to another directory.
    Remove { at: Place, ino: Ino, renamed: Option<Renamed> },
    /// A removed directory.
    RemoveDir { at: Place, ino: Ino },
    /// A rename inside one directory.
    Move { from: Place, to: Place, ino: Ino, over: bool },
}

/// Where a file went whose old name is removed.
#[derive(Clone, Copy)]
pub(super) struct Renamed {
    /// The step that added the new name.
    addition: u64,
    /// The directory of the new name.
    dir: Ino,
}

impl Change {
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        let (first, second) = match self {
            Self::Add { at, .. } | Self::Remove { at, .. } | Self::RemoveDir { at, .. } => (at, None),
            Self::Move { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }
}

/// A change of names in the order in which they happened.
#[derive(Clone)]
pub(super) struct Step {
    id: u64,
    change: Change,
}

/// Which of the pending steps are to be made durable.
#[derive(Default)]
pub(super) struct Wanted {
    /// All steps in these directories.
    dirs: BTreeSet<Ino>,
    /// All steps that touch these names.
    places: BTreeSet<Place>,
    /// The steps that add these inodes.
    inodes: BTreeSet<Ino>,
    /// These steps.
    steps: BTreeSet<u64>,
}

impl Wanted {
    /// Everything that happened in a directory.
    pub(super) fn in_dir(dir: Ino) -> Self {
        Self { dirs: BTreeSet::from([dir]), ..Self::default() }
    }

    pub(super) fn covers(&self, step: &Step) -> bool {
        let by_inode = matches!(&step.change, Change::Add { ino, .. } if self.inodes.contains(ino));
        let by_place = |place: &Place| self.dirs.contains(&place.dir) || self.places.contains(place);
        by_inode || self.steps.contains(&step.id) || step.change.places().any(by_place)
    }
}

#[derive(Clone)]
pub(super) struct Disk {
    inodes: Vec<Inode>,
    /// The names as they are now.
    pub(super) names: Names,
    /// The names as they are on the disk: for each name, `names` before one of the pending steps that touch it.
    durable: Names,
    /// What leads from `durable` to `names`, in order.
    pending: Vec<Step>,
    next_step: u64,
    locks: BTreeMap<Ino, Held>,
}

/// Who holds the lock of an inode.
#[derive(Clone, Copy)]
pub(super) enum Held {
    Shared(usize),
    Exclusive,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("inodes", &self.inodes.len())
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl Disk {
    pub(super) fn empty() -> Self {
        Self {
            inodes: vec![Inode::Dir(None)],
            names: Names::default(),
            durable: Names::default(),
            pending: Vec::new(),
            next_step: 0,
            locks: BTreeMap::new(),
        }
    }

    pub(super) fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.inodes.get(ino), Some(Inode::Dir(_)))
    }

    pub(super) fn file(&mut self, ino: Ino) -> io::Result<&mut File> {
        match self.inodes.get_mut(ino) {
            Some(Inode::File(file)) => Ok(file),
            Some(Inode::Dir(_)) => Err(IsADirectory.into()),
            None => Err(NotFound.into()),
        }
    }

    /// What a path refers to.
    pub(super) fn find(&self, path: &str) -> io::Result<Ino> {
        if path.is_empty() {
            return Ok(ROOT);
        }
        path.split('/').try_fold(ROOT, |dir, name| {
            if self.is_dir(dir) {
                self.names.get(dir, name).ok_or_else(|| NotFound.into())
            } else {
                Err(NotADirectory.into())
            }
        })
    }

    pub(super) fn find_dir(&self, path: &str) -> io::Result<Ino> {
        let ino = self.find(path)?;
        if self.is_dir(ino) { Ok(ino) } else { Err(NotADirectory.into()) }
    }

    pub(super) fn find_file(&self, path: &str) -> io::Result<Ino> {
        let ino = self.find(path)?;
        if self.is_dir(ino) { Err(IsADirectory.into()) } else { Ok(ino) }
    }

    /// The name in a directory that a path, which need not exist, stands for.
    pub(super) fn place(&self, path: &str) -> io::Result<Place> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() {
            return Err(InvalidInput.into());
        }
        Ok(Place { dir: self.find_dir(parent)?, name: name.to_owned() })
    }

    /// [`Disk::place`] of a name that the repository makes, and so must be able to have on any file system.
    pub(super) fn new_place(&self, path: &str) -> io::Result<Place> {
        let place = self.place(path)?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let name = place.name.as_str();
        if name != "README" && (name == "." || name == ".." || !name.bytes().all(plain)) {
            return Err(io::Error::new(InvalidInput, "this name is not one that every file system can hold"));
        }
        Ok(place)
    }

    pub(super) fn add_inode(&mut self, inode: Inode) -> Ino {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    /// Changes the names as they are now, and notes that the disk does not know it yet.
    pub(super) fn take(&mut self, change: Change) -> u64 {
        self.names.apply(&change);
        let id = self.next_step;
        self.next_step += 1;
        self.pending.push(Step { id, change });
        id
    }

    pub(super) fn create_file(&mut self, path: &str) -> io::Result<Ino> {
        let at = self.new_place(path)?;
        if self.names.at(&at).is_some() {
            return Err(AlreadyExists.into());
        }
        let ino = self.add_inode(Inode::File(File::default()));
        self.take(Change::Add { at, ino, over: false });
        Ok(ino)
    }

    pub(super) fn create_dir(&mut self, path: &str) -> io::Result<()> {
        match self.find(path) {
            Ok(ino) if self.is_dir(ino) => return Ok(()),
            Ok(_) => return Err(AlreadyExists.into()),
            Err(_) => {}
        }
        let at = self.new_place(path)?;
        self.add_dir(at);
        Ok(())
    }

    pub(super) fn add_dir(&mut self, at: Place) -> Ino {
        let ino = self.add_inode(Inode::Dir(Some(at.clone())));
        self.take(Change::Add { at, ino, over: false });
        ino
    }

    /// Whether it was renamed.
    pub(super) fn rename(&mut self, from: &str, to: &str, over: bool) -> io::Result<bool> {
        let ino = self.find_file(from)?;
        let from = self.place(from)?;
        let to = self.new_place(to)?;
        match self.names.at(&to) {
            Some(_) if !over => return Ok(false),
            Some(target) if self.is_dir(target) => return Err(IsADirectory.into()),
            // Two names of one file, which half a rename leaves: POSIX does nothing then and keeps both.
            Some(target) if target == ino => return Ok(true),
            _ => {}
        }
        if from.dir == to.dir {
            self.take(Change::Move { from, to, ino, over });
        } else {
            let dir = to.dir;
            let addition = self.take(Change::Add { at: to, ino, over });
            self.take(Change::Remove { at: from, ino, renamed: Some(Renamed { addition, dir }) });
        }
        Ok(true)
    }

    pub(super) fn lock(&mut self, ino: Ino, mode: LockMode) -> bool {
        let held = match (self.locks.get(&ino), mode) {
            (None, LockMode::Exclusive) => Held::Exclusive,
            (None, LockMode::Shared) => Held::Shared(1),
            (Some(Held::Shared(holders)), LockMode::Shared) => Held::Shared(holders + 1),
            (Some(_), _) => return false,
        };
        self.locks.insert(ino, held);
        true
    }

    pub(super) fn unlock(&mut self, ino: Ino) {
        match self.locks.get_mut(&ino) {
            Some(Held::Shared(holders)) if *holders > 1 => *holders -= 1,
            _ => {
                self.locks.remove(&ino);
            }
        }
    }

    pub(super) fn plant(&mut self, path: &str, data: Vec<u8>) -> io::Result<()> {
        let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
        for parent in parents {
            match self.find_dir(parent) {
                Err(e) if e.kind() == NotFound => {
                    let at = self.place(parent)?;
                    self.add_dir(at);
                }
                found => {
                    found?;
                }
            }
        }
        let at = self.place(path)?;
        let file = File::durable(data);
        if let Some(ino) = self.names.at(&at) {
            *self.file(ino)? = file;
        } else {
            let ino = self.add_inode(Inode::File(file));
            self.take(Change::Add { at: at.clone(), ino, over: false });
        }
        let inodes = self.ancestors(at.dir).collect();
        self.make_durable(Wanted { places: BTreeSet::from([at]), inodes, ..Wanted::default() });
        Ok(())
    }

    /// A directory and the ones above it, without the root.
    pub(super) fn ancestors(&self, dir: Ino) -> impl Iterator<Item = Ino> {
        std::iter::successors(Some(dir), |ino| match self.inodes.get(*ino) {
            Some(Inode::Dir(Some(at))) => Some(at.dir),
            _ => None,
        })
        .filter(|ino| *ino != ROOT)
    }

    pub(super) fn sync_all(&mut self) {
        for step in mem::take(&mut self.pending) {
            self.durable.apply(&step.change);
        }
        for inode in &mut self.inodes {
            if let Inode::File(file) = inode {
                file.sync();
            }
        }
    }

    /// Makes steps durable, with the earlier ones that they cannot be had without.
    pub(super) fn make_durable(&mut self, mut wanted: Wanted) {
        let mut chosen = Vec::new();
        let mut left = Vec::new();
        // What a step needs comes before it, so one pass from the end finds it all.
        for step in mem::take(&mut self.pending).into_iter().rev() {
            if !wanted.covers(&step) {
                left.push(step);
                continue;
            }
            match &step.change {
                // The old name goes only when the new one can be found.
                Change::Remove { renamed: Some(renamed), .. } => {
                    wanted.steps.insert(renamed.addition);
                    wanted.inodes.extend(self.ancestors(renamed.dir));
                }
                // A directory goes only when it is empty.
                Change::RemoveDir { ino, .. } => {
                    wanted.dirs.insert(*ino);
                }
                _ => {}
            }
            wanted.places.extend(step.change.places().cloned());
            chosen.push(step);
        }
        for step in chosen.iter().rev() {
            self.durable.apply(&step.change);
        }
        left.reverse();
        self.pending = left;
    }

    pub(super) fn after(&self, how: Crash) -> Self {
        match how {
            Crash::LoseAll => self.image(&self.durable, |file| file.synced_data().to_vec()),
            Crash::KeepNames => self.image(&self.names, |file| file.synced_data().to_vec()),
            Crash::KeepAll => Self { locks: BTreeMap::new(), ..self.clone() },
            Crash::Random(seed) => {
                let mut rng = Rng(seed);
                let names = self.surviving_names(&mut rng);
                self.image(&names, |file| file.survivor(&mut rng).to_vec())
            }
        }
    }

    pub(super) fn surviving_names(&self, rng: &mut Rng) -> Names {
        let mut names = self.durable.clone();
        let mut undone = BTreeSet::new();
        // Even odds for each of many steps would hardly ever lose just one, or keep just one.
        let odds = rng.below(9);
        for step in &self.pending {
            if rng.below(8) < odds && self.can_follow(&names, &undone, &step.change) {
                names.apply(&step.change);
            } else {
                undone.insert(step.id);
            }
        }
        names
    }

    /// Whether a change can happen to the names that survived so far.
    pub(super) fn can_follow(&self, names: &Names, undone: &BTreeSet<u64>, change: &Change) -> bool {
        match change {
            Change::Add { at, over, .. } => *over || names.at(at).is_none(),
            Change::Remove { at, ino, renamed } => {
                let found =
                    |renamed: &Renamed| !undone.contains(&renamed.addition) && self.is_reachable(names, renamed.dir);
                names.at(at) == Some(*ino) && renamed.as_ref().is_none_or(found)
            }
            Change::RemoveDir { at, ino } => names.at(at) == Some(*ino) && names.is_empty(*ino),
            Change::Move { from, to, ino, over } => names.at(from) == Some(*ino) && (*over || names.at(to).is_none()),
        }
    }

    pub(super) fn is_reachable(&self, names: &Names, dir: Ino) -> bool {
        self.ancestors(dir).all(|ino| match self.inodes.get(ino) {
            Some(Inode::Dir(Some(at))) => names.at(at) == Some(ino),
            _ => false,
        })
    }

    /// A disk on which these names, and this content of the files, are all that there is.
    pub(super) fn image(&self, names: &Names, mut content: impl FnMut(&File) -> Vec<u8>) -> Self {
        let mut image = Self::empty();
        let mut copied = BTreeMap::new();
        let mut dirs = vec![(ROOT, ROOT)];
        while let Some((dir, new_dir)) = dirs.pop() {
            for (name, ino) in names.children(dir) {
                let at = Place { dir: new_dir, name: name.clone() };
                match self.inodes.get(ino) {
                    Some(Inode::Dir(_)) => dirs.push((ino, image.add_dir(at))),
                    Some(Inode::File(file)) => {
                        // Half a rename leaves two names for one file.
                        let new = *copied
                            .entry(ino)
                            .or_insert_with(|| image.add_inode(Inode::File(File::durable(content(file)))));
                        image.take(Change::Add { at, ino: new, over: false });
                    }
                    None => {}
                }
            }
        }
        image.sync_all();
        image
    }

    /// The path and inode of every file.
    pub(super) fn files(&self) -> Vec<(String, Ino)> {
        let mut files = Vec::new();
        let mut dirs = vec![(String::new(), ROOT)];
        while let Some((prefix, dir)) = dirs.pop() {
            for (name, ino) in self.names.children(dir) {
                let path = format!("{prefix}{name}");
                if self.is_dir(ino) {
                    dirs.push((path + "/", ino));
                } else {
                    files.push((path, ino));
                }
            }
        }
        files
    }
}

/// `SplitMix64`: the same seed gives the same crash everywhere and always.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or(0)
    }
}
