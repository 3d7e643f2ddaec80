//! Running the program as a user does, and the trees that it is run on.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// Who runs the program where root would be allowed too much.
const NOBODY: u32 = 65534;
/// A program that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(240);

/// A directory to work in, and the program.
pub(crate) struct World {
    dir: TempDir,
    tool: PathBuf,
    tool_dir: Option<TempDir>,
    user: Option<u32>,
}

/// What the program did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    /// The program runs as whoever runs the test.
    pub(crate) fn new() -> Self {
        Self { dir: scratch(), tool: env!("CARGO_BIN_EXE_backuptool").into(), tool_dir: None, user: None }
    }

    /// The program runs as a user whom permissions bind. Call [`World::give_away`] when the files are there.
    pub(crate) fn unprivileged() -> Self {
        let mut world = Self::new();
        if rustix::process::geteuid().is_root() {
            fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            // The build directory may be closed to others.
            let tool_dir = TempDir::new().unwrap();
            fs::set_permissions(tool_dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let tool = tool_dir.path().join("backuptool");
            // By another process: a file that this one writes may still be open in a child that another test has just
            // begun, and cannot be run as long as it is.
            let copied = Command::new("cp").arg(&world.tool).arg(&tool).status();
            assert!(copied.is_ok_and(|status| status.success()), "cannot copy the program");
            fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
            world.tool_dir = Some(tool_dir);
            world.tool = tool;
            world.user = Some(NOBODY);
            world.give_away();
        }
        world
    }

    /// Makes everything belong to the user that the program runs as.
    pub(crate) fn give_away(&self) {
        let Some(user) = self.user else { return };
        for entry in walkdir::WalkDir::new(self.dir.path()) {
            lchown(entry.unwrap().path(), Some(user), Some(user)).unwrap();
        }
        chown(self.dir.path(), Some(user), Some(user)).unwrap();
    }

    pub(crate) fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(inside)
    }

    /// The program, to be run in the directory.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.tool);
        command
            .current_dir(self.dir.path())
            .env_remove("BACKUPTOOL_REPO")
            .env("HOME", self.dir.path())
            .env("TZ", "UTC");
        command.stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        let mut command = self.command();
        command.args(args);
        run(command)
    }

    /// Runs the program, which must succeed.
    pub(crate) fn ok<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        self.run(args).exits(0)
    }

    /// Makes the repository `repo`.
    pub(crate) fn init(&self, options: &[&str]) {
        self.ok(["init", "-r", "repo"].iter().chain(options));
    }

    /// Takes a snapshot of `source` into `repo`.
    pub(crate) fn snapshot(&self, source: &str) -> serde_json::Value {
        self.ok(["snapshot", "-r", "repo", "--json", source]).json().remove(0)
    }

    /// What snapshot `number` of `repo` restores to; it must restore wholly.
    pub(crate) fn restored(&self, number: u64) -> Tree {
        self.restored_from("repo", number)
    }

    pub(crate) fn restored_from(&self, repo: &str, number: u64) -> Tree {
        let out = TempDir::new_in(self.dir.path()).unwrap();
        if let Some(user) = self.user {
            chown(out.path(), Some(user), Some(user)).unwrap();
        }
        let number = format!("--snapshot-number={number}");
        self.ok([
            OsStr::new("restore"),
            "-r".as_ref(),
            repo.as_ref(),
            number.as_ref(),
            "--output-directory".as_ref(),
            out.path().as_ref(),
        ]);
        read_tree(out.path())
    }

    /// Asserts that `check` finds nothing.
    pub(crate) fn clean(&self) {
        let report = self.run(["check", "-r", "repo", "--json"]).exits(0).json().remove(0);
        assert_eq!(report["clean"], true, "{report}");
    }

    /// The numbers that `list` shows.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let listed = self.ok(["list", "-r", "repo", "--json"]).json();
        listed.iter().map(|snapshot| snapshot["snapshot"].as_u64().unwrap()).collect()
    }

    /// The ref of a snapshot in `repo`.
    pub(crate) fn read_ref(&self, number: u64) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path(format!("repo/snapshots/{number}.json"))).unwrap()).unwrap()
    }

    /// The objects of `repo`: name to file.
    pub(crate) fn objects(&self, repo: &str) -> BTreeMap<String, PathBuf> {
        objects(&self.path(repo))
    }
}

/// A directory for the files of a test: in memory where there is much, since the tests make and remove many files and
/// sync all they write; else where temporary files go.
pub(crate) fn scratch() -> TempDir {
    const MEMORY: &str = "/dev/shm";
    let free = rustix::fs::statvfs(MEMORY).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    let wanted = std::env::var_os("TMPDIR").is_none() && free > 2 << 30;
    let dir = if wanted { TempDir::new_in(MEMORY) } else { TempDir::new() };
    dir.or_else(|_| TempDir::new()).unwrap()
}

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Ran {
    let output = assert_cmd::Command::from_std(command).timeout(PATIENCE).output().unwrap();
    let ran = Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    ran
}

impl Ran {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Asserts that standard error holds each of the texts.
    #[track_caller]
    pub(crate) fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "{text:?} is not said: {self:?}");
        }
        self
    }

    /// Standard output, every line of which must be JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }
}

