//! A repository: its configuration, its lock, and typed reads and writes.
//!
//! There are two ways to hold one, and they are two types. A [`SharedRepository`] is held together with others: it reads,
//! and adds objects and snapshots, which never disturbs anyone. An [`ExclusiveRepository`] is held alone, and it alone has
//! the methods that remove. Both read through [`Repository`].

mod chunks;
mod copies;
mod entries;
mod exclusive;
mod findings;
mod init;
mod interruptible;
mod labels;
mod lock;
mod mend;
mod objects;
mod places;
mod reachable;
mod readme;
mod recent;
mod repack;
mod seen;
mod shared;
mod snapshots;
mod write;

use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;

pub use chunks::{ChunkAt, Chunks};
pub use copies::{Copy, Keepers};
pub use entries::Entries;
pub use exclusive::{ExclusiveRepository, Removal, Removed, Rotten};
pub use init::{InitOptions, init};
pub use labels::LabelsWriter;
pub use mend::Mender;
pub use objects::{BlobReader, Elsewhere, ObjectBytes};
pub use places::PlaceSet;
pub use reachable::Reachable;
pub use recent::Recent;
pub use repack::{Copied, Repacker};
pub use seen::{FileMark, Moment, Seen, SeenReader, SeenWriter, SourceId, UNSETTLED_SECONDS};
pub use shared::SharedRepository;
pub use snapshots::SnapshotListing;
pub use write::{Appender, ObjectWriter, WriterOptions};

pub use crate::store::pack::FRAME_CONTENT;

use self::interruptible::Interruptible;
use crate::error::{Error, Result};
use crate::object::{Config, DocumentError, HashAlgorithm, ListId, MAX_OBJECT, TreeId, display_path};
use crate::progress::{Interruption, Progress};
use crate::store::loose::ReadRules;
use crate::store::pack::PackName;
use crate::store::packs::Packs;
use crate::store::staging::{self, RunInfo, Staging};
use crate::store::{Backend, LocalBackend, layout};

/// Who is at work, and how patiently.
#[derive(Clone)]
pub struct Session<'a> {
    /// The machine, for those who wait for this process.
    pub host: String,
    /// This process.
    pub pid: u32,
    /// What it does: the name of the operation.
    pub command: String,
    /// When it began.
    pub start: Timestamp,
    /// How long to wait for the repository's lock.
    pub lock_wait: Duration,
    /// Who is told what happens.
    pub progress: &'a dyn Progress,
    /// Whether to stop before it is done.
    pub interruption: Interruption,
}

impl Session<'_> {
    fn info(&self) -> RunInfo {
        RunInfo { host: self.host.clone(), pid: self.pid, command: self.command.clone(), start: self.start }
    }
}

/// The backend for the repository in the local directory `path`, which must exist.
pub fn local(path: &Path) -> Result<Arc<dyn Backend>> {
    match LocalBackend::open(path) {
        Ok(backend) => Ok(Arc::new(backend)),
        Err(error) => {
            let reason = match error.io_kind() {
                Some(std::io::ErrorKind::NotFound) => "there is no such directory",
                Some(std::io::ErrorKind::NotADirectory) => "it is not a directory",
                Some(std::io::ErrorKind::PermissionDenied) => {
                    return Err(Error::refused(
                        format!("open the repository {}", display_path(path)),
                        error.to_string(),
                        "run it as the user who owns the repository, or name another one",
                    ));
                }
                _ => return Err(error),
            };
            Err(no_repository(path, reason))
        }
    }
}

/// What is wrong with a directory without a `config.json`.
fn without_config(backend: &dyn Backend) -> Error {
    let path = backend.describe("");
    match init::interrupted(backend) {
        Ok(true) => Error::NoRepository {
            path: path.clone(),
            reason: "its making was interrupted".into(),
            next: format!("complete it with `backuptool init --repo {}`", display_path(&path)),
        },
        _ if backend
            .list("")
            .is_ok_and(|entries| layout::DIRS.iter().all(|dir| entries.iter().any(|e| e.name == *dir))) =>
        {
            Error::NoRepository {
                path,
                reason: "its config.json is gone".into(),
                next: "bring it back with `backuptool repair --from COPY`, from another copy of the repository".into(),
            }
        }
        _ => no_repository(&path, "it holds no config.json"),
    }
}

fn no_repository(path: &Path, reason: &str) -> Error {
    Error::NoRepository {
        path: path.to_path_buf(),
        reason: reason.into(),
        next: "name the repository with --repo or $BACKUPTOOL_REPO, see that its disk is mounted, or make a new one in an empty or new \
               directory with `backuptool init --repo DIR`"
            .into(),
    }
}

/// Makes the directories that are missing. zip and some ways of copying drop empty ones, and `cache` may be deleted.
fn make_dirs(backend: &dyn Backend) -> Result<()> {
    for dir in layout::DIRS {
        backend.create_dir(dir)?;
    }
    backend.sync_dir("")
}

