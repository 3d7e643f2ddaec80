//! The operations as a single-threaded process with a fixed clock would call them, so that runs can be repeated.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backuptool::Result;
use backuptool::object::{
    Added, Content, Counts, Entry, EntryKind, HashAlgorithm, Labels, ObjectId, PathNotes, Snapshot, TreeId,
};
use backuptool::ops::address::{Address, Wanted, parse_path};
use backuptool::ops::check::{self, CheckOptions, CheckReport};
use backuptool::ops::pack::{self, PackPlan, PackReport};
use backuptool::ops::prune::{self, PruneOptions, PrunePlan, PruneReport};
use backuptool::ops::repair::{self, RepairOptions, RepairPlan, RepairReport};
use backuptool::ops::restore::{self, RestoreOptions, RestoreReport};
use backuptool::ops::snapshot::{self, ChangeDetection, SnapshotOptions, SnapshotReport, WriterOptions};
use backuptool::progress::{Interruption, Silent};
use backuptool::repo::{self, ChunkAt, InitOptions, Repository, Session, SharedRepository};
use backuptool::store::batch::SyncMethod;
use backuptool::store::pack::PackName;
use backuptool::store::staging::{RunInfo, Staging};
use backuptool::store::{Backend, MemoryBackend, codec, layout};
use jiff::Timestamp;

use super::model::{Model, Node};

pub(crate) const ONE: NonZero<usize> = NonZero::<usize>::MIN;

/// Everything goes to packs.
pub(crate) const PACKED: WriterOptions = WriterOptions { sync: SyncMethod::Auto, loose_limit: 0, pack_size: 64 << 20 };
/// Everything stays loose.
pub(crate) const LOOSE: WriterOptions = WriterOptions { loose_limit: usize::MAX, ..PACKED };

fn clock() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

pub(crate) fn session() -> Session<'static> {
    Session {
        host: "host".into(),
        pid: 1,
        command: "test".into(),
        start: clock(),
        lock_wait: Duration::ZERO,
        progress: &Silent,
        interruption: Interruption::default(),
    }
}

pub(crate) fn init(backend: impl Backend + 'static) -> Result<Repository> {
    repo::init(Arc::new(backend), &InitOptions::default(), &session())
}

pub(crate) fn open(backend: impl Backend + 'static) -> Result<SharedRepository> {
    open_in(&session(), backend)
}

pub(crate) fn open_in(session: &Session<'_>, backend: impl Backend + 'static) -> Result<SharedRepository> {
    SharedRepository::open(Arc::new(backend), session)
}

pub(crate) fn take(backend: impl Backend + 'static, source: &Path, sync: SyncMethod) -> Result<SnapshotReport> {
    take_with(backend, source, WriterOptions { sync, ..WriterOptions::default() })
}

/// Takes a snapshot with options for how objects are written.
pub(crate) fn take_with(
    backend: impl Backend + 'static,
    source: &Path,
    writing: WriterOptions,
) -> Result<SnapshotReport> {
    take_in(&session(), backend, source, writing)
}

pub(crate) fn take_in(
    session: &Session<'_>,
    backend: impl Backend + 'static,
    source: &Path,
    writing: WriterOptions,
) -> Result<SnapshotReport> {
    take_labelled(session, backend, source, writing, &Labels::default())
}

/// Takes a snapshot with labels.
pub(crate) fn take_labelled(
    session: &Session<'_>,
    backend: impl Backend + 'static,
    source: &Path,
    writing: WriterOptions,
    labels: &Labels,
) -> Result<SnapshotReport> {
    let options = SnapshotOptions {
        source,
        user: b"user",
        clock,
        utc_offset: 0,
        allow_empty: false,
        one_file_system: false,
        detection: ChangeDetection::default(),
        labels,
        writing,
        threads: ONE,
    };
    snapshot::snapshot(&open_in(session, backend)?, &options, session)
}

/// Puts labels in the place of those that a snapshot has.
pub(crate) fn put_labels(memory: &MemoryBackend, number: u64, labels: &Labels) {
    let repo = open(memory.clone()).unwrap();
    let writer = repo.labels_writer(&session()).unwrap();
    writer.publish(&writer.stage(number, labels).unwrap()).unwrap();
}

pub(crate) fn restore(backend: impl Backend + 'static, number: u64, output: &Path) -> Result<RestoreReport> {
    restore_in(&session(), backend, number, output)
}

pub(crate) fn restore_in(
    session: &Session<'_>,
    backend: impl Backend + 'static,
    number: u64,
    output: &Path,
) -> Result<RestoreReport> {
    restore_paths_in(session, backend, number, &[], output)
}

