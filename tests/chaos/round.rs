//! One round: topics of its own, the workload, the faults, the audit, the replay.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use pointsman::clock::Stopwatch;
use pointsman::codec::{Codec, OutputFormat, RegisteredSchemas};
use pointsman::demo::audit::{AuditReport, audit, read};
use pointsman::demo::topics::DemoTopics;
use rdkafka::ClientConfig;
use serde_json::Value;
use testbed::{KafkaCluster, eventually, unique};

use crate::act::Act;
use crate::cluster::Clusters;
use crate::configuration::configuration;
use crate::instance::{Instances, output};
use crate::outcome::{Outcome, Verdict};
use crate::plan::{Kind, Plan};
use crate::workload::{Played, Workload};

/// Tasks are published for at least so long, and for a while after the script's expected end.
const LASTS_MIN: Duration = Duration::from_secs(6);
const LASTS_AFTER: Duration = Duration::from_secs(2);
/// An instance promises to end within 10 s.
const STOP_WAIT: Duration = Duration::from_secs(15);

/// What a script is applied to.
struct Scene<'a> {
    instances: Instances,
    nodes: Option<&'a KafkaCluster>,
    acts: VecDeque<Act>,
    /// Since when the first act waits.
    waits: Option<Stopwatch>,
    /// How often the instance of an `AwaitFired` had killed itself before.
    fired_before: Option<usize>,
    missed: Vec<String>,
    node_kills: u64,
    node_pauses: u64,
    point_freezes: u64,
    armed: String,
}

/// Runs a round; an error is one of the machine, not of the router.
pub fn run(
    plan: &Plan,
    clusters: &mut Clusters,
    directory: &Path,
    keep: bool,
    interrupted: &AtomicBool,
) -> anyhow::Result<Outcome> {
    let took = Stopwatch::start();
    let (brokers, nodes) = match plan.kind {
        Kind::Brokers => {
            let nodes = clusters.three()?;
            (nodes.bootstrap().to_owned(), Some(nodes))
        }
        Kind::Points | Kind::Random | Kind::Rebalance => (clusters.one()?.to_owned(), None),
    };
    let mut client = ClientConfig::new();
    client.set("client.id", "pointsman-chaos").set("bootstrap.servers", &brokers);
    let prefix = format!("{}-", unique("chaos"));
    let topics = DemoTopics::new(&prefix, plan.lanes);
    topics.create(&client)?;
    let directory = directory.join(&plan.key);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;

    let configuration = configuration(&brokers, &prefix, &topics, plan.workers, SECTIONS)?;
    let mut scene = Scene {
        instances: Instances::new(&directory, configuration),
        nodes,
        acts: plan.acts.iter().cloned().collect(),
        waits: None,
        fired_before: None,
        missed: Vec::new(),
        node_kills: 0,
        node_pauses: 0,
        point_freezes: 0,
        armed: String::new(),
    };
    let examined = examine(plan, &client, &topics, &mut scene, interrupted);
    if interrupted.load(std::sync::atomic::Ordering::Relaxed) {
        drop(topics.delete(&client, &prefix));
        examined?;
        anyhow::bail!("interrupted");
    }
    let mut outcome = outcome(plan, &scene);
    match examined {
        Ok(examined) => examined.enter(&mut outcome),
        Err(error) => {
            outcome.verdict = Verdict::Broken;
            outcome.findings.push(format!("{error:#}"));
        }
    }
    outcome.findings.extend(scene.instances.remarkable());
    if outcome.verdict == Verdict::Clean && !outcome.findings.is_empty() {
        outcome.verdict = Verdict::Violation;
    }
    outcome.elapsed_s = took.elapsed().as_secs_f64();
    drop(scene);
    if outcome.verdict == Verdict::Broken && plan.kind == Kind::Brokers {
        // Nobody knows what is left of it.
        clusters.forget_three();
    }
    if outcome.verdict == Verdict::Clean && !keep {
        // The group's static members are still in it: it goes by itself when their sessions end.
        topics.delete(&client, &format!("{prefix}group"))?;
        fs::remove_dir_all(&directory)?;
    } else {
        println!("    kept: topics {prefix}* on {brokers}, {}", directory.display());
    }
    Ok(outcome)
}

