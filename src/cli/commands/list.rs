//! `list`: shows the snapshots.

use std::process::ExitCode;

use backuptool::Result;
use backuptool::object::{Labels, display_bytes, printable};
use backuptool::ops::list::{self, ListReport, Listed};
use serde_json::json;

use super::labels::{labels_json, tags_text};
use crate::cli::args::Global;
use crate::cli::output::{local_time, note, print, print_json, size, with_bytes};
use crate::cli::{environment, exit};

pub(super) fn list(global: &Global) -> Result<ExitCode> {
    let progress = global.progress("listing");
    let repo = global.open(&global.session("list", &progress))?;
    let listing = list::list(&repo, global.threads())?;
    if global.json {
        print_lines(&listing)?;
    } else {
        print(&table(&listing))?;
    }
    let damaged = listing.snapshots.iter().filter_map(|listed| listed.labels.as_ref().err());
    let mut wholly = true;
    for error in listing.unreadable.iter().map(|(_, error)| error).chain(damaged) {
        note(&format!("backuptool: {error}"));
        wholly = false;
    }
    Ok(exit::done(wholly))
}

fn print_lines(listing: &ListReport) -> Result<()> {
    for Listed { snapshot, labels } in &listing.snapshots {
        let mut line = match labels {
            Ok(labels) => labels_json(labels),
            Err(error) => json!({"labels_error": error.to_string()}),
        };
        let fields = json!({
            "type": "snapshot",
            "snapshot": snapshot.number,
            "timestamp": snapshot.start.to_string(),
            "tree": snapshot.tree.to_string(),
            "bytes": snapshot.counts.bytes,
            "files": snapshot.counts.files,
            "dirs": snapshot.counts.dirs,
            "symlinks": snapshot.counts.symlinks,
            "added_stored": snapshot.added.stored,
            "incomplete": snapshot.incomplete.count,
            "changed": snapshot.changed.count,
        });
        for (key, value) in fields.as_object().into_iter().flatten() {
            line[key] = value.clone();
        }
        let line = with_bytes(line, "host", &snapshot.host);
        let line = with_bytes(line, "user", &snapshot.user);
        print_json(&with_bytes(line, "source", &snapshot.source))?;
    }
    for (number, error) in &listing.unreadable {
        print_json(&json!({"type": "unreadable", "snapshot": number, "error": error.to_string()}))?;
    }
    Ok(())
}

fn table(listing: &ListReport) -> String {
    let zone = environment::time_zone();
    // What was said about snapshots has its columns where something was.
    let is_labelled = |listed: &Listed| !listed.labels.as_ref().is_ok_and(Labels::is_empty);
    let labelled = listing.snapshots.iter().any(is_labelled);
    let mut lines =
        vec![["SNAPSHOT", "TIMESTAMP", "SIZE", "FILES", "SOURCE", "PIN", "TAGS", "MESSAGE"].map(String::from)];
    for Listed { snapshot, labels } in &listing.snapshots {
        let incomplete = if snapshot.incomplete.count > 0 { "  (incomplete)" } else { "" };
        let (pin, tags, message) = match labels {
            Ok(labels) => (if labels.pinned { "pinned" } else { "" }, tags_text(labels), first_line(labels)),
            Err(_) => ("unknown", String::new(), String::new()),
        };
        lines.push([
            snapshot.number.to_string(),
            local_time(snapshot.start, &zone),
            size(snapshot.counts.bytes),
            snapshot.counts.files.to_string(),
            format!("{}{incomplete}", display_bytes(&snapshot.source)),
            pin.to_string(),
            tags,
            message,
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..8).map(width).collect();
    let mut text = String::new();
    for [number, time, size, files, source, pin, tags, message] in &lines {
        let mut line = format!("{number:<8}  {time:<19}  {size:>9}  {files:>9}  {source}");
        if labelled {
            line = format!(
                "{line}{:missing$}  {pin:<pins$}  {tags:<tag_width$}  {message}",
                "",
                missing = widths[4] - source.chars().count(),
                pins = widths[5],
                tag_width = widths[6],
            );
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// As much of the message as a line of the table has place for.
fn first_line(labels: &Labels) -> String {
    printable(labels.message.as_deref().and_then(|message| message.lines().next()).unwrap_or_default())
}
