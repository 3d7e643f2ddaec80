//! The arguments.

use std::ffi::{OsStr, OsString};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use backuptool::object::{ChunkSizes, HashAlgorithm, Name, Tag};
use backuptool::ops::address::{Address, Selection, parse_path};
use backuptool::ops::check::Part;
use backuptool::ops::prune::MOST_DEAD_PERCENT;
use backuptool::ops::retention::{Age, GroupBy};
use backuptool::ops::snapshot::{ChangeDetection, SyncMethod, WriterOptions};
use backuptool::progress::Interruption;
use clap::builder::{OsStringValueParser, StringValueParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use super::environment;

/// Where the repository is unless something else is said.
pub(super) const DEFAULT_REPOSITORY: &str = "./backup-repo";

/// Numbered, deduplicated, compressed, incremental snapshots of a directory
#[derive(Parser)]
#[command(
    name = "backuptool",
    version,
    max_term_width = 100,
    after_help = "A snapshot is addressed as N, latest or latest~2, and what is in it as N:path/inside.\n\
                  Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done, but some files could not be read or restored \
                  (all are listed); 4 check found damage, or repair left some; 10 no repository there; 11 the repository is locked."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Args)]
#[command(next_help_heading = "Options of every command")]
pub(super) struct Global {
    /// The repository [default: ./backup-repo]
    #[arg(short, long, global = true, value_name = "DIR", env = "BACKUPTOOL_REPO", hide_env_values = true, value_parser = repository())]
    pub(super) repo: Option<PathBuf>,
    /// Print JSON lines on standard output and nothing else there
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print no progress and no summary
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// How long to wait while others have the repository locked: 30s, 5m, 1h
    #[arg(long, global = true, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    pub(super) lock_wait: Duration,
    /// How many threads to use, 1 to 256 [default: one a core]
    #[arg(long, global = true, value_name = "N", value_parser = parse_threads)]
    pub(super) threads: Option<NonZero<usize>>,
    /// Whether a signal says to stop.
    #[arg(skip)]
    pub(super) interruption: Interruption,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a repository
    Init(Init),
    /// Store a directory as it is now
    #[command(
        override_usage = "backuptool snapshot [OPTIONS] --target-directory <DIR>\n       backuptool snapshot [OPTIONS] <DIR>"
    )]
    Snapshot(Snapshot),
    /// Show the snapshots
    List,
    /// Write a snapshot, or some paths of it, into a new or empty directory
    Restore(Restore),
    /// Change the tags and the message of snapshots
    #[command(override_usage = "backuptool tag [OPTIONS] <N>...")]
    Tag(ChangeTags),
    /// Protect snapshots from every prune
    Pin(Pin),
    /// Protect snapshots no longer
    Unpin(Pin),
    /// Remove snapshots, and what only they needed
    #[command(
        override_usage = "backuptool prune [OPTIONS] --snapshot <N[,N…]>\n       backuptool prune [OPTIONS] <RULES>\n       backuptool prune [OPTIONS] --unreferenced"
    )]
    Prune(Box<Prune>),
    /// Fold small files of the repository into large ones
    Pack,
    /// Read and verify everything
    Check(Check),
    /// Bring back what is damaged or missing
    Repair(Repair),
}

#[derive(Args)]
pub(super) struct Init {
    /// The hash that names what is stored
    #[arg(long, value_enum, default_value_t)]
    pub(super) hash: Hash,
    /// The average size of the chunks that large files are cut into, a power of two from 16K to 4M; fixed for the life
    /// of the repository
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_chunk_size)]
    pub(super) chunk_size: ChunkSizes,
}

#[derive(Args)]
#[group(skip)]
pub(super) struct Snapshot {
    /// The directory to store
    #[arg(long, value_name = "DIR", required_unless_present = "directory", value_parser = path())]
    pub(super) target_directory: Option<PathBuf>,
    /// The same as --target-directory
    #[arg(value_name = "DIR", conflicts_with = "target_directory", value_parser = path())]
    pub(super) directory: Option<PathBuf>,
    /// Exit with 3 also when a file changed each time it was read
    #[arg(long)]
    pub(super) strict: bool,
    /// Take the snapshot even if the directory is empty and its last snapshot was not
    #[arg(long)]
    pub(super) allow_empty: bool,
    /// Leave out what is on other file systems; the directories where they are mounted are stored empty
    #[arg(short = 'x', long)]
    pub(super) one_file_system: bool,
    #[command(flatten)]
    pub(super) detection: Detection,
    /// A tag for the snapshot; may be given several times
    #[arg(long = "tag", value_name = "TAG", value_parser = Tag::new)]
    pub(super) tags: Vec<Tag>,
    /// What the snapshot is about, for `list`
    #[arg(long, value_name = "TEXT")]
    pub(super) message: Option<String>,
    /// How written data is made durable: the whole file system at once, each file by itself, or as the file system
    /// allows
    #[arg(long, value_enum, default_value_t)]
    pub(super) fsync: Fsync,
    /// Up to so many new objects (and 32K for each, together) are stored as files of their own; more go to packs
    #[arg(long, value_name = "OBJECTS", default_value_t = WriterOptions::LOOSE_LIMIT)]
    pub(super) loose_limit: usize,
    /// A pack is complete at so many bytes. Not shown: it is for tests, which cannot fill packs of the usual size.
    #[arg(long, value_name = "BYTES", default_value_t = WriterOptions::default().pack_size, hide = true)]
    pub(super) pack_size: u64,
}

