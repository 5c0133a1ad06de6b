//! What is delivered beside the program fits together: alerts and runbooks, dashboards and metrics,
//! crates and licences.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    // As cargo says now, not as it was when this was compiled: checkouts may share a target directory.
    std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into()).into()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of the files in a directory, without their extension.
fn names_in(directory: &str) -> BTreeSet<String> {
    std::fs::read_dir(root().join(directory))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

/// `lane-stalled` of `PointsmanLaneStalled`.
fn kebab(alert: &str) -> String {
    let mut name = String::new();
    for letter in alert.strip_prefix("Pointsman").unwrap_or(alert).chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

/// What follows `key` on the lines that begin with it.
fn values<'a>(yaml: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    yaml.lines().filter_map(move |line| line.trim().strip_prefix(key)).map(str::trim)
}

#[test]
fn every_alert_has_its_runbook_and_its_tests() {
    let rules = read("ops/prometheus/rules.yml");
    let alerts: Vec<&str> = values(&rules, "- alert:").collect();
    let runbooks: BTreeSet<String> = alerts.iter().map(|alert| kebab(alert)).collect();
    assert_eq!(runbooks, names_in("docs/runbooks"), "alerts (left) and runbooks (right)");

    let expected: Vec<String> =
        alerts.iter().map(|alert| format!("docs/runbooks/{}.md", kebab(alert))).collect();
    assert_eq!(values(&rules, "runbook_url:").collect::<Vec<_>>(), expected);

    for alert in &alerts {
        let runbook = read(&format!("docs/runbooks/{}.md", kebab(alert)));
        assert!(runbook.starts_with(&format!("# {alert}\n\n**Meaning.** ")), "runbook of {alert}");
    }

    // One test in which it stays silent, one in which it fires; the watchdog is never silent.
    let tests = read("ops/prometheus/rules_test.yml");
    for alert in alerts {
        let silent = tests.matches(&format!("alertname: {alert} }}")).count();
        let fires = tests.matches(&format!("alertname: {alert}\n        exp_alerts:")).count();
        let expected = if alert == "PointsmanWatchdog" { (0, 1) } else { (1, 1) };
        assert_eq!((silent, fires), expected, "{alert} in rules_test.yml: (silent, fires)");
    }
}

#[test]
fn names_become_file_names() {
    assert_eq!(kebab("PointsmanLaneStalled"), "lane-stalled");
    assert_eq!(kebab("PointsmanDown"), "down");
}

#[test]
fn dashboards_explain_themselves_and_do_not_overlap() {
    for name in names_in("ops/grafana/dashboards") {
        let dashboard: Value =
            serde_json::from_str(&read(&format!("ops/grafana/dashboards/{name}.json"))).unwrap();
        let mut taken: BTreeMap<(u64, u64), &str> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: id of '{title}' is taken");
            let explained = panel["description"].as_str().is_some_and(|text| text.ends_with('.'));
            assert!(explained || panel["type"] == "row", "{name}: '{title}' has no description");
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{name}: '{title}' is beyond the right edge");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    let other = taken.insert((x, y), title);
                    assert_eq!(other, None, "{name}: '{title}' lies over another panel");
                }
            }
        }
    }
}

#[test]
fn what_compose_mounts_is_there() {
    let compose = read("docker-compose.yml");
    let mounted: Vec<&str> = compose
        .lines()
        .filter_map(|line| {
            line.trim().trim_start_matches("- ").trim_start_matches("file: ").strip_prefix("./")
        })
        .map(|path| path.split(':').next().unwrap())
        .collect();
    assert!(mounted.len() >= 4, "{mounted:?}");
    let missing: Vec<_> = mounted.iter().filter(|path| !root().join(path).exists()).collect();
    assert_eq!(missing, Vec::<&&str>::new());
}

#[test]
fn crates_have_licences_that_we_accept() {
    let deny: toml::Table = read("deny.toml").parse().unwrap();
    let accepted: BTreeSet<&str> = deny["licenses"]["allow"]
        .as_array()
        .unwrap()
        .iter()
        .map(|licence| licence.as_str().unwrap())
        .collect();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "{} crates", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .filter_map(|package| {
            let licence = package["license"].as_str().unwrap_or("");
            (!acceptable(licence, &accepted)).then(|| format!("{}: '{licence}'", package["name"]))
        })
        .collect();
    assert_eq!(refused, Vec::<String>::new());
}

/// Whether an SPDX expression can be satisfied by `accepted` alone. `/` is an old way to write OR.
fn acceptable(expression: &str, accepted: &BTreeSet<&str>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let verdict = any_of(&mut words, accepted);
    verdict && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, accepted: &BTreeSet<&str>) -> bool {
    let mut verdict = all_of(words, accepted);
    while words.next_if_eq(&"OR").is_some() {
        verdict |= all_of(words, accepted);
    }
    verdict
}

