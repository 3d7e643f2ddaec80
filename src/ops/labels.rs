//! `tag`, `pin`, `unpin`: change what is said about snapshots.

use std::collections::BTreeSet;

use crate::error::{Error, Result, number_ranges};
use crate::object::{Labels, Tag};
use crate::repo::{Session, SharedRepository};

/// What is to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelChanges {
    /// Tags that take the place of all there are, before others are added.
    pub set: Option<BTreeSet<Tag>>,
    /// Tags to add.
    pub add: BTreeSet<Tag>,
    /// Tags to remove.
    pub remove: BTreeSet<Tag>,
    /// The new message; an empty one removes it.
    pub message: Option<String>,
    /// Whether the snapshot is to be pinned.
    pub pinned: Option<bool>,
}

impl LabelChanges {
    fn apply(&self, mut labels: Labels) -> Labels {
        if let Some(tags) = &self.set {
            labels.tags.clone_from(tags);
        }
        labels.tags.extend(self.add.iter().cloned());
        labels.tags.retain(|tag| !self.remove.contains(tag));
        if let Some(message) = &self.message {
            labels.message = Some(message.clone()).filter(|message| !message.is_empty());
        }
        labels.pinned = self.pinned.unwrap_or(labels.pinned);
        labels
    }
}

/// Changes the labels of the snapshots `numbers`, which must exist, and returns what they are then. If those of one cannot be
/// read, none is changed.
pub fn change(
    repo: &SharedRepository,
    numbers: &[u64],
    changes: &LabelChanges,
    session: &Session<'_>,
) -> Result<Vec<(u64, Labels)>> {
    // Also those of a lost ref: who gives it up may have to take its pin away first.
    let refs = repo.refs()?;
    let existing = refs.expected();
    if let Some(unknown) = numbers.iter().find(|number| existing.binary_search(number).is_err()) {
        return Err(Error::NoSnapshot { wanted: unknown.to_string(), existing });
    }
    let unpins = LabelChanges { pinned: Some(false), ..LabelChanges::default() };
    if let Some(lost) = numbers.iter().find(|number| refs.lost.binary_search(number).is_ok())
        && *changes != unpins
    {
        return Err(Error::refused(
            format!("change the labels of snapshot {lost}"),
            "its ref is lost, perhaps with labels, and new ones would stand in their place",
            "bring both back with `backuptool repair --from COPY` first; nothing was changed",
        ));
    }
    let writer = repo.labels_writer(session)?;
    let mut labelled = Vec::new();
    let mut staged = Vec::new();
    for number in numbers {
        let old = repo.labels(*number)?;
        let new = changes.apply(old.clone());
        if new != old {
            staged.push((*number, writer.stage(*number, &new)?));
        }
        labelled.push((*number, new));
    }
    for (done, (number, labels)) in staged.iter().enumerate() {
        writer.publish(labels).map_err(|error| {
            let before: Vec<u64> = staged[..done].iter().map(|(number, _)| *number).collect();
            let next = match before[..] {
                [] => "nothing was changed; run the command again".to_string(),
                _ => format!("those of {} are changed; run the command again", number_ranges(&before)),
            };
            Error::refused(format!("change the labels of snapshot {number}"), error.to_string(), next)
        })?;
    }
    Ok(labelled)
}
