//! What a script does and writes down.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use kafka_protocol::messages::{
    CreateTopicsRequest, FetchRequest, FetchResponse, FindCoordinatorRequest, ListOffsetsRequest,
    ProduceRequest,
};
use kafka_protocol::protocol::Request;
use testbed::{Broker, eventually, unique};

use crate::ask;
use crate::raw::Raw;
use crate::shown::Shown;

pub const LIMIT: Duration = Duration::from_secs(60);

/// What passes by itself, and every client asks again for. NotEnoughReplicas is how Kafka tells producers of
/// the rest, where it has to ask the transaction's coordinator about a batch.
const PASSING: [&str; 6] = [
    "CoordinatorLoadInProgress",
    "CoordinatorNotAvailable",
    "NotCoordinator",
    "ConcurrentTransactions",
    "NotLeaderOrFollower",
    "NotEnoughReplicas",
];

/// A script at work: a connection, and the transcript so far.
pub struct Script {
    pub bootstrap: String,
    raw: Option<Raw>,
    lines: Vec<String>,
    shown: Shown,
}

impl Script {
    /// Runs a script, and compares what it wrote down with Apache Kafka's transcript of that name.
    pub fn run(name: &str, script: impl FnOnce(&mut Script)) {
        let bootstrap = Broker::shared().bootstrap().to_owned();
        let mut run = Script {
            raw: Some(Raw::connect(&bootstrap)),
            bootstrap,
            lines: Vec::new(),
            shown: Shown::default(),
        };
        // Kafka makes its coordinators' topics when somebody looks for them first.
        for kind in [0, 1] {
            let request =
                FindCoordinatorRequest::default().with_key(ask::text("any")).with_key_type(kind);
            run.answer(2, &request);
        }
        script(&mut run);
        compare(name, &run.lines);
    }

    /// A name that nobody else uses; the transcript shows it as `stem`.
    pub fn name(&mut self, stem: &str) -> String {
        let name = unique(stem);
        self.shown.name(&name, stem);
        name
    }

    /// Shows `name`, which is made of one that nobody else uses, as `stem`.
    pub fn also(&mut self, name: &str, stem: &str) {
        self.shown.name(name, stem);
    }

    pub fn connect(&self) -> Raw {
        Raw::connect(&self.bootstrap)
    }

    /// Creates a topic that keeps what it has, and waits until it serves.
    pub fn topic(&mut self, stem: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
        let name = self.name(stem);
        let is_given = settings.iter().any(|(key, _)| *key == "segment.ms");
        // What scripts write is old: its age must neither end a segment nor the records.
        let keep = [("retention.ms", "-1"), ("segment.ms", "1000000000000")];
        let settings = [settings, &keep[..if is_given { 1 } else { 2 }]].concat();
        let request: CreateTopicsRequest =
            ask::create(vec![ask::topic(&name, partitions, &settings)]);
        let answer = self.answer(4, &request);
        assert_eq!(answer.topics[0].error_code, 0, "{answer:?}");
        for partition in 0..partitions {
            self.until_led(&name, partition);
        }
        name
    }

    /// A broker learns of what its controller decides a moment later.
    pub fn until_led(&mut self, topic: &str, partition: i32) {
        self.until_end(topic, partition, ask::READ_UNCOMMITTED, 0);
    }

    /// Waits until readers of that level may read up to `offset`.
    pub fn until_end(&mut self, topic: &str, partition: i32, isolation: i8, offset: i64) {
        let request: ListOffsetsRequest = ask::list_offsets(topic, partition, -1, isolation);
        eventually("the end of a partition", LIMIT, || {
            let answer = self.raw().ask(7, &request);
            let found = &answer.topics[0].partitions[0];
            (found.error_code == 0 && found.offset == offset).then_some(())
        });
    }

    pub fn say(&mut self, line: impl AsRef<str>) {
        let line = self.shown.text(line.as_ref());
        self.lines.push(line);
    }

    /// Asks, writes the answer down, and returns it.
    pub fn ask<R>(&mut self, what: &str, version: i16, request: &R) -> R::Response
    where
        R: Request,
        R::Response: Debug,
    {
        let answer = self.answer(version, request);
        self.write(what, &answer);
        answer
    }