/// What was found when a round had come to its end.
struct Examined {
    played: Played,
    report: AuditReport,
    replay: Value,
}

impl Examined {
    fn enter(&self, outcome: &mut Outcome) {
        let Examined { played, report, replay } = self;
        outcome.tasks = report.tasks;
        outcome.decisions = report.decisions;
        outcome.refused = report.refused.values().sum();
        outcome.dead_lettered = report.dead_lettered;
        outcome.failed_over = report.failed_over;
        let count = |name: &str| replay[name].as_u64().unwrap_or(0);
        outcome.replayed = count("decisions");
        outcome.identical = count("identical");
        let findings = &mut outcome.findings;
        if let Some(missing) = &played.missing {
            let waited_s = played.elapsed.as_secs();
            findings.push(format!("not over after {waited_s} s: {missing}"));
        }
        findings.extend(report.findings.iter().map(ToString::to_string));
        let more = report.found().saturating_sub(report.findings.len() as u64);
        if more > 0 {
            findings.push(format!("… and {more} findings more"));
        }
        if played.tasks != report.tasks {
            let (published, there) = (played.tasks, report.tasks);
            findings.push(format!("{published} tasks were published, {there} are there"));
        }
        let divergence = &replay["first_divergence"];
        if !divergence.is_null() {
            findings.push(format!("replay: {divergence}"));
        }
        if outcome.replayed == 0 || outcome.identical != outcome.replayed {
            let (identical, replayed) = (outcome.identical, outcome.replayed);
            findings.push(format!("replay: {identical} of {replayed} decisions identical"));
        }
        if count("published_deleted") > 0 {
            findings.push(format!("replay: {} outputs are not there", count("published_deleted")));
        }
        if replay["folded_batches"].as_object().is_some_and(|folded| !folded.is_empty()) {
            let folded = &replay["folded_batches"];
            findings.push(format!("replay: batches were not decided again: {folded}"));
        }
    }
}

fn examine(
    plan: &Plan,
    client: &ClientConfig,
    topics: &DemoTopics,
    scene: &mut Scene<'_>,
    interrupted: &AtomicBool,
) -> anyhow::Result<Examined> {
    let lasts = (plan.expected() + LASTS_AFTER).max(LASTS_MIN);
    let seed = plan.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(plan.number));
    let workload = Workload::prepare(client, topics, seed, lasts)?;
    let played = workload.play(interrupted, || {
        scene.instances.look()?;
        scene.step()
    })?;
    scene.instances.stop()?;
    let waited = Stopwatch::start();
    let is_gone = eventually("the instances end", STOP_WAIT * 10, || {
        let gone = scene.instances.are_gone();
        let over = waited.remaining(STOP_WAIT).is_zero();
        match gone {
            Ok(false) if !over => None,
            gone => Some(gone),
        }
    })?;
    if !is_gone {
        scene.instances.deaths.findings.push("an instance did not end after SIGTERM".to_owned());
    }
    let codec = Codec::new(OutputFormat::Avro, RegisteredSchemas::default())?;
    let history = read::read(client, topics, &codec)?;
    let report = audit(
        &history.fleet,
        &history.tasks,
        &history.decisions,
        &history.allocations,
        &history.dead_letters,
    );
    let replay = replay(scene.instances.config()?)?;
    Ok(Examined { played, report, replay })
}

fn replay(config: &Path) -> anyhow::Result<Value> {
    let text = match output(config, &["replay", "audit", "--json", "--timeout", "30"]) {
        Ok(text) => text,
        // Exit code 3 is a divergence, which the JSON tells.
        Err(error) => {
            let text = format!("{error:#}");
            let (from, to) = (text.find('{'), text.rfind('}'));
            let (Some(from), Some(to)) = (from, to) else { return Err(error) };
            text.get(from..=to).unwrap_or_default().to_owned()
        }
    };
    serde_json::from_str(&text).with_context(|| format!("replay audit printed {text}"))
}

