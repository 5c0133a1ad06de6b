//! Every published snapshot can be used, and is the lane that its journal gives at that seq.

use super::Findings;
use super::chain::Chain;
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::model::snapshot::SnapshotKey;
use crate::sim::logs::Logs;
use crate::stream::packed::{Found, Pieces, unpack};

pub fn check(settings: &LaneSettings, logs: &Logs, chain: &Chain, findings: &mut Findings) {
    let lane = chain.lane.number();
    let mut found = Found::default();
    let partition = i32::try_from(lane).unwrap_or(0);
    let records: Vec<_> = logs
        .of(Topic::Snapshots, partition)
        .iter()
        .filter_map(|record| Some((record, SnapshotKey::parse(record.key.as_deref()?)?)))
        .collect();
    for (record, key) in &records {
        if let Err(error) = found.take(record.offset, *key, record.value.as_deref()) {
            findings.say("snapshots", format!("lane {lane}: {error}"));
        }
    }
    for (seq, manifest) in &found.manifests {
        let checked = Pieces::of(manifest).and_then(|mut pieces| {
            for (record, key) in &records {
                pieces.take(*key, record.value.as_deref());
            }
            unpack(manifest, &pieces.join()?)
        });
        let restored = match checked {
            Ok(bytes) => Lane::restore(lane, &bytes, settings.clone()),
            Err(error) => {
                findings.say("snapshots", format!("lane {lane}: {error}"));
                continue;
            }
        };
        let journaled =
            usize::try_from(*seq).ok().and_then(|seq| chain.hashes.get(seq.checked_sub(1)?));
        match restored {
            Ok(restored)
                if Some(&restored.hash()) == journaled && manifest.hash == restored.hash() => {}
            Ok(restored) => {
                let hash = restored.hash();
                let detail =
                    format!("lane {lane} at seq {seq} has {hash}, journaled: {journaled:?}");
                findings.say("snapshots", detail);
            }
            Err(error) => findings.say("snapshots", format!("lane {lane} at seq {seq}: {error}")),
        }
    }
}
