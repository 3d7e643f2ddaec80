//! Which paths of a snapshot are restored.

use std::collections::BTreeMap;

use crate::object::Name;

/// A set of paths: each stands for itself and everything below it.
#[derive(Debug)]
pub(super) enum Selection {
    /// Everything here and below.
    All,
    /// Only what is below these entries.
    Some(BTreeMap<Name, Selection>),
}

impl Selection {
    /// Nothing.
    pub(super) fn nothing() -> Self {
        Self::Some(BTreeMap::new())
    }

    /// Selects a path; the empty path selects everything.
    pub(super) fn add(&mut self, path: &[Name]) {
        let mut at = self;
        for name in path {
            match at {
                // A directory above it is selected as a whole.
                Self::All => return,
                Self::Some(below) => at = below.entry(name.clone()).or_insert_with(Self::nothing),
            }
        }
        *at = Self::All;
    }

    /// What is selected below the entry `name`; nothing if the entry is not selected itself.
    pub(super) fn below(&self, name: &Name) -> Option<&Self> {
        match self {
            Self::All => Some(self),
            Self::Some(below) => below.get(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn path(text: &str) -> Vec<Name> {
        text.split('/').map(name).collect()
    }

    fn selects(selection: &Selection, text: &str) -> bool {
        path(text).iter().try_fold(selection, |at, name| at.below(name)).is_some()
    }

    #[test]
    fn paths_select_themselves_what_is_above_and_what_is_below() {
        assert!(selects(&Selection::All, "anything/at/all"));
        let mut some = Selection::nothing();
        assert!(!selects(&some, "a"));
        some.add(&path("a/b"));
        some.add(&path("c"));
        for yes in ["a", "a/b", "a/b/x/y", "c", "c/d"] {
            assert!(selects(&some, yes), "{yes}");
        }
        for no in ["b", "a/c", "d"] {
            assert!(!selects(&some, no), "{no}");
        }
        // In either order, the wider path wins.
        some.add(&path("c/d"));
        assert!(selects(&some, "c/e"));
        some.add(&path("a"));
        assert!(selects(&some, "a/c"));
        some.add(&[]);
        some.add(&path("x/y"));
        assert!(selects(&some, "z"));
    }
}