/// Restores these paths and nothing else.
pub(crate) fn restore_paths(
    backend: impl Backend + 'static,
    number: u64,
    paths: &[&str],
    output: &Path,
) -> Result<RestoreReport> {
    restore_paths_in(&session(), backend, number, paths, output)
}

fn restore_paths_in(
    session: &Session<'_>,
    backend: impl Backend + 'static,
    number: u64,
    paths: &[&str],
    output: &Path,
) -> Result<RestoreReport> {
    let address = Address { snapshot: Wanted::Number(number), path: Vec::new() };
    let paths = paths.iter().map(|path| parse_path(OsStr::new(path))).collect::<Result<Vec<_>>>()?;
    let options = RestoreOptions { address: &address, output, paths: &paths, threads: ONE };
    restore::restore(&*open_in(session, backend)?, &options, &Silent)
}

/// What a snapshot holds, read object by object as a restore does, without the file system in between.
pub(crate) fn read_back(repo: &Repository, number: u64) -> Result<Model> {
    read_dir(repo, repo.snapshot(number)?.tree)
}

fn read_dir(repo: &Repository, tree: TreeId) -> Result<Model> {
    let mut model = Model::default();
    for entry in repo.entries(tree) {
        let Entry { name, kind } = entry?;
        let node = match kind {
            EntryKind::Dir { tree, .. } => Node::Dir(read_dir(repo, tree)?),
            EntryKind::Symlink { target } => Node::Link(target),
            EntryKind::File { size, content: Content::Blob(blob) } => Node::File(repo.read_blob(blob, size)?.to_vec()),
            EntryKind::File { size, content: Content::Chunks { list, depth } } => {
                let chunks = repo.chunks(list, depth, size);
                let read = |chunk: Result<ChunkAt>| -> Result<Vec<u8>> {
                    let chunk = chunk?;
                    Ok(repo.read_blob(chunk.blob, chunk.length)?.to_vec())
                };
                Node::File(chunks.map(read).collect::<Result<Vec<_>>>()?.concat())
            }
        };
        model.insert(name.as_bytes(), node);
    }
    Ok(model)
}

/// What a restore gives. Everything must be restored.
pub(crate) fn restored(backend: impl Backend + 'static, number: u64) -> Result<Model> {
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("output");
    let report = restore(backend, number, &output)?;
    assert!(report.failures.is_empty(), "snapshot {number}: {:?}", report.failures);
    Ok(Model::read(&output))
}

pub(crate) fn prune(backend: impl Backend + 'static, numbers: &[u64]) -> Result<PruneReport> {
    prune_with(backend, numbers, WriterOptions::default())
}

/// Prunes with options for how objects are written.
pub(crate) fn prune_with(
    backend: impl Backend + 'static,
    numbers: &[u64],
    writing: WriterOptions,
) -> Result<PruneReport> {
    prune_in(&session(), backend, numbers, writing)
}

pub(crate) fn prune_in(
    session: &Session<'_>,
    backend: impl Backend + 'static,
    numbers: &[u64],
    writing: WriterOptions,
) -> Result<PruneReport> {
    let repo = open_in(session, backend)?;
    let plan = prune::plan(&repo, &PruneOptions::numbers(numbers))?;
    prune::execute(repo, plan, writing, session)
}

pub(crate) fn prune_plan(backend: impl Backend + 'static, numbers: &[u64]) -> Result<PrunePlan> {
    prune::plan(&*open(backend)?, &PruneOptions::numbers(numbers))
}

pub(crate) fn pack_with(backend: impl Backend + 'static, writing: WriterOptions) -> Result<PackReport> {
    pack_in(&session(), backend, writing)
}

pub(crate) fn pack_in(
    session: &Session<'_>,
    backend: impl Backend + 'static,
    writing: WriterOptions,
) -> Result<PackReport> {
    let repo = open_in(session, backend)?;
    let plan = pack::plan(&repo, writing)?;
    pack::execute(repo, &plan, writing, session)
}

pub(crate) fn pack_plan(backend: impl Backend + 'static, writing: WriterOptions) -> Result<PackPlan> {
    pack::plan(&*open(backend)?, writing)
}

pub(crate) fn check(backend: impl Backend + 'static) -> Result<CheckReport> {
    check_in(&session(), backend)
}

pub(crate) fn check_in(session: &Session<'_>, backend: impl Backend + 'static) -> Result<CheckReport> {
    check::check(&open_in(session, backend)?, &CheckOptions::everything(ONE), session)
}

/// Where a repair is to look, and what it may do.
#[derive(Clone, Copy, Default)]
pub(crate) struct Repairing<'a> {
    pub(crate) copies: &'a [MemoryBackend],
    pub(crate) directory: Option<&'a Path>,
    pub(crate) remove: bool,
}

