//! What keeps the project tidy, checked like everything else: the layers, what each may touch, no leftovers, documents
//! whose links lead somewhere and whose text is what the program says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::docs::{blocks, package, text};

/// A file of Rust code.
struct Source {
    /// Relative to the package.
    path: String,
    text: String,
}

/// One line of code: neither a comment nor, unless asked for, of a test module.
struct Line<'s> {
    number: usize,
    code: &'s str,
    in_inline_module: bool,
}

fn files_below(dir: &str, extension: &str) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(package(dir)).sort_by_file_name();
    let files = walk.into_iter().map(|entry| entry.unwrap().into_path());
    files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

fn sources(dir: &str) -> Vec<Source> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap().to_string();
        Source { path, text }
    };
    let sources: Vec<_> = files_below(dir, "rs").into_iter().map(read).collect();
    assert!(!sources.is_empty(), "{dir} holds no code");
    sources
}

impl Source {
    /// Whether the whole file is a test module.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
    }

    /// The lines of code outside test modules.
    fn code(&self) -> Vec<Line<'_>> {
        let all = self.all_code();
        let tests = all.windows(2).find(|pair| pair[0].code == "#[cfg(test)]" && pair[1].code == "mod tests {");
        let end = tests.map_or(usize::MAX, |pair| pair[0].number);
        if self.is_test() { Vec::new() } else { all.into_iter().filter(|line| line.number < end).collect() }
    }

    /// All lines of code.
    fn all_code(&self) -> Vec<Line<'_>> {
        let mut in_inline_module = false;
        let mut lines = Vec::new();
        for (number, line) in self.text.lines().enumerate() {
            if line == "mod tests {" {
                in_inline_module = true;
            }
            let code = line.split(" // ").next().unwrap_or_default();
            if !code.trim_start().starts_with("//") {
                lines.push(Line { number: number + 1, code, in_inline_module });
            }
        }
        lines
    }

    /// The components of the file's module path: `src/ops/check/mod.rs` is `ops::check`.
    fn module(&self) -> Vec<&str> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').filter(|part| !matches!(*part, "lib" | "main")).collect()
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// Names every finding at once.
fn assert_none(what: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}

/// What each layer may use of the others.
const LAYERS: [(&str, &[&str]); 8] = [
    ("object", &[]),
    ("error", &["object"]),
    ("progress", &["error", "object"]),
    ("fs", &["object", "error"]),
    ("store", &["fs", "object", "error"]),
    ("repo", &["store", "object", "error", "progress"]),
    ("ops", &["repo", "store", "fs", "object", "error", "progress"]),
    // The program is another crate: it sees what the library makes public, as `backuptool::…`.
    ("cli", &[]),
];

#[test]
fn data_flows_one_way_through_the_layers() {
    let mut findings = Vec::new();
    for source in sources("src") {
        let module = source.module();
        let Some(layer) = module.first() else { continue };
        let allowed = LAYERS.iter().find(|(name, _)| name == layer).map(|(_, allowed)| *allowed);
        let allowed = allowed.unwrap_or_else(|| panic!("{}: the layer {layer} has no rule", source.path));
        let code = source.all_code();
        for used in used_layers(&code) {
            if used.1 != *layer && !allowed.contains(&used.1.as_str()) {
                findings.push(format!("{}:{}: {layer} must not use {}", source.path, used.0, used.1));
            }
        }
        for line in &code {
            let depth = module.len() + usize::from(line.in_inline_module);
            let up = line.code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            if up.map(|path| path.matches("super::").count()).any(|count| count >= depth) {
                findings.push(format!("{}:{}: `super` leaves the layer {layer}", source.path, line.number));
            }
            let storage = line.code.contains("backuptool::store") || line.code.contains("backuptool::fs");
            if storage {
                findings
                    .push(format!("{}:{}: the program reaches for storage: {}", source.path, line.number, line.code));
            }
        }
    }
    assert_none("the layers are broken (docs/architecture.md)", &findings);
}

