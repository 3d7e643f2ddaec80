//! Which paths of a snapshot are restored.

use std::collections::BTreeMap;

use crate::object::Name;

/// A set of paths: each stands for itself and everything below it.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Nothing: everything here and below is selected.
    below: Option<BTreeMap<Name, Selection>>,
}

impl Selection {
    /// Everything.
    pub(super) fn everything() -> Self {
        Self::default()
    }

    /// Selects a path. The first path replaces "everything".
    pub(super) fn add(&mut self, path: &[Name]) {
        let mut at = self;
        let mut fresh = at.below.is_none();
        for name in path {
            if at.below.is_none() && !fresh {
                // A directory above it is selected as a whole.
                return;
            }
            let below = at.below.get_or_insert_default();
            fresh = !below.contains_key(name);
            at = below.entry(name.clone()).or_default();
        }
        at.below = None;
    }

    /// What is selected below the entry `name`; nothing if the entry is not selected itself.
    pub(super) fn below(&self, name: &Name) -> Option<&Self> {
        match &self.below {
            None => Some(self),
            Some(below) => below.get(name),
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
        let mut some = Selection::everything();
        assert!(selects(&some, "anything/at/all"));
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
    }
}
