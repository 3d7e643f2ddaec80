//! How snapshots, and what is in them, are addressed everywhere: `7`, `latest`, `latest~2`, `7:path/inside`; and several
//! whole ones: `3-9`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Result};
use crate::object::{EntryKind, Name, Snapshot, TreeId, display_bytes};
use crate::repo::Repository;

/// A snapshot, and perhaps a path in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Which snapshot.
    pub snapshot: Wanted,
    /// The components of the path; none means the top.
    pub path: Vec<Name>,
}

/// Which snapshot is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The one with this number.
    Number(u64),
    /// The newest, or so many before it.
    Latest {
        /// 0 for the newest, 1 for the one before it.
        back: u64,
    },
}

impl Address {
    /// Reads an address; nothing if it names no snapshot. An unsafe path is an error.
    pub fn parse(text: &OsStr) -> Result<Option<Self>> {
        let bytes = text.as_bytes();
        let (snapshot, path) = match bytes.iter().position(|byte| *byte == b':') {
            Some(colon) => (&bytes[..colon], &bytes[colon + 1..]),
            None => (bytes, &b""[..]),
        };
        let Some(snapshot) = str::from_utf8(snapshot).ok().and_then(parse_wanted) else { return Ok(None) };
        Ok(Some(Self { snapshot, path: parse_path(OsStr::from_bytes(path))? }))
    }

    /// The number of the snapshot that is meant; `latest` must exist, a number is not looked up.
    pub fn number(&self, repo: &Repository) -> Result<u64> {
        let back = match self.snapshot {
            Wanted::Number(number) => return Ok(number),
            Wanted::Latest { back } => back,
        };
        let refs = repo.refs()?;
        let expected = refs.expected();
        if expected.is_empty()
            && let Some(lost) = repo.all_lost()?
        {
            return Err(lost);
        }
        let found = usize::try_from(back).ok().and_then(|back| expected.iter().rev().nth(back).copied());
        found.ok_or_else(|| {
            let wanted = if back == 0 { "latest".to_string() } else { format!("latest~{back}") };
            Error::NoSnapshot { wanted, existing: refs.snapshots }
        })
    }

    /// The snapshot that is meant.
    pub fn find(&self, repo: &Repository) -> Result<Snapshot> {
        repo.snapshot(self.number(repo)?)
    }
}

/// Some whole snapshots, as options that take several name them: `7`, `latest~2`, `3-9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// One.
    One(Wanted),
    /// Those that there are from this number to that.
    Range(u64, u64),
}

impl Selection {
    /// Reads a selection; nothing if it names no snapshot.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(wanted) = parse_wanted(text) {
            return Some(Self::One(wanted));
        }
        match text.split_once('-').map(|(first, last)| (parse_wanted(first), parse_wanted(last))) {
            Some((Some(Wanted::Number(first)), Some(Wanted::Number(last)))) if first <= last => {
                Some(Self::Range(first, last))
            }
            _ => None,
        }
    }

    /// The numbers of the snapshots that are meant, each once, ascending. `latest` must exist and so must a snapshot in each
    /// range; a number alone is not looked up.
    pub fn numbers(selections: &[Self], repo: &Repository) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for selection in selections {
            match *selection {
                Self::One(snapshot) => numbers.push(Address { snapshot, path: Vec::new() }.number(repo)?),
                Self::Range(first, last) => {
                    let refs = repo.refs()?;
                    let before = numbers.len();
                    numbers.extend(refs.expected().into_iter().filter(|number| (first..=last).contains(number)));
                    if numbers.len() == before {
                        let wanted = format!("{first}-{last}");
                        return Err(Error::NoSnapshot { wanted, existing: refs.snapshots });
                    }
                }
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }
}

fn parse_wanted(text: &str) -> Option<Wanted> {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    match text.strip_prefix("latest") {
        None => number(text).map(Wanted::Number),
        Some("") => Some(Wanted::Latest { back: 0 }),
        Some("~") => Some(Wanted::Latest { back: 1 }),
        Some(rest) => number(rest.strip_prefix('~')?).map(|back| Wanted::Latest { back }),
    }
}

/// The components of a path below the top of a snapshot. Leading, trailing and doubled slashes, and `.`, mean nothing.
pub fn parse_path(path: &OsStr) -> Result<Vec<Name>> {
    let components = path.as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    components
        .map(|part| {
            Name::new(part).map_err(|error| {
                Error::refused(
                    format!("find the path {}", display_bytes(path.as_bytes())),
                    error.to_string(),
                    "give a path as it stands below the snapshot's top directory",
                )
            })
        })
        .collect()
}

/// Finds what is at `path` below a directory; `None` is the directory itself.
pub(super) fn descend(repo: &Repository, top: TreeId, path: &[Name]) -> Result<Option<EntryKind>> {
    let mut tree = top;
    for (at, name) in path.iter().enumerate() {
        let refused = |reason: &str| {
            let wanted: Vec<String> = path.iter().map(ToString::to_string).collect();
            Error::refused(
                format!("find the path {}", wanted.join("/")),
                format!("{} {reason}", wanted[..=at].join("/")),
                "give a path as it stands below the top of the snapshot, or of what `N:path` addresses",
            )
        };
        let kind = repo.find(tree, name)?.ok_or_else(|| refused("is not in the snapshot"))?;
        if at + 1 == path.len() {
            return Ok(Some(kind));
        }
        match kind {
            EntryKind::Dir { tree: below, .. } => tree = below,
            EntryKind::File { .. } => return Err(refused("is a file, not a directory")),
            EntryKind::Symlink { .. } => return Err(refused("is a symbolic link, not a directory")),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<(Wanted, Vec<String>)> {
        let address = Address::parse(OsStr::new(text)).ok()??;
        Some((address.snapshot, address.path.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn selections() {
        assert_eq!(Selection::parse("7"), Some(Selection::One(Wanted::Number(7))));
        assert_eq!(Selection::parse("latest~2"), Some(Selection::One(Wanted::Latest { back: 2 })));
        assert_eq!(Selection::parse("3-9"), Some(Selection::Range(3, 9)));
        assert_eq!(Selection::parse("3-3"), Some(Selection::Range(3, 3)));
        for bad in ["", "9-3", "3-", "-3", "-", "3-9-12", "3-latest", "latest-3", "3:a", "3-9:a", "3 -9", "+3-9"] {
            assert_eq!(Selection::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses() {
        let path = |parts: &[&str]| parts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(parse("7"), Some((Wanted::Number(7), vec![])));
        assert_eq!(parse("latest"), Some((Wanted::Latest { back: 0 }, vec![])));
        assert_eq!(parse("latest~"), Some((Wanted::Latest { back: 1 }, vec![])));
        assert_eq!(parse("latest~12:/a//b/./c/"), Some((Wanted::Latest { back: 12 }, path(&["a", "b", "c"]))));
        assert_eq!(parse("3:a:b"), Some((Wanted::Number(3), path(&["a:b"]))));
        assert_eq!(parse("3:"), Some((Wanted::Number(3), vec![])));
        for bad in ["", "x", "+7", "-1", "7~1", "latest1", "latest~x", "latest~+1", "3:../x", "99999999999999999999999"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
