//! The demo with a broker of its own: what the README begins with, at a size that a test can wait for.

use std::io::{BufRead, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{Running, run};

fn demo(arguments: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command
        .args(["demo", "--tasks", "300", "--json"])
        .args(arguments)
        .env_clear()
        .env("HOME", "nowhere")
        .env("TMPDIR", directory)
        .stdin(Stdio::null());
    command
}

fn assert_clean(line: &str, kills: u32) {
    let summary: Value = serde_json::from_str(line).unwrap();
    let names = ["tasks", "decided", "dead_lettered", "lost", "duplicated", "oversubscribed"];
    let counts = names.map(|name| &summary[name]);
    assert_eq!(counts, [300, 300, 0, 0, 0, 0], "{line}");
    let more = ["unreserved", "undecided", "unreleased", "inconsistent", "unfinished"];
    assert_eq!(more.map(|name| &summary[name]), [0; 5], "{line}");
    assert_eq!((&summary["broker"], &summary["kills"]), (&json!("embedded"), &json!(kills)));
}

#[test]
fn the_demo_needs_nothing_and_leaves_nothing_though_its_router_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let output = demo(&["--kill-after", "1"], directory.path()).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert_clean(&out, 1);
    let (address, rest) = err.strip_prefix("broker: 127.0.0.1:").unwrap().split_once(',').unwrap();
    assert_eq!(rest, " the demo's own, in memory\n");
    assert!(TcpStream::connect(("127.0.0.1", address.parse().unwrap())).is_err());
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_broker_that_is_kept_can_be_looked_into_until_ctrl_c() {
    let directory = tempfile::tempdir().unwrap();
    let mut demo = Running::start(&mut demo(&["--keep"], directory.path()));
    let mut out = demo.out();
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_clean(&line, 0);

    // The advice ends with a command of ours: it has to work.
    let mut advice = demo.err().lines().map(Result::unwrap);
    let tap = advice.find(|line| line.starts_with("  pointsman tap ")).unwrap();
    let (code, tapped, problems) = run(&tap.split_whitespace().skip(1).collect::<Vec<_>>(), &[]);
    assert_eq!((code, tapped.lines().count()), (0, 3), "{problems}");

    assert_eq!(demo.end(Signal::INT), Some(0));
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}
