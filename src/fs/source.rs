//! Reading a source: directories over handles, entries in the order of their names, links never followed.
//!
//! Only the top directory is opened by its path (and may be a symbolic link); everything below is opened relative to the
//! handle of the directory that holds it and without following links. So a directory that is swapped for a link while
//! it is walked cannot lead the walk elsewhere.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{path_below, read_full};
use crate::error::{Error, Result};
use crate::object::Name;

/// An open directory of a source.
#[derive(Debug)]
pub struct SourceDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a file or directory is, whatever its name: its device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The device, as the system numbers it for now.
    pub fn device(self) -> u64 {
        self.device
    }

    /// The inode.
    pub fn inode(self) -> u64 {
        self.inode
    }

    /// The identity of what is at `path`; symbolic links are followed.
    pub fn of(path: &Path) -> Result<Self> {
        let stat = rustix::fs::stat(path).map_err(|error| Error::io("look at", path, error))?;
        Ok(Self::from_stat(&stat))
    }

    /// Whether this is `path`, or a directory above it. Where `path` does not exist, what is above it counts.
    pub fn is_at_or_above(self, path: &Path) -> Result<bool> {
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let real = existing.canonicalize().map_err(|error| Error::io("find the real path of", existing, error))?;
        for ancestor in real.ancestors() {
            if Self::of(ancestor)? == self {
                return Ok(true);
            }
        }
        Ok(false)
    }

    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "the types differ between systems")]
    fn from_stat(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }
}

/// The entries of a directory, sorted by the bytes of their names, each name once. Since a directory may have millions,
/// an entry takes no more than 16 bytes and its name.
#[derive(Debug, Default)]
pub struct DirListing {
    /// The names, one behind the other.
    names: Vec<u8>,
    entries: Vec<Listed>,
}

#[derive(Debug, Clone, Copy)]
struct Listed {
    start: usize,
    length: u32,
    kind: SourceKind,
}

impl Listed {
    fn name(self, names: &[u8]) -> &[u8] {
        names.get(self.start..self.start + self.length as usize).unwrap_or_default()
    }
}

/// A name in a directory, and what the directory says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceEntry {
    /// The name.
    pub name: Name,
    /// What it was when the directory was read.
    pub kind: SourceKind,
}

impl DirListing {
    fn push(&mut self, name: &Name, kind: SourceKind) {
        let (start, name) = (self.names.len(), name.as_bytes());
        // No system has names that are longer.
        let Ok(length) = u32::try_from(name.len()) else { return };
        self.names.extend_from_slice(name);
        self.entries.push(Listed { start, length, kind });
    }

    /// Sorts the entries, and the names with them: whoever goes through a large directory then finds each name beside the
    /// one before it. To compare names is to look for them in all of the memory, so it is done only for those that have
    /// the same eight bytes behind what all of them begin with.
    fn sort(&mut self) {
        let Self { names, entries } = self;
        let first = entries.first().map(|entry| entry.name(names)).unwrap_or_default();
        let common = entries.iter().fold(first, |common, entry| {
            let alike = common.iter().zip(entry.name(names)).take_while(|(one, other)| one == other).count();
            &common[..alike]
        });
        let key = |entry: &Listed| {
            let mut key = [0; 8];
            key.iter_mut().zip(&entry.name(names)[common.len()..]).for_each(|(key, byte)| *key = *byte);
            u64::from_be_bytes(key)
        };
        let mut sorted: Vec<(u64, Listed)> = entries.drain(..).map(|entry| (key(&entry), entry)).collect();
        sorted.sort_unstable_by(|(one, a), (other, b)| {
            one.cmp(other).then_with(|| (a.name(names), a.kind).cmp(&(b.name(names), b.kind)))
        });
        // A directory that changes while it is read may show a name twice.
        sorted.dedup_by(|(_, next), (_, kept)| next.name(names) == kept.name(names));
        let mut sorted_names = Vec::with_capacity(names.len());
        entries.extend(sorted.into_iter().map(|(_, entry)| {
            let start = sorted_names.len();
            sorted_names.extend_from_slice(entry.name(names));
            Listed { start, ..entry }
        }));
        *names = sorted_names;
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry at a place in the order.
    pub fn get(&self, place: usize) -> Option<SourceEntry> {
        let listed = self.entries.get(place)?;
        let name = Name::new(listed.name(&self.names)).ok()?;
        Some(SourceEntry { name, kind: listed.kind })
    }

    /// The first place from `place` on where a directory is.
    pub fn next_dir(&self, place: usize) -> Option<usize> {
        let rest = self.entries.get(place..)?;
        rest.iter().position(|entry| entry.kind == SourceKind::Dir).map(|after| place + after)
    }
}

/// What an entry of a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A socket, a FIFO or a device.
    Special,
}

/// What is compared to see whether a file is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: SourceKind,
    /// Its length in bytes.
    pub size: u64,
    /// Its device and inode.
    pub identity: Identity,
    /// When its content changed: seconds since 1970, and nanoseconds.
    pub modified: (i64, i64),
    /// When anything of it changed, as the system says: likewise.
    pub changed: (i64, i64),
}

