//! `explain`: the story of one task, by its id or by that of a decision.

use clap::Args;
use indicatif::ProgressStyle;

use super::Global;
use super::exit::{Exit, coded};
use super::replay::range::When;
use super::replay::{FromArgs, Opened, open, progress};
use crate::clock::wall_now;
use crate::model::time::Timestamp;
use crate::replay::find::{Place, find_decision, find_task};
use crate::replay::published::parse_id;
use crate::replay::story::tell;

#[derive(Debug, Args)]
#[command(after_long_help = "\
A decision id (lane-epoch-seq-index) names its lane and batch, and is found at once. A task id is \
looked for in the journal of every lane, or of --lane, from --since on. The state is that of the newest \
snapshot before; each batch of the story is decided again, and the last line says whether the bytes are \
the same. The story ends with the task; a later task with the same id has one of its own.

Examples:
  pointsman explain t-000001
  pointsman explain t-000001 --since -1h --lane 3
  pointsman explain 3-1-48213-12 --output json
  pointsman explain t-000001 --from-file run.pmrec")]
pub struct ExplainArgs {
    /// The id of a task or of a decision
    #[arg(env = "POINTSMAN_EXPLAIN_ID", value_name = "TASK_ID|DECISION_ID")]
    id: String,
    #[command(flatten)]
    from: FromArgs,
    /// Look for a task id from this time on only: -15m, milliseconds since the epoch, or 2026-01-31T12:00:00Z
    #[arg(
        long,
        env = "POINTSMAN_SINCE",
        value_name = "TIME",
        allow_hyphen_values = true,
        value_parser = super::replay::range::parse
    )]
    since: Option<When>,
    /// End the story at this time, in the same forms
    #[arg(
        long,
        env = "POINTSMAN_EXPLAIN_UNTIL",
        value_name = "TIME",
        allow_hyphen_values = true,
        value_parser = super::replay::range::parse
    )]
    until: Option<When>,
}

pub fn run(global: &Global, arguments: &ExplainArgs) -> anyhow::Result<Exit> {
    let mut opened = open(global, &arguments.from)?;
    let now = wall_now();
    let until = arguments.until.map_or(Timestamp::MAX, |when| when.at(now));
    let since = arguments.since.map_or(Timestamp::EPOCH, |when| when.at(now));
    let told = match find(&mut opened, &arguments.id, since)? {
        Some(place) => {
            // How long the story is shows only as it is told.
            let bar = progress(0, "explain").with_style(ProgressStyle::default_spinner());
            let Opened { source, settings, .. } = &mut opened;
            let story = tell(&mut **source, settings, &place, until, &mut |_| bar.inc(1))?;
            bar.finish_and_clear();
            story
        }
        None => None,
    };
    let Some(story) = told else {
        let lanes: Vec<String> = opened.lanes.iter().map(u32::to_string).collect();
        let text = format!(
            "no decision and no task `{}` in the journal of lane {}{}",
            arguments.id,
            lanes.join(", "),
            arguments.since.map_or(String::new(), |_| format!(" since {since}")),
        );
        return Err(coded(Exit::NotFound, text));
    };
    let printer = global.printer();
    printer.document(&story, || story.text())?;
    Ok(Exit::Ok)
}

/// A decision says where it is; a task is looked for in each lane.
fn find(opened: &mut Opened, id: &str, since: Timestamp) -> anyhow::Result<Option<Place>> {
    if parse_id(id).is_some()
        && let Some(place) = find_decision(&mut *opened.source, &opened.settings, id)?
    {
        return Ok(Some(place));
    }
    // A task id may look like a decision's.
    let bar = progress(opened.journal_records_since(since)?, "search");
    let Opened { source, settings, lanes } = opened;
    for lane in lanes {
        let found = find_task(&mut **source, settings, *lane, id, since, &mut || bar.inc(1))?;
        if found.is_some() {
            bar.finish_and_clear();
            return Ok(found);
        }
    }
    bar.finish_and_clear();
    Ok(None)
}