/// The first component of every `crate::…` path, with its line; the names of `crate::{…}` as well.
fn used_layers(code: &[Line<'_>]) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    let mut add = |number: usize, path: &str| {
        let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // `crate::Error` and `crate::Result` are those of `error`.
        let name = if name.chars().next().is_some_and(char::is_uppercase) { "error".to_string() } else { name };
        if !name.is_empty() {
            used.push((number, name));
        }
    };
    for (at, line) in code.iter().enumerate() {
        for (begin, _) in line.code.match_indices("crate::") {
            let path = &line.code[begin + "crate::".len()..];
            if let Some(group) = path.strip_prefix('{') {
                let rest: String = code[at + 1..].iter().take(30).map(|line| line.code).collect();
                let group = format!("{group}{rest}");
                for part in top_level_parts(&group) {
                    add(line.number, part);
                }
            } else {
                add(line.number, path);
            }
        }
    }
    used
}

/// The parts of `a::b, c::{d, e}, f}…`, up to the closing brace.
fn top_level_parts(group: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(group[begin..at].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(group[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts
}

#[test]
fn the_import_reader_sees_every_form() {
    let source = Source {
        path: "src/store/x.rs".into(),
        text: "use crate::{\n    ops::list,\n    repo::{a, b}, error::Error,\n};\nfn f() { crate::cli::run() } // crate::no\n"
            .into(),
    };
    let used: Vec<_> = used_layers(&source.all_code()).into_iter().map(|(_, layer)| layer).collect();
    assert_eq!(used, ["ops", "repo", "error", "cli"]);
}

/// Texts that may stand only in some files (or in none), outside tests.
const PLACES: [(&[&str], &[&str], &str); 7] = [
    (
        &[
            "std::fs",
            "rustix::fs",
            "fs2::",
            "File::open",
            "File::create",
            ".metadata(",
            ".symlink_metadata(",
            ".canonicalize(",
            ".try_exists(",
        ],
        &["src/fs/"],
        "only `fs` touches the file system",
    ),
    (&["env::", "std::{env"], &["src/cli/environment.rs"], "only the program reads the environment"),
    (
        &["SystemTime", "Timestamp::now", "Zoned::now", "TimeZone::system"],
        &["src/cli/environment.rs"],
        "the library is handed the clock",
    ),
    (&["::stdout()", "::stderr()"], &["src/cli/output.rs"], "only the program prints"),
    (&["println!", "print!(", "eprint!("], &[], "printing to a closed pipe must not panic: see src/cli/output.rs"),
    (&["std::process", "process::exit", "process::abort"], &["src/cli/", "src/main.rs"], "the library does not exit"),
    (
        &[".unwrap()", ".expect(", "panic!", "unreachable!", " assert!(", " assert_eq!("],
        &[],
        "no panic reaches a user: return an error",
    ),
];

/// Whether a line of code has this text, and not only as the end of a longer word.
fn names(code: &str, text: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let begins = |at: usize| !text.starts_with(is_word) || !code[..at].ends_with(is_word);
    code.match_indices(text).any(|(at, _)| begins(at))
}

#[test]
fn only_some_places_touch_the_world() {
    let mut findings = Vec::new();
    for source in sources("src") {
        for line in source.code() {
            for (texts, places, rule) in PLACES {
                let allowed = places.iter().any(|place| source.path.starts_with(place));
                if let Some(found) = texts.iter().find(|text| names(line.code, text)).filter(|_| !allowed) {
                    findings.push(format!("{}:{}: `{found}`: {rule}", source.path, line.number));
                }
            }
        }
    }
    assert_none("code reaches where its layer must not", &findings);
}

#[test]
fn no_leftovers() {
    // In pieces, so that this file does not find itself.
    let everywhere =
        [concat!("to", "do!"), concat!("unimpl", "emented!"), concat!("db", "g!"), concat!("#[ig", "nore"), "\t"];
    let in_src = ["let _ =", "unsafe ", "unsafe{", "#[allow(dead_code", "#![allow"];
    let mut findings = Vec::new();
    for source in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        if !source.text.starts_with("//! ") {
            findings.push(format!("{}: a file opens with `//!` and says what it is for", source.path));
        }
        let texts = everywhere.iter().chain(if source.path.starts_with("src/") { &in_src[..] } else { &[] });
        for text in texts {
            for line in source.all_code().iter().filter(|line| line.code.contains(text)) {
                findings.push(format!("{}:{}: `{text}` is left over", source.path, line.number));
            }
        }
    }
    assert_none("leftovers", &findings);
}

#[test]
fn test_modules_end_their_file() {
    let mut findings = Vec::new();
    for source in sources("src") {
        let lines: Vec<_> = source.text.lines().collect();
        for (at, _) in lines.iter().enumerate().filter(|(_, line)| line.contains("#[cfg(test)]")) {
            let item = |line: &&str| {
                ["pub", "fn ", "impl", "struct ", "enum ", "const ", "use ", "mod "]
                    .iter()
                    .any(|word| line.starts_with(word))
            };
            let known = match lines.get(at + 1) {
                Some(&"mod tests {") => !lines[at + 2..].iter().any(item),
                other => other == Some(&"mod tests;"),
            };
            if !known {
                findings.push(format!(
                    "{}:{}: what is `#[cfg(test)]` is `mod tests`, and comes last",
                    source.path,
                    at + 1
                ));
            }
        }
    }
    assert_none("tests hide code from the checks above", &findings);
}

/// The documents, by path.
fn documents() -> Vec<String> {
    let in_docs = files_below("docs", "md").into_iter();
    let names = in_docs.map(|path| format!("docs/{}", path.strip_prefix(package("docs")).unwrap().to_str().unwrap()));
    std::iter::once("README.md".to_string()).chain(names).collect()
}

/// The text of a document without its fenced blocks.
fn prose(document: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (number, line) in document.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((number + 1, line));
        }
    }
    lines
}

