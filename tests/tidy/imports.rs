//! Who may use whom: the modules of `src`, and the crates.

use std::collections::BTreeSet;

use crate::text::{File, code_only, line_of, word_positions};

/// A module of `src`, what it may use of ours, and whether it is pure.
struct Rule {
    /// Also a module inside one, as `a::b`: of those that fit, the longest holds.
    module: &'static str,
    ours: &'static [&'static str],
    /// For a pure module, the crates that it may use; `None` where it may do I/O.
    pure_crates: Option<&'static [&'static str]>,
}

/// Crates without I/O, clocks or randomness of their own.
const PLAIN: &[&str] = &[
    "base64",
    "hashbrown",
    "indexmap",
    "itoa",
    "libm",
    "postcard",
    "serde",
    "serde_json",
    "serde_path_to_error",
    "smallvec",
    "strsim",
    "thiserror",
];
/// What tests inside a pure module may use besides.
const FOR_TESTS: &[&str] = &["insta", "proptest"];

/// In the order in which data passes. A module that is not listed here is refused: say first what it may use.
const RULES: &[Rule] = &[
    Rule { module: "main", ours: &["cli"], pure_crates: None },
    Rule { module: "lib", ours: &[], pure_crates: None },
    Rule {
        module: "config",
        ours: &["codec", "model"],
        // A value is checked by the library that will read it.
        pure_crates: Some(&["axum", "config", "rdkafka", "tempfile", "toml", "tracing_subscriber"]),
    },
    Rule { module: "clock", ours: &["model"], pure_crates: None },
    Rule { module: "draw", ours: &[], pure_crates: Some(&["rand_chacha"]) },
    Rule { module: "failpoint", ours: &[], pure_crates: None },
    Rule {
        module: "telemetry",
        ours: &["clock", "config", "hindsight", "lane", "model"],
        pure_crates: None,
    },
    Rule { module: "planted", ours: &[], pure_crates: Some(&[]) },
    Rule { module: "model", ours: &[], pure_crates: Some(&[]) },
    Rule {
        module: "codec",
        ours: &["model"],
        pure_crates: Some(&["apache_avro", "xxhash_rust", "csv"]),
    },
    Rule { module: "registry", ours: &["codec", "config", "model"], pure_crates: None },
    Rule {
        module: "routing",
        ours: &["model", "planted"],
        pure_crates: Some(&["governor", "rustc_hash", "xxhash_rust"]),
    },
    Rule { module: "hindsight", ours: &["model"], pure_crates: Some(&[]) },
    Rule {
        module: "lane",
        ours: &["codec", "hindsight", "model", "planted", "routing"],
        pure_crates: Some(&["rand_chacha", "xxhash_rust", "zstd"]),
    },
    Rule { module: "store", ours: &["failpoint", "model"], pure_crates: None },
    Rule {
        module: "stream",
        ours: &[
            "clock",
            "codec",
            "config",
            "failpoint",
            "hindsight",
            "lane",
            "model",
            "planted",
            "registry",
            "store",
            "telemetry",
        ],
        pure_crates: None,
    },
    Rule {
        module: "stream::advisor",
        // The planner needs no lane's state: it decides from what lanes publish.
        ours: &["clock", "codec", "config", "model", "routing", "telemetry"],
        pure_crates: None,
    },
    Rule {
        module: "broker",
        ours: &[],
        pure_crates: Some(&[
            "bytes",
            "crc32c",
            "flate2",
            "kafka_protocol",
            "lz4_flex",
            "snap",
            "uuid",
            "zstd",
        ]),
    },
    Rule { module: "broker::front", ours: &["broker", "clock"], pure_crates: None },
    Rule {
        module: "sim",
        // The audit is the demo's: it shares no code with the core.
        ours: &[
            "broker", "codec", "config", "demo", "lane", "model", "planted", "replay", "routing",
            "stream",
        ],
        pure_crates: Some(&["anyhow", "bytes", "kafka_protocol", "rand_chacha"]),
    },
    Rule {
        module: "replay",
        ours: &["codec", "lane", "model", "routing"],
        pure_crates: Some(&["anyhow", "memchr", "xxhash_rust", "zstd"]),
    },
    Rule {
        module: "backtest",
        ours: &["codec", "config", "draw", "hindsight", "lane", "model", "routing"],
        pure_crates: Some(&[]),
    },
    Rule { module: "http", ours: &["clock", "config", "model", "telemetry"], pure_crates: None },
    Rule {
        module: "demo",
        ours: &[
            "broker",
            "cli",
            "clock",
            "codec",
            "config",
            "draw",
            "model",
            "stream",
            "telemetry",
        ],
        pure_crates: None,
    },
    Rule {
        module: "cli",
        ours: &[
            "backtest",
            "broker",
            "clock",
            "codec",
            "config",
            "demo",
            "failpoint",
            "http",
            "lane",
            "model",
            "planted",
            "registry",
            "replay",
            "sim",
            "store",
            "stream",
            "telemetry",
        ],
        pure_crates: None,
    },
];

