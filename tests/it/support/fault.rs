//! A backend that counts the operations of another one and lets chosen ones fail.
//!
//! A sweep runs a protocol once with [`Plan::None`], and then once for each number up to
//! [`FaultBackend::operations`], with that operation failing. [`Plan::FailFrom`] also stops whatever the protocol
//! does to clean up, so the memory below is as it was at that moment, ready for a crash.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backuptool::store::{Backend, Entry, Lock, LockMode, MemoryBackend, StagedFile, StoredFile, layout};
use backuptool::{Error, Result};

/// Which operations fail. The first operation has number 1. What fails is not performed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plan {
    /// None: they are only counted.
    None,
    /// This one.
    FailOnce(u64),
    /// This one and all after it.
    FailFrom(u64),
    /// This one and all after it; if it appends (or writes to a lock), half of its bytes are written.
    TornFrom(u64),
}

/// Another backend, with failures. Clones share one count.
#[derive(Clone, Debug)]
pub(crate) struct FaultBackend {
    inner: Arc<dyn Backend>,
    faults: Arc<Faults>,
}

/// Is told the name and the path of each operation before it is performed; an error makes it fail.
type Hook = Box<dyn Fn(&str, &str) -> io::Result<()> + Send + Sync>;

struct Faults {
    plan: Plan,
    kind: io::ErrorKind,
    hook: Option<Hook>,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    log: Vec<String>,
    fired: bool,
}

impl FaultBackend {
    /// Failures are of the kind [`io::ErrorKind::Other`].
    pub(crate) fn new(inner: Arc<dyn Backend>, plan: Plan) -> Self {
        Self::failing_with(inner, plan, io::ErrorKind::Other)
    }

    /// Failures are of this kind.
    pub(crate) fn failing_with(inner: Arc<dyn Backend>, plan: Plan, kind: io::ErrorKind) -> Self {
        Self { inner, faults: Arc::new(Faults { plan, kind, hook: None, record: Mutex::default() }) }
    }

    /// The hook decides on each operation. It may change what is below.
    pub(crate) fn hooked(
        inner: impl Backend + 'static,
        hook: impl Fn(&str, &str) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let (plan, kind) = (Plan::None, io::ErrorKind::Other);
        let faults = Faults { plan, kind, hook: Some(Box::new(hook)), record: Mutex::default() };
        Self { inner: Arc::new(inner), faults: Arc::new(faults) }
    }

    /// How many operations were called so far, the failed ones included.
    pub(crate) fn operations(&self) -> u64 {
        self.faults.record().log.len() as u64
    }

    /// Whether an operation was made to fail.
    pub(crate) fn fired(&self) -> bool {
        self.faults.record().fired
    }

    /// The operations as text, for messages: `17 publish_new tmp/a -> objects/a`.
    pub(crate) fn log(&self) -> Vec<String> {
        self.faults.record().log.clone()
    }

    /// Performs an operation, or fails in its place.
    fn run<T>(&self, name: &str, path: &str, detail: impl Display, step: impl FnOnce() -> Result<T>) -> Result<T> {
        self.faults.next(name, path, detail).or_fail(&self.describe(path))?;
        step()
    }
}

/// A full disk: from the Nth on, whatever needs space fails, and what frees it does not.
pub(crate) fn full_from(memory: &MemoryBackend, first: u64) -> FaultBackend {
    let writes = AtomicU64::new(0);
    FaultBackend::hooked(memory.clone(), move |operation, path| {
        let needs_space = matches!(operation, "create" | "create_dir" | "append" | "write")
            || (operation == "try_lock" && path.starts_with(layout::TMP));
        if needs_space && writes.fetch_add(1, Ordering::Relaxed) + 1 >= first {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    })
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").field("plan", &self.plan).field("record", &self.record).finish_non_exhaustive()
    }
}

impl Faults {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation and decides on it.
    fn next(&self, name: &str, path: &str, detail: impl Display) -> Verdict {
        let hooked = self.hook.as_ref().and_then(|hook| hook(name, path).err());
        let mut record = self.record();
        let number = record.log.len() as u64 + 1;
        let (fails, torn) = match self.plan {
            Plan::None => (false, false),
            Plan::FailOnce(n) => (number == n, false),
            Plan::FailFrom(n) => (number >= n, false),
            Plan::TornFrom(n) => (number >= n, number == n),
        };
        record.fired |= fails;
        let path = if path.is_empty() { "." } else { path };
        let outcome = if fails { " (made to fail)" } else { "" };
        record.log.push(format!("{number} {name} {path}{detail}{outcome}"));
        let failure = fails.then(|| io::Error::new(self.kind, format!("operation {number} was made to fail")));
        Verdict { name: name.to_owned(), failure: failure.or(hooked), torn }
    }

    /// Writes through `write`: all of the bytes, or as much as the verdict leaves of them.
    fn write(
        &self,
        name: &str,
        path: &OpenPath,
        bytes: &[u8],
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let verdict = self.next(name, &path.inside, format_args!(", {} bytes", bytes.len()));
        if verdict.torn {
            write(&bytes[..bytes.len() / 2])?;
        }
        verdict.or_fail(&path.full)?;
        write(bytes)
    }
}

