//! Prompts and arrivals → the files of `pointsman backtest`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Models of the preferred set.
const PREFERRED: usize = 4;
/// What each other model can take, as a share of the trace.
const OTHERS_SHARE: f64 = 0.25;
/// All limits are for a minute.
const WINDOW_S: f64 = 60.0;
/// Producers ask for the first of these that suffices: they know the kind of an answer, not its length.
const MAX_OUTPUT_TOKENS: [u32; 3] = [256, 1_024, 4_096];

/// Of tasks with mixed priorities: critical ones, and critical and interactive ones together.
const CRITICAL_SHARE: f64 = 0.1;
const URGENT_SHARE: f64 = 0.7;
/// Of those that someone waits for.
const DEADLINE_MS: u64 = 20_000;

/// Which priorities tasks have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Priorities {
    /// All are interactive, without deadlines.
    One,
    /// 10 % critical, 60 % interactive, both with a deadline of 20 s, and 30 % batch without one.
    Mixed,
}

/// One request of the trace.
pub struct Arrival {
    pub at_ms: u64,
    pub input_tokens: u32,
    pub output_tokens: u32,
}

pub struct Trace(pub Vec<Arrival>);

impl Trace {
    /// Rows `2023-11-16 18:17:03.9799600,4808,10`, in order of time.
    pub fn read(path: &Path) -> Self {
        let mut reader = csv::Reader::from_path(path).unwrap();
        let mut first_ms = None;
        let arrivals = reader.records().map(|row| {
            let row = row.unwrap();
            let (_, time) = row[0].split_once(' ').unwrap();
            let parts: Vec<f64> = time.split(':').map(|part| part.parse().unwrap()).collect();
            let ms = ((parts[0] * 60.0 + parts[1]) * 60.0 + parts[2]) * 1_000.0;
            let first_ms = *first_ms.get_or_insert(ms);
            Arrival {
                at_ms: (ms - first_ms).ceil() as u64,
                input_tokens: row[1].parse().unwrap(),
                output_tokens: row[2].parse().unwrap(),
            }
        });
        Trace(arrivals.collect())
    }
}

struct Prompt {
    class: String,
    /// Score and US dollars, by model.
    answers: Vec<(f64, f64)>,
}

pub struct Pairing {
    models: Vec<String>,
    prompts: Vec<Prompt>,
    trace: Trace,
    /// The prompt of each arrival.
    prompt_of: Vec<usize>,
    /// Models, best mean score first.
    by_score: Vec<usize>,
    seed: u64,
}

fn shuffled(count: usize, dice: &mut ChaCha8Rng) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        places.swap(last, (dice.next_u64() % (last as u64 + 1)) as usize);
    }
    places
}

