//! The names of a repository's files and directories.
//!
//! All are lower-case ASCII (`README` aside), short, without links or colons: a repository can lie on any file system.
//! What does not parse as one of these names is not the repository's, and is never read, counted or removed.

use super::pack::{PackKind, PackName};
use crate::object::{HashAlgorithm, ObjectId, TreeId};

/// How to read the repository by hand.
pub const README: &str = "README";
/// The configuration; the directory is a repository once this exists.
pub const CONFIG: &str = "config.json";
/// The file that is locked; never removed.
pub const LOCK: &str = "lock";
/// Refs.
pub const SNAPSHOTS: &str = "snapshots";
/// Loose objects.
pub const OBJECTS: &str = "objects";
/// Packs.
pub const PACKS: &str = "packs";
/// Staging.
pub const TMP: &str = "tmp";
/// What can be computed again.
pub const CACHE: &str = "cache";

/// The index of all packs.
pub const INDEX: &str = "cache/index";

/// The objects that the last check found damaged.
pub const DAMAGED: &str = "cache/damaged";

/// When checks have found each pack whole.
pub const VERIFIED: &str = "cache/verified";

/// What begins the names of the change caches in `cache`.
const SEEN: &str = "seen-";

/// Which source a change cache is of: the first bytes of the hash of its machine and path.
pub type SourceKey = u64;

/// The key of a source.
pub fn source_key(hash: HashAlgorithm, host: &[u8], path: &[u8]) -> SourceKey {
    let mut key = [0; 8];
    key.copy_from_slice(&hash.hash(&[host, b"\0", path].concat()).as_bytes()[..8]);
    SourceKey::from_be_bytes(key)
}

/// The change cache of a source whose last snapshot has this root tree: `cache/seen-SOURCE-TREE`.
pub fn seen_path(source: SourceKey, tree: TreeId) -> String {
    format!("{CACHE}/{SEEN}{source:016x}-{}", tree.object())
}

/// Reads the name of a change cache in `cache`.
pub fn parse_seen(name: &str) -> Option<(SourceKey, TreeId)> {
    let (source, tree) = name.strip_prefix(SEEN)?.split_once('-')?;
    let key = SourceKey::from_str_radix(source, 16).ok()?;
    (format!("{key:016x}") == source).then_some((key, TreeId(tree.parse().ok()?)))
}

/// The directories of a repository.
pub const DIRS: [&str; 5] = [SNAPSHOTS, OBJECTS, PACKS, TMP, CACHE];

/// The file in a writer's staging directory that the writer keeps locked.
pub const RUN_INFO: &str = "info.json";

/// The directory of a loose object: `objects/ab`.
pub fn shard_path(first_byte: u8) -> String {
    format!("{OBJECTS}/{first_byte:02x}")
}

/// The file of a loose object: `objects/ab/cdef…`.
pub fn object_path(id: ObjectId) -> String {
    let hex = id.to_hex();
    format!("{OBJECTS}/{}/{}", &hex[..2], &hex[2..])
}

/// The first byte of the objects in the directory called `name` below `objects`.
pub fn parse_shard(name: &str) -> Option<u8> {
    let byte = u8::from_str_radix(name, 16).ok()?;
    (format!("{byte:02x}") == name).then_some(byte)
}

/// The object that a file called `name` in a shard holds.
pub fn parse_object(first_byte: u8, name: &str) -> Option<ObjectId> {
    format!("{first_byte:02x}{name}").parse().ok()
}

/// What follows the kind in the name of a pack.
const PACK_SUFFIX: &str = ".tar.zst";

/// The file of a pack: `packs/HASH.blobs.tar.zst`.
pub fn pack_path(pack: PackName) -> String {
    format!("{PACKS}/{}", pack_file_name(pack))
}

/// The name of a pack's file in `packs`.
pub fn pack_file_name(pack: PackName) -> String {
    format!("{}.{}{PACK_SUFFIX}", pack.hash, pack.kind.name())
}

/// Reads a name in `packs`.
pub fn parse_pack(name: &str) -> Option<PackName> {
    let (hash, kind) = name.strip_suffix(PACK_SUFFIX)?.split_once('.')?;
    let kind = PackKind::ALL.into_iter().find(|known| known.name() == kind)?;
    Some(PackName { hash: hash.parse().ok()?, kind })
}

/// A file in `snapshots`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefFile {
    /// `N.json`: the ref of snapshot N.
    Ref(u64),
    /// `N.pruned`: the ref of a snapshot that was removed.
    Pruned(u64),
    /// `N.labels.json`: what can be changed about snapshot N.
    Labels(u64),
}

/// The highest number of a snapshot: far above any number that is reached, and far from where adding one would overflow.
pub const MAX_NUMBER: u64 = 999_999_999_999_999;

impl RefFile {
    /// Reads a name in `snapshots`.
    pub fn parse(name: &str) -> Option<Self> {
        let (digits, kind) = name.split_once('.')?;
        // One number has one spelling: no zeros before it, no sign.
        let number: u64 = digits.starts_with(|first| matches!(first, '1'..='9')).then(|| digits.parse().ok())??;
        let file = match kind {
            "json" => Self::Ref(number),
            "pruned" => Self::Pruned(number),
            "labels.json" => Self::Labels(number),
            _ => return None,
        };
        (number <= MAX_NUMBER).then_some(file)
    }

    fn name(self) -> String {
        match self {
            Self::Ref(number) => format!("{number}.json"),
            Self::Pruned(number) => format!("{number}.pruned"),
            Self::Labels(number) => format!("{number}.labels.json"),
        }
    }

    /// Its path in the repository.
    pub fn path(self) -> String {
        format!("{SNAPSHOTS}/{}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::HashAlgorithm;

    #[test]
    fn names_parse_back_and_nothing_else_does() {
        let id = HashAlgorithm::Blake3.hash(b"abc");
        assert!(object_path(id).starts_with("objects/64/37b3ac38"));
        assert_eq!(parse_object(0x64, &id.to_hex()[2..]), Some(id));
        assert_eq!(parse_object(0x64, "x"), None);
        assert_eq!(parse_shard("0a"), Some(10));
        for bad in ["a", "0A", "+a", "abc", "", "zz"] {
            assert_eq!(parse_shard(bad), None, "{bad}");
        }
        for kind in PackKind::ALL {
            let pack = PackName { hash: id, kind };
            assert_eq!(parse_pack(pack.path().strip_prefix("packs/").unwrap()), Some(pack));
        }
        for bad in ["", "blobs.tar.zst", "ab.blobs.tar.zst", &format!("{id}.tar.zst"), &format!("{id}.lists.tar.zst")] {
            assert_eq!(parse_pack(bad), None, "{bad}");
        }
        for file in [RefFile::Ref(1), RefFile::Pruned(20), RefFile::Labels(300)] {
            assert_eq!(RefFile::parse(file.path().strip_prefix("snapshots/").unwrap()), Some(file));
        }
        for bad in [
            "0.json",
            "01.json",
            "+1.json",
            "1.json~",
            "1",
            "json",
            "1.JSON",
            ".json",
            "1.pruned.json",
            "9999999999999999.json",
        ] {
            assert_eq!(RefFile::parse(bad), None, "{bad}");
        }
    }
}
