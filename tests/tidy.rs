//! The rules of the project that no compiler knows, each with the proof that it can fail.

#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/text.rs"]
mod text;

use std::collections::BTreeSet;
use std::path::Path;

use text::{File, code_only, line_of, word_positions};

/// Lines of a file in `src`: more is more than one subject.
const LINES_MAX: usize = 500;
/// Longer files, each with its reason.
const LONGER: &[(&str, &str)] = &[];

/// The one file that may call librdkafka directly.
const UNSAFE_IN: &str = "src/stream/ffi.rs";
/// The one file of the tests that may sleep: it waits for conditions.
const SLEEP_IN: &str = "tests/support/src/wait.rs";

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn modules_use_only_what_the_design_allows() {
    let manifest = &manifest();
    assert_none(&imports::forbidden(&text::files(), &dependencies(manifest)));
}

fn manifest() -> String {
    std::fs::read_to_string(text::root().join("Cargo.toml")).unwrap()
}

/// The crates that the manifest names, as they are written in code.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies]");
        } else if inside && let Some((name, _)) = line.split_once(['=', ' ', '.']) {
            found.insert(name.replace('-', "_"));
        }
    }
    found
}

#[test]
fn dependencies_are_read_from_the_manifest() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\nserde = \"1\"\nserde-bytes.workspace = true\n\n\
                    [dev-dependencies]\ninsta = { version = \"1\" }\n[profile.dev]\ndebug = 1\n";
    let expected = BTreeSet::from(["insta", "serde", "serde_bytes"].map(str::to_owned));
    assert_eq!(dependencies(manifest), expected);
}

#[test]
fn every_dependency_is_used() {
    let manifest = &manifest();
    assert_none(&unused(&text::files(), &dependencies(manifest)));
}

/// Dependencies that no file names. A crate costs build time and trust, also when nobody calls it.
fn unused(files: &[File], dependencies: &BTreeSet<String>) -> Vec<String> {
    let code: Vec<String> = files
        .iter()
        .filter(|file| file.is(&["rs"]) && !file.path.starts_with("tests/support/"))
        .map(|file| code_only(&file.text))
        .collect();
    let named = |name: &str| code.iter().any(|text| word_positions(text, name).next().is_some());
    dependencies.iter().filter(|name| !named(name)).cloned().collect()
}

#[test]
fn unused_dependencies_are_found() {
    let files = [
        File::new("src/a.rs", "use serde::Serialize; // csv"),
        File::new("tests/support/src/lib.rs", "use tempfile::tempdir;"),
    ];
    let dependencies = BTreeSet::from(["csv", "serde", "tempfile"].map(str::to_owned));
    assert_eq!(unused(&files, &dependencies), ["csv", "tempfile"]);
}

#[test]
fn files_have_one_subject() {
    assert_none(&too_long(&text::files(), LONGER));
}

fn too_long(files: &[File], longer: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.module().is_some() && file.is(&["rs"])) {
        let lines = file.text.lines().count();
        let excepted = longer.iter().any(|(path, _)| *path == file.path);
        if lines > LINES_MAX && !excepted {
            found.push(format!("{}: {lines} lines, at most {LINES_MAX}", file.path));
        }
        if lines <= LINES_MAX && excepted {
            found.push(format!("{}: is short enough now, no exception needed", file.path));
        }
    }
    found
}

#[test]
fn long_files_and_needless_exceptions_are_found() {
    let long = "\n".repeat(501);
    let files = [File::new("src/a.rs", &long), File::new("src/b.rs", "")];
    assert_eq!(too_long(&files, &[("src/a.rs", "reason")]), [] as [&str; 0]);
    assert_eq!(
        too_long(&files, &[("src/b.rs", "reason")]),
        ["src/a.rs: 501 lines, at most 500", "src/b.rs: is short enough now, no exception needed"]
    );
}

#[test]
fn nothing_is_left_over() {
    assert_none(&left_over(&text::files()));
}

/// Markers of unfinished work, directories of somebody's machine, and names that say nothing.
fn left_over(files: &[File]) -> Vec<String> {
    // Put together here, so that this file does not find itself.
    let markers =
        ["TO\0DO", "FIX\0ME", "XX\0X", "HA\0CK", "W\0IP"].map(|word| word.replace('\0', ""));
    let directories =
        ["/ro\0ot/", "/ho\0me/", "/wo\0rk/", "/Us\0ers/"].map(|path| path.replace('\0', ""));
    let names = ["manager", "helper", "helpers", "util", "utils", "misc", "common"];
    let mut found = Vec::new();
    for file in files {
        let name = Path::new(&file.path).file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        if file.path.ends_with("/mod.rs") {
            found.push(format!("{}: modules are foo.rs + foo/", file.path));
        }
        if file.is(&["rs"]) && name.split('_').any(|part| names.contains(&part)) {
            found.push(format!("{}: name the thing, not its kind", file.path));
        }
        if !file.is(&["rs", "md", "toml", "yml", "yaml", "avsc", "sh", "py", ""])
            && file.path.contains('.')
        {
            continue;
        }
        for marker in &markers {
            for at in word_positions(&file.text, marker) {
                found.push(format!("{}:{}: {marker}", file.path, line_of(&file.text, at)));
            }
        }
        for directory in &directories {
            for (at, _) in file.text.match_indices(directory.as_str()) {
                // A path's first component only: `a/home/b` is nobody's home.
                let before = file.text[..at].chars().next_back();
                if !before.is_some_and(|c| c.is_ascii_alphanumeric() || "._-}$".contains(c)) {
                    let line = line_of(&file.text, at);
                    found.push(format!(
                        "{}:{line}: {directory} is a directory of one machine",
                        file.path
                    ));
                }
            }
        }
    }
    found
}