/// What counts as a change.
#[derive(Args)]
#[group(skip)]
pub(super) struct Detection {
    /// Read every file, also those that look as they looked when they were last stored
    #[arg(long)]
    pub(super) rescan: bool,
    /// Do not take a file for changed because its ctime is another
    #[arg(long)]
    pub(super) ignore_ctime: bool,
    /// Do not take a file for changed because its inode is another
    #[arg(long)]
    pub(super) ignore_inode: bool,
}

impl From<&Detection> for ChangeDetection {
    fn from(detection: &Detection) -> Self {
        let Detection { rescan, ignore_ctime, ignore_inode } = *detection;
        Self { rescan, ignore_ctime, ignore_inode }
    }
}

#[derive(Args)]
pub(super) struct Restore {
    /// The snapshot: N, latest, latest~2, or with a path N:path/inside
    #[arg(long, alias = "snapshot", value_name = "N", value_parser = address())]
    pub(super) snapshot_number: Address,
    /// The directory to write; it must not exist or be empty
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub(super) output_directory: PathBuf,
    /// Restore only these paths, as they stand below the top of what N addresses
    #[arg(value_name = "PATH", value_parser = path_inside())]
    pub(super) paths: Vec<Vec<Name>>,
}

#[derive(Args)]
#[command(group(ArgGroup::new("changes").required(true).multiple(true).args(["add", "remove", "set", "message"])))]
pub(super) struct ChangeTags {
    #[command(flatten)]
    pub(super) snapshots: Pin,
    /// A tag to add; may be given several times, like --remove and --set
    #[arg(long, value_name = "TAG", value_parser = Tag::new)]
    pub(super) add: Vec<Tag>,
    /// A tag to remove
    #[arg(long, value_name = "TAG", value_parser = Tag::new)]
    pub(super) remove: Vec<Tag>,
    /// A tag to have instead of all that there are
    #[arg(long, value_name = "TAG", value_parser = Tag::new, conflicts_with_all = ["add", "remove"])]
    pub(super) set: Vec<Tag>,
    /// What the snapshot is about; an empty text removes the message
    #[arg(long, value_name = "TEXT")]
    pub(super) message: Option<String>,
}

#[derive(Args)]
pub(super) struct Pin {
    /// The snapshots: N, latest, latest~2, 3-9, or several with commas between
    #[arg(value_name = "N", required = true, value_delimiter = ',', value_parser = selection())]
    pub(super) snapshots: Vec<Selection>,
}

/// What says which snapshots go by rule.
const RULES: [&str; 9] = [
    "keep_last",
    "keep_hourly",
    "keep_daily",
    "keep_weekly",
    "keep_monthly",
    "keep_yearly",
    "keep_within",
    "keep_tag",
    "older_than",
];

#[derive(Args)]
#[command(group(ArgGroup::new("rules").multiple(true).args(RULES)))]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["snapshots", "unreferenced"]).args(RULES)))]
pub(super) struct Prune {
    /// Remove these: N, latest, latest~2, 3-9, or several with commas between
    #[arg(long = "snapshot", alias = "snapshot-number", value_name = "N[,N…]", value_delimiter = ',', value_parser = selection(), conflicts_with_all = ["rules", "unreferenced"])]
    pub(super) snapshots: Vec<Selection>,
    /// Remove no snapshot, only what none needs, such as what interrupted runs have left
    #[arg(long, conflicts_with = "rules")]
    pub(super) unreferenced: bool,
    /// Rewrite packs of which more than this share is not needed, 0 to 100
    #[arg(long, value_name = "PERCENT", default_value_t = MOST_DEAD_PERCENT, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) max_dead: u8,
    /// Show what would be removed, and why, and remove nothing
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) rules: RuleArgs,
}

