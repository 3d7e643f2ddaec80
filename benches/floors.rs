//! The floor of each step of the pipeline: what this machine needs for the step itself, on all cores, where there is no
//! repository, no format and no promise to keep. What a command takes above its floor is what can be gained in it.
//!
//! `cargo bench --bench floors -- SOURCE SCRATCH_DIR [--threads N]`
//!
//! Each line is a full pass of its own, from the walk on, and does one step more than the line above it. The source is
//! read once before, so that all passes find it in the page cache. What is written stays in `SCRATCH_DIR`: deleting it
//! between passes would slow the next ones.

use std::ffi::OsString;
use std::fs::{self, DirEntry, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use rayon::prelude::*;
use zstd::bulk::{Compressor, Decompressor};

/// How much content is compressed at once. A larger file has several frames of its own, smaller ones share one.
const FRAME: usize = 4 << 20;

/// The zstd level of `backuptool`, as zstd has it. The program does less for what hardly compresses, and has a smaller
/// table, so it may need less than this.
const LEVEL: i32 = 3;

const USAGE: &str = "usage: cargo bench --bench floors -- SOURCE SCRATCH_DIR [--threads N]";

fn main() -> ExitCode {
    // `cargo bench` adds `--bench`.
    let arguments: Vec<_> = std::env::args_os().skip(1).filter(|argument| argument != "--bench").collect();
    if arguments.is_empty() {
        // So that `cargo bench` and `cargo test --all-targets`, which run everything, do not fail here.
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some((source, scratch, threads)) = parse(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        Ok(()) => {}
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    }
    match run(&source, &scratch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The source, the place to write in, and the number of threads (0: one a core).
fn parse(arguments: Vec<OsString>) -> Option<(PathBuf, PathBuf, usize)> {
    let (mut paths, mut threads) = (Vec::new(), 0);
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--threads" {
            threads = arguments.next()?.to_str()?.parse().ok()?;
        } else {
            paths.push(PathBuf::from(argument));
        }
    }
    let [source, scratch] = <[PathBuf; 2]>::try_from(paths).ok()?;
    Some((source, scratch, threads))
}

/// How far a pass goes. Each step comes on top of the earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Walk,
    Stat,
    Read,
    Hash,
    Compress,
    Write,
}

fn run(source: &Path, scratch: &Path) -> io::Result<()> {
    let frames_path = scratch.join("frames");
    let frames = OpenOptions::new().read(true).write(true).create_new(true).open(&frames_path);
    let frames = frames.map_err(at(&frames_path))?;
    let restored = scratch.join("tree");
    fs::create_dir(&restored).map_err(at(&restored))?;

    let tree = forward(source, Step::Read, &frames)?.tree;
    let bytes: u64 = tree.files().map(|(_, length)| length).sum();
    println!("threads: {}", rayon::current_num_threads());
    println!("source: {} files, {:.1} MiB", tree.files().count(), mib(bytes));
    println!("{:<44} {:>9} {:>9} {:>9}", "step", "wall s", "CPU s", "MiB/s");

    for (step, name) in [
        (Step::Walk, "walk, names alone"),
        (Step::Stat, "walk with stat"),
        (Step::Read, "  + read"),
        (Step::Hash, "  + BLAKE3"),
        (Step::Compress, "  + zstd -3 in frames of 4 MiB"),
    ] {
        timed(name, bytes, || forward(source, step, &frames))?;
    }
    let write = || forward(source, Step::Write, &frames);
    let passed = timed("  + write to one file and fsync", bytes, write)?;
    timed("check: read the frames, decode, hash", bytes, || backward(&passed, &frames, |_, _| Ok(())))?;
    timed("restore: the same, and write the tree", bytes, || restore(&passed, &frames, source, &restored))?;
    timed("  + sync of the file system", bytes, || Command::new("sync").arg("-f").arg(scratch).status())?;

    let length: u64 = passed.stored.iter().map(|stored| stored.length as u64).sum();
    println!("frames: {}, {:.1} MiB", passed.stored.len(), mib(length));
    Ok(())
}

/// Prints what `work` took.
fn timed<T>(name: &str, bytes: u64, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (begun, cpu) = (Instant::now(), cpu_seconds()?);
    let result = work()?;
    let wall = begun.elapsed().as_secs_f64();
    println!("{name:<44} {wall:>9.3} {:>9.2} {:>9.0}", cpu_seconds()? - cpu, mib(bytes) / wall);
    Ok(result)
}

/// What all threads of this process have used, in the kernel as well.
fn cpu_seconds() -> io::Result<f64> {
    let path = Path::new("/proc/self/stat");
    let stat = fs::read_to_string(path).map_err(at(path))?;
    // The name, in parentheses, may hold anything. After it the fields 14 and 15, the state being the third, are the
    // times in ticks of 1/100 s.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Option<Vec<f64>> = fields.skip(11).take(2).map(|ticks| ticks.parse().ok()).collect();
    let ticks = ticks.ok_or_else(|| io::Error::other(format!("{}: not understood", path.display())))?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Adds the path to an error.
fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

enum Kind {
    Dir,
    File { length: u64 },
    Link,
    Special,
}

/// Everything below the source, in walk order: a directory, then what is in it.
struct Tree(Vec<(PathBuf, Kind)>);

impl Tree {
    fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.0.iter().filter_map(|(path, kind)| match kind {
            Kind::File { length } => Some((path.as_path(), *length)),
            _ => None,
        })
    }

    /// Without `stat` all lengths are 0.
    fn walk(dir: &Path, stat: bool) -> io::Result<Self> {
        let entries: io::Result<Vec<DirEntry>> = fs::read_dir(dir).map_err(at(dir))?.collect();
        let mut entries = entries.map_err(at(dir))?;
        entries.sort_by_cached_key(DirEntry::file_name);
        let mut here = Vec::with_capacity(entries.len());
        for entry in entries {
            let path = entry.path();
            let kind = entry.file_type().map_err(at(&path))?;
            let length = if stat { entry.metadata().map_err(at(&path))?.len() } else { 0 };
            let kind = match kind {
                kind if kind.is_dir() => Kind::Dir,
                kind if kind.is_file() => Kind::File { length },
                kind if kind.is_symlink() => Kind::Link,
                _ => Kind::Special,
            };
            here.push((path, kind));
        }
        let dirs = here.par_iter().filter(|(_, kind)| matches!(kind, Kind::Dir));
        let below: Vec<Self> = dirs.map(|(path, _)| Self::walk(path, stat)).collect::<io::Result<_>>()?;
        let mut below = below.into_iter();
        let mut all = Vec::with_capacity(here.len());
        for entry in here {
            let is_dir = matches!(entry.1, Kind::Dir);
            all.push(entry);
            if is_dir {
                all.extend(below.next().into_iter().flat_map(|Self(entries)| entries));
            }
        }
        Ok(Self(all))
    }
}

/// A file, or a part of a large one.
struct Piece {
    path: PathBuf,
    offset: u64,
    length: usize,
    whole: bool,
}

/// The pieces that are dealt with as one: whole small files in walk order, or a part of a large one.
fn batches(tree: &Tree) -> Vec<Vec<Piece>> {
    let (mut batches, mut open, mut open_length) = (Vec::new(), Vec::new(), 0);
    for (path, length) in tree.files() {
        let piece = |offset: u64, length, whole| Piece { path: path.to_path_buf(), offset, length, whole };
        match usize::try_from(length).ok().filter(|length| *length <= FRAME) {
            Some(length) => {
                if open_length + length > FRAME {
                    batches.push(std::mem::take(&mut open));
                    open_length = 0;
                }
                open.push(piece(0, length, true));
                open_length += length;
            }
            None => {
                for offset in (0..length).step_by(FRAME) {
                    let rest = usize::try_from(length - offset).unwrap_or(FRAME).min(FRAME);
                    batches.push(vec![piece(offset, rest, false)]);
                }
            }
        }
    }
    batches.push(open);
    batches
}

/// What a pass has found, and from the step `Write` on the frames that it has written.
struct Passed {
    tree: Tree,
    batches: Vec<Vec<Piece>>,
    stored: Vec<Stored>,
}

/// A frame in the file of frames.
struct Stored {
    /// The number of the batch that it holds.
    batch: usize,
    offset: u64,
    length: usize,
    /// One for each piece.
    hashes: Vec<blake3::Hash>,
}

/// Deals the items out to all threads, in order. Each thread has one state of its own.
fn on_all_threads<I: Sync, S: Send>(
    items: &[I],
    state: impl Fn() -> io::Result<S> + Sync,
    work: impl Fn(&mut S, usize, &I) -> io::Result<()> + Sync,
) -> io::Result<Vec<S>> {
    let next = AtomicUsize::new(0);
    let states = rayon::broadcast(|_| {
        let mut state = state()?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { return Ok(state) };
            work(&mut state, number, item)?;
        }
    });
    states.into_iter().collect()
}