fn unit(dice: &mut ChaCha8Rng) -> f64 {
    (dice.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

impl Pairing {
    pub fn new(prompts: &Path, trace: Trace, seed: u64) -> Self {
        let mut reader = csv::Reader::from_path(prompts).unwrap();
        let header = reader.headers().unwrap().clone();
        let place = |name: &str| header.iter().position(|one| one == name).unwrap();
        let models: Vec<String> = header
            .iter()
            .filter_map(|name| Some(name.strip_suffix("|score")?.to_owned()))
            .collect();
        let columns: Vec<(usize, usize)> = models
            .iter()
            .map(|model| (place(&format!("{model}|score")), place(&format!("{model}|cost_usd"))))
            .collect();
        let class = place("eval_name");
        let prompts: Vec<Prompt> = reader
            .records()
            .map(|row| {
                let row = row.unwrap();
                let number = |column: usize| -> f64 { row[column].parse().unwrap() };
                let answers =
                    columns.iter().map(|(score, usd)| (number(*score), number(*usd))).collect();
                Prompt { class: row[class].to_owned(), answers }
            })
            .collect();
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let mut prompt_of = Vec::with_capacity(trace.0.len());
        while prompt_of.len() < trace.0.len() {
            prompt_of.extend(shuffled(prompts.len(), &mut dice));
        }
        prompt_of.truncate(trace.0.len());
        let mean = |model: usize| -> f64 { prompts.iter().map(|one| one.answers[model].0).sum() };
        let mut by_score: Vec<usize> = (0..models.len()).collect();
        by_score.sort_by(|one, other| mean(*other).total_cmp(&mean(*one)));
        Pairing { models, prompts, trace, prompt_of, by_score, seed }
    }

    pub fn tasks(&self) -> usize {
        self.trace.0.len()
    }

    pub fn prompts(&self) -> usize {
        self.prompts.len()
    }

    pub fn classes(&self) -> Vec<String> {
        self.class_means(0).into_keys().collect()
    }

    pub fn preferred(&self) -> Vec<&str> {
        self.by_score[..PREFERRED].iter().map(|model| self.models[*model].as_str()).collect()
    }

    fn id(&self, model: usize) -> String {
        self.models[model].replace('/', "-").to_lowercase()
    }

    fn class_means(&self, model: usize) -> BTreeMap<String, f64> {
        let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for prompt in self.prompt_of.iter().map(|place| &self.prompts[*place]) {
            let (sum, count) = sums.entry(prompt.class.clone()).or_default();
            *sum += prompt.answers[model].0;
            *count += 1.0;
        }
        sums.into_iter().map(|(class, (sum, count))| (class, sum / count)).collect()
    }

    /// Better models answer more slowly: decode 40 to 120 tokens a second by rank.
    fn speed(&self, model: usize) -> (f64, f64, f64) {
        let rank = self.by_score.iter().position(|one| *one == model).unwrap() as f64;
        (600.0 - 30.0 * rank, 6_000.0 + 600.0 * rank, 40.0 + 8.0 * rank)
    }

    fn duration_ms(&self, arrival: &Arrival, model: usize, noise: f64) -> f64 {
        let (first_ms, prefill, decode) = self.speed(model);
        let ms = first_ms
            + f64::from(arrival.input_tokens) * 1_000.0 / prefill
            + f64::from(arrival.output_tokens) * 1_000.0 / decode;
        ms * noise
    }

    /// Everything that does not depend on the load.
    pub fn write_common(&self, out: &Path, with_incidents: bool, priorities: Priorities) {
        let (mut tasks, mut outcomes) = (String::new(), String::new());
        let dice = |stream: u64| {
            let mut dice = ChaCha8Rng::seed_from_u64(self.seed);
            dice.set_stream(stream);
            dice
        };
        let (mut dice, mut priority_dice) = (dice(1), dice(2));
        for (place, arrival) in self.trace.0.iter().enumerate() {
            let prompt = &self.prompts[self.prompt_of[place]];
            let enough = |most: &&u32| **most >= arrival.output_tokens;
            let max_output_tokens = MAX_OUTPUT_TOKENS.iter().find(enough).unwrap();
            let id = format!("t-{place:06}");
            let mut task = json!({
                "task_id": id, "arrival_ms": arrival.at_ms, "class": prompt.class,
                "input_tokens": arrival.input_tokens, "max_output_tokens": max_output_tokens,
                "objective": {"quality": 1.0, "usd": 0.0, "second": 0.0},
            });
            if priorities == Priorities::Mixed {
                let drawn = unit(&mut priority_dice);
                let is_urgent = drawn < URGENT_SHARE;
                task["priority"] = match drawn < CRITICAL_SHARE {
                    true => "critical".into(),
                    false if is_urgent => "interactive".into(),
                    false => "batch".into(),
                };
                if is_urgent {
                    task["deadline_ms"] = DEADLINE_MS.into();
                }
            }
            writeln!(tasks, "{task}").unwrap();
            let answers: serde_json::Map<String, Value> = (0..self.models.len())
                .map(|model| {
                    let noise = 0.8 + 0.4 * unit(&mut dice);
                    let outcome = json!({
                        "quality": prompt.answers[model].0,
                        "output_tokens": arrival.output_tokens,
                        "duration_ms": self.duration_ms(arrival, model, noise).round(),
                    });
                    (self.id(model), outcome)
                })
                .collect();
            writeln!(outcomes, "{}", json!({"task_id": id, "outcomes": answers})).unwrap();
        }
        let (mut outages, mut health) = (String::new(), String::new());
        if with_incidents {
            let best = self.id(self.by_score[0]);
            let second = self.id(self.by_score[1]);
            for (id, from_s, to_s, hard) in
                [(&best, 1_500, 1_800, true), (&second, 2_400, 2_700, false)]
            {
                let outage = json!({"resource": id, "from_ms": from_s * 1_000, "to_ms": to_s * 1_000, "hard": hard});
                writeln!(outages, "{outage}").unwrap();
                // Someone notices half a minute later.
                let status = if hard { "unhealthy" } else { "degraded" };
                for (status, at_s) in [(status, from_s + 30), ("healthy", to_s + 30)] {
                    let event = json!({"scope": "resource", "id": id, "status": status, "severity": 0.5, "at_ms": at_s * 1_000});
                    writeln!(health, "{event}").unwrap();
                }
            }
        }
        for (name, text) in [
            ("tasks.jsonl", tasks),
            ("outcomes.jsonl", outcomes),
            ("outages.jsonl", outages),
            ("health.jsonl", health),
        ] {
            std::fs::write(out.join(name), text).unwrap();
        }
    }

    /// The fleet whose preferred models take the trace at this load, in per cent; with the other models, or
    /// without.
    pub fn write_fleet(&self, path: &Path, load: u32, is_flat: bool, with_others: bool) {
        let arrivals = &self.trace.0;
        let hour_s = arrivals.last().map_or(1.0, |last| last.at_ms as f64 / 1_000.0).max(1.0);
        let requests = arrivals.len() as f64 * WINDOW_S / hour_s;
        let tokens: f64 = arrivals
            .iter()
            .map(|one| f64::from(one.input_tokens) + f64::from(one.output_tokens))
            .sum::<f64>()
            * WINDOW_S
            / hour_s;
        let rank_of = |model: usize| self.by_score.iter().position(|one| *one == model).unwrap();
        let resources: Vec<Value> = (0..self.models.len())
            .filter(|model| with_others || rank_of(*model) < PREFERRED)
            .map(|model| {
                let rank = rank_of(model);
                let share = if rank < PREFERRED {
                    100.0 / f64::from(load) / PREFERRED as f64
                } else {
                    OTHERS_SHARE
                };
                // Requests under way when the model is as busy as its share says.
                let busy = arrivals.iter().map(|one| self.duration_ms(one, model, 1.0)).sum::<f64>()
                    / 1_000.0
                    / hour_s
                    * share;
                let limit = |dimension: &str, amount: f64| {
                    json!({"dimension": dimension, "amount": amount.ceil() as u64, "window_s": WINDOW_S as u64})
                };
                let limits = match rank {
                    0 => vec![limit("tokens", tokens * share)],
                    1 => vec![limit("requests", requests * share)],
                    2 => Vec::new(),
                    _ => vec![limit("requests", requests * share), limit("tokens", tokens * share)],
                };
                // Where slots are not the limit, there are many.
                let slots = if rank == 2 { busy } else { busy * 20.0 + 20.0 };
                let usd: f64 = self.prompts.iter().map(|one| one.answers[model].1).sum();
                let mean_output: f64 =
                    arrivals.iter().map(|one| f64::from(one.output_tokens)).sum::<f64>() / arrivals.len() as f64;
                let (first_ms, prefill, decode) = self.speed(model);
                let quality = if is_flat {
                    BTreeMap::from([("default".to_owned(), 0.5)])
                } else {
                    self.class_means(model)
                };
                json!({
                    "id": self.id(model), "model": self.models[model], "provider": self.id(model),
                    "region": "one", "context_window": 1_000_000, "max_output_tokens": 100_000,
                    "usd_per_million_tokens": {
                        "input": 0.0, "output": usd / self.prompts.len() as f64 / mean_output * 1e6,
                    },
                    "slots": slots.ceil() as u64, "limits": limits, "quality": quality,
                    "speed": {
                        "time_to_first_token_ms": first_ms, "prefill_tokens_per_s": prefill,
                        "decode_tokens_per_s": decode,
                    },
                })
            })
            .collect();
        let fleet = serde_json::to_string_pretty(&json!({"resource": resources})).unwrap();
        std::fs::write(path, fleet).unwrap();
    }
}
