//! `list`: shows the snapshots.

use std::process::ExitCode;

use backuptool::Result;
use backuptool::object::display_bytes;
use backuptool::ops::list;
use serde_json::json;

use crate::cli::args::Global;
use crate::cli::output::{local_time, note, print, print_json, size, with_bytes};
use crate::cli::{environment, exit};

pub(super) fn list(global: &Global) -> Result<ExitCode> {
    let progress = global.progress("listing");
    let repo = global.open(&global.session("list", &progress))?;
    let listing = list::list(&repo)?;
    if global.json {
        for snapshot in &listing.snapshots {
            let line = json!({
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
            let line = with_bytes(line, "host", &snapshot.host);
            let line = with_bytes(line, "user", &snapshot.user);
            print_json(&with_bytes(line, "source", &snapshot.source))?;
        }
        for (number, error) in &listing.unreadable {
            print_json(&json!({"type": "unreadable", "snapshot": number, "error": error.to_string()}))?;
        }
    } else {
        let zone = environment::time_zone();
        let mut text = format!("{:<8}  {:<19}  {:>9}  {:>9}  SOURCE\n", "SNAPSHOT", "TIMESTAMP", "SIZE", "FILES");
        for snapshot in &listing.snapshots {
            let incomplete = if snapshot.incomplete.count > 0 { "  (incomplete)" } else { "" };
            text.push_str(&format!(
                "{:<8}  {:<19}  {:>9}  {:>9}  {}{incomplete}\n",
                snapshot.number,
                local_time(snapshot.start, &zone),
                size(snapshot.counts.bytes),
                snapshot.counts.files,
                display_bytes(&snapshot.source),
            ));
        }
        print(&text)?;
    }
    for (_number, error) in &listing.unreadable {
        note(&format!("backuptool: {error}"));
    }
    Ok(exit::done(listing.unreadable.is_empty()))
}