/// A pass of a snapshot, up to a step.
fn forward(source: &Path, step: Step, frames: &File) -> io::Result<Passed> {
    struct State {
        content: Vec<u8>,
        frame: Vec<u8>,
        compressor: Compressor<'static>,
        stored: Vec<Stored>,
    }

    let tree = Tree::walk(source, step >= Step::Stat)?;
    if step < Step::Read {
        return Ok(Passed { tree, batches: Vec::new(), stored: Vec::new() });
    }
    let batches = batches(&tree);
    let end = AtomicU64::new(0);
    let state = || {
        let frame = Vec::with_capacity(zstd_safe::compress_bound(FRAME));
        let compressor = Compressor::new(LEVEL)?;
        Ok(State { content: vec![0; FRAME], frame, compressor, stored: Vec::new() })
    };
    let states = on_all_threads(&batches, state, |state, batch, pieces| {
        let mut filled = 0;
        let mut hashes = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let content = &mut state.content[filled..filled + piece.length];
            filled += piece.length;
            if piece.length > 0 {
                let file = File::open(&piece.path).map_err(at(&piece.path))?;
                file.read_exact_at(content, piece.offset).map_err(at(&piece.path))?;
            }
            if step >= Step::Hash {
                hashes.push(blake3::hash(content));
            }
        }
        if step >= Step::Compress {
            state.compressor.compress_to_buffer(&state.content[..filled], &mut state.frame)?;
        }
        if step >= Step::Write {
            let length = state.frame.len();
            let offset = end.fetch_add(length as u64, Ordering::Relaxed);
            frames.write_all_at(&state.frame, offset)?;
            state.stored.push(Stored { batch, offset, length, hashes });
        }
        Ok(())
    })?;
    if step >= Step::Write {
        frames.sync_all()?;
    }
    let mut stored: Vec<_> = states.into_iter().flat_map(|state| state.stored).collect();
    stored.sort_unstable_by_key(|stored| stored.batch);
    Ok(Passed { tree, batches, stored })
}

