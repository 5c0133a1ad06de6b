//! The real router, as a child process of the demo: `run` of this same binary.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::topics::DemoTopics;
use crate::clock::Stopwatch;

/// A worker must start this soon after the decision, so that windows of 10 s stay 10 s.
const START_WITHIN_MS: i64 = 200;
/// The shortest lease: real time, for an answer that never comes without any health event.
const LEASE_MS_MIN: i64 = 10_000;
/// The router promises to end within 10 s of SIGTERM.
const STOP_WAIT: Duration = Duration::from_secs(12);
/// Lines of the router's log that a failure shows.
const LOG_LINES_MAX: usize = 40;
/// Bytes of the end of the log that are looked at for those lines.
const LOG_BYTES_MAX: usize = 16_384;
/// An endpoint on loopback answers at once, or not at all.
const HTTP_WAIT: Duration = Duration::from_secs(2);

/// The child process and the files that belong to it.
#[derive(Debug)]
pub struct Router {
    directory: PathBuf,
    http: SocketAddr,
    child: Child,
}

impl Router {
    /// Writes the configuration below `directory` and starts the router.
    pub fn start(
        directory: &Path,
        brokers: &str,
        properties: &[(String, String)],
        topics: &DemoTopics,
        run_id: &str,
    ) -> anyhow::Result<Self> {
        let http = free_address()?;
        let config = configuration(directory, brokers, properties, topics, run_id, http);
        let path = directory.join("pointsman.toml");
        fs::write(&path, toml::to_string(&config)?)
            .with_context(|| format!("{} cannot be written", path.display()))?;
        let child = spawn(directory)?;
        Ok(Router { directory: directory.to_owned(), http, child })
    }

    /// Starts it again under the same instance id, after it ended or was killed.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.directory)?;
        Ok(())
    }

    /// SIGKILL: it has no chance to finish anything.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("the router cannot be killed")?;
        self.child.wait().context("the router cannot be waited for")?;
        Ok(())
    }

    /// SIGTERM, and SIGKILL where it does not end; an error where it did not end well.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.ended()? {
            bail!("the router had ended by itself with {status}");
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("the router has no process id")?;
        kill_process(pid, Signal::TERM).context("the router cannot be asked to stop")?;
        let asked = Stopwatch::start();
        while asked.elapsed() < STOP_WAIT {
            if let Some(status) = self.ended()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the router ended with {status} when it was asked to stop");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill()?;
        bail!("the router did not stop within {} s of SIGTERM", STOP_WAIT.as_secs())
    }

    /// How it ended, where it did.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("the router cannot be looked after")
    }

    /// Whether it says that it serves its lanes.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok()
    }

    /// Its metrics in Prometheus' text format, where they can be had.
    pub fn metrics(&self) -> anyhow::Result<String> {
        self.get("/metrics")
    }

    fn get(&self, path: &str) -> anyhow::Result<String> {
        let agent = ureq::Agent::config_builder().timeout_global(Some(HTTP_WAIT)).build();
        let agent = ureq::Agent::from(agent);
        let mut response = agent.get(format!("http://{}{path}", self.http)).call()?;
        Ok(response.body_mut().read_to_string()?)
    }

    /// The last lines of what it logged.
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.directory.join("router.log")).unwrap_or_default();
        let end = &log[log.len().saturating_sub(LOG_BYTES_MAX)..];
        let text = String::from_utf8_lossy(end);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_MAX)..].join("\n")
    }
}

impl Drop for Router {
    /// A demo that ends early must not leave a router behind.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.kill());
        }
    }
}

/// The consumer group, instance id and prefix of the transactional ids of a run.
pub fn group_id(run_id: &str) -> String {
    format!("pointsman-{run_id}")
}

fn spawn(directory: &Path) -> anyhow::Result<Child> {
    let log = directory.join("router.log");
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("{} cannot be written", log.display()))?;
    let program = std::env::current_exe().context("the path of this program is unknown")?;
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(directory.join("pointsman.toml"));
    // The demo's own configuration is the whole configuration.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POINTSMAN__") {
            command.env_remove(name);
        }
    }
    // A process group of its own: Ctrl-C goes to the demo, which stops the router in order.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().context("the router cannot be started")
}

/// A port that is free now; the router takes it a moment later.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}

fn configuration(
    directory: &Path,
    brokers: &str,
    properties: &[(String, String)],
    topics: &DemoTopics,
    run_id: &str,
    http: SocketAddr,
) -> toml::Table {
    let table = |entries: Vec<(&str, toml::Value)>| -> toml::Table {
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    };
    let properties: toml::Table = properties
        .iter()
        .map(|(name, value)| (name.clone(), toml::Value::from(value.as_str())))
        .collect();
    let data_directory = directory.join("data").display().to_string();
    let kafka = table(vec![
        ("brokers", brokers.into()),
        ("group_id", group_id(run_id).into()),
        ("instance_id", run_id.into()),
        ("data_directory", data_directory.into()),
        ("properties", properties.into()),
    ]);
    let routing = table(vec![
        ("start_within_ms", START_WITHIN_MS.into()),
        ("lease_ms_min", LEASE_MS_MIN.into()),
    ]);
    table(vec![
        ("kafka", kafka.into()),
        ("topics", topics.section().into()),
        ("worker", table(vec![("workers", topics.lanes.into())]).into()),
        ("routing", routing.into()),
        ("http", table(vec![("address", http.to_string().into())]).into()),
        ("log", table(vec![("format", "text".into())]).into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Topic;

    #[test]
    fn the_router_accepts_the_configuration() {
        let topics = DemoTopics::new("demo-x-", 2);
        let properties = [("security.protocol".to_owned(), "plaintext".to_owned())];
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, 1234));
        let directory = tempfile::tempdir().unwrap();
        let config =
            configuration(directory.path(), "localhost:1", &properties, &topics, "x", http);
        let path = directory.path().join("pointsman.toml");
        fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let loaded = crate::config::load(Some(&path), std::iter::empty()).unwrap().config;
        for topic in Topic::ALL {
            assert_eq!(loaded.topics.name(topic), format!("demo-x-{}", topic.default_name()));
        }
        assert_eq!(loaded.kafka.brokers, "localhost:1");
        assert_eq!(
            (loaded.kafka.group_id.as_str(), loaded.kafka.instance_id.as_str()),
            ("pointsman-x", "x")
        );
        assert_eq!(loaded.kafka.properties["security.protocol"].expose(), "plaintext");
        assert_eq!((loaded.worker.workers, loaded.http.address), (2, http));
        assert_eq!((loaded.routing.start_within_ms, loaded.routing.lease_ms_min), (200, 10_000));
    }
}