/// The targets of the links of a document.
fn links(document: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (number, line) in prose(document) {
        for (at, _) in line.match_indices("](") {
            let target = line[at + 2..].split(')').next().unwrap_or_default();
            if !target.contains("://") {
                links.push((number, target));
            }
        }
    }
    links
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut findings = Vec::new();
    for document in documents() {
        let content = text(&document);
        for (line, target) in links(&content) {
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let base = Path::new(&document).parent().unwrap();
            let path = if file.is_empty() { PathBuf::from(&document) } else { base.join(file) };
            if !package(path.to_str().unwrap()).exists() {
                findings.push(format!("{document}:{line}: {target} does not exist"));
            } else if !fragment.is_empty() {
                let headed = text(path.to_str().unwrap());
                if !prose(&headed).iter().any(|(_, line)| line.starts_with('#') && anchor(line) == fragment) {
                    findings.push(format!("{document}:{line}: {target} has no such heading"));
                }
            }
        }
    }
    assert_none("links that lead nowhere", &findings);
}

#[test]
fn files_that_documents_name_exist() {
    let mut findings = Vec::new();
    for document in documents() {
        let content = text(&document);
        for (number, line) in prose(&content) {
            let code = line.split('`').skip(1).step_by(2);
            let is_path = |code: &&str| {
                let known = ["src/", "docs/", "tests/", ".ci/", ".github/"].iter().any(|dir| code.starts_with(dir));
                known && !code.contains(['*', '…', ' ', '{'])
            };
            for path in code.filter(is_path).filter(|path| !package(path).exists()) {
                findings.push(format!("{document}:{number}: {path} does not exist"));
            }
        }
    }
    assert_none("documents name files that are not there", &findings);
}

/// The path without `x/..`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str().unwrap().split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

#[test]
fn every_document_can_be_found_from_the_readme() {
    let mut found = BTreeSet::from(["README.md".to_string()]);
    let mut pending = vec!["README.md".to_string()];
    while let Some(document) = pending.pop() {
        let base = Path::new(&document).parent().unwrap().to_path_buf();
        for (_, target) in links(&text(&document)) {
            let file = normal(&base.join(target.split('#').next().unwrap()));
            if found.insert(file.clone()) && has_extension(&file, "md") {
                pending.push(file);
            }
        }
    }
    let docs = walkdir::WalkDir::new(package("docs")).into_iter().map(|entry| entry.unwrap().into_path());
    let docs = docs.filter(|path| path.is_file());
    let docs = docs.map(|path| path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap().to_string());
    let lost: Vec<_> = docs.filter(|path| !found.contains(path)).collect();
    assert_none("no link leads to these documents", &lost);
}

#[test]
fn documents_keep_to_their_width() {
    let mut findings = Vec::new();
    for document in documents() {
        let content = text(&document);
        for (number, line) in prose(&content) {
            if line.chars().count() > 120 && !line.starts_with('|') {
                findings.push(format!("{document}:{number}: {} columns", line.chars().count()));
            }
        }
    }
    assert_none("lines are up to 120 columns", &findings);
}

