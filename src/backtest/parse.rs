//! The files of a scenario → a [`Scenario`]. Everything that is wrong is said with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::scenario::{
    KnownOutcome, OUTCOMES_MAX, Observation, Outage, Scenario, TASKS_MAX, TimedTask, warm_start,
};
use crate::codec::decode::RECORD_BYTES_MAX;
use crate::codec::{Codec, OutputFormat, RawRecord, RegisteredSchemas};
use crate::model::Topic;
use crate::model::health::HealthEvent;
use crate::model::resource::FleetFile;
use crate::model::task::TOKENS_MAX;

/// A file of JSON lines: its name for error texts, and its text.
#[derive(Debug, Clone, Copy)]
pub struct Lines<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

/// What was given.
#[derive(Debug, Clone)]
pub struct Files<'a> {
    pub tasks: Lines<'a>,
    pub fleet: FleetFile,
    pub outcomes: Option<Lines<'a>>,
    pub outages: Option<Lines<'a>>,
    pub health: Option<Lines<'a>>,
    pub history: Option<Lines<'a>>,
}

/// One thing that is wrong, as `file:line: what`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// From 1.
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Problems that are listed; more of them teach nothing new.
const PROBLEMS_MAX: usize = 20;
/// A scenario lasts at most so long, and so does an attempt: 30 days.
const SPAN_MS_MAX: f64 = 30.0 * 86_400_000.0;
/// Rows of a file other than tasks and outcomes.
const ROWS_MAX: usize = 1_000_000;

#[derive(Deserialize)]
struct ArrivalRow {
    arrival_ms: f64,
}

#[derive(Deserialize)]
struct OutcomesRow {
    task_id: String,
    outcomes: BTreeMap<String, OutcomeRow>,
}

#[derive(Deserialize)]
struct OutcomeRow {
    quality: Option<f64>,
    output_tokens: Option<u32>,
    duration_ms: Option<f64>,
    time_to_first_token_ms: Option<f64>,
}

#[derive(Deserialize)]
struct OutageRow {
    resource: String,
    from_ms: f64,
    to_ms: f64,
    #[serde(default = "yes")]
    hard: bool,
}

const fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct HistoryRow {
    class: String,
    quality: BTreeMap<String, f64>,
}

/// Reads the scenario; what the files leave open is drawn from the seed.
///
/// # Errors
/// What is wrong, at most `PROBLEMS_MAX` of it.
pub fn scenario(files: &Files<'_>, seed: u64) -> Result<Scenario, Vec<Problem>> {
    let mut problems = Vec::new();
    let resources = &files.fleet.resources;
    let places: BTreeMap<&str, usize> =
        resources.iter().enumerate().map(|(place, spec)| (spec.id.as_str(), place)).collect();
    let tasks = tasks(files.tasks, resources.len(), &mut problems);
    let mut notes = Vec::new();
    let known = match files.outcomes {
        Some(lines) => outcomes(lines, &tasks, &places, &mut notes, &mut problems),
        None => BTreeMap::new(),
    };
    let outages = files.outages.map(|lines| outages(lines, &places, &mut problems));
    let health = files.health.map(|lines| health(lines, &mut problems));
    let history = files.history.map(|lines| history(lines, &places, &mut notes, &mut problems));
    if !problems.is_empty() {
        problems.truncate(PROBLEMS_MAX);
        return Err(problems);
    }
    let mut scenario = Scenario::new(files.fleet.clone(), tasks, &known, seed);
    // What was learnt before changes what the router believes, not what happens.
    warm_start(&mut scenario.fleet, &history.unwrap_or_default());
    scenario.outages = outages.unwrap_or_default();
    scenario.health = health.unwrap_or_default();
    scenario.notes = notes;
    Ok(scenario)
}

/// Reads each line that is not empty. The reading ends early where nothing more would be listed.
fn each(
    lines: Lines<'_>,
    rows_max: usize,
    problems: &mut Vec<Problem>,
    mut read: impl FnMut(&str) -> Result<(), String>,
) {
    let mut rows = 0;
    for (number, text) in lines.text.lines().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        rows += 1;
        let outcome = if text.len() > RECORD_BYTES_MAX {
            Err(format!("{} bytes; at most {RECORD_BYTES_MAX} are allowed in a line", text.len()))
        } else if rows > rows_max {
            Err(format!("at most {rows_max} rows are allowed"))
        } else {
            read(text)
        };
        if let Err(what) = outcome {
            problems.push(Problem { file: lines.name.to_owned(), line: number + 1, what });
            if problems.len() >= PROBLEMS_MAX || rows > rows_max {
                return;
            }
        }
    }
}