pub(crate) fn repair_plan(
    backend: impl Backend + 'static,
    repairing: Repairing<'_>,
    writing: WriterOptions,
) -> Result<RepairPlan> {
    repair_plan_in(&session(), backend, repairing, writing)
}

fn repair_plan_in(
    session: &Session<'_>,
    backend: impl Backend + 'static,
    repairing: Repairing<'_>,
    writing: WriterOptions,
) -> Result<RepairPlan> {
    let open = |copy: &MemoryBackend| SharedRepository::open(Arc::new(copy.clone()), session);
    let options = RepairOptions {
        copies: repairing.copies.iter().map(open).collect::<Result<Vec<_>>>()?,
        directory: repairing.directory,
        remove_damaged_snapshots: repairing.remove,
    };
    repair::plan(Arc::new(backend), options, writing, ONE, session)
}

pub(crate) fn repair_with(
    backend: impl Backend + 'static,
    repairing: Repairing<'_>,
    writing: WriterOptions,
) -> Result<RepairReport> {
    repair_in(&session(), backend, repairing, writing)
}

pub(crate) fn repair_in(
    session: &Session<'_>,
    backend: impl Backend + 'static,
    repairing: Repairing<'_>,
    writing: WriterOptions,
) -> Result<RepairReport> {
    repair::execute(repair_plan_in(session, backend, repairing, writing)?, writing, session)
}

/// A staging directory, for what only a writer may do.
pub(crate) fn staging(backend: &impl Backend) -> Staging<'_> {
    let info = RunInfo { host: "host".into(), pid: 1, command: "test".into(), start: clock() };
    Staging::begin(backend, &info).unwrap()
}

/// Writes the index of all packs, as a snapshot does that has added much.
pub(crate) fn save_index(memory: &MemoryBackend) {
    open(memory.clone()).unwrap().packs().unwrap().save(&staging(memory)).unwrap();
}

/// The packs that are there.
pub(crate) fn packs(memory: &MemoryBackend) -> BTreeSet<PackName> {
    // The directory may be missing.
    let names = memory.list(layout::PACKS).unwrap_or_default();
    names.iter().filter_map(|entry| layout::parse_pack(&entry.name)).collect()
}

/// Stores a loose object under its true name, whatever it holds.
pub(crate) fn put_object(memory: &MemoryBackend, content: &[u8]) -> ObjectId {
    let id = HashAlgorithm::Blake3.hash(content);
    memory.set_contents(&layout::object_path(id), codec::compress(content).unwrap()).unwrap();
    id
}

/// A snapshot with nothing special to it, whose tree has so many bytes.
pub(crate) fn plain_snapshot(number: u64, tree: ObjectId, bytes: u64) -> Snapshot {
    Snapshot {
        number,
        start: clock(),
        end: clock(),
        utc_offset: 0,
        host: b"host".to_vec(),
        user: b"user".to_vec(),
        source: b"/source".to_vec(),
        options: Vec::new(),
        tool: "test".into(),
        tree: TreeId(tree),
        counts: Counts { bytes, ..Counts::default() },
        added: Added::default(),
        incomplete: PathNotes::default(),
        changed: PathNotes::default(),
    }
}

/// Puts the ref of a snapshot there.
pub(crate) fn put_snapshot(memory: &MemoryBackend, snapshot: &Snapshot) {
    let path = layout::RefFile::Ref(snapshot.number).path();
    memory.set_contents(&path, snapshot.encode(HashAlgorithm::Blake3)).unwrap();
}

/// A document of the repository that says it requires what nobody knows.
pub(crate) fn newer(document: &[u8]) -> Vec<u8> {
    let text = str::from_utf8(document).unwrap();
    assert!(text.contains(NOTHING_REQUIRED));
    sealed(&text.replace(NOTHING_REQUIRED, VOTES_REQUIRED))
}

const NOTHING_REQUIRED: &str = "\"requires\": []";
const VOTES_REQUIRED: &str = "\"requires\": [\n    \"votes\"\n  ]";

/// A document of the repository with the checksum that it should have. `text` may have another one, or none.
pub(crate) fn sealed(text: &str) -> Vec<u8> {
    let covered: String = text.split_inclusive('\n').filter(|line| !line.contains("\"checksum\"")).collect();
    let sum = HashAlgorithm::Blake3.hash(covered.as_bytes());
    let body = covered.strip_suffix("}\n").unwrap();
    format!("{body}  \"checksum\": \"{sum}\"\n}}\n").into_bytes()
}
