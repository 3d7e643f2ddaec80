//! Writing a restore: directories over handles, nothing replaced, links never followed.
//!
//! The output directory is new or empty. Below it every directory is made by this module and then opened without
//! following links, and every file is created exclusively, relative to the handle of its directory. So whatever names a
//! repository holds (they are single components: [`Name`] sees to that), nothing is written outside, and two names that
//! the file system takes for one are found out instead of one replacing the other.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::{Errno, pwritev, retry_on_intr};

use super::linux::is_remote;
use super::path_below;
use super::place::Place;
use super::source::SourceDir;
use crate::error::{Error, Result};
use crate::object::{Name, display_path};

/// A directory that a restore fills.
#[derive(Debug)]
pub struct TargetDir {
    fd: OwnedFd,
    path: PathBuf,
    /// Whether each file has to be synced, since errors of writing come late here.
    sync: bool,
}

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
const NEW: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl TargetDir {
    /// Checks that `path` can be an output directory, without changing anything: it must not exist or be an empty
    /// directory.
    pub fn check(path: &Path) -> Result<()> {
        let attempted = || format!("restore into {}", display_path(path));
        match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match path.symlink_metadata() {
                Ok(_) => Err(Error::refused(
                    attempted(),
                    "it is a symbolic link that leads nowhere",
                    "name a directory that does not exist or is empty",
                )),
                Err(_) => Ok(()),
            },
            Err(error) => Err(Error::refused(
                attempted(),
                error.to_string(),
                "name a directory that does not exist or is empty, where you may write",
            )),
            Ok(meta) if !meta.is_dir() => Err(Error::refused(
                attempted(),
                "it is not a directory",
                "name a directory that does not exist or is empty",
            )),
            Ok(_) if SourceDir::open(path)?.list()?.is_empty() => Ok(()),
            Ok(_) => Err(Error::refused(
                attempted(),
                "the directory is not empty, and a restore never replaces files",
                "name a directory that does not exist or is empty; nothing was changed",
            )),
        }
    }

    /// Makes (readable only to its owner) or opens the output directory; see [`TargetDir::check`].
    pub fn open_root(path: &Path) -> Result<Self> {
        Self::check(path)?;
        Place::make(path)?;
        // The output directory itself may be reached through a link: the user named it.
        let fd = rustix::fs::open(path, DIR.difference(OFlags::NOFOLLOW), Mode::empty())
            .map_err(|error| Error::io("open the output directory", path, error))?;
        let fd = File::from(fd);
        let sync = is_remote(&fd).map_err(|error| Error::io("look at the file system of", path, error))?;
        Ok(Self { fd: fd.into(), path: path.to_path_buf(), sync })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry.
    pub fn path_of(&self, name: &Name) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.as_bytes()))
    }

    fn failed(&self, action: &'static str, name: &Name, error: Errno) -> Error {
        let path = self.path_of(name);
        if error == Errno::EXIST {
            // It was empty when the restore began, and every name of a directory is restored once.
            let reason = "another name of this directory is the same to the file system (it ignores case or folds \
                          characters), or something else writes here";
            return Error::refused(
                format!("{action} {}", display_path(&path)),
                reason,
                "restore this path into another directory, or onto another file system",
            );
        }
        Error::io(action, path, error)
    }

    /// Makes a directory and opens it.
    pub fn make_dir(&self, name: &Name) -> Result<Self> {
        let path = path_below(&self.path, name, "create the directory")?;
        rustix::fs::mkdirat(&self.fd, name.as_bytes(), Mode::RWXU | Mode::RWXG | Mode::RWXO)
            .map_err(|error| self.failed("create the directory", name, error))?;
        let fd = rustix::fs::openat(&self.fd, name.as_bytes(), DIR, Mode::empty())
            .map_err(|error| self.failed("open the directory", name, error))?;
        Ok(Self { fd, path, sync: self.sync })
    }

    /// Makes a symbolic link.
    pub fn make_symlink(&self, name: &Name, target: &[u8]) -> Result<()> {
        rustix::fs::symlinkat(target, &self.fd, name.as_bytes())
            .map_err(|error| self.failed("create the symbolic link", name, error))
    }

    /// Creates a file.
    pub fn create_file(&self, name: &Name) -> Result<TargetFile> {
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
        let fd = rustix::fs::openat(&self.fd, name.as_bytes(), NEW, mode)
            .map_err(|error| self.failed("create the file", name, error))?;
        Ok(TargetFile { file: fd.into(), path: self.path_of(name), sync: self.sync })
    }

    /// Removes a file that this restore made and cannot complete.
    pub fn remove_file(&self, name: &Name) -> Result<()> {
        rustix::fs::unlinkat(&self.fd, name.as_bytes(), AtFlags::empty())
            .map_err(|error| self.failed("remove the incomplete file", name, error))
    }
}

/// A file that a restore writes.
#[derive(Debug)]
pub struct TargetFile {
    file: File,
    path: PathBuf,
    sync: bool,
}

/// Holes begin and end at multiples of this.
const BLOCK: usize = 4096;
const ZEROS: [u8; BLOCK] = [0; BLOCK];
/// Shorter runs of zeros are written: a file of many small holes is slow to read.
const SHORTEST_HOLE: usize = 8 * BLOCK;
/// No system takes more pieces than that in one go (`IOV_MAX` of Linux and macOS).
const MOST_PIECES: usize = 1024;