    /// As [`Script::ask`], on another connection.
    pub fn ask_on<R>(&mut self, raw: &mut Raw, what: &str, version: i16, request: &R) -> R::Response
    where
        R: Request,
        R::Response: Debug,
    {
        let answer = patiently(raw, version, request);
        self.write(what, &answer);
        answer
    }

    /// The answer to what was sent on `raw` before.
    pub fn receive<R>(&mut self, raw: &mut Raw, what: &str, version: i16) -> R::Response
    where
        R: Request,
        R::Response: Debug,
    {
        let answer = raw.receive::<R>(version);
        self.write(what, &answer);
        answer
    }

    /// Asks without writing anything down.
    pub fn answer<R>(&mut self, version: i16, request: &R) -> R::Response
    where
        R: Request,
        R::Response: Debug,
    {
        patiently(self.raw(), version, request)
    }

    pub fn write(&mut self, what: &str, answer: &impl Debug) {
        let (what, answer) = (self.shown.text(what), self.shown.answer(&format!("{answer:?}")));
        self.lines.push(format!("{what}: {answer}"));
    }

    pub fn produce(&mut self, what: &str, request: &ProduceRequest) {
        self.ask(what, 8, request);
    }

    /// Fetches, and writes the records down one a line.
    pub fn fetch(&mut self, what: &str, request: &FetchRequest) {
        let mut answer: FetchResponse = self.answer(12, request);
        let mut records = Vec::new();
        for partition in answer.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
            records.extend(partition.records.take());
            // How far it goes beyond what the reader may see is a matter of Kafka's index.
            let end = partition.last_stable_offset;
            if let Some(aborted) = &mut partition.aborted_transactions {
                aborted.retain(|of| of.first_offset < end);
            }
        }
        self.write(what, &answer);
        for bytes in records {
            let batches = self.shown.batches(&bytes);
            self.lines.extend(batches.into_iter().map(|batch| format!("  {batch}")));
        }
    }

    fn raw(&mut self) -> &mut Raw {
        self.raw.as_mut().expect("it is there until the end")
    }
}

fn patiently<R>(raw: &mut Raw, version: i16, request: &R) -> R::Response
where
    R: Request,
    R::Response: Debug,
{
    eventually("an answer that stays", LIMIT, || {
        let answer = raw.ask(version, request);
        let text = Shown::default().answer(&format!("{answer:?}"));
        (!PASSING.iter().any(|passing| text.contains(passing))).then_some(answer)
    })
}

impl Drop for Script {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("so far:\n{}", self.lines.join("\n"));
        }
    }
}

/// Where `name` stands in what was asked: Kafka answers in the order of a hash table, by names that differ
/// from run to run.
pub fn place(asked: &[&str], name: &str) -> usize {
    asked.iter().position(|of| *of == name).unwrap_or(asked.len())
}

/// # Panics
/// Where `lines` are not Apache Kafka's transcript, with what differs.
fn compare(name: &str, lines: &[String]) {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let path = PathBuf::from(package).join(format!("tests/differential/transcripts/{name}.txt"));
    if std::env::var_os("POINTSMAN_TEST_RECORD").is_some() {
        assert!(!Broker::shared().is_model(), "only Apache Kafka's answers are recorded");
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        return;
    }
    let recorded = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("no transcript {}: {error}", path.display()));
    let recorded: Vec<&str> = recorded.lines().collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert!(recorded == lines, "{name}: - Apache Kafka, + here\n{}", difference(&recorded, &lines));
}

/// The lines of both, in order, marked where only one has them.
fn difference(one: &[&str], other: &[&str]) -> String {
    // Of what is left of both from (i, j) on: the length of the longest common part.
    let mut common = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in (0..one.len()).rev() {
        for j in (0..other.len()).rev() {
            common[i][j] = if one[i] == other[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, String::new());
    while i < one.len() || j < other.len() {
        let (mark, line) = if i < one.len() && j < other.len() && one[i] == other[j] {
            (i, j) = (i + 1, j + 1);
            (' ', one[i - 1])
        } else if i < one.len() && (j == other.len() || common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ('-', one[i - 1])
        } else {
            j += 1;
            ('+', other[j - 1])
        };
        out.push_str(&format!("{mark} {line}\n"));
    }
    out
}

#[test]
fn differences_are_marked() {
    assert_eq!(difference(&["a", "b", "c"], &["a", "x", "c", "d"]), "  a\n- b\n+ x\n  c\n+ d\n");
}
