//! `record`: the topics of a router in one file, for replays without a broker.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::Global;
use super::exit::{Exit, coded};
use super::kafka::Cluster;
use super::replay::range::RangeArgs;
use super::replay::{FromKafka, lane_settings, progress};
use crate::clock::wall_now;
use crate::lane::LaneSettings;
use crate::model::Topic;
use crate::model::time::Timestamp;
use crate::replay::audit::Range;
use crate::replay::recording::{About, Writer};
use crate::replay::source::Source as _;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Everything that is committed now, with offsets, keys, headers and times: inputs, outputs, dead \
letters, the journal and the snapshots. Contents of tasks are in the file, so treat it as you treat \
them. With --since or --until the file holds less: the journal then begins with the newest snapshot \
before that time, from which a replay starts.

Examples:
  pointsman record -f run.pmrec
  pointsman record -f hour.pmrec --since -1h")]
pub struct RecordArgs {
    /// The file to write; must not exist
    #[arg(long, short, env = "POINTSMAN_RECORD_FILE", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    range: RangeArgs,
}

pub fn run(global: &Global, arguments: &RecordArgs) -> anyhow::Result<Exit> {
    let range = arguments.range.range(wall_now())?;
    let config = global.config()?;
    let (settings, registered) = lane_settings(&config)?;
    let cluster = Cluster::new(&config.kafka, global.timeout());
    let mut source = FromKafka::open(&cluster, &config, &settings.codec)?;
    source.note_all()?;
    let shown = arguments.file.display();
    let file = File::create_new(&arguments.file).map_err(|error| {
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            return coded(Exit::Usage, format!("{shown} is there already; allowed: a new file"));
        }
        anyhow::Error::new(error).context(format!("{shown} cannot be made"))
    })?;
    let cannot = || format!("{shown} cannot be written");
    let mut writer = Writer::new(BufWriter::new(file)).with_context(cannot)?;
    let parts: Vec<_> = source.parts().collect();
    let all = parts.iter().map(|(_, _, bounds)| bounds.end - bounds.start).sum::<i64>();
    let bar = progress(u64::try_from(all).unwrap_or(0), "record");
    let mut records = 0_u64;
    let begins = begins(&mut source, &settings, range)?;
    for (topic, partition, bounds) in parts {
        let since = if [Topic::Journal, Topic::Snapshots].contains(&topic) {
            // A replay makes its state of these.
            begins.get(&partition).copied().unwrap_or(Timestamp::EPOCH)
        } else if Topic::CONTROLS.contains(&topic) {
            // They are few, and may be old.
            Timestamp::EPOCH
        } else {
            range.since
        };
        let from = if bounds.is_empty() || since == Timestamp::EPOCH {
            bounds.start
        } else {
            source.offset_at(topic, partition, since)?
        };
        writer.part(topic, partition, &(from..bounds.end));
        let mut cursor = source.open(topic, partition, from)?;
        while let Some(record) = cursor.next()? {
            bar.inc(1);
            if record.timestamp_ms >= range.until.as_ms() {
                break;
            }
            records += 1;
            writer.record(topic, &record).with_context(cannot)?;
        }
    }
    let name = |topic: Topic| topic.default_name().to_owned();
    let about = About {
        lanes: source.lanes(),
        recorded_at_ms: wall_now().as_ms(),
        group: settings.group.clone(),
        output: config.output.format,
        decisions_by_pool: settings.decisions_by_pool,
        topic_names: Topic::ALL
            .iter()
            .map(|topic| (name(*topic), config.topics.name(*topic).to_owned()))
            .collect(),
        schema_ids: registered.ids.iter().map(|(topic, id)| (name(*topic), *id)).collect(),
        writer_schemas: source.schemas(),
    };
    let file = writer.finish(about).with_context(cannot)?;
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).with_context(cannot)?;
    bar.finish_and_clear();
    let bytes = std::fs::metadata(&arguments.file).with_context(cannot)?.len();
    global.printer().document(
        &serde_json::json!({"file": shown.to_string(), "records": records, "bytes": bytes}),
        || format!("{records} records in {shown}, {bytes} bytes\n"),
    )?;
    Ok(Exit::Ok)
}

/// What a replay of the range begins with, by lane: the time of the newest snapshot before it, or
/// the journal's beginning.
fn begins(
    source: &mut FromKafka,
    settings: &LaneSettings,
    range: Range,
) -> anyhow::Result<BTreeMap<i32, Timestamp>> {
    let mut begins = BTreeMap::new();
    if range.since > Timestamp::EPOCH {
        for lane in 0..source.lanes() {
            let begun = range.start(source, settings, lane)?;
            begins.insert(i32::try_from(lane)?, begun.from.batch_time_ms);
        }
    }
    Ok(begins)
}
