//! What the components have in common: a script that starts them, a directory of their own, and a
//! guard that ends them however the test process ends.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) fn project_directory() -> PathBuf {
    // As cargo says now, of whichever package is tested, not as it was when this was compiled: checkouts
    // may share a target directory.
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package)
        .ancestors()
        .find(|directory| directory.join("ops/kafka/kafka").is_file())
        .expect("the tests run inside the project")
        .to_path_buf()
}

pub(crate) fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| project_directory().join("target"), PathBuf::from)
}

/// A started component. Dropping it ends the component and removes its directory; so does the end of
/// this process, be it by return, panic, SIGKILL or Ctrl-C: the guard waits for its standard input,
/// a pipe whose other end only this process holds, to close.
#[derive(Debug)]
pub(crate) struct Component {
    script: PathBuf,
    directory: PathBuf,
    guard: Child,
}

impl Component {
    /// The guard of a component that `script` (relative to the project) will start in a fresh directory.
    pub(crate) fn new(script: &str) -> Self {
        let script = project_directory().join(script);
        // The guard removes it, so it is not left to a TempDir, which a static never drops.
        let directory = tempfile::Builder::new()
            .prefix("pointsman-")
            .tempdir()
            .expect("a temporary directory can be made")
            .keep();
        // The guard comes first: whatever happens during the start, it cleans up.
        let guard = Command::new(&script)
            .arg("guard")
            .arg("--dir")
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be run: {error}", script.display()));
        Component { script, directory, guard }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs `script command --dir <directory> arguments…` and returns what it printed.
    ///
    /// # Panics
    /// Where it fails, with the line that it left on standard error.
    pub(crate) fn run(
        &self,
        command: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> String {
        let output = Command::new(&self.script)
            .arg(command)
            .arg("--dir")
            .arg(&self.directory)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{} cannot be run: {error}", self.script.display()));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim_end());
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // An error here means that the guard is gone already, and a panic in drop would hide the test's.
        if let Err(error) = self.guard.wait() {
            eprintln!("the guard of {} could not be awaited: {error}", self.directory.display());
        }
    }
}