impl TargetFile {
    /// Sets the length of the file. What is not written reads as zeros, and takes no space where the file system has
    /// holes.
    pub fn set_len(&self, length: u64) -> Result<()> {
        self.file.set_len(length).map_err(|error| Error::io("set the length of the file", &self.path, error))
    }

    /// Ends the writing. Servers report only now that the disk or a quota is full, and only to who asks.
    pub fn finish(&self) -> Result<()> {
        if self.sync {
            self.file.sync_all().map_err(|error| Error::io("sync the file", &self.path, error))
        } else {
            Ok(())
        }
    }

    /// Writes the whole content of a new file, except long runs of zeros, which are left as holes.
    pub fn write_whole(&self, content: &[u8]) -> Result<()> {
        let written = self.write_but_holes(&[content], 0)?;
        if written < content.len() as u64 { self.set_len(content.len() as u64) } else { Ok(()) }
    }

    /// Writes pieces that follow each other, from an offset on, of a file whose length was set; except long runs of zeros,
    /// which are left as holes. May be called from several threads.
    pub fn write_at(&self, pieces: &[impl Deref<Target = [u8]>], offset: u64) -> Result<()> {
        self.write_but_holes(pieces, offset).map(|_| ())
    }

    /// Writes all but the holes, and returns where in the file the last of what was written ends.
    fn write_but_holes(&self, pieces: &[impl Deref<Target = [u8]>], offset: u64) -> Result<u64> {
        let (mut together, mut start, mut end) = (Vec::new(), offset, offset);
        let mut piece_at = offset;
        for piece in pieces {
            for (from, to) in between_holes(piece) {
                let at = piece_at + from as u64;
                if at != end {
                    self.write_dense(&mut together, start)?;
                    together.clear();
                    start = at;
                }
                together.push(IoSlice::new(&piece[from..to]));
                end = piece_at + to as u64;
            }
            piece_at += piece.len() as u64;
        }
        self.write_dense(&mut together, start)?;
        Ok(end)
    }

    fn write_dense(&self, mut pieces: &mut [IoSlice<'_>], mut offset: u64) -> Result<()> {
        while !pieces.is_empty() {
            let some = &pieces[..pieces.len().min(MOST_PIECES)];
            let written = match retry_on_intr(|| pwritev(&self.file, some, offset)) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                other => other.map_err(io::Error::from),
            };
            let count = written.map_err(|error| Error::io("write the file", &self.path, error))?;
            IoSlice::advance_slices(&mut pieces, count);
            offset += count as u64;
        }
        Ok(())
    }
}

/// What stands between the long runs of zero blocks in `bytes`, as ranges.
fn between_holes(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    holes(bytes).chain([(bytes.len(), bytes.len())]).filter_map(move |(from, to)| {
        let between = (at < from).then_some((at, from));
        at = to;
        between
    })
}

/// The long runs of zero blocks in `bytes`, as ranges.
fn holes(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let blocks = bytes.len().div_ceil(BLOCK);
    let is_zero = move |block: usize| {
        let end = ((block + 1) * BLOCK).min(bytes.len());
        let block = &bytes[block * BLOCK..end];
        *block == ZEROS[..block.len()]
    };
    let mut block = 0;
    std::iter::from_fn(move || {
        while block < blocks {
            let start = block;
            while block < blocks && is_zero(block) {
                block += 1;
            }
            let (from, to) = (start * BLOCK, (block * BLOCK).min(bytes.len()));
            block += 1;
            if to - from >= SHORTEST_HOLE {
                return Some((from, to));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_of_zero_blocks_are_holes() {
        let mut bytes = vec![0; 40 * BLOCK + 5];
        assert_eq!(holes(&bytes).collect::<Vec<_>>(), [(0, bytes.len())]);
        bytes[10 * BLOCK + 1] = 1;
        bytes[14 * BLOCK] = 1;
        assert_eq!(holes(&bytes).collect::<Vec<_>>(), [(0, 10 * BLOCK), (15 * BLOCK, bytes.len())]);
        assert_eq!(holes(&[1; 3 * BLOCK]).count(), 0);
        assert_eq!(holes(&vec![0; 7 * BLOCK]).count(), 0);
        assert_eq!(holes(&[]).count(), 0);
    }

    #[test]
    fn pieces_are_written_where_they_belong_and_holes_are_not() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = TargetDir::open_root(scratch.path()).unwrap();
        let name = Name::new(*b"file").unwrap();
        let file = dir.create_file(&name).unwrap();
        // More pieces than go together; holes at the beginning, between and inside pieces, and at the end.
        let mut pieces: Vec<Vec<u8>> =
            (0..3 * MOST_PIECES).map(|number| vec![b"abcdefg"[number % 7]; number % 5]).collect();
        let hole = vec![0; 16 * BLOCK];
        pieces.splice(700..700, [hole.clone(), [b"in", &hole[..], b"side"].concat(), hole.clone()]);
        pieces.insert(0, hole.clone());
        pieces.push(hole);
        let content = pieces.concat();
        file.set_len(10 + content.len() as u64).unwrap();
        file.write_at(&pieces, 10).unwrap();
        let path = scratch.path().join("file");
        assert_eq!(std::fs::read(&path).unwrap(), [vec![0; 10], content].concat());
        let written = std::os::unix::fs::MetadataExt::blocks(&path.metadata().unwrap()) * 512;
        assert!(written <= 8 * BLOCK as u64, "{written}");
    }
}