fn all_of(words: &mut Words<'_>, accepted: &BTreeSet<&str>) -> bool {
    let mut verdict = one(words, accepted);
    while words.next_if_eq(&"AND").is_some() {
        verdict &= one(words, accepted);
    }
    verdict
}

fn one(words: &mut Words<'_>, accepted: &BTreeSet<&str>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let verdict = any_of(words, accepted);
        return verdict & words.next_if_eq(&")").is_some();
    }
    let Some(licence) = words.next() else { return false };
    if words.next_if_eq(&"WITH").is_some() {
        let exception = words.next().unwrap_or("");
        return accepted.contains(format!("{licence} WITH {exception}").as_str());
    }
    accepted.contains(licence)
}

#[test]
fn licence_expressions_are_understood() {
    let accepted = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    let rows = [
        ("MIT", true),
        ("", false),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("(GPL-3.0 OR MIT) AND GPL-2.0", false),
        ("MIT OR GPL-3.0 AND GPL-2.0", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("MIT ISC", false),
    ];
    for (expression, expected) in rows {
        assert_eq!(acceptable(expression, &accepted), expected, "{expression}");
    }
}

#[test]
fn scripts_can_be_run() {
    for script in [".ci/run", "ops/test", "ops/kafka/kafka", "ops/registry/registry"] {
        let path = root().join(script);
        let help = Command::new(&path).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.starts_with("usage: ops/"), "{script} --help: {help}");
    }
    assert!(!Path::new(&root()).join("Makefile").exists(), "ops/test is the one entry point");
}

/// With a Maven that fails after half of its work, and what a killed one left behind.
#[test]
fn a_fetch_that_ends_early_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (bin, kafka) = (directory.path().join("bin"), directory.path().join("kafka"));
    std::fs::create_dir_all(&bin).unwrap();
    std::fs::create_dir_all(kafka.join("jars-old.part.1")).unwrap();
    let version = read("ops/kafka/pom.xml");
    let (_, version) = version.split_once("<kafka.version>").unwrap();
    let (version, _) = version.split_once('<').unwrap();
    std::fs::create_dir_all(kafka.join(format!("jars-{version}.part.1"))).unwrap();
    let mvn = bin.join("mvn");
    let script = "#!/bin/sh\nfor one; do case $one in -DoutputDirectory=*) mkdir -p \"${one#*=}\";; esac; done\nexit 1\n";
    std::fs::write(&mvn, script).unwrap();
    std::fs::set_permissions(&mvn, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let fetched = Command::new(root().join("ops/kafka/kafka"))
        .arg("jars")
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", directory.path())
        .env_remove("POINTSMAN_KAFKA_JARS")
        .output()
        .unwrap();
    assert_eq!(fetched.status.code(), Some(1), "{fetched:?}");
    let mut left: Vec<_> = std::fs::read_dir(&kafka)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    // Of another version nothing is known: somebody may be at it.
    assert_eq!(left, [format!("jars-{version}.lock"), "jars-old.part.1".to_owned()]);
}

#[test]
fn rules_and_dashboards_ask_for_metrics_that_exist() {
    let mut sources = read("src/telemetry.rs");
    for name in names_in("src/telemetry") {
        sources.push_str(&read(&format!("src/telemetry/{name}.rs")));
    }
    let mut asked = read("ops/prometheus/rules.yml");
    for name in names_in("ops/grafana/dashboards") {
        asked.push_str(&read(&format!("ops/grafana/dashboards/{name}.json")));
    }
    assert_eq!(unknown_metrics(&asked, &sources), BTreeSet::new());
}

/// The metrics in `asked` whose name is no string of `sources`, where they stand without prefix and
/// without what the exposition format adds.
fn unknown_metrics<'a>(asked: &'a str, sources: &str) -> BTreeSet<&'a str> {
    let strings: BTreeSet<&str> = sources.split('"').collect();
    asked
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter_map(|word| word.strip_prefix("pointsman_"))
        .filter(|name| {
            let family = ["_bucket", "_sum", "_count", "_total"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name);
            !strings.contains(family)
        })
        .collect()
}

#[test]
fn metrics_that_do_not_exist_are_found() {
    let sources = "register(\"decisions\", \"Decisions\"); gauge(\"batch_seconds\")";
    let asked = "rate(pointsman_decisions_total[5m]) + pointsman_batch_seconds_bucket / pointsman_lag{x=\"y\"}";
    assert_eq!(unknown_metrics(asked, sources), BTreeSet::from(["lag"]));
}
