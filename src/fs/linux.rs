//! What only Linux has: `syncfs`, file systems that are known by their type, and `/proc`.

use std::fs::File;
use std::io;
use std::num::NonZero;

use rustix::fs::Advice;

/// File systems on which `syncfs` reaches the storage: they keep their files on a device of this machine (or in its
/// memory). On any other it may succeed and do nothing, as it does on FUSE and eCryptfs. The numbers are those of statfs(2).
const WITH_SYNCFS: [u64; 16] = [
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
    0x794c_7630, // overlayfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x3153_464a, // JFS
    0x0000_3434, // NILFS
    0x0000_4d44, // FAT
    0x2011_bab0, // exFAT
    0x7366_746e, // NTFS
    0x0000_482b, // HFS+
    0x1501_3346, // UDF
];

/// File systems whose files another process or machine keeps.
const REMOTE: [u64; 7] = [
    0x6573_5546, // FUSE (and virtiofs)
    0x0000_6969, // NFS
    0x0000_517b, // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x0102_1997, // 9p
    0x5346_414f, // AFS
];

/// Makes everything that was written to the file system of this directory durable. Reports errors of earlier
/// background writes as well (Linux 5.8), as long as the handle was opened before them.
pub(super) fn sync_file_system(dir: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(dir)?)
}

/// Whether [`sync_file_system`] can be relied on here.
pub(super) fn can_sync_file_system(dir: &File) -> io::Result<bool> {
    Ok(WITH_SYNCFS.contains(&kind(dir)?))
}

/// Whether another process or machine keeps the files, so that errors of writing may come as late as the sync.
pub(super) fn is_remote(dir: &File) -> io::Result<bool> {
    Ok(REMOTE.contains(&kind(dir)?))
}

/// The file system's number, which has 32 bits.
fn kind(dir: &File) -> io::Result<u64> {
    let kind = rustix::fs::fstatfs(dir)?.f_type;
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "the type differs between machines")]
    Ok((kind as u64) & 0xffff_ffff)
}

/// Has the kernel begin to write these bytes of a file to the storage, and drop those from its cache that are written
/// already; it does not wait. This is what Linux does with the advice that they are not needed (mm/fadvise.c). It is only
/// advice: an error means nothing, and that of a failed write comes from the sync.
pub(super) fn write_out(file: &File, offset: u64, length: u64) {
    if rustix::fs::fadvise(file, offset, NonZero::new(length), Advice::DontNeed).is_err() {
        // The sync will write it.
    }
}

/// Whether this process ignores a signal, as far as the system says.
pub(super) fn ignores_signal(signal: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| (1..=64).contains(&signal) && mask & (1 << (signal - 1)) != 0)
}
