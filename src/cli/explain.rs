//! `explain`: the story of one task, by its id or by that of a decision.

use clap::Args;

use super::Global;
use super::exit::{Exit, coded};
use super::replay::range::When;
use super::replay::{FromArgs, Opened, open, progress, with_json};
use crate::clock::wall_now;
use crate::model::time::Timestamp;
use crate::replay::published::parse_id;
use crate::replay::story::{Place, find_decision, tell};

#[derive(Debug, Args)]
#[command(after_long_help = "\
A decision id (lane-epoch-seq-index) names its lane and batch, and is found at once. A task id is \
looked for in the journal of every lane, or of --lane. Each batch of the story is decided again, and \
the last line says whether the bytes are the same.

Examples:
  pointsman explain t-000001
  pointsman explain 3-1-48213-12 --output json
  pointsman explain t-000001 --from-file run.pmrec")]
pub struct ExplainArgs {
    /// The id of a task or of a decision
    #[arg(env = "POINTSMAN_EXPLAIN_ID", value_name = "TASK_ID|DECISION_ID")]
    id: String,
    #[command(flatten)]
    from: FromArgs,
    /// End the story at this time: -15m, milliseconds since the epoch, or 2026-01-31T12:00:00Z
    #[arg(
        long,
        env = "POINTSMAN_EXPLAIN_UNTIL",
        value_name = "TIME",
        allow_hyphen_values = true,
        value_parser = super::replay::range::parse
    )]
    until: Option<When>,
    /// Print the story as one JSON object
    #[arg(long, env = "POINTSMAN_EXPLAIN_JSON")]
    json: bool,
}

pub fn run(global: &Global, arguments: &ExplainArgs) -> anyhow::Result<Exit> {
    let mut opened = open(global, &arguments.from)?;
    let until = arguments.until.map_or(Timestamp::MAX, |when| when.at(wall_now()));
    let places = places(&mut opened, &arguments.id)?;
    let bar = progress(opened.journal_records()?, "explain");
    for place in &places {
        let Opened { source, settings, .. } = &mut opened;
        let story = tell(&mut **source, settings, place, until, &mut |_| bar.inc(1))?;
        if let Some(story) = story {
            bar.finish_and_clear();
            let printer = with_json(global.printer(), arguments.json);
            printer.document(&story, || story.text())?;
            return Ok(Exit::Ok);
        }
    }
    bar.finish_and_clear();
    let lanes: Vec<String> = opened.lanes.iter().map(u32::to_string).collect();
    let text = format!(
        "no decision and no task `{}` in the journal of lane {}",
        arguments.id,
        lanes.join(", ")
    );
    Err(coded(Exit::NotFound, text))
}

/// Where to look: one lane for a decision, each of them for a task.
fn places(opened: &mut Opened, id: &str) -> anyhow::Result<Vec<Place>> {
    if parse_id(id).is_some()
        && let Some(place) = find_decision(&mut *opened.source, &opened.settings, id)?
    {
        return Ok(vec![place]);
    }
    // A task id may look like a decision's.
    let lanes = opened.lanes.iter();
    Ok(lanes.map(|lane| Place { lane: *lane, task_id: id.to_owned() }).collect())
}