/// What the program prints for `arguments` on a terminal of 100 columns.
fn help(arguments: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_backuptool"));
    let output = program.args(arguments).env("COLUMNS", "100").env_remove("BACKUPTOOL_REPO").output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_help_of_every_command_stands_in_the_documents() {
    let document = text("docs/cli.md");
    let shown: Vec<_> = blocks(&document).into_iter().filter(|block| block.info == "text help").collect();
    let general = help(&["--help"]);
    let commands = general.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<_> = commands.map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(commands.contains(&"snapshot"), "{general}");
    let own = commands.into_iter().filter(|command| *command != "help");
    let helps: Vec<_> = std::iter::once(general.clone()).chain(own.map(|command| help(&[command, "--help"]))).collect();
    for (block, help) in shown.iter().zip(&helps) {
        assert_eq!(block.body, *help, "docs/cli.md:{}: not what the program prints", block.line);
    }
    assert_eq!(shown.len(), helps.len(), "docs/cli.md has the help of the program and of each command, in order");
}

#[test]
fn the_table_of_exit_codes_is_that_of_the_code() {
    let code = text("src/cli/exit.rs");
    let lines: Vec<_> = code.lines().collect();
    let mut expected = Vec::new();
    for pair in lines.windows(2) {
        let Some(meaning) = pair[0].strip_prefix("/// ") else { continue };
        let Some((_, value)) = pair[1].split_once("const ").and_then(|(_, constant)| constant.split_once(" = ")) else {
            continue;
        };
        let value = if value == "ExitCode::SUCCESS;" { "0" } else { value.trim_end_matches(';') };
        expected.push(format!("| {value} | {} |", meaning.trim_end_matches('.')));
    }
    assert!(expected.len() >= 7, "{expected:?}");
    let document = text("docs/cli.md");
    let table: Vec<_> = document
        .lines()
        .skip_while(|line| !line.starts_with("| code |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(table, expected, "docs/cli.md");
}

#[test]
fn the_readme_is_short_and_its_commands_are_those_of_ci() {
    let readme = text("README.md");
    assert!(readme.lines().count() < 80, "one screen");
    let commands: Vec<String> =
        blocks(&readme).into_iter().filter(|block| block.info == "sh").map(|b| b.body).collect();
    let snapshot = "cargo run --release -- snapshot --target-directory=/usr/share/doc\n";
    assert_eq!(commands.first().map(String::as_str), Some(snapshot), "the first command takes a snapshot");
    let test = commands.get(1).expect("the second command runs the tests").trim_end();
    assert!(test.starts_with("cargo test"), "{test}");
    let ci = text(".ci/run");
    assert!(ci.lines().any(|line| line == test), ".ci/run does not run the README's `{test}`");
    let manifest = text("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(readme.contains(&format!("Rust {version}")), "the README names the Rust version of Cargo.toml");
}

#[test]
fn there_is_a_recipe_for_every_daily_task() {
    let justfile = text("justfile");
    for recipe in ["fmt", "lint", "test", "test-slow", "bench-peers", "bench-floors", "doc", "docker", "ci"] {
        let is_recipe = |line: &str| {
            let rest = line.strip_prefix(recipe);
            rest.is_some_and(|rest| rest.starts_with(':') || (rest.starts_with(' ') && rest.contains(':')))
        };
        assert!(justfile.lines().any(is_recipe), "the justfile has no recipe {recipe}");
    }
    assert!(justfile.contains("\nci:\n    .ci/run\n"), "`just ci` is exactly what CI runs");
    assert!(text(".github/workflows/ci.yml").contains("run: .ci/run"));
    assert!(!text(".ci/run").lines().any(|line| line.trim_start().starts_with("just ")), ".ci/run needs no just");
}

#[test]
fn every_test_file_is_described() {
    let testing = text("docs/testing.md");
    let files =
        fs::read_dir(package("tests/it")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let lost: Vec<_> =
        files.filter(|name| has_extension(name, "rs") && !testing.contains(&format!("`{name}`"))).collect();
    assert_none("docs/testing.md does not mention", &lost);
}
