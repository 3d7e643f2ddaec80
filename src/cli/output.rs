//! What is printed, and how numbers look.

use std::io::{self, Write};

use backuptool::error::number_ranges;
use backuptool::{Error, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// Prints lines on standard output. A reader that has seen enough (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::refused(
            "print to standard output",
            error.to_string(),
            "what the command does is done, only its report is missing",
        )),
        _ => Ok(()),
    }
}

/// Lines as a text, each of which ends.
pub(super) fn text_of(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// Prints one JSON line on standard output.
pub(super) fn print_json(value: &Value) -> Result<()> {
    print(&format!("{value}\n"))
}

/// Adds bytes to a JSON object: as text under `key`, or as hex digits under `key_hex` if they are not UTF-8.
pub(super) fn with_bytes(mut object: Value, key: &str, bytes: &[u8]) -> Value {
    match str::from_utf8(bytes) {
        Ok(text) => object[key] = text.into(),
        Err(_) => object[format!("{key}_hex")] = hex::encode(bytes).into(),
    }
    object
}

/// Prints a line on standard error.
pub(super) fn note(text: &str) {
    if writeln!(io::stderr().lock(), "{text}").is_err() {
        // There is nowhere left to say it.
    }
}

/// Reports the error that ended the command.
pub(super) fn error(error: &Error, json: bool) {
    note(&format!("backuptool: {error}"));
    if json && print_json(&json!({"type": "error", "message": error.to_string()})).is_err() {
        // It was said on standard error.
    }
}

/// Bytes for people: `0 B`, `1.4 KiB`, `205 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // In tenths of a unit, rounded; three digits are enough to compare by eye.
    let mut tenths = (u128::from(bytes) * 10 + 512) / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths = (tenths + 512) / 1024;
        unit += 1;
    }
    if tenths < 1000 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", (tenths + 5) / 10, UNITS[unit])
    }
}

/// A count with its noun: `1 file`, `2 files`.
pub(super) fn count(number: u64, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}s"),
    }
}

/// Snapshots by their numbers: `snapshot 7`, `snapshots 1-4, 7`.
pub(super) fn snapshots(numbers: &[u64]) -> String {
    format!("snapshot{} {}", if numbers.len() == 1 { "" } else { "s" }, number_ranges(numbers))
}

/// A moment as local time: `2024-09-01 14:35:22`.
pub(super) fn local_time(time: Timestamp, zone: &TimeZone) -> String {
    zone.to_datetime(time).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_rounded() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1434, "1.4 KiB"),
            (102_400, "100 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (1 << 20, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn counts_have_their_noun() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
        assert_eq!(count(2, "directory"), "2 directories");
    }

    #[test]
    fn times_are_local() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(local_time("2024-09-01T12:35:22.9Z".parse().unwrap(), &zone), "2024-09-01 14:35:22");
    }
}
