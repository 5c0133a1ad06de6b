//! `dlq list | show | redrive`: what could not be used, and another try.

mod letters;
mod redrive;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::exit::{Exit, coded};
use super::kafka::Cluster;
use super::print::table;
use super::replay::range::RangeArgs;
use super::tap::line_of;
use super::{Global, tool_codec};
use crate::clock::wall_now;
use crate::config::Config;
use crate::model::Topic;
use letters::{Letter, Wanted};

#[derive(Debug, Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// Dead letters by topic, stage and reason
    List(SelectArgs),
    /// Dead letters one by one, as JSON lines
    Show(ShowArgs),
    /// Send dead letters to their topics again; without --yes only says what would happen
    Redrive(redrive::RedriveArgs),
}

/// Which dead letters.
#[derive(Debug, Args)]
struct SelectArgs {
    /// One dead-letter topic, by its default or its configured name; without it all
    #[arg(env = "POINTSMAN_DLQ_TOPIC")]
    topic: Option<String>,
    /// Only with this reason, such as context_window or unknown_format
    #[arg(long, env = "POINTSMAN_DLQ_REASON", value_name = "REASON")]
    reason: Option<String>,
    #[command(flatten)]
    range: RangeArgs,
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    select: SelectArgs,
    /// At most so many
    #[arg(long, env = "POINTSMAN_DLQ_LIMIT", value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub fn run(global: &Global, arguments: &DlqArgs) -> anyhow::Result<Exit> {
    match &arguments.command {
        DlqCommand::List(arguments) => list(global, arguments),
        DlqCommand::Show(arguments) => show(global, arguments),
        DlqCommand::Redrive(arguments) => redrive::run(global, arguments),
    }
}

impl SelectArgs {
    fn wanted(&self, config: &Config) -> anyhow::Result<Wanted> {
        let topics = Topic::ALL.into_iter().filter_map(Topic::dlq);
        let topics: Vec<Topic> = match &self.topic {
            None => topics.collect(),
            Some(name) => topics
                .filter(|topic| config.topics.name(*topic) == name || topic.default_name() == name)
                .collect(),
        };
        if topics.is_empty() {
            let names: Vec<&str> =
                Topic::ALL.into_iter().filter_map(Topic::dlq).map(Topic::default_name).collect();
            let text = format!(
                "`{}` is no topic of dead letters; allowed: {}",
                self.topic.as_deref().unwrap_or_default(),
                names.join(", ")
            );
            return Err(coded(Exit::Usage, text));
        }
        Ok(Wanted { topics, reason: self.reason.clone(), range: self.range.range(wall_now())? })
    }
}

/// Letters that are dead for the same reason.
#[derive(Debug, Serialize)]
struct Group {
    topic: String,
    stage: String,
    reason: String,
    count: u64,
    /// Those that were sent again.
    redriven: u64,
    first_ms: i64,
    last_ms: i64,
    /// `topic:partition:offset` of the last one.
    sample: String,
    message: String,
}

fn list(global: &Global, arguments: &SelectArgs) -> anyhow::Result<Exit> {
    let config = global.config()?;
    let cluster = Cluster::new(&config.kafka, global.timeout());
    let wanted = arguments.wanted(&config)?;
    let done = letters::redriven(&cluster, &config)?;
    let mut groups: Vec<Group> = Vec::new();
    letters::read(&cluster, &config, &wanted, &mut |letter: Letter| {
        let known = groups.iter_mut().find(|group| {
            (group.topic.as_str(), group.stage.as_str(), group.reason.as_str())
                == (letter.topic_name.as_str(), letter.stage.as_str(), letter.reason.as_str())
        });
        let is_redriven = u64::from(done.contains(&letter));
        let at = letter.record.timestamp_ms;
        match known {
            Some(group) => {
                group.count += 1;
                group.redriven += is_redriven;
                group.first_ms = group.first_ms.min(at);
                group.last_ms = group.last_ms.max(at);
                group.sample = letter.place();
                group.message = letter.message;
            }
            None => groups.push(Group {
                sample: letter.place(),
                topic: letter.topic_name,
                stage: letter.stage,
                reason: letter.reason,
                count: 1,
                redriven: is_redriven,
                first_ms: at,
                last_ms: at,
                message: letter.message,
            }),
        }
        Ok(())
    })?;
    groups.sort_by(|one, other| other.count.cmp(&one.count).then(one.sample.cmp(&other.sample)));
    global.printer().rows(&groups, |groups| {
        let mut shown =
            table(&["topic", "stage", "reason", "count", "redriven", "sample", "message"]);
        for group in groups {
            shown.add_row([
                group.topic.clone(),
                group.stage.clone(),
                group.reason.clone(),
                group.count.to_string(),
                group.redriven.to_string(),
                group.sample.clone(),
                group.message.clone(),
            ]);
        }
        shown
    })?;
    Ok(Exit::Ok)
}

fn show(global: &Global, arguments: &ShowArgs) -> anyhow::Result<Exit> {
    use std::io::Write as _;
    let config = global.config()?;
    let cluster = Cluster::new(&config.kafka, global.timeout());
    let wanted = arguments.select.wanted(&config)?;
    let codec = tool_codec(&config)?;
    let mut out = std::io::stdout().lock();
    let mut shown = 0;
    letters::read(&cluster, &config, &wanted, &mut |letter: Letter| {
        if shown < arguments.limit {
            let decoded = letter.record.with(letter.topic, |raw| codec.to_json(raw));
            serde_json::to_writer(&mut out, &line_of(&letter.record, decoded))?;
            writeln!(out)?;
            shown += 1;
        }
        Ok(())
    })?;
    Ok(if shown == 0 { Exit::NotFound } else { Exit::Ok })
}