/// A pass over the frames that verifies all pieces and hands them on.
fn backward(
    passed: &Passed,
    frames: &File,
    piece_done: impl Fn(&Piece, &[u8]) -> io::Result<()> + Sync,
) -> io::Result<()> {
    struct State {
        content: Vec<u8>,
        frame: Vec<u8>,
        decompressor: Decompressor<'static>,
    }

    let state = || {
        let frame = vec![0; zstd_safe::compress_bound(FRAME)];
        Ok(State { content: Vec::with_capacity(FRAME), frame, decompressor: Decompressor::new()? })
    };
    on_all_threads(&passed.stored, state, |state, _, stored| {
        let frame = &mut state.frame[..stored.length];
        frames.read_exact_at(frame, stored.offset)?;
        state.decompressor.decompress_to_buffer(frame, &mut state.content)?;
        let mut rest = &state.content[..];
        for (piece, hash) in passed.batches[stored.batch].iter().zip(&stored.hashes) {
            let (content, after) = rest.split_at(piece.length);
            rest = after;
            if blake3::hash(content) != *hash {
                return Err(io::Error::other(format!("{}: came back changed", piece.path.display())));
            }
            piece_done(piece, content)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Writes the whole tree anew.
fn restore(passed: &Passed, frames: &File, source: &Path, target: &Path) -> io::Result<()> {
    let moved = |path: &Path| target.join(path.strip_prefix(source).unwrap_or(path));
    // A directory is made after the one that it is in. That is a small part of all and needs no second thread.
    for (path, _) in passed.tree.0.iter().filter(|(_, kind)| matches!(kind, Kind::Dir)) {
        let path = moved(path);
        fs::create_dir(&path).map_err(at(&path))?;
    }
    backward(passed, frames, |piece, content| {
        let path = moved(&piece.path);
        // The parts of a large file come in any order.
        let file = OpenOptions::new().write(true).create(true).create_new(piece.whole).truncate(false).open(&path);
        file.and_then(|file| file.write_all_at(content, piece.offset)).map_err(at(&path))
    })?;
    let links = passed.tree.0.par_iter().filter(|(_, kind)| matches!(kind, Kind::Link));
    links.try_for_each(|(path, _)| {
        let target = fs::read_link(path).map_err(at(path))?;
        let path = moved(path);
        symlink(target, &path).map_err(at(&path))
    })
}