#[test]
fn what_is_left_over_is_found() {
    let marker = ["TO", "DO"].concat();
    let home = ["/ho", "me/"].concat();
    let files = [
        File::new("src/a/mod.rs", ""),
        File::new("src/a/lane_manager.rs", ""),
        File::new("src/b.rs", &format!("fine\n// {marker}: later\nlet not_{marker} = 1;")),
        File::new("docs/c.md", &format!("see {home}me/notes, not $X{home} or a{home}")),
    ];
    assert_eq!(
        left_over(&files),
        [
            "src/a/mod.rs: modules are foo.rs + foo/".to_owned(),
            "src/a/lane_manager.rs: name the thing, not its kind".to_owned(),
            format!("src/b.rs:2: {marker}"),
            format!("docs/c.md:1: {home} is a directory of one machine"),
        ]
    );
}

#[test]
fn unsafe_and_sleep_have_one_place_each() {
    assert_none(&misplaced(&text::files()));
}

fn misplaced(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is(&["rs"])) {
        let code = code_only(&file.text);
        if file.path != UNSAFE_IN {
            for at in word_positions(&code, "unsafe") {
                let line = line_of(&code, at);
                found.push(format!("{}:{line}: unsafe belongs in {UNSAFE_IN}", file.path));
            }
        }
        let is_test = file.path.starts_with("tests/");
        if is_test && file.path != SLEEP_IN {
            for at in word_positions(&code, "sleep") {
                if code[at..].starts_with("sleep(") {
                    let line = line_of(&code, at);
                    found.push(format!(
                        "{}:{line}: wait for a condition, not for a time",
                        file.path
                    ));
                }
            }
        }
    }
    found
}

#[test]
fn misplaced_unsafe_and_sleep_are_found() {
    let call = "fn f() {\n    unsafe { g() }\n}\n// unsafe\n#![expect(unsafe_code)]";
    let sleep = "std::thread::sleep(limit); // sleep(1)";
    let files = [
        File::new(UNSAFE_IN, call),
        File::new("src/stream/client.rs", call),
        File::new("src/cli/submit.rs", sleep),
        File::new("tests/stream/main.rs", sleep),
    ];
    assert_eq!(
        misplaced(&files),
        [
            "src/stream/client.rs:2: unsafe belongs in src/stream/ffi.rs",
            "tests/stream/main.rs:1: wait for a condition, not for a time",
        ]
    );
}

#[test]
fn links_lead_somewhere() {
    let root = text::root();
    assert_none(&broken_links(&text::files(), |path| root.join(path).exists()));
}

/// Relative links of Markdown files to what is not there.
fn broken_links(files: &[File], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is(&["md"])) {
        let mut in_code = false;
        for (index, line) in file.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            }
            if in_code {
                continue;
            }
            for (at, _) in line.match_indices("](") {
                let target = line[at + 2..].split([')', ' ', '#']).next().unwrap_or("");
                if target.is_empty() || target.contains(':') {
                    continue;
                }
                let resolved = resolve(&file.path, target);
                if !exists(&resolved) {
                    found.push(format!("{}:{}: no {resolved}", file.path, index + 1));
                }
            }
        }
    }
    found
}

/// `target` as seen from the file at `from`, relative to the project.
fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn broken_links_are_found() {
    let text = "[a](b.md) [c](../d.md#e) [f](https://example.org/g) [h](#i)\n```\n[j](k)\n```\n![l](m.svg \"n\")";
    let found = broken_links(&[File::new("docs/x.md", text)], |path| path == "docs/b.md");
    assert_eq!(found, ["docs/x.md:1: no d.md", "docs/x.md:5: no docs/m.svg"]);
}

#[test]
fn lines_end_where_their_text_ends() {
    assert_none(&blank_ends(&text::files()));
}

fn blank_ends(files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is(&["rs", "md", "toml", "yml", "avsc"])) {
        for (index, line) in file.text.lines().enumerate() {
            if line.contains('\t') {
                found.push(format!("{}:{}: a tab", file.path, index + 1));
            }
            if line.ends_with(' ') {
                found.push(format!("{}:{}: a trailing space", file.path, index + 1));
            }
        }
    }
    found
}

#[test]
fn tabs_and_trailing_spaces_are_found() {
    let files = [File::new("a.md", "fine\nb \n\tc"), File::new("d.csv", "e\tf ")];
    assert_eq!(blank_ends(&files), ["a.md:2: a trailing space", "a.md:3: a tab"]);
}
