//! What is published: a fleet that refuses nothing, tasks, and their results. All of it is a
//! function of numbers, so that both sides of a comparison read the same bytes.

use std::fmt::Write;

use pointsman::codec::{Codec, RegisteredSchemas};
use pointsman::model::resource::{Dimension, FleetEntry, Limit, ResourceSpec, Speed, TokenPrices};
use pointsman::model::result::{ResultStatus, TaskResult};
use pointsman::model::task::{Objective, Priority, Requirements, Task};

/// Bytes of a task's payload, about.
const PAYLOAD_BYTES: usize = 300;

const CLASSES: [&str; 4] = ["chat", "code", "code-review", "extract"];
const TENANTS: [&str; 8] = ["acme", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron"];
const WORDS: [&str; 32] = [
    "summarise",
    "the",
    "contract",
    "between",
    "both",
    "parties",
    "and",
    "list",
    "every",
    "obligation",
    "with",
    "its",
    "date",
    "function",
    "returns",
    "wrong",
    "value",
    "when",
    "input",
    "is",
    "empty",
    "please",
    "explain",
    "why",
    "table",
    "column",
    "index",
    "query",
    "slow",
    "after",
    "release",
    "yesterday",
];

pub fn codec() -> anyhow::Result<Codec> {
    Ok(Codec::new(Default::default(), RegisteredSchemas::default())?)
}

/// Resources that differ in price, speed and quality, and never run out.
pub fn fleet(resources: u32) -> Vec<FleetEntry> {
    (0..resources).map(|number| FleetEntry::Resource(resource(number))).collect()
}

fn resource(number: u32) -> ResourceSpec {
    let part = f64::from(number % 97) / 97.0;
    ResourceSpec {
        id: format!("resource-{number:04}"),
        model: format!("model-{}", number % 12),
        provider: format!("provider-{}", number % 8),
        region: format!("region-{}", number % 2),
        failure_domain: format!("domain-{}", number % 16),
        pool: "default".to_owned(),
        usd_per_million_tokens: TokenPrices { input: 0.1 + part, output: 1.0 + part },
        context_window: 128_000,
        max_output_tokens: 16_384,
        slots: 1_000_000,
        limits: vec![
            Limit { dimension: Dimension::Requests, amount: 100_000_000, window_s: 60 },
            Limit { dimension: Dimension::Tokens, amount: 1_000_000_000_000, window_s: 60 },
        ],
        speed: Speed {
            time_to_first_token_ms: 200.0 + 100.0 * part,
            prefill_tokens_per_s: 5_000.0,
            decode_tokens_per_s: 50.0 + 50.0 * part,
        },
        quality: [("default".to_owned(), 0.5 + part / 2.0)].into(),
        modalities: vec!["text".to_owned()],
        tenants: Vec::new(),
    }
}

/// Which task: the `number`-th of its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskNumber {
    pub lane: u32,
    pub number: u32,
}

impl TaskNumber {
    /// The `index`-th task of all, dealt to the lanes in turn.
    pub fn dealt(index: u32, lanes: u32) -> Self {
        TaskNumber { lane: index % lanes, number: index / lanes }
    }

    pub fn index(self, lanes: u32) -> u32 {
        self.number * lanes + self.lane
    }

    pub fn id(self) -> String {
        format!("load-{:02}-{:08}", self.lane, self.number)
    }

    pub fn of_id(id: &[u8]) -> Option<Self> {
        let id = std::str::from_utf8(id).ok()?.strip_prefix("load-")?;
        let (lane, number) = id.split_once('-')?;
        Some(TaskNumber { lane: lane.parse().ok()?, number: number.parse().ok()? })
    }
}

/// A mixing function (splitmix64): the same words for the same task, and others for the next.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn payload(seed: u64) -> anyhow::Result<Vec<u8>> {
    let mut text = r#"{"messages":[{"role":"user","content":""#.to_owned();
    let mut state = seed;
    while text.len() < PAYLOAD_BYTES - 16 {
        state = mixed(state);
        write!(text, "{} ", WORDS[(state % WORDS.len() as u64) as usize])?;
    }
    write!(text, r#"{state:x}"}}]}}"#)?;
    Ok(text.into_bytes())
}

pub fn task(which: TaskNumber) -> anyhow::Result<Task> {
    let seed = mixed(u64::from(which.lane) << 32 | u64::from(which.number));
    Ok(Task {
        task_id: which.id(),
        tenant: TENANTS[(seed % 8) as usize].to_owned(),
        class: CLASSES[(seed >> 8) as usize % CLASSES.len()].to_owned(),
        priority: Priority::ALL[(seed >> 16) as usize % Priority::ALL.len()],
        created_at_ms: None,
        deadline_ms: None,
        input_tokens: 100 + (seed >> 24) as u32 % 3_000,
        max_output_tokens: 512,
        objective: Objective::Balanced,
        requirements: Requirements::default(),
        session: None,
        features: Vec::new(),
        stages: Vec::new(),
        payload: Some(payload(seed)?),
    })
}

/// What a worker would say of the first attempt. It names no resource, so that it can be written
/// without having read the decision.
pub fn result(which: TaskNumber) -> TaskResult {
    TaskResult {
        task_id: which.id(),
        attempt: 1,
        stage: 0,
        resource: String::new(),
        lane: Some(which.lane),
        status: ResultStatus::Succeeded,
        input_tokens: Some(100),
        output_tokens: Some(120),
        time_to_first_token_ms: Some(310.0),
        duration_ms: Some(1_840.0),
        quality: None,
        retry_after_ms: None,
        error: None,
        rate_limits: Vec::new(),
    }
}
