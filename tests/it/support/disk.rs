//! File systems of a test's own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::cli::{have, skip};

/// A file system, mounted as long as this lives.
pub(crate) struct Disk {
    pub(crate) at: PathBuf,
}

/// Whether file systems can be mounted; if not, it says so.
pub(crate) fn can_mount() -> bool {
    if !have(&["mount", "umount"]) {
        return false;
    }
    if !rustix::process::geteuid().is_root() {
        skip("only root mounts file systems");
        return false;
    }
    true
}

impl Disk {
    /// Makes a file of so many bytes with a file system, by this command.
    pub(crate) fn make(image: &Path, bytes: u64, mkfs: &[&str]) {
        File::create(image).unwrap().set_len(bytes).unwrap();
        let made = Command::new(mkfs[0]).args(&mkfs[1..]).arg(image).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    /// Mounts such a file. Nothing, after a word, where that cannot be done.
    pub(crate) fn mount(image: &Path, at: &Path) -> Option<Self> {
        Self::mount_by(&["-o", "loop", image.to_str().unwrap()], at, "there are no loop devices, or not for this kind")
    }

    /// Mounts one that is in memory and counts time as coarsely as the kernel.
    pub(crate) fn ramfs(at: &Path) -> Option<Self> {
        Self::mount_by(&["-t", "ramfs", "none"], at, "there is no ramfs")
    }

    fn mount_by(args: &[&str], at: &Path, missing: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(args).arg(at).output().unwrap();
        if !mounted.status.success() {
            skip(&format!("{missing}: {}", String::from_utf8_lossy(&mounted.stderr).trim()));
            return None;
        }
        Some(Self { at: at.to_path_buf() })
    }

    /// The bytes that are free.
    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.at).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Fills it up to so many free bytes.
    pub(crate) fn fill(&self, free: u64) {
        let ballast = File::create(self.at.join("ballast")).unwrap();
        // What the ballast itself needs beside its content is seen only then.
        for _ in 0..4 {
            let excess = self.free().saturating_sub(free);
            let length = ballast.metadata().unwrap().len() + excess / 4096 * 4096;
            if rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, length.max(1)).is_err() {
                break;
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What was running on it may take a moment to end.
        for _ in 0..50 {
            if Command::new("umount").arg(&self.at).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
            {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        eprintln!("{} stays mounted", self.at.display());
    }
}
