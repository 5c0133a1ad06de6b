//! The tasks: sizes and times from the trace, everything that it does not say drawn by the seed.

use super::trace::Arrival;
use crate::draw::{Draw, Purpose};
use crate::model::task::{Objective, Priority, Requirements, Stage, Task};

/// A task, when it is published, and what the model will generate for it.
#[derive(Debug, Clone, PartialEq)]
pub struct DemoTask {
    /// Microseconds after the first task is published.
    pub after_us: u64,
    pub task: Task,
    pub generated_tokens: u32,
}

/// Output limits that producers ask for, in tokens.
const OUTPUT_LIMITS: [u32; 7] = [32, 64, 128, 256, 512, 1_024, 2_048];

/// Sessions of each tenant; a session is the record's key.
const SESSIONS: f64 = 64.0;

/// The tasks of a demo, in order of publication: the same for the same arrivals, speed and seed.
pub fn generate(arrivals: &[Arrival], speed: f64, seed: u64) -> Vec<DemoTask> {
    let tasks = arrivals.iter().enumerate().map(|(index, arrival)| {
        let mut draw = Draw::new(seed, Purpose::Task, index as u64);
        DemoTask {
            after_us: (arrival.after_us as f64 / speed) as u64,
            task: task(index, arrival, &mut draw),
            generated_tokens: arrival.output_tokens,
        }
    });
    tasks.collect()
}

/// The place in [`generate`]'s result of the task with this id.
pub fn index_of(task_id: &str) -> Option<usize> {
    task_id.strip_prefix("t-")?.parse::<usize>().ok()?.checked_sub(1)
}

fn task(index: usize, arrival: &Arrival, draw: &mut Draw) -> Task {
    let tenant = draw.pick("acme", &[("globex", 0.27), ("umbrella", 0.20), ("initech", 0.04)]);
    let class = draw.pick(
        "code-completion",
        &[("code-review", 0.20), ("test-writing", 0.12), ("documentation", 0.08)],
    );
    let priority =
        draw.pick(Priority::Interactive, &[(Priority::Critical, 0.05), (Priority::Batch, 0.30)]);
    let objective = draw.pick(
        Objective::Balanced,
        &[(Objective::Cheapest, 0.20), (Objective::Fastest, 0.10), (Objective::Best, 0.15)],
    );
    let session = format!("{tenant}-{}", (draw.unit() * SESSIONS) as u32);
    Task {
        task_id: format!("t-{:06}", index + 1),
        tenant: tenant.to_owned(),
        class: class.to_owned(),
        priority,
        created_at_ms: None,
        deadline_ms: deadline_ms(priority, draw),
        input_tokens: arrival.input_tokens,
        max_output_tokens: max_output_tokens(arrival.output_tokens, draw),
        objective,
        requirements: requirements(tenant, class, draw),
        session: Some(session),
        features: Vec::new(),
        stages: stages(index, class, arrival),
        payload: Some(format!(r#"{{"trace_row":{}}}"#, index + 1).into_bytes()),
    }
}

/// Every so many tasks are drafted first and then done by their own class.
const STAGED_EVERY: usize = 16;

fn stages(index: usize, class: &str, arrival: &Arrival) -> Vec<Stage> {
    if index % STAGED_EVERY != STAGED_EVERY - 1 {
        return Vec::new();
    }
    let stage = |name: &str, class: &str, input_tokens: u32| Stage {
        name: name.to_owned(),
        class: class.to_owned(),
        input_tokens,
        // No answer of the trace is longer, so these never overrun.
        max_output_tokens: OUTPUT_LIMITS[OUTPUT_LIMITS.len() - 1],
        models: Vec::new(),
    };
    let (input, draft) = (arrival.input_tokens, arrival.output_tokens);
    vec![stage("draft", "documentation", input), stage("final", class, input + draft)]
}

/// Deadlines are real time, not compressed: neither are the broker's and the router's latencies.
fn deadline_ms(priority: Priority, draw: &mut Draw) -> Option<u64> {
    let (share, low, high) = match priority {
        Priority::Critical => (0.8, 10_000.0, 15_000.0),
        Priority::Interactive => (0.4, 10_000.0, 20_000.0),
        Priority::Batch => (0.1, 30_000.0, 60_000.0),
    };
    let ms = draw.between(low, high) as u64;
    draw.chance(share).then_some(ms)
}

fn max_output_tokens(generated: u32, draw: &mut Draw) -> u32 {
    let least = OUTPUT_LIMITS.iter().position(|limit| *limit >= generated);
    let least = least.unwrap_or(OUTPUT_LIMITS.len() - 1);
    let wider = draw.pick(1, &[(0, 0.3), (2, 0.2)]);
    let asked = OUTPUT_LIMITS[(least + wider).min(OUTPUT_LIMITS.len() - 1)];
    // A few producers ask for too little and their models go on all the same: overruns.
    if draw.chance(0.004) { (generated / 2).max(1) } else { asked }
}

fn requirements(tenant: &str, class: &str, draw: &mut Draw) -> Requirements {
    let mut requirements = Requirements::default();
    if tenant == "umbrella" && draw.chance(0.6) {
        requirements.regions = vec!["eu".to_owned()];
    }
    if class == "code-review" && draw.chance(0.3) {
        requirements.min_quality = Some(0.75);
    }
    if draw.chance(0.02) {
        requirements.max_cost_usd = Some(0.02);
    }
    // A few that nothing in the fleet can serve, so that refusals are seen.
    match draw.pick(0, &[(1, 0.003), (2, 0.002), (3, 0.002)]) {
        1 => requirements.regions = vec!["sa".to_owned()],
        2 => requirements.min_quality = Some(0.99),
        3 => requirements.max_cost_usd = Some(0.000_000_1),
        _ => (),
    }
    requirements
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::trace;

    #[test]
    fn every_task_is_valid_and_fixed_by_the_seed() {
        let arrivals = trace::bundled().unwrap();
        let tasks = generate(&arrivals, 120.0, 1);
        assert_eq!(tasks.len(), 8_819);
        for (index, one) in tasks.iter().enumerate() {
            assert_eq!(one.task.validate(), Ok(()), "{:?}", one.task);
            assert_eq!(index_of(&one.task.task_id), Some(index));
        }
        assert_eq!(tasks, generate(&arrivals, 120.0, 1));
        assert_ne!(tasks, generate(&arrivals, 120.0, 2));
        // The first tasks do not depend on how many follow.
        assert_eq!(tasks[..500], generate(&arrivals[..500], 120.0, 1));
        assert_eq!(tasks[8_818].after_us, 28_632_900);
    }

    #[test]
    fn few_tasks_overrun_and_few_cannot_be_served() {
        let tasks = generate(&trace::bundled().unwrap(), 120.0, 1);
        let count = |test: &dyn Fn(&DemoTask) -> bool| tasks.iter().filter(|one| test(one)).count();
        let overruns = count(&|one| one.generated_tokens > one.task.max_output_tokens);
        assert!((5..80).contains(&overruns), "{overruns}");
        let nowhere = count(&|one| {
            one.task.requirements.regions == ["sa"]
                || one.task.requirements.min_quality == Some(0.99)
                || one.task.requirements.max_cost_usd == Some(0.000_000_1)
        });
        assert!((20..120).contains(&nowhere), "{nowhere}");
        assert_eq!(index_of("t-"), None);
        assert_eq!(index_of("t-000000"), None);
        assert_eq!(index_of("other"), None);
    }
}