#[derive(Args)]
#[command(next_help_heading = "Rules")]
pub(super) struct RuleArgs {
    /// Keep the last N of each source; what no rule keeps is removed, unless --older-than spares it
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) keep_last: Option<u64>,
    /// Keep the newest of each of the last N hours that have one
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) keep_hourly: Option<u64>,
    /// The same for days
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) keep_daily: Option<u64>,
    /// The same for weeks
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) keep_weekly: Option<u64>,
    /// The same for months
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) keep_monthly: Option<u64>,
    /// The same for years
    #[arg(long, value_name = "N", value_parser = positive())]
    pub(super) keep_yearly: Option<u64>,
    /// Keep what is not so much older than the newest of its source: 36h, 30d, 8w, 6m (months), 2y, 1y6m
    #[arg(long, value_name = "TIME", value_parser = Age::from_str)]
    pub(super) keep_within: Option<Age>,
    /// Keep what has this tag; may be given several times
    #[arg(long, value_name = "TAG", value_parser = Tag::new)]
    pub(super) keep_tag: Vec<Tag>,
    /// Remove only what is so much older than now, and no rule keeps
    #[arg(long, value_name = "TIME", value_parser = Age::from_str)]
    pub(super) older_than: Option<Age>,
    /// What the rules are applied to: each source (a host and a path) by itself, or all together
    #[arg(long, value_enum, value_name = "WHAT", default_value_t, requires = "rules")]
    pub(super) group_by: Groups,
    /// Apply the rules only to snapshots of this path, or of this path on this host; may be given several times
    #[arg(long = "source", value_name = "[HOST:]PATH", requires = "rules", value_parser = source())]
    pub(super) sources: Vec<SourceArg>,
    /// Let rules remove every snapshot of a source, or all objects where there is no trace of a snapshot
    #[arg(long, conflicts_with = "snapshots")]
    pub(super) allow_empty: bool,
}