/// What a pure module may not name, and the modules that may all the same.
const IMPURE: &[(&str, &[&str])] = &[
    ("TcpListener", &[]),
    ("TcpStream", &[]),
    ("UdpSocket", &[]),
    ("std::env", &["config"]),
    ("std::fs", &["config"]),
    ("std::process", &[]),
    ("std::thread", &[]),
];

/// Floating-point functions that differ between machines; `libm` has the same ones, and those do not.
const INEXACT: &[&str] = &[
    "acos", "asin", "atan", "atan2", "cbrt", "cos", "cosh", "exp", "exp2", "exp_m1", "hypot", "ln",
    "ln_1p", "log", "log10", "log2", "mul_add", "powf", "powi", "sin", "sinh", "tan", "tanh",
];

/// Every use of a module or crate that the rules above do not allow.
pub fn forbidden(files: &[File], dependencies: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is(&["rs"])) {
        let Some(module) = file.module() else { continue };
        let code = code_only(&file.text);
        let Some(rule) = rule_for(file) else {
            found.push(format!(
                "{}: module {module} has no rule in tests/tidy/imports.rs",
                file.path
            ));
            continue;
        };
        for (at, used) in ours_used(&file.path, &code) {
            let line = line_of(&code, at);
            if used.module != module && !rule.ours.contains(&used.module) {
                let module = rule.module;
                found.push(format!("{}:{line}: {module} may not use {}", file.path, used.module));
            } else if used.module == "lane"
                && used.submodule
                && !["lane", "replay", "stream"].contains(&module)
            {
                found.push(format!("{}:{line}: {module} may not reach into lane", file.path));
            }
        }
        // From `src/a/b.rs`, `super::super` is the root; from `src/a/b/c.rs` it is still `a`.
        let root = "super::".repeat(file.path.matches('/').count().max(2));
        for (at, _) in code.match_indices(&root) {
            let line = line_of(&code, at);
            found.push(format!("{}:{line}: {root} hides what is used: say crate::", file.path));
        }
        if let Some(extra) = rule.pure_crates {
            found.extend(impure(file, module, &code, extra, dependencies));
        }
    }
    found
}

/// The rule of the module that is innermost of those around the file.
fn rule_for(file: &File) -> Option<&'static Rule> {
    let path = file.path.strip_prefix("src/")?.strip_suffix(".rs")?.replace('/', "::");
    let around = |rule: &&Rule| {
        path.strip_prefix(rule.module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    RULES.iter().filter(around).max_by_key(|rule| rule.module.len())
}

fn impure(
    file: &File,
    module: &str,
    code: &str,
    extra: &[&str],
    dependencies: &BTreeSet<String>,
) -> Vec<String> {
    let mut found = Vec::new();
    for at in word_positions(code, "std::time") {
        let items = code[at..].strip_prefix("std::time::").map(first_level).unwrap_or_default();
        // Not every `Instant` is a clock's: governor calls so what its caller measures by.
        for name in items.into_iter().map(|item| split_identifier(item).0) {
            if ["Instant", "SystemTime"].contains(&name) {
                found.push(format!(
                    "{}:{}: {module} is pure, no {name}",
                    file.path,
                    line_of(code, at)
                ));
            }
        }
    }
    for (name, exempt) in IMPURE {
        if !exempt.contains(&module) {
            for at in word_positions(code, name) {
                found.push(format!(
                    "{}:{}: {module} is pure, no {name}",
                    file.path,
                    line_of(code, at)
                ));
            }
        }
    }
    for name in dependencies {
        if PLAIN.contains(&name.as_str())
            || FOR_TESTS.contains(&name.as_str())
            || extra.contains(&name.as_str())
        {
            continue;
        }
        for at in word_positions(code, name) {
            let path_begins =
                code[at + name.len()..].starts_with("::") && !code[..at].ends_with("::");
            if path_begins || code[..at].ends_with("use ") {
                let line = line_of(code, at);
                found.push(format!("{}:{line}: {module} is pure, no crate {name}", file.path));
            }
        }
    }
    // Only what decides must be equal to the last bit.
    if ["model", "routing", "lane"].contains(&module) {
        for name in INEXACT {
            for (at, _) in code.match_indices(&format!(".{name}(")) {
                let line = line_of(code, at);
                found.push(format!(
                    "{}:{line}: {name} differs between machines: use libm",
                    file.path
                ));
            }
        }
    }
    found
}

struct Used<'a> {
    module: &'a str,
    /// Whether the path goes on into a module of that module.
    submodule: bool,
}

