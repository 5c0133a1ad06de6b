//! One installation: topics, a configuration file and the program that it is given to.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use pointsman::model::Topic;
use rdkafka::ClientConfig;
use serde_json::Value;
use tempfile::TempDir;
use testbed::{Broker, eventually, unique, until};

/// For everything that takes a moment, on a machine that is busy with other tests.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a command printed, and its exit code.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs the program without a terminal and without any setting from outside.
pub fn pointsman(arguments: &[&str], input: Stdio) -> Ran {
    let output = command().args(arguments).stdin(input).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pointsman"));
    command.env_clear().env("HOME", "nowhere");
    command
}

pub struct Site {
    /// Before each topic's default name.
    pub prefix: String,
    pub brokers: String,
    directory: TempDir,
}

impl Site {
    /// On the shared broker, with all topics and JSON as the output.
    pub fn new() -> Self {
        let site = Site::bare("[output]\nformat = \"json\"\n");
        site.make_topics();
        site
    }

    /// On the shared broker, without any topic; `settings` are further sections of its file.
    pub fn bare(settings: &str) -> Self {
        Site::on(Broker::shared().bootstrap(), settings)
    }

    pub fn on(brokers: &str, settings: &str) -> Self {
        let prefix = format!("{}.", unique("e"));
        let site =
            Site { prefix, brokers: brokers.to_owned(), directory: tempfile::tempdir().unwrap() };
        let topics: String = Topic::ALL
            .iter()
            .map(|topic| {
                let key = topic.default_name().replace(['-', '.'], "_");
                format!("{key} = \"{}\"\n", site.name(*topic))
            })
            .collect();
        let data = site.path("data");
        let text = format!(
            "[kafka]\nbrokers = \"{brokers}\"\ngroup_id = \"{}group\"\ninstance_id = \"one\"\n\
             data_directory = \"{}\"\n\n[topics]\n{topics}\n[http]\naddress = \"127.0.0.1:0\"\n\n\
             [worker]\nsession_timeout_ms = 6000\ntransaction_timeout_ms = 4000\n\n{settings}",
            site.prefix,
            data.display()
        );
        site.write("pointsman.toml", &text);
        site
    }

    pub fn make_topics(&self) {
        // One lane: what a test asks of is then in one place.
        let ran = self.does(&["topics", "apply", "--partitions", "1"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    pub fn name(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.default_name())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Runs the program with this configuration.
    pub fn does(&self, arguments: &[&str]) -> Ran {
        let config = self.path("pointsman.toml");
        pointsman(&[&["--config", config.to_str().unwrap()], arguments].concat(), Stdio::null())
    }

    /// As [`Site::does`], with what it printed parsed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.does(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    /// Publishes a fleet.
    pub fn apply_fleet(&self, toml: &str) {
        let file = self.write("fleet.toml", toml);
        let ran = self.does(&["fleet", "apply", "-f", &file, "--yes"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// Without the prefix, which differs from run to run.
    pub fn plain(&self, text: &str) -> String {
        text.replace(&self.prefix, "").replace(&self.brokers, "BROKERS")
    }

    /// A client of the site's brokers that needs no credentials.
    pub fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers);
        client
    }

    /// Starts `run`.
    pub fn start(&self) -> Router {
        Router::start(&self.path("pointsman.toml"), &self.path("log"))
    }

    /// Starts `run`, and waits until it serves its lanes.
    pub fn start_ready(&self) -> Router {
        let mut router = self.start();
        router.await_ready();
        router
    }

    /// Everything that is committed in a topic now, as `tap` prints it.
    pub fn tap(&self, topic: &str) -> Vec<Value> {
        let ran = self.does(&["tap", topic, "--from-beginning", "--no-follow"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until so many records are committed in a topic, and returns all of them.
    pub fn await_records(&self, topic: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} records in {topic}"), LIMIT, || {
            let records = self.tap(topic);
            (records.len() >= count).then_some(records)
        })
    }
}

/// A fleet of one resource with room for everything.
pub const ROOMY: &str = r#"
[[resource]]
id = "gpt-eu"
model = "gpt-5.4"
provider = "openai"
region = "eu"
usd_per_million_tokens = { input = 2.5, output = 15.0 }
context_window = 128000
max_output_tokens = 16384
slots = 100000
quality = { default = 0.8 }
"#;

/// Of the router's log where a test fails.
const LOG_LINES_SHOWN: usize = 30;

/// `pointsman run` as a process; killed where the test ends first.
pub struct Router {
    child: Child,
    log: PathBuf,
}

impl Router {
    fn start(config: &Path, log: &Path) -> Self {
        let file = File::create(log).unwrap();
        let child = command()
            .arg("--config")
            .arg(config)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Router { child, log: log.to_owned() }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn await_ready(&mut self) {
        until("the router is ready", LIMIT, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the router ended with {status}:\n{}", self.log());
            }
            self.get("/readyz").is_some()
        });
    }

    /// The address of its endpoints, once it is logged.
    fn address(&self) -> Option<SocketAddr> {
        self.log().lines().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["http"].as_str()?.parse().ok()
        })
    }

    /// The body of a good answer.
    pub fn get(&self, path: &str) -> Option<String> {
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2)));
        let agent = ureq::Agent::from(agent.build());
        let mut response = agent.get(format!("http://{}{path}", self.address()?)).call().ok()?;
        let mut text = String::new();
        response.body_mut().as_reader().read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The samples of a metric, sorted: name and labels, and the value.
    pub fn samples(&self, name: &str) -> Vec<String> {
        let exposition = self.get("/metrics").unwrap();
        let mut found: Vec<String> =
            exposition.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect();
        found.sort();
        found
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub fn stop(self) -> ExitStatus {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        self.await_end(Duration::from_secs(10))
    }

    /// SIGTERM as soon as it can be had, before its lanes are.
    pub fn await_stop_after_start(self) -> ExitStatus {
        until("the router logs", LIMIT, || self.address().is_some());
        self.stop()
    }

    pub fn await_end(mut self, limit: Duration) -> ExitStatus {
        eventually("the router's end", limit, || self.child.try_wait().unwrap())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
            println!("the router's log ends with:\n{}", lines[from..].join("\n"));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