/// Begins to stage files, in a repository that may lack directories.
fn begin_staging<'b>(backend: &'b dyn Backend, session: &Session<'_>) -> Result<Staging<'b>> {
    make_dirs(backend)?;
    Staging::begin(backend, &session.info())
}

/// The same, for who writes objects: first goes what writers that died have left, which may give back the space that the
/// next step needs.
fn begin_writing<'b>(backend: &'b dyn Backend, session: &Session<'_>) -> Result<Arc<Staging<'b>>> {
    staging::remove_abandoned(backend)?;
    begin_staging(backend, session).map(Arc::new)
}

fn interruptible(backend: Arc<dyn Backend>, session: &Session<'_>) -> Arc<dyn Backend> {
    Arc::new(Interruptible::new(backend, session.interruption.clone()))
}

/// A repository that can be read.
#[derive(Debug)]
pub struct Repository {
    backend: Arc<dyn Backend>,
    interruption: Interruption,
    config: Config,
    /// Looked for when an object is first asked for.
    packs: OnceLock<Packs>,
    /// Where objects are looked for that are not whole here.
    elsewhere: Option<Arc<dyn Elsewhere>>,
    /// The number after all that the refs had when they were last listed; 0 if they were not.
    next_number: AtomicU64,
}

impl Repository {
    /// Reads the configuration. Nothing is locked. From now on every step of the session can be interrupted.
    fn load(backend: Arc<dyn Backend>, session: &Session<'_>) -> Result<Self> {
        let backend = interruptible(backend, session);
        let path = backend.describe(layout::CONFIG);
        let bytes = match backend.read(layout::CONFIG, 0, 1024 * 1024) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Err(without_config(&*backend)),
            Err(error) => return Err(error),
        };
        let config = Config::decode(&bytes).map_err(|error| match error {
            DocumentError::TooNew(what) => Error::TooNew { path, what },
            DocumentError::Damaged(reason) => Error::Damaged {
                path,
                reason,
                next: "run `backuptool repair --from COPY` with another copy of the repository".into(),
            },
        })?;
        Ok(Self::new(backend, config, session))
    }

    fn new(backend: Arc<dyn Backend>, config: Config, session: &Session<'_>) -> Self {
        let interruption = session.interruption.clone();
        Self { backend, interruption, config, packs: OnceLock::new(), elsewhere: None, next_number: AtomicU64::new(0) }
    }

    /// Reads the indexes of all packs, and does not believe `cache/index`.
    fn read_each_pack(&mut self) -> Result<()> {
        self.packs = OnceLock::from(Packs::open_each(Arc::clone(&self.backend), self.rules())?);
        Ok(())
    }

    /// Fails if there is a pack that this process may not open: it need not be damaged, and what is in it would be stored again.
    pub fn refuse_denied(&self, attempted: &'static str) -> Result<()> {
        for (pack, _) in self.packs()?.unusable() {
            if let Some(error) = self.denied(pack) {
                return Err(Error::refused(
                    attempted,
                    error.to_string(),
                    "run it as the user who owns the repository, or give all of its files to this one; nothing was changed",
                ));
            }
        }
        Ok(())
    }

    /// Why this process may not open a pack, if it may not.
    pub fn denied(&self, pack: PackName) -> Option<Error> {
        let opened = self.backend.open(&pack.path());
        opened.err().filter(|error| error.io_kind() == Some(std::io::ErrorKind::PermissionDenied))
    }

    /// Fails if the operation is to stop. For what does much without reading or writing the repository, and for what gathers
    /// errors and goes on.
    pub fn go_on(&self) -> Result<()> {
        self.interruption.check()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The hash that names objects.
    pub fn hash(&self) -> HashAlgorithm {
        self.config.hash
    }

    /// Where the repository is stored.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// What tells this repository from its copies: when `config.json` changed last, as the system says. What notes of one
    /// say, in `cache`, need not be so in the other: a copy may lack what was there, and its disk is another one.
    pub fn place(&self) -> Moment {
        self.backend().last_change(layout::CONFIG).unwrap_or_default()
    }

    /// The most bytes of content that an object can have.
    pub fn max_object(&self) -> usize {
        MAX_OBJECT.max(self.config.chunks.maximum())
    }

    /// How objects are read here.
    pub fn rules(&self) -> ReadRules {
        ReadRules { hash: self.config.hash, max_object: self.max_object() }
    }

    /// The packs.
    pub fn packs(&self) -> Result<&Packs> {
        if let Some(packs) = self.packs.get() {
            return Ok(packs);
        }
        let opened = Packs::open(Arc::clone(&self.backend), self.rules())?;
        // Another thread may have been faster; what it found is as good.
        Ok(self.packs.get_or_init(|| opened))
    }

    /// The entries of a directory, in the order of their names.
    pub fn entries(&self, tree: TreeId) -> Entries<'_> {
        Entries::new(self, tree)
    }

    /// The chunks of a large file of `length` bytes, in order.
    pub fn chunks(&self, list: ListId, depth: u8, length: u64) -> Chunks<'_> {
        Chunks::new(self, list, depth, length)
    }
}
