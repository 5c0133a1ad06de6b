//! The modelled Kafka, as a process of its own: the `pointsman broker` that cargo built for the tests.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// The broker and its guard. The guard ends the broker when its standard input closes, however this
/// process ends.
#[derive(Debug)]
pub struct Model {
    guard: Child,
}

impl Model {
    /// Starts it on a free port, and returns its address as well.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn start() -> (Self, String) {
        // target/debug/deps/<test> stands beside target/debug/pointsman, which cargo builds for every
        // integration test of the package.
        let test = std::env::current_exe().expect("a test knows its own path");
        let program = test.ancestors().nth(2).expect("it lies below target").join("pointsman");
        assert!(program.is_file(), "no {}: cargo build", program.display());
        let mut guard = Command::new("sh")
            .args(["-c", r#""$0" broker --port 0 & cat >/dev/null; kill $!"#])
            .arg(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("sh cannot be run: {error}"));
        let lines = BufReader::new(guard.stdout.take().expect("it was just piped"));
        let bootstrap = lines
            .lines()
            .map_while(Result::ok)
            .next()
            .unwrap_or_else(|| panic!("{} broker ended without an address", program.display()));
        (Model { guard }, bootstrap)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // An error here means that the guard is gone already, and a panic in drop would hide the test's.
        if let Err(error) = self.guard.wait() {
            eprintln!("the guard of the modelled Kafka could not be awaited: {error}");
        }
    }
}