fn row<Row: DeserializeOwned>(text: &str) -> Result<Row, String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let row = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." { String::new() } else { format!("{path}: ") };
        // The place inside the line is of no use: it always says line 1.
        let inner = error.inner().to_string();
        let inner = inner.split(" at line 1 column").next().unwrap_or_default();
        format!("{at}{inner}")
    })?;
    reader.end().map_err(|_| "more than one JSON value in the line".to_owned())?;
    Ok(row)
}

/// Whole milliseconds; a part of one counts as one, so that nothing is known before it happens.
fn whole_ms(field: &str, ms: f64) -> Result<u64, String> {
    if (0.0..=SPAN_MS_MAX).contains(&ms) {
        return Ok(libm::ceil(ms) as u64);
    }
    Err(format!("{field}: {ms} is not allowed; 0 to {SPAN_MS_MAX}"))
}

fn tasks(lines: Lines<'_>, resources: usize, problems: &mut Vec<Problem>) -> Vec<TimedTask> {
    let mut tasks: Vec<TimedTask> = Vec::new();
    let Ok(codec) = Codec::new(OutputFormat::Json, RegisteredSchemas::default()) else {
        return tasks;
    };
    let most = TASKS_MAX.min(OUTCOMES_MAX / resources.max(1));
    let mut seen = BTreeSet::new();
    each(lines, most, problems, |text| {
        let record = RawRecord {
            topic: Topic::Tasks,
            partition: 0,
            offset: 0,
            timestamp_ms: -1,
            key: None,
            value: Some(text.as_bytes()),
            headers: &[],
        };
        let mut task = codec.decode_task(&record).map_err(|error| error.to_string())?;
        // The arrival is in its place, and nobody here reads the payload.
        (task.created_at_ms, task.payload) = (None, None);
        if !task.stages.is_empty() {
            let count = task.stages.len();
            return Err(format!(
                "stages: {count} entries is not allowed; none, because outcomes are of whole tasks"
            ));
        }
        let arrival: ArrivalRow = row(text)?;
        let arrival_ms = whole_ms("arrival_ms", arrival.arrival_ms)?;
        if let Some(before) = tasks.last().filter(|before| before.arrival_ms > arrival_ms) {
            let before_ms = before.arrival_ms;
            return Err(format!(
                "arrival_ms: {arrival_ms} comes after {before_ms}; tasks are in the order of arrival"
            ));
        }
        if !seen.insert(task.task_id.clone()) {
            return Err(format!("task_id: `{}` is used twice", task.task_id));
        }
        tasks.push(TimedTask { arrival_ms, task });
        Ok(())
    });
    if tasks.is_empty() && problems.is_empty() {
        let what = "no task; at least one is needed".to_owned();
        problems.push(Problem { file: lines.name.to_owned(), line: 1, what });
    }
    tasks
}

fn quality(field: &str, quality: f64) -> Result<f64, String> {
    if (0.0..=1.0).contains(&quality) {
        return Ok(quality);
    }
    Err(format!("{field}: {quality} is not allowed; a number in [0, 1]"))
}

