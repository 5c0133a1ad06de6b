//! The program as a user runs it: exit codes, and what goes to stdout and stderr. No Kafka here.
#![expect(clippy::unwrap_used, reason = "what cannot be run must fail the test")]

mod backtest;
mod demo;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Exit code, stdout, stderr.
fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(arguments)
        .env_clear()
        .env("HOME", "nowhere")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A program that goes on until it is asked to end, and does not outlive its test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn out(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.0.stdout.take().unwrap())
    }

    fn err(&mut self) -> BufReader<ChildStderr> {
        BufReader::new(self.0.stderr.take().unwrap())
    }

    /// The exit code after this signal.
    fn end(mut self, signal: Signal) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Has ended, where all went well.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A port where nobody listens: bound once, and given back.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn help_and_version_are_data() {
    for arguments in [&["--help"][..], &["-h"], &["help", "run"], &["fleet", "apply", "--help"]] {
        let (code, out, err) = run(arguments, &[]);
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        assert!(out.contains("Usage: pointsman"), "{out}");
    }
    let version = format!("pointsman {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"], &[]), (0, version, String::new()));
}

#[test]
fn wrong_usage_is_2() {
    for arguments in [&["nonsense"][..], &["tap", "nonsense", "x"], &["run", "--workers", "1"], &[]]
    {
        let (code, out, err) = run(arguments, &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.contains("Usage: pointsman"), "{err}");
    }
}

#[test]
fn a_wrong_configuration_is_78_and_names_everything() {
    let variables =
        [("POINTSMAN__WORKER__WORKERS", "0"), ("POINTSMAN__KAFKA__PROPERTIES__ACKS", "1")];
    let expected = "\
error: the configuration is not valid, 2 errors:
  kafka.properties.acks: not to be set: exactly once needs the acknowledgement of all replicas (environment POINTSMAN__KAFKA__PROPERTIES__ACKS)
  worker.workers: 0 is not allowed; an integer from 1 to 64 (environment POINTSMAN__WORKER__WORKERS)
";
    for verb in [&["run"][..], &["config", "show"], &["topics", "plan"], &["fleet", "show"]] {
        assert_eq!(run(verb, &variables), (78, String::new(), expected.to_owned()), "{verb:?}");
    }
    let (code, out, err) = run(&["check", "--offline"], &variables);
    assert_eq!((code, err.as_str()), (78, ""));
    assert!(out.ends_with("0 ok, 0 warnings, 2 failures\n"), "{out}");
}

#[test]
fn a_broker_that_does_not_answer_is_69() {
    let address = free_address();
    let variables = [("POINTSMAN__KAFKA__BROKERS", address.as_str()), ("POINTSMAN_TIMEOUT", "1")];
    for verb in [
        &["topics", "plan"][..],
        &["topics", "apply"],
        &["fleet", "show"],
        &["tap"],
        &["drain", "resource:a", "--reason", "r"],
    ] {
        let (code, out, err) = run(verb, &variables);
        assert_eq!((code, out.as_str()), (69, ""), "{verb:?}: {err}");
        let expected = format!("error: no answer from {address} within 1 s: ");
        assert!(err.starts_with(&expected) && err.contains("Connection refused"), "{err}");
    }
    let (code, out, _) = run(&["check"], &variables);
    assert_eq!(code, 69);
    assert!(out.contains("fix: start Kafka, or correct kafka.brokers"), "{out}");
}

#[test]
fn the_broker_says_where_it_is_and_ends_when_it_is_asked() {
    let development = "for development only: nothing is kept on disk, and beyond 64 MiB in memory \
                       the oldest records go\n";
    for (signal, json) in [(Signal::TERM, true), (Signal::INT, false)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
        command
            .args(["broker", "--port", "0", "--memory", "64MiB"])
            .args(json.then_some("--json"))
            .env_clear()
            .stdin(Stdio::null());
        let mut broker = Running::start(&mut command);
        let mut line = String::new();
        broker.out().read_line(&mut line).unwrap();
        let address = if json {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["memory_bytes"], 64 << 20);
            line["bootstrap_servers"].as_str().unwrap().to_owned()
        } else {
            line.trim_end().to_owned()
        };
        drop(TcpStream::connect(&address).unwrap());
        let port = address.rsplit_once(':').unwrap().1;
        let (code, out, err) = run(&["broker", "--port", port], &[]);
        assert_eq!((code, out.as_str()), (1, ""));
        let expected = format!("error: {address} cannot be served; --port 0 takes a free port: ");
        assert!(err.starts_with(&expected) && err.contains("in use"), "{err}");

        let mut err = broker.err();
        assert_eq!(broker.end(signal), Some(0));
        let mut text = String::new();
        err.read_to_string(&mut text).unwrap();
        assert_eq!(text, development);
    }
}

#[test]
fn a_broker_cannot_be_everywhere_or_have_no_memory() {
    for (arguments, why) in [
        (["broker", "--host", "0.0.0.0"], "one IP address of this host, such as 127.0.0.1"),
        (["broker", "--memory", "1MiB"], "32 MiB or more, such as 256MiB or 2GiB"),
        (["broker", "--port", "65536"], "65536 is not in 0..=65535"),
    ] {
        let (code, out, err) = run(&arguments, &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.contains(why), "{err}");
    }
}

#[test]
fn check_offline_needs_no_network() {
    let (code, out, err) = run(&["check", "--offline"], &[]);
    let expected = "config   ✓ valid; 0 settings given\n1 ok, 0 warnings, 0 failures\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""));
    let (code, out, _) = run(&["check", "--offline", "--json"], &[]);
    assert_eq!(code, 0);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["failures"], 0);
}

#[test]
fn secrets_are_not_in_any_output() {
    let variables = [
        ("POINTSMAN__HTTP__TOKEN", "geheim"),
        ("POINTSMAN__KAFKA__PROPERTIES__SASL_PASSWORD", "geheim"),
        ("POINTSMAN__KAFKA__PROPERTIES__SASL_USERNAME", "geheim"),
    ];
    for verb in
        [&["config", "show"][..], &["config", "show", "-o", "json"], &["check", "--offline"]]
    {
        let (code, out, err) = run(verb, &variables);
        assert_eq!(code, 0, "{err}");
        assert!(!out.contains("geheim") && !err.contains("geheim"), "{out}{err}");
    }
    let shown = run(&["config", "show"], &variables).1;
    assert!(shown.contains("[redacted]"), "{shown}");
}

#[test]
fn colour_is_used_when_it_is_asked_for() {
    let red = "\u{1b}[31";
    let always = run(&["tap", "nonsense", "--color", "always"], &[("POINTSMAN_TIMEOUT", "1")]).2;
    assert!(always.contains(red), "{always:?}");
    let never = run(&["tap", "nonsense"], &[("POINTSMAN_TIMEOUT", "1")]).2;
    assert!(!never.contains('\u{1b}'), "{never:?}");
}

#[test]
fn completions_name_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, err) = run(&["completions", shell], &[]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains("fleet") && out.contains("submit"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["config", "reference"])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before the program writes, or while it does: neither is its failure.
    let mut line = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

#[test]
fn the_reference_in_the_documentation_is_the_programs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/config.md");
    let (code, out, _) = run(&["config", "reference"], &[]);
    assert_eq!(code, 0);
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        out == committed,
        "made anew by: pointsman config reference > docs/reference/config.md"
    );
}
