//! What a simulated model does with one attempt. Pure: drawn from the seed, the task and the attempt.

use crate::draw::{Draw, Purpose};
use crate::model::resource::ResourceSpec;
use crate::model::result::ResultStatus;

/// One attempt at a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The task's place in the trace.
    pub task_index: usize,
    /// From 1.
    pub number: u32,
    pub input_tokens: u32,
    pub output_tokens: u32,
}

/// How an attempt ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `succeeded`, `failed` or `rate_limited`.
    pub status: ResultStatus,
    /// From the start of the attempt, in compressed time.
    pub duration_ms: f64,
    pub time_to_first_token_ms: Option<f64>,
    /// In [0, 1].
    pub quality: Option<f64>,
    pub retry_after_ms: Option<u64>,
}

/// What becomes of an attempt whose resource is broken when it should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    Fails,
    /// No answer ever comes.
    Hangs,
}

const FAILED_SHARE: f64 = 0.010;
const RATE_LIMITED_SHARE: f64 = 0.005;
/// Attempts that one task may have in the numbering of streams; more than `attempts_max` allows.
const ATTEMPTS: u64 = 64;

fn stream(seed: u64, purpose: Purpose, attempt: &Attempt) -> Draw {
    Draw::new(seed, purpose, attempt.task_index as u64 * ATTEMPTS + u64::from(attempt.number))
}

/// How the attempt ends on a resource that works. `resource` has compressed speeds.
pub fn answer(seed: u64, attempt: &Attempt, class: &str, resource: &ResourceSpec) -> Answer {
    let mut draw = stream(seed, Purpose::Attempt, attempt);
    let speed = resource.speed;
    let noise = draw.between(0.8, 1.2);
    let first_token_ms = noise
        * (speed.time_to_first_token_ms
            + f64::from(attempt.input_tokens) / speed.prefill_tokens_per_s * 1_000.0);
    let whole_ms =
        first_token_ms + noise * f64::from(attempt.output_tokens) / speed.decode_tokens_per_s * 1e3;
    let ends_at = draw.unit();
    let quality = resource.quality_prior(class).map(|prior| {
        // Mean of three uniform draws: a bell around the prior, no wider than 0.15 to each side.
        let bell = (draw.unit() + draw.unit() + draw.unit()) / 3.0 - 0.5;
        (prior + 0.3 * bell).clamp(0.0, 1.0)
    });
    let status = draw.pick(
        ResultStatus::Succeeded,
        &[(ResultStatus::Failed, FAILED_SHARE), (ResultStatus::RateLimited, RATE_LIMITED_SHARE)],
    );
    match status {
        ResultStatus::Failed => Answer {
            status,
            duration_ms: whole_ms * ends_at,
            time_to_first_token_ms: None,
            quality: None,
            retry_after_ms: None,
        },
        ResultStatus::RateLimited => Answer {
            status,
            duration_ms: 1.0,
            time_to_first_token_ms: None,
            quality: None,
            retry_after_ms: Some(100 + (ends_at * 400.0) as u64),
        },
        ResultStatus::Succeeded
        | ResultStatus::Started
        | ResultStatus::Heartbeat
        | ResultStatus::Late
        | ResultStatus::Cancelled => Answer {
            status: ResultStatus::Succeeded,
            duration_ms: whole_ms,
            time_to_first_token_ms: Some(first_token_ms),
            quality,
            retry_after_ms: None,
        },
    }
}

/// What becomes of the attempt where its resource is broken: one half fails, one half hangs.
pub fn broken(seed: u64, attempt: &Attempt) -> Broken {
    if stream(seed, Purpose::Outage, attempt).chance(0.5) { Broken::Fails } else { Broken::Hangs }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::fleet;

    fn attempt(task_index: usize, number: u32) -> Attempt {
        Attempt { task_index, number, input_tokens: 1_200, output_tokens: 72 }
    }

    #[test]
    fn shares_and_durations_follow_the_resource() {
        let fleet = fleet::bundled(120.0).unwrap();
        let resource = &fleet.resources[0];
        let mut counts = [0_u32; 3];
        for index in 0..20_000 {
            let answer = answer(3, &attempt(index, 1), "code-review", resource);
            match answer.status {
                ResultStatus::Succeeded => {
                    counts[0] += 1;
                    // 620 ms + 1,200 / 7,000 s + 72 / 72 s, give or take 20 %, 120 times faster.
                    let usual_ms = (620.0 + 1_200_000.0 / 7_000.0 + 1_000.0) / 120.0;
                    assert!((answer.duration_ms / usual_ms - 1.0).abs() < 0.2001, "{answer:?}");
                    let quality = answer.quality.unwrap();
                    assert!((0.75..=1.0).contains(&quality), "{answer:?}");
                }
                ResultStatus::Failed => counts[1] += 1,
                ResultStatus::RateLimited => counts[2] += 1,
                ResultStatus::Started
                | ResultStatus::Heartbeat
                | ResultStatus::Late
                | ResultStatus::Cancelled => panic!("{answer:?}"),
            }
        }
        assert!((150..250).contains(&counts[1]), "{counts:?}");
        assert!((60..140).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn an_attempt_is_fixed_by_its_number() {
        let fleet = fleet::bundled(120.0).unwrap();
        let of = |seed, number| answer(seed, &attempt(5, number), "default", &fleet.resources[1]);
        assert_eq!(of(1, 1), of(1, 1));
        assert_ne!(of(1, 1), of(1, 2));
        assert_ne!(of(1, 1), of(2, 1));
        let hangs = (0..1_000).filter(|index| broken(1, &attempt(*index, 1)) == Broken::Hangs);
        assert!((430..570).contains(&hangs.count()));
    }
}