fn outcomes(
    lines: Lines<'_>,
    tasks: &[TimedTask],
    places: &BTreeMap<&str, usize>,
    notes: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<(usize, usize), KnownOutcome> {
    let by_id: BTreeMap<&str, usize> =
        tasks.iter().enumerate().map(|(place, one)| (one.task.task_id.as_str(), place)).collect();
    let mut known = BTreeMap::new();
    let (mut strange_tasks, mut strange_resources) = (0_u64, 0_u64);
    each(lines, TASKS_MAX, problems, |text| {
        let row: OutcomesRow = row(text)?;
        let Some(task) = by_id.get(row.task_id.as_str()) else {
            strange_tasks += 1;
            return Ok(());
        };
        for (id, outcome) in row.outcomes {
            let Some(place) = places.get(id.as_str()) else {
                strange_resources += 1;
                continue;
            };
            let at = |field: &str| format!("outcomes.{id}.{field}");
            let ms = |field: &str, ms: Option<f64>| {
                let allowed = |ms: &f64| (0.0..=SPAN_MS_MAX).contains(ms);
                match ms {
                    Some(ms) if !allowed(&ms) => {
                        Err(format!("{}: {ms} is not allowed; 0 to {SPAN_MS_MAX}", at(field)))
                    }
                    Some(_) | None => Ok(ms),
                }
            };
            if let Some(tokens) = outcome.output_tokens.filter(|tokens| *tokens > TOKENS_MAX) {
                let field = at("output_tokens");
                return Err(format!("{field}: {tokens} is not allowed; at most {TOKENS_MAX}"));
            }
            let outcome = KnownOutcome {
                quality: outcome.quality.map(|given| quality(&at("quality"), given)).transpose()?,
                output_tokens: outcome.output_tokens,
                duration_ms: ms("duration_ms", outcome.duration_ms)?,
                time_to_first_token_ms: ms(
                    "time_to_first_token_ms",
                    outcome.time_to_first_token_ms,
                )?,
            };
            if known.insert((*task, *place), outcome).is_some() {
                return Err(format!("task_id: `{}` has outcomes twice", row.task_id));
            }
        }
        Ok(())
    });
    note(notes, lines, strange_tasks, "tasks that are not among the tasks");
    note(notes, lines, strange_resources, "outcomes of resources that are not in the fleet");
    known
}

fn note(notes: &mut Vec<String>, lines: Lines<'_>, count: u64, what: &str) {
    if count > 0 {
        notes.push(format!("{}: {count} {what} were passed over", lines.name));
    }
}

fn outages(
    lines: Lines<'_>,
    places: &BTreeMap<&str, usize>,
    problems: &mut Vec<Problem>,
) -> Vec<Outage> {
    let mut outages = Vec::new();
    each(lines, ROWS_MAX, problems, |text| {
        let row: OutageRow = row(text)?;
        let resource = *places
            .get(row.resource.as_str())
            .ok_or_else(|| format!("resource: `{}` is not in the fleet", row.resource))?;
        let (from_ms, to_ms) = (whole_ms("from_ms", row.from_ms)?, whole_ms("to_ms", row.to_ms)?);
        if from_ms >= to_ms {
            return Err(format!("to_ms: {to_ms} is not allowed; more than from_ms, {from_ms}"));
        }
        outages.push(Outage { resource, from_ms, to_ms, hard: row.hard });
        Ok(())
    });
    outages
}

fn health(lines: Lines<'_>, problems: &mut Vec<Problem>) -> Vec<(u64, HealthEvent)> {
    let mut events: Vec<(u64, HealthEvent)> = Vec::new();
    each(lines, ROWS_MAX, problems, |text| {
        let event: HealthEvent = row(text)?;
        event.validate().map_err(|error| error.to_string())?;
        let at_ms = event.at_ms.ok_or("at_ms: missing; milliseconds from the scenario's start")?;
        let at_ms = whole_ms("at_ms", at_ms.as_ms() as f64)?;
        events.push((at_ms, HealthEvent { at_ms: None, ..event }));
        Ok(())
    });
    events.sort_by_key(|(at_ms, _)| *at_ms);
    events
}

fn history(
    lines: Lines<'_>,
    places: &BTreeMap<&str, usize>,
    notes: &mut Vec<String>,
    problems: &mut Vec<Problem>,
) -> Vec<Observation> {
    let mut history = Vec::new();
    let mut strange = 0;
    each(lines, ROWS_MAX, problems, |text| {
        let row: HistoryRow = row(text)?;
        let mut found = Vec::with_capacity(row.quality.len());
        for (id, given) in row.quality {
            let given = quality(&format!("quality.{id}"), given)?;
            match places.get(id.as_str()) {
                Some(place) => found.push((*place, given)),
                None => strange += 1,
            }
        }
        history.push(Observation { class: row.class, quality: found });
        Ok(())
    });
    note(notes, lines, strange, "qualities of resources that are not in the fleet");
    history
}