impl Stat {
    #[allow(clippy::cast_possible_wrap, clippy::unnecessary_cast, reason = "the types differ between systems")]
    pub(super) fn from_raw(stat: &rustix::fs::Stat) -> Self {
        Self {
            kind: kind_of(FileType::from_raw_mode(stat.st_mode)),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            identity: Identity::from_stat(stat),
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

fn kind_of(kind: FileType) -> SourceKind {
    match kind {
        FileType::RegularFile => SourceKind::File,
        FileType::Directory => SourceKind::Dir,
        FileType::Symlink => SourceKind::Symlink,
        _ => SourceKind::Special,
    }
}

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl SourceDir {
    /// Opens the top of a source.
    pub fn open(path: &Path) -> Result<Self> {
        let fd =
            rustix::fs::open(path, DIR, Mode::empty()).map_err(|error| Error::io("open the directory", path, error))?;
        Ok(Self { fd, path: path.to_path_buf() })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry.
    pub fn path_of(&self, name: &Name) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.as_bytes()))
    }

    fn failed(&self, action: &'static str, name: &Name, error: Errno) -> Error {
        Error::io(action, self.path_of(name), error)
    }

    /// The directory's device and inode.
    pub fn identity(&self) -> Result<Identity> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|error| Error::io("look at", &self.path, error))?;
        Ok(Identity::from_stat(&stat))
    }

    /// Opens a directory in it.
    pub fn open_dir(&self, name: &Name) -> Result<Self> {
        let path = path_below(&self.path, name, "open the directory")?;
        let fd = rustix::fs::openat(&self.fd, name.as_bytes(), DIR | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|error| self.failed("open the directory", name, error))?;
        Ok(Self { fd, path })
    }

    /// Its entries.
    pub fn list(&self) -> Result<DirListing> {
        Ok(self.list_at_most(usize::MAX)?.unwrap_or_default())
    }

    /// Its entries, if there are not more than so many.
    pub fn list_at_most(&self, most: usize) -> Result<Option<DirListing>> {
        let failed = |error| Error::io("list the directory", &self.path, error);
        let mut listing = DirListing::default();
        for entry in Dir::read_from(self.fd.as_fd()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // `.` and `..` are no names; the kernel makes no others that are not.
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else { continue };
            let kind = match entry.file_type() {
                FileType::Unknown => match self.stat(&name) {
                    Ok(stat) => stat.kind,
                    // What it was is not known any more; opening it as a file will say what happened.
                    Err(_) => SourceKind::File,
                },
                known => kind_of(known),
            };
            if listing.len() >= most {
                return Ok(None);
            }
            listing.push(&name, kind);
        }
        listing.sort();
        Ok(Some(listing))
    }

    /// Looks at an entry, not through it.
    pub fn stat(&self, name: &Name) -> Result<Stat> {
        let stat = rustix::fs::statat(&self.fd, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.failed("look at", name, error))?;
        Ok(Stat::from_raw(&stat))
    }

    /// Opens a regular file in it. Should the name have become a FIFO, this does not wait for its other end.
    pub fn open_file(&self, name: &Name) -> Result<SourceFile> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::openat(&self.fd, name.as_bytes(), flags, Mode::empty())
            .map_err(|error| self.failed("open the file", name, error))?;
        Ok(SourceFile { file: fd.into(), path: self.path_of(name) })
    }

    /// Where a symbolic link in it points.
    pub fn read_link(&self, name: &Name) -> Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(&self.fd, name.as_bytes(), Vec::new())
            .map_err(|error| self.failed("read the symbolic link", name, error))?;
        Ok(target.into_bytes())
    }
}

/// An open file of a source.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    path: PathBuf,
}

impl SourceFile {
    /// Looks at the open file.
    pub fn stat(&self) -> Result<Stat> {
        let stat = rustix::fs::fstat(&self.file).map_err(|error| Error::io("look at", &self.path, error))?;
        Ok(Stat::from_raw(&stat))
    }

    /// Reads from byte `offset` until the buffer is full or the file ends, and returns how much was read.
    pub fn fill_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        read_full(&self.path, buffer, |part, at| self.file.read_at(part, offset + at))
    }

    /// Has [`SourceFile::fill`] go on at byte `offset`.
    pub fn go_to(&mut self, offset: u64) -> Result<()> {
        let moved = self.file.seek(SeekFrom::Start(offset));
        moved.map(|_| ()).map_err(|error| Error::io("read the file", &self.path, error))
    }

    /// Reads until the buffer is full or the file ends, and returns how much was read.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Self { file, path } = self;
        read_full(path, buffer, |part, _| file.read(part))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_listing_is_sorted_by_the_bytes_of_names(
            common in "[a-b]{0,20}",
            names in proptest::collection::vec(("[a-bA\u{80}\u{ff}]{1,12}", any::<bool>()), 0..60),
        ) {
            let mut listing = DirListing::default();
            let mut expected = BTreeMap::new();
            for (rest, is_dir) in names {
                let name = Name::new(format!("{common}{rest}").as_bytes()).unwrap();
                let kind = if is_dir { SourceKind::Dir } else { SourceKind::File };
                listing.push(&name, kind);
                // A name that was met twice is what comes first of what it was.
                let kept = expected.entry(name).or_insert(kind);
                *kept = kind.min(*kept);
            }
            listing.sort();
            let found: Vec<_> = (0..).map_while(|place| listing.get(place)).map(|entry| (entry.name, entry.kind)).collect();
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