/// A path whose snapshots are meant, perhaps on one host only.
#[derive(Clone)]
pub(super) struct SourceArg {
    pub(super) host: Option<OsString>,
    pub(super) path: PathBuf,
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(super) enum Groups {
    #[default]
    Source,
    None,
}

impl From<Groups> for GroupBy {
    fn from(groups: Groups) -> Self {
        match groups {
            Groups::Source => Self::Source,
            Groups::None => Self::None,
        }
    }
}

#[derive(Args)]
#[group(multiple = false)]
pub(super) struct Check {
    /// Read no file content: only see that everything that the snapshots need is there
    #[arg(long)]
    pub(super) quick: bool,
    /// Read the content of one part of several; all parts together are everything
    #[arg(long, value_name = "N/OF", value_parser = parse_part)]
    pub(super) subset: Option<Part>,
    /// Do not read again what a check has found whole within this time: 12h, 30d, 8w, 6m (months)
    #[arg(long, value_name = "TIME", value_parser = Age::from_str)]
    pub(super) max_age: Option<Age>,
}

#[derive(Args)]
pub(super) struct Repair {
    /// Another repository to take what is damaged or missing from: a copy of this one, or any that uses the same hash; may
    /// be given several times
    #[arg(long, value_name = "REPO", value_parser = path())]
    pub(super) from: Vec<PathBuf>,
    /// A directory whose files may still be what is damaged or missing
    #[arg(long, value_name = "DIR", value_parser = path())]
    pub(super) from_directory: Option<PathBuf>,
    /// Show everything that would be done and do nothing
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    /// Remove the snapshots that cannot be made whole
    #[arg(long)]
    pub(super) remove_damaged_snapshots: bool,
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(super) enum Hash {
    #[default]
    Blake3,
    Sha256,
}

impl From<Hash> for HashAlgorithm {
    fn from(hash: Hash) -> Self {
        match hash {
            Hash::Blake3 => Self::Blake3,
            Hash::Sha256 => Self::Sha256,
        }
    }
}

#[derive(Clone, Copy, Default, ValueEnum)]
pub(super) enum Fsync {
    #[default]
    Auto,
    Batch,
    Each,
}

impl From<Fsync> for SyncMethod {
    fn from(fsync: Fsync) -> Self {
        match fsync {
            Fsync::Auto => Self::Auto,
            Fsync::Batch => Self::Batch,
            Fsync::Each => Self::Each,
        }
    }
}

/// A path; a leading `~/` is the home directory, since the shell does not see it behind `=`.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    path_or("the path is empty")
}

/// The path of a repository, which may come from the environment.
fn repository() -> impl TypedValueParser<Value = PathBuf> {
    path_or("it is empty; name a directory with --repo or in $BACKUPTOOL_REPO, or unset that")
}

fn path_or(reason: &'static str) -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(move |text| if text.is_empty() { Err(reason) } else { Ok(expand_home(&text)) })
}

/// Whole snapshots, without a path in them.
fn selection() -> impl TypedValueParser<Value = Selection> {
    StringValueParser::new().try_map(|text| {
        Selection::parse(text.trim_ascii())
            .ok_or("give the number of a snapshot, `latest`, `latest~2`, or a range of numbers like 3-9")
    })
}

/// A snapshot, perhaps with a path in it.
fn address() -> impl TypedValueParser<Value = Address> {
    OsStringValueParser::new().try_map(|text| {
        let address = Address::parse(&text).map_err(|error| error.to_string())?;
        address.ok_or_else(|| {
            "give the number of a snapshot, `latest`, `latest~2`, or with a path `7:path/inside`".to_string()
        })
    })
}

/// A path in a snapshot.
fn path_inside() -> impl TypedValueParser<Value = Vec<Name>> {
    OsStringValueParser::new().try_map(|text| parse_path(&text).map_err(|error| error.to_string()))
}

/// How many snapshots to keep.
fn positive() -> impl TypedValueParser<Value = u64> {
    clap::value_parser!(u64).range(1..)
}

/// `PATH` or `HOST:/PATH`.
fn source() -> impl TypedValueParser<Value = SourceArg> {
    OsStringValueParser::new().try_map(|text| {
        let bytes = text.as_bytes();
        let colon =
            bytes.windows(2).position(|pair| pair == b":/").filter(|at| *at > 0 && !bytes[..*at].contains(&b'/'));
        match colon {
            _ if bytes.is_empty() => Err("the path is empty"),
            Some(at) => Ok(SourceArg {
                host: Some(OsStr::from_bytes(&bytes[..at]).into()),
                path: OsStr::from_bytes(&bytes[at + 1..]).into(),
            }),
            None => Ok(SourceArg { host: None, path: expand_home(&text) }),
        }
    })
}

fn expand_home(text: &OsStr) -> PathBuf {
    let path = PathBuf::from(text);
    match (path.strip_prefix("~"), environment::home()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

/// Reads a number of threads.
fn parse_threads(text: &str) -> Result<NonZero<usize>, String> {
    let number = text.parse().ok().filter(|number: &NonZero<usize>| number.get() <= 256);
    number.ok_or_else(|| "the number of threads must be from 1 to 256".into())
}

/// Reads `3/10`.
fn parse_part(text: &str) -> Result<Part, String> {
    let part = text.split_once('/').and_then(|(number, of)| Part::new(number.parse().ok()?, of.parse().ok()?));
    part.ok_or_else(|| "a part is a number and how many parts there are: 1/10, 2/10, …, 10/10".into())
}

/// Reads `90`, `90s`, `5m`, `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let factor = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).filter(|_| factor > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| "a time is a number of seconds, or 30s, 5m (minutes), 1h".into())
}

/// Reads `64K`, `64KiB`, `1M`, `65536`.
fn parse_chunk_size(text: &str) -> Result<ChunkSizes, String> {
    let upper = text.to_ascii_uppercase();
    let number = upper.trim_end_matches("IB").trim_end_matches('B');
    let (digits, factor) = match number.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => number.strip_suffix('M').map_or((number, 1), |digits| (digits, 1 << 20)),
    };
    let bytes = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(factor));
    let sizes = bytes.and_then(|bytes| ChunkSizes::with_average(bytes).ok());
    sizes.ok_or_else(|| "the size must be a power of two from 16K to 4M: 16K, 32K, 64K, …, 4M".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_and_sizes() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("12h"), Ok(Duration::from_secs(43_200)));
        for bad in ["", "m", "-1", "1y", "5mm", "1.5h", "99999999999999999999h", "ä"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for good in ["64K", "64k", "64KiB", "64KB", "65536"] {
            assert_eq!(parse_chunk_size(good), Ok(ChunkSizes::default()), "{good}");
        }
        assert_eq!(parse_part("3/10").ok(), Part::new(3, 10));
        for bad in ["", "3", "/", "0/10", "11/10", "1/0", "-1/3", "1/3/5", "a/b"] {
            assert!(parse_part(bad).is_err(), "{bad}");
        }
        assert!(parse_chunk_size("4M").is_ok());
        for bad in ["", "K", "8K", "8M", "48K", "1G", "-64K", "4194305K", "64KK", "ä"] {
            assert!(parse_chunk_size(bad).is_err(), "{bad}");
        }
    }
}
