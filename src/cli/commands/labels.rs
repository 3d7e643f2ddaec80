//! `tag`, `pin`, `unpin`: change what is said about snapshots.

use std::process::ExitCode;

use backuptool::Result;
use backuptool::object::{Labels, Tag, printable};
use backuptool::ops::address::Selection;
use backuptool::ops::labels::{self, LabelChanges};
use serde_json::json;

use crate::cli::args::{ChangeTags, Global, Pin};
use crate::cli::exit;

pub(super) fn tag(global: &Global, args: ChangeTags) -> Result<ExitCode> {
    let changes = LabelChanges {
        set: (!args.set.is_empty()).then(|| args.set.into_iter().collect()),
        add: args.add.into_iter().collect(),
        remove: args.remove.into_iter().collect(),
        message: args.message,
        pinned: None,
    };
    change(global, "tag", &args.snapshots, &changes)
}

pub(super) fn pin(global: &Global, args: &Pin, pinned: bool) -> Result<ExitCode> {
    let changes = LabelChanges { pinned: Some(pinned), ..LabelChanges::default() };
    change(global, if pinned { "pin" } else { "unpin" }, args, &changes)
}

fn change(global: &Global, command: &str, args: &Pin, changes: &LabelChanges) -> Result<ExitCode> {
    let progress = global.progress("labelling");
    let session = global.session(command, &progress);
    let repo = global.open(&session)?;
    let numbers = Selection::numbers(&args.snapshots, &repo)?;
    for (number, labels) in labels::change(&repo, &numbers, changes, &session)? {
        let mut json = labels_json(&labels);
        json["type"] = "labels".into();
        json["snapshot"] = number.into();
        global.report(|| format!("snapshot {number}: {}\n", labels_text(&labels)), &json)?;
    }
    Ok(exit::DONE)
}

/// The keys of labels, for a line of JSON.
pub(super) fn labels_json(labels: &Labels) -> serde_json::Value {
    let tags: Vec<&str> = labels.tags.iter().map(Tag::as_str).collect();
    json!({"tags": tags, "message": labels.message, "pinned": labels.pinned})
}

/// The tags, for people.
pub(super) fn tags_text(labels: &Labels) -> String {
    labels.tags.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn labels_text(labels: &Labels) -> String {
    let pinned = if labels.pinned { "pinned" } else { "not pinned" };
    let tags = if labels.tags.is_empty() { "no tags".to_string() } else { format!("tags {}", tags_text(labels)) };
    let message = labels.message.as_ref().map_or(String::new(), |message| format!("; {}", printable(message)));
    format!("{pinned}; {tags}{message}")
}
