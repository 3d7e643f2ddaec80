//! `list`: shows the snapshots.

use std::num::NonZero;
use std::process::ExitCode;

use backuptool::object::{Labels, display_bytes, printable};
use backuptool::ops::list::{self, ListReport, Listed};
use backuptool::repo::Repository;
use backuptool::{Error, Result};
use jiff::tz::TimeZone;
use serde_json::json;

use super::labels::{labels_json, tags_text};
use super::unreadable_refs;
use crate::cli::args::Global;
use crate::cli::output::{local_time, note, print, size, text_of, with_bytes};
use crate::cli::{environment, exit};

pub(super) fn list(global: &Global) -> Result<ExitCode> {
    let progress = global.progress("listing");
    let repo = global.open(&global.session("list", &progress))?;
    let (text, problems) = if global.json { lines(&repo, global.threads())? } else { table(&repo, global.threads())? };
    print(&text)?;
    for problem in &problems {
        note(&format!("backuptool: {problem}"));
    }
    Ok(exit::done(problems.is_empty()))
}

/// What is shown, and what is wrong, a line each.
type Shown = (String, Vec<String>);

/// A line of JSON for each snapshot.
fn lines(repo: &Repository, threads: NonZero<usize>) -> Result<Shown> {
    let show = |Listed { snapshot, labels }: Listed| {
        let mut line = match &labels {
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
        (with_bytes(line, "source", &snapshot.source).to_string(), labels.err())
    };
    let ListReport { snapshots, unreadable, lost, all_lost } = list::list(repo, threads, show)?;
    let (mut lines, damaged): (Vec<_>, Vec<_>) = snapshots.into_iter().unzip();
    let line = |(number, error): &(u64, Error)| {
        json!({"type": "unreadable", "snapshot": number, "error": error.to_string()}).to_string()
    };
    lines.extend(unreadable.iter().map(line));
    Ok((text_of(&lines), problems(&unreadable, &lost, all_lost, damaged)))
}

fn problems(
    unreadable: &[(u64, Error)],
    lost: &[u64],
    all_lost: Option<Error>,
    labels: Vec<Option<Error>>,
) -> Vec<String> {
    let refs = unreadable_refs(&unreadable.iter().collect::<Vec<_>>(), lost, true);
    refs.into_iter()
        .chain(all_lost.into_iter().chain(labels.into_iter().flatten()).map(|error| error.to_string()))
        .collect()
}

/// A line of the table.
struct Row {
    /// The columns up to the source.
    facts: String,
    /// The pin, the tags and the message: empty where nothing was said.
    labels: [String; 3],
}

fn table(repo: &Repository, threads: NonZero<usize>) -> Result<Shown> {
    let zone = environment::time_zone();
    let show = |listed: Listed| (row(&listed, &zone), listed.labels.err());
    let ListReport { snapshots, unreadable, lost, all_lost } = list::list(repo, threads, show)?;
    let (mut rows, damaged): (Vec<Row>, Vec<_>) = snapshots.into_iter().unzip();
    // What was said about snapshots has its columns where something was.
    let is_labelled = |row: &Row| row.labels.iter().any(|label| !label.is_empty());
    let titles = if rows.iter().any(is_labelled) { ["PIN", "TAGS", "MESSAGE"] } else { [""; 3] };
    let facts = format!("{:<8}  {:<19}  {:>9}  {:>9}  {}", "SNAPSHOT", "TIMESTAMP", "SIZE", "FILES", "SOURCE");
    rows.insert(0, Row { facts, labels: titles.map(String::from) });

    let width = |column: fn(&Row) -> &str| rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0);
    let widths = (width(|row| &row.facts), width(|row| &row.labels[0]), width(|row| &row.labels[1]));
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let [pin, tags, message] = &row.labels;
        lines.push(if is_labelled(&row) {
            let line = format!("{:<1$}  {pin:<2$}  {tags:<3$}  {message}", row.facts, widths.0, widths.1, widths.2);
            line.trim_end().to_string()
        } else {
            // Blanks at its end are the path's.
            row.facts
        });
    }
    Ok((text_of(&lines), problems(&unreadable, &lost, all_lost, damaged)))
}

fn row(Listed { snapshot, labels }: &Listed, zone: &TimeZone) -> Row {
    let incomplete = if snapshot.incomplete.count > 0 { "  (incomplete)" } else { "" };
    let facts = format!(
        "{:<8}  {:<19}  {:>9}  {:>9}  {}{incomplete}",
        snapshot.number,
        local_time(snapshot.start, zone),
        size(snapshot.counts.bytes),
        snapshot.counts.files,
        display_bytes(&snapshot.source)
    );
    let labels = match labels {
        Ok(labels) => {
            let pin = if labels.pinned { "pinned" } else { "" };
            [pin.to_string(), tags_text(labels), first_line(labels)]
        }
        Err(_) => ["unknown".to_string(), String::new(), String::new()],
    };
    Row { facts, labels }
}

/// As much of the message as a line of the table has place for.
fn first_line(labels: &Labels) -> String {
    printable(labels.message.as_deref().and_then(|message| message.lines().next()).unwrap_or_default())
}