/// The loose objects of the repository at `repo`: name to file.
pub(crate) fn objects(repo: &Path) -> BTreeMap<String, PathBuf> {
    let files = walkdir::WalkDir::new(repo.join("objects")).into_iter().map(|entry| entry.unwrap().into_path());
    let named = files.filter(|path| path.is_file()).map(|path| {
        let shard = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        (format!("{shard}{}", path.file_name().unwrap().to_str().unwrap()), path)
    });
    named.collect()
}

/// Whether a tool is installed. A test that cannot do without says so and passes: CI has all of them.
pub(crate) fn have(tools: &[&str]) -> bool {
    let missing = |tool: &&&str| {
        let probe = Command::new("sh").args(["-c", "command -v \"$1\"", "sh", tool]).stdout(Stdio::null()).status();
        !probe.is_ok_and(|status| status.success())
    };
    match tools.iter().find(missing) {
        Some(tool) => {
            skip(&format!("{tool} is not installed"));
            false
        }
        None => true,
    }
}

/// Says that (a part of) a test is left out, and why.
pub(crate) fn skip(reason: &str) {
    eprintln!("SKIPPED: {reason}");
}

/// What a path holds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Dir,
    File(Vec<u8>),
    Link(Vec<u8>),
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir => f.write_str("Dir"),
            Self::File(content) => {
                write!(f, "File({} bytes, {})", content.len(), &blake3::hash(content).to_hex().as_str()[..8])
            }
            Self::Link(target) => write!(f, "Link({})", target.escape_ascii()),
        }
    }
}

/// A directory with all below it: relative paths to what is there.
pub(crate) type Tree = BTreeMap<PathBuf, Node>;

/// Reads what is below a directory.
pub(crate) fn read_tree(top: &Path) -> Tree {
    let mut tree = Tree::new();
    for entry in walkdir::WalkDir::new(top).min_depth(1) {
        let entry = entry.unwrap();
        let node = if entry.file_type().is_dir() {
            Node::Dir
        } else if entry.file_type().is_symlink() {
            Node::Link(fs::read_link(entry.path()).unwrap().into_os_string().into_vec())
        } else if entry.file_type().is_file() {
            Node::File(fs::read(entry.path()).unwrap())
        } else {
            // Nothing that is stored.
            continue;
        };
        tree.insert(entry.path().strip_prefix(top).unwrap().to_path_buf(), node);
    }
    tree
}

/// Writes a tree below a directory, which is made.
pub(crate) fn write_tree(top: &Path, tree: &Tree) {
    fs::create_dir_all(top).unwrap();
    for (path, node) in tree {
        let path = top.join(path);
        match node {
            Node::Dir => fs::create_dir_all(path).unwrap(),
            Node::File(content) => fs::write(path, content).unwrap(),
            Node::Link(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
        }
    }
}

/// Writes a file and the directories above it.
pub(crate) fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Puts another content into a file of a repository, which is read-only.
pub(crate) fn overwrite(path: &Path, content: &[u8]) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
        _ => fs::write(path, content).unwrap(),
    }
}

pub(crate) fn name(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// Bytes that do not compress and are the same each time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Names that programs stumble over.
pub(crate) const NASTY_NAMES: [&[u8]; 14] = [
    b"a\nb",
    b"ends\n",
    b"'single' \"double\"",
    b"back\\slash",
    b"\\n",
    b"\xff\xfe",
    b"mixed-\xc3\xa4-\xe4\n",
    b" ",
    b"-rf",
    b"--",
    b"$(touch x)`touch y`",
    b"...",
    b"*?[a]",
    b"\x01\x1b[31m\x7f",
];

/// One of everything: nasty names as files, directories and links; empty ones; links to anywhere.
pub(crate) fn nasty_tree() -> Tree {
    let mut tree = Tree::new();
    for bytes in NASTY_NAMES.into_iter().chain([&[b'x'; 255][..]]) {
        let path =
            |prefix: &[u8]| PathBuf::from(name(&[prefix, bytes].concat()[..(prefix.len() + bytes.len()).min(255)]));
        tree.insert(path(b""), Node::File(bytes.to_vec()));
        tree.insert(path(b"d"), Node::Dir);
        tree.insert(path(b"d").join(path(b"")), Node::File(noise(1, 3000)));
        tree.insert(path(b"l"), Node::Link(bytes.to_vec()));
    }
    for (path, target) in [
        ("link-absolute", "/etc/hostname"),
        ("link-relative", "../elsewhere/./x"),
        ("link-dangling", "no/where"),
        ("link-to-itself", "link-to-itself"),
        ("link-up", ".."),
        ("link-to-dir", "empty-dir"),
        ("loop-a", "loop-b"),
        ("loop-b", "loop-a"),
    ] {
        tree.insert(path.into(), Node::Link(target.into()));
    }
    tree.insert("link-long".into(), Node::Link(vec![b'y'; 4000]));
    tree.insert("empty".into(), Node::File(Vec::new()));
    tree.insert("empty-dir".into(), Node::Dir);
    tree.insert("empty-dirs".into(), Node::Dir);
    tree.insert("empty-dirs/1".into(), Node::Dir);
    tree.insert("empty-dirs/2".into(), Node::Dir);
    tree
}
