//! The instances of a round: processes of the built program, started again when they die.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, bail};
use pointsman::clock::Stopwatch;
use pointsman::failpoint;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, test_kill_process, waitid,
};

use crate::act::Number;

/// What a service manager would do with an instance that ended by itself.
const RESTARTED_AFTER: Duration = Duration::from_millis(500);
/// Exit codes that a restart helps against: see `src/cli/exit.rs`.
const PASSING: [i32; 2] = [69, 75];
const KILLED: i32 = 9;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Copies the program under test, so that a build meanwhile does not change what the rounds run.
pub fn keep_program(directory: &Path) -> anyhow::Result<()> {
    // Its own for each run; those of runs that have ended are removed.
    const PREFIX: &str = "pointsman-";
    for entry in std::fs::read_dir(directory)?.flatten() {
        let name = entry.file_name();
        let run = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if run.and_then(Pid::from_raw).is_some_and(|run| test_kill_process(run).is_err()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    let path = directory.join(format!("{PREFIX}{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_pointsman"), &path).context("the program is missing")?;
    PROGRAM.set(path).ok().context("the program is copied once")
}

fn program() -> Command {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_pointsman"));
    let mut command = Command::new(PROGRAM.get().cloned().unwrap_or_else(built));
    // A round's own configuration is the whole configuration.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POINTSMAN_") {
            command.env_remove(name);
        }
    }
    command
}

/// What became of the instances of a round.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Deaths {
    pub kills: u64,
    pub freezes: u64,
    /// Points at which an instance killed itself.
    pub fired: Vec<String>,
    /// Ended by itself, in a way that a restart helps against: what it said.
    pub gave_up: Vec<String>,
    /// What must not happen.
    pub findings: Vec<String>,
}

#[derive(Debug)]
struct Instance {
    config: PathBuf,
    log: PathBuf,
    name: String,
    child: Option<Child>,
    /// Whether it is to run.
    wanted: bool,
    /// What the running process has armed, and what the next one will.
    armed: String,
    next_armed: String,
    /// Asked to end, or killed from here.
    asked: bool,
    fired: usize,
    ended: Option<Stopwatch>,
}

/// All instances that have been started in a round, by number.
#[derive(Debug)]
pub struct Instances {
    directory: PathBuf,
    /// The configuration but for what differs between instances.
    configuration: String,
    all: Vec<Instance>,
    pub deaths: Deaths,
}

impl Instances {
    /// `configuration` holds `{instance}` and `{data}`.
    pub fn new(directory: &Path, configuration: String) -> Self {
        let directory = directory.to_owned();
        Instances { directory, configuration, all: Vec::new(), deaths: Deaths::default() }
    }

    /// What is started from now on is configured so.
    pub fn configure(&mut self, configuration: String) -> anyhow::Result<()> {
        self.configuration = configuration;
        for instance in &self.all {
            std::fs::write(&instance.config, self.text(&instance.name))?;
        }
        Ok(())
    }

    fn text(&self, name: &str) -> String {
        let data = self.directory.join(name).join("data").display().to_string();
        self.configuration.replace("{instance}", name).replace("{data}", &data)
    }

    /// What an instance has logged since its last start.
    pub fn log(&mut self, number: Number) -> anyhow::Result<String> {
        let log = std::fs::read_to_string(&self.of(number)?.log).unwrap_or_default();
        let last = log.rfind(" starting ").unwrap_or(0);
        Ok(log.get(last..).unwrap_or_default().to_owned())
    }

    /// Whether the newest assignment of an instance has a lane.
    pub fn runs_lane(&mut self, number: Number) -> anyhow::Result<bool> {
        let log = self.log(number)?;
        let newest = log.lines().rev().find(|line| line.contains(" assigned "));
        Ok(newest.is_some_and(|line| !line.contains("lanes=[]")))
    }

    /// The configuration of instance 0, for commands that look at the topics.
    pub fn config(&self) -> anyhow::Result<&Path> {
        Ok(&self.all.first().context("no instance has run")?.config)
    }

    pub fn join(&mut self, number: Number, armed: &str) -> anyhow::Result<()> {
        while self.all.len() <= number {
            let name = format!("i{}", self.all.len());
            let directory = self.directory.join(&name);
            std::fs::create_dir_all(&directory)?;
            let config = directory.join("pointsman.toml");
            std::fs::write(&config, self.text(&name))?;
            self.all.push(Instance {
                config,
                log: directory.join("router.log"),
                name,
                child: None,
                wanted: false,
                armed: String::new(),
                next_armed: String::new(),
                asked: false,
                fired: 0,
                ended: None,
            });
        }
        let instance = self.of(number)?;
        instance.wanted = true;
        instance.next_armed = armed.to_owned();
        instance.start()
    }

    fn of(&mut self, number: Number) -> anyhow::Result<&mut Instance> {
        self.all.get_mut(number).with_context(|| format!("there is no instance {number}"))
    }

    /// SIGKILL; it is started again at the next look where it `comes_back`.
    pub fn kill(&mut self, number: Number, comes_back: bool, armed: &str) -> anyhow::Result<()> {
        let instance = self.of(number)?;
        instance.wanted = comes_back;
        instance.next_armed = armed.to_owned();
        instance.asked = true;
        instance.signal(Signal::KILL)?;
        // A process that stands still dies all the same.
        self.deaths.kills += 1;
        Ok(())
    }