/// Our modules that are named by `crate::x`, `use crate::{x, y::z}` or, from a top-level file, `super::x`.
fn ours_used<'a>(path: &str, code: &'a str) -> Vec<(usize, Used<'a>)> {
    let mut found = Vec::new();
    let mut prefixes = vec!["crate::", "pointsman::"];
    if path.matches('/').count() == 1 {
        prefixes.push("super::");
    }
    for prefix in prefixes {
        for at in word_positions(code, prefix.trim_end_matches("::")) {
            let Some(rest) = code[at..].strip_prefix(prefix) else { continue };
            for item in first_level(rest) {
                let (module, after) = split_identifier(item);
                let known = RULES.iter().any(|rule| rule.module == module);
                // In `mod tests`, `super` is the file's own module.
                if known || (prefix != "super::" && module.starts_with(char::is_lowercase)) {
                    let next = after.strip_prefix("::").unwrap_or("");
                    // `prepared` is what a lane hands out.
                    let submodule = first_level(next).iter().any(|part| {
                        part.starts_with(|c: char| c.is_ascii_lowercase())
                            && split_identifier(part).0 != "prepared"
                    });
                    found.push((at, Used { module, submodule }));
                }
            }
        }
    }
    found
}

/// The items of `{a, b::{c, d}}` at its first level; the whole text where it is no group.
fn first_level(rest: &str) -> Vec<&str> {
    let Some(group) = rest.strip_prefix('{') else { return vec![rest] };
    let (mut depth, mut start, mut items) = (0_u32, 0, Vec::new());
    for (at, found) in group.char_indices() {
        match found {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(group[start..at].trim());
                return items;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(group[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

fn split_identifier(item: &str) -> (&str, &str) {
    let end = item.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(item.len());
    item.split_at(end)
}

#[test]
fn what_is_forbidden_is_found() {
    let dependencies =
        BTreeSet::from(["bytes", "rdkafka", "rand", "serde", "tokio"].map(str::to_owned));
    let rows: &[(&str, &str, &[&str])] = &[
        ("src/model/task.rs", "use crate::model::time::Timestamp; use serde::Serialize;", &[]),
        ("src/model/task.rs", "\nuse crate::lane::Lane;", &["2: model may not use lane"]),
        ("src/model.rs", "use super::codec;", &["1: model may not use codec"]),
        ("src/model.rs", "mod tests { use super::*; use super::task::Task; }", &[]),
        (
            "src/model/task.rs",
            "use super::super::lane;",
            &["1: super::super:: hides what is used: say crate::"],
        ),
        ("src/lane/tests/flow.rs", "use super::super::Lane;", &[]),
        (
            "src/http/api.rs",
            "use crate::{model::time::{Timestamp}, routing, telemetry};",
            &["1: http may not use routing"],
        ),
        ("src/http.rs", "fn f() { crate::lane::x() }", &["1: http may not use lane"]),
        ("src/cli/run.rs", "use crate::lane::LaneSettings;", &[]),
        ("src/cli/run.rs", "use crate::lane::state::State;", &["1: cli may not reach into lane"]),
        (
            "src/cli/run.rs",
            "use crate::lane::{LaneSettings, state::State};",
            &["1: cli may not reach into lane"],
        ),
        ("src/telemetry.rs", "use crate::lane::prepared::BatchCounts;", &[]),
        ("src/stream/worker.rs", "use crate::lane::prepared::Prepared; use tokio::x;", &[]),
        ("src/stream/worker.rs", "// crate::http\nconst X: &str = \"crate::http\";", &[]),
        (
            "src/routing/score.rs",
            "let x = std::time::Instant::now();",
            &["1: routing is pure, no Instant"],
        ),
        (
            "src/routing/admission.rs",
            "use std::time::{Duration, SystemTime}; type Instant = u64;",
            &["1: routing is pure, no SystemTime"],
        ),
        ("src/lane.rs", "use std::fs;", &["1: lane is pure, no std::fs"]),
        ("src/config.rs", "use std::fs;", &[]),
        ("src/codec/avro.rs", "use rdkafka::Message;", &["1: codec is pure, no crate rdkafka"]),
        ("src/lane.rs", "let x = rand::random();", &["1: lane is pure, no crate rand"]),
        ("src/lane.rs", "let tokio = 1; let rand = self::rand::x;", &[]),
        ("src/lane.rs", "x.exp(); libm::exp(x);", &["1: exp differs between machines: use libm"]),
        ("src/broker/log.rs", "use bytes::Bytes; use super::wire::Request;", &[]),
        ("src/broker.rs", "use tokio::sync::mpsc;", &["1: broker is pure, no crate tokio"]),
        ("src/broker/log.rs", "use crate::clock::wall_now;", &["1: broker may not use clock"]),
        ("src/broker/fronts.rs", "TcpStream", &["1: broker is pure, no TcpStream"]),
        ("src/broker/front.rs", "use tokio::net::TcpListener; use crate::clock::wall_now;", &[]),
        (
            "src/broker/front/fault.rs",
            "use crate::broker::wire::Request; use crate::config::Config;",
            &["1: broker::front may not use config"],
        ),
        ("src/misc.rs", "", &[" module misc has no rule in tests/tidy/imports.rs"]),
        ("tests/any.rs", "use pointsman::routing::engine; use tokio::x;", &[]),
    ];
    for (path, text, expected) in rows {
        let expected: Vec<String> =
            expected.iter().map(|found| format!("{path}:{found}")).collect();
        assert_eq!(forbidden(&[File::new(path, text)], &dependencies), expected, "{path}: {text}");
    }
}