struct Verdict {
    name: String,
    failure: Option<io::Error>,
    torn: bool,
}

impl Verdict {
    fn or_fail(self, path: &Path) -> Result<()> {
        self.failure.map_or(Ok(()), |failure| Err(Error::io(self.name, path, failure)))
    }
}

impl Backend for FaultBackend {
    fn describe(&self, path: &str) -> PathBuf {
        self.inner.describe(path)
    }

    fn local_root(&self) -> Option<&Path> {
        self.inner.local_root()
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        self.run("create_dir", path, "", || self.inner.create_dir(path))
    }

    fn create(&self, path: &str) -> Result<Box<dyn StagedFile>> {
        let inner = self.run("create", path, "", || self.inner.create(path))?;
        Ok(Box::new(FaultFile { inner, faults: Arc::clone(&self.faults), path: OpenPath::new(self, path) }))
    }

    fn sync_all(&self) -> Result<()> {
        self.run("sync_all", "", "", || self.inner.sync_all())
    }

    fn can_sync_all(&self) -> bool {
        self.inner.can_sync_all()
    }

    fn publish_new(&self, from: &str, to: &str) -> Result<bool> {
        self.run("publish_new", from, format_args!(" -> {to}"), || self.inner.publish_new(from, to))
    }

    fn replace(&self, from: &str, to: &str) -> Result<()> {
        self.run("replace", from, format_args!(" -> {to}"), || self.inner.replace(from, to))
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        self.run("sync_dir", path, "", || self.inner.sync_dir(path))
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.run("remove", path, "", || self.inner.remove(path))
    }

    fn remove_dir(&self, path: &str) -> Result<()> {
        self.run("remove_dir", path, "", || self.inner.remove_dir(path))
    }

    fn list(&self, path: &str) -> Result<Vec<Entry>> {
        self.run("list", path, "", || self.inner.list(path))
    }

    fn length(&self, path: &str) -> Result<u64> {
        self.run("length", path, "", || self.inner.length(path))
    }

    fn last_change(&self, path: &str) -> Result<(i64, i64)> {
        self.run("last_change", path, "", || self.inner.last_change(path))
    }

    fn read(&self, path: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.run("read", path, format_args!(", {len} bytes at {offset}"), || self.inner.read(path, offset, len))
    }

    fn open(&self, path: &str) -> Result<Box<dyn StoredFile>> {
        let inner = self.run("open", path, "", || self.inner.open(path))?;
        Ok(Box::new(FaultStoredFile { inner, faults: Arc::clone(&self.faults), path: OpenPath::new(self, path) }))
    }

    fn try_lock(&self, path: &str, mode: LockMode, create: bool) -> Result<Option<Box<dyn Lock>>> {
        let detail = format!(", {mode:?}{}", if create { ", create" } else { "" });
        let lock = self.run("try_lock", path, detail, || self.inner.try_lock(path, mode, create))?;
        Ok(lock.map(|inner| {
            let path = OpenPath::new(self, path);
            Box::new(FaultLock { inner, faults: Arc::clone(&self.faults), path }) as Box<dyn Lock>
        }))
    }
}

/// The path by which a file was opened.
#[derive(Debug)]
struct OpenPath {
    inside: String,
    full: PathBuf,
}

impl OpenPath {
    fn new(backend: &FaultBackend, path: &str) -> Self {
        Self { inside: path.to_owned(), full: backend.describe(path) }
    }
}

struct FaultFile {
    inner: Box<dyn StagedFile>,
    faults: Arc<Faults>,
    path: OpenPath,
}

impl StagedFile for FaultFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.faults.write("append", &self.path, bytes, |bytes| self.inner.append(bytes))
    }

    fn sync(&mut self) -> Result<()> {
        self.faults.next("sync", &self.path.inside, "").or_fail(&self.path.full)?;
        self.inner.sync()
    }
}

#[derive(Debug)]
struct FaultStoredFile {
    inner: Box<dyn StoredFile>,
    faults: Arc<Faults>,
    path: OpenPath,
}

impl StoredFile for FaultStoredFile {
    fn length(&self) -> u64 {
        self.inner.length()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let detail = format!(", {} bytes at {offset}", buffer.len());
        self.faults.next("read_at", &self.path.inside, detail).or_fail(&self.path.full)?;
        self.inner.read_at(offset, buffer)
    }
}

/// Dropping it drops the lock below, which no plan can prevent.
#[derive(Debug)]
struct FaultLock {
    inner: Box<dyn Lock>,
    faults: Arc<Faults>,
    path: OpenPath,
}

impl Lock for FaultLock {
    fn is_current(&self) -> Result<bool> {
        self.faults.next("is_current", &self.path.inside, "").or_fail(&self.path.full)?;
        self.inner.is_current()
    }

    fn write(&mut self, content: &[u8]) -> Result<()> {
        self.faults.write("write", &self.path, content, |content| self.inner.write(content))
    }
}