    /// SIGTERM.
    pub fn end(&mut self, number: Number, comes_back: bool) -> anyhow::Result<()> {
        let instance = self.of(number)?;
        instance.wanted = comes_back;
        instance.asked = true;
        instance.signal(Signal::TERM)
    }

    pub fn freeze(&mut self, number: Number) -> anyhow::Result<()> {
        self.deaths.freezes += 1;
        self.of(number)?.signal(Signal::STOP)
    }

    pub fn thaw(&mut self, number: Number) -> anyhow::Result<()> {
        self.of(number)?.signal(Signal::CONT)
    }

    /// SIGCONT to whoever stands still; how many did.
    pub fn thaw_all(&mut self) -> anyhow::Result<u64> {
        let mut thawed = 0;
        for number in 0..self.all.len() {
            if self.is_frozen(number)? {
                self.thaw(number)?;
                thawed += 1;
            }
        }
        Ok(thawed)
    }

    /// How often it has killed itself.
    pub fn fired(&mut self, number: Number) -> anyhow::Result<usize> {
        Ok(self.of(number)?.fired)
    }

    /// Whether it stands still.
    pub fn is_frozen(&mut self, number: Number) -> anyhow::Result<bool> {
        let Some(pid) = self.of(number)?.pid() else { return Ok(false) };
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        // An error: it is gone.
        let status = waitid(WaitId::Pid(pid), options).ok().flatten();
        Ok(status.is_some_and(|status| status.stopped()))
    }

    /// Looks after all of them: who died is started again, where it is wanted.
    pub fn look(&mut self) -> anyhow::Result<()> {
        for instance in &mut self.all {
            instance.look(&mut self.deaths)?;
        }
        Ok(())
    }

    /// Asks all to end, and whether all have.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        for number in 0..self.all.len() {
            self.end(number, false)?;
        }
        Ok(())
    }

    pub fn are_gone(&mut self) -> anyhow::Result<bool> {
        self.look()?;
        Ok(self.all.iter().all(|instance| instance.child.is_none()))
    }

    /// What the logs say that somebody who reads about a round should know.
    pub fn remarkable(&self) -> Vec<String> {
        const WORDS: [&str; 3] = ["panicked", "is stopped", "is damaged"];
        const LINES_MAX: usize = 5;
        let mut found = Vec::new();
        for instance in &self.all {
            let log = std::fs::read_to_string(&instance.log).unwrap_or_default();
            let lines = log.lines().filter(|line| WORDS.iter().any(|word| line.contains(word)));
            found.extend(lines.take(LINES_MAX).map(|line| format!("{}: {line}", instance.name)));
        }
        found
    }
}

impl Instance {
    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.as_ref()?.id()).ok()?)
    }

    fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        // A child that has not been waited for keeps its number: nobody else is meant.
        let Some(pid) = self.pid() else { return Ok(()) };
        kill_process(pid, signal).with_context(|| format!("{} cannot be signalled", self.name))
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        self.armed = std::mem::take(&mut self.next_armed);
        self.asked = false;
        let mut command = program();
        command.arg("run").arg("--config").arg(&self.config);
        command.env(failpoint::VARIABLE, &self.armed);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().context("the router cannot be started")?);
        Ok(())
    }

    fn look(&mut self, deaths: &mut Deaths) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child {
            let Some(status) = child.try_wait()? else { return Ok(()) };
            self.child = None;
            self.ended = None;
            let armed = self.armed.split(',').find(|part| part.ends_with("=kill"));
            match (status.code(), status.signal()) {
                (Some(0), _) if self.asked => {}
                (_, Some(KILLED)) if self.asked && armed.is_none() => {}
                (_, Some(KILLED)) if armed.is_some() && self.has_fired() => {
                    self.fired += 1;
                    let point = armed.and_then(|armed| armed.split(['@', '=']).next());
                    deaths.fired.extend(point.map(str::to_owned));
                }
                (_, Some(KILLED)) if self.asked => {}
                (Some(code), _) if PASSING.contains(&code) => {
                    let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                    let last = log.lines().last().unwrap_or_default();
                    deaths.gave_up.push(format!("{} ended with {code}: {last}", self.name));
                    self.ended = Some(Stopwatch::start());
                }
                _ => {
                    deaths.findings.push(format!("{} ended with {status}", self.name));
                    self.ended = Some(Stopwatch::start());
                }
            }
        }
        let rested = self.ended.is_none_or(|ended| ended.remaining(RESTARTED_AFTER).is_zero());
        if self.wanted && rested {
            self.start()?;
        }
        Ok(())
    }

    /// Whether its log says that it has killed itself once more.
    fn has_fired(&self) -> bool {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let is_fired = |line: &&str| line.starts_with("fail point ") && line.ends_with(": Kill");
        log.lines().filter(is_fired).count() > self.fired
    }
}

impl Drop for Instances {
    /// A round that ends early must not leave anything behind.
    fn drop(&mut self) {
        for child in self.all.iter_mut().filter_map(|instance| instance.child.as_mut()) {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Runs a command to its end; what it printed, where it ended well.
pub fn output(config: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = program();
    command.arg("--config").arg(config).args(arguments).stdin(Stdio::null());
    let ran = command.output().context("the program cannot be run")?;
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    if !ran.status.success() {
        let error = String::from_utf8_lossy(&ran.stderr);
        bail!("{arguments:?} ended with {}: {}{}", ran.status, text.trim_end(), error.trim_end());
    }
    Ok(text)
}