fn outcome(plan: &Plan, scene: &Scene<'_>) -> Outcome {
    let deaths = &scene.instances.deaths;
    Outcome {
        key: plan.key.clone(),
        round: plan.number,
        kind: plan.kind,
        verdict: Verdict::Clean,
        findings: deaths.findings.clone(),
        tasks: 0,
        decisions: 0,
        refused: 0,
        dead_lettered: 0,
        failed_over: 0,
        kills: deaths.kills,
        freezes: deaths.freezes + scene.point_freezes,
        fired: deaths.fired.clone(),
        missed: scene.missed.clone(),
        node_kills: scene.node_kills,
        node_pauses: scene.node_pauses,
        gave_up: deaths.gave_up.clone(),
        replayed: 0,
        identical: 0,
        elapsed_s: 0.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

impl Scene<'_> {
    /// Does what is due; true at the script's end.
    fn step(&mut self) -> anyhow::Result<bool> {
        while let Some(act) = self.acts.front().cloned() {
            if !self.take(&act)? {
                return Ok(false);
            }
            self.acts.pop_front();
            self.waits = None;
        }
        // A stop that was armed and came later than anybody waited for it.
        self.point_freezes += self.instances.thaw_all()?;
        Ok(true)
    }

    /// Whether the act is done.
    fn take(&mut self, act: &Act) -> anyhow::Result<bool> {
        let waits = *self.waits.get_or_insert_with(Stopwatch::start);
        match act {
            Act::Wait(time) => return Ok(waits.remaining(*time).is_zero()),
            Act::Join(number, armed) => {
                self.arm(*number, armed)?;
                self.instances.join(*number, armed)?;
            }
            Act::Crash(number, armed) => {
                self.arm(*number, armed)?;
                self.instances.kill(*number, true, armed)?;
            }
            Act::Restart(number) => self.instances.end(*number, true)?,
            Act::Lose(number) => self.instances.kill(*number, false, "")?,
            Act::Leave(number) => self.instances.end(*number, false)?,
            Act::Freeze(number) => self.instances.freeze(*number)?,
            Act::Thaw(number) => self.instances.thaw(*number)?,
            Act::AwaitFired(number, limit) => {
                let fired = self.instances.fired(*number)?;
                if self.fired_before.is_some_and(|before| fired > before) {
                    return Ok(true);
                }
                if waits.remaining(*limit).is_zero() {
                    self.missed.push(self.armed.clone());
                    return Ok(true);
                }
                return Ok(false);
            }
            Act::AwaitFrozen(number, limit) => {
                if self.instances.is_frozen(*number)? {
                    self.point_freezes += 1;
                    return Ok(true);
                }
                return Ok(waits.remaining(*limit).is_zero());
            }
            Act::KillNode(node) => {
                self.node_kills += 1;
                self.node(|nodes| nodes.kill_node(*node))?;
            }
            Act::StartNode(node) => self.node(|nodes| nodes.start_node(*node))?,
            Act::PauseNode(node) => {
                self.node_pauses += 1;
                self.node(|nodes| nodes.pause_node(*node))?;
            }
            Act::ResumeNode(node) => self.node(|nodes| nodes.resume_node(*node))?,
        }
        Ok(true)
    }

    fn arm(&mut self, number: usize, armed: &str) -> anyhow::Result<()> {
        self.armed = armed.to_owned();
        // Before its first start it has never fired.
        self.fired_before = Some(self.instances.fired(number).unwrap_or(0));
        Ok(())
    }

    /// A broker that does not start within two minutes fails the round, not the run.
    fn node(&self, act: impl FnOnce(&KafkaCluster)) -> anyhow::Result<()> {
        let nodes = self.nodes.context("this round has no brokers of its own")?;
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(nodes)));
        done.map_err(|_| anyhow::anyhow!("a broker cannot be killed, paused or started"))
    }
}

/// Snapshots so often that every round meets many of them.
const SECTIONS: &str = "\
[routing]
start_within_ms = 1000
lease_ms_min = 10000

[snapshot]
local_batches = 3
local_interval_ms_min = 0
publish_batches = 7
";
