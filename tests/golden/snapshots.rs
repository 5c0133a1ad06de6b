//! Adds to a recording the snapshots that its lanes would have published: for golden files that
//! were recorded in a run too short for one.

use std::fs::File;
use std::io::BufWriter;

use pointsman::lane::Lane;
use pointsman::model::Topic;
use pointsman::model::snapshot::{MANIFEST_FORMAT, Manifest, SnapshotKey};
use pointsman::replay::Record;
use pointsman::replay::journal::Journal;
use pointsman::replay::player::Player;
use pointsman::replay::recording::Writer;
use pointsman::replay::source::Source;
use xxhash_rust::xxh3::xxh3_128;

use crate::open;

/// One after so many batches, and its manifest in the batch behind.
const EVERY: u64 = 10;
/// Small, so that there are several.
const CHUNK_BYTES: usize = 4 << 10;

/// `GOLDEN_FROM=old.pmrec GOLDEN_TO=new.pmrec cargo test --test golden -- --ignored adds_snapshots`
#[test]
#[ignore = "it writes a file"]
fn adds_snapshots_to_a_recording() {
    let path = |name: &str| std::env::var_os(name).expect(name);
    let (mut recording, settings) = open(path("GOLDEN_FROM").as_ref());
    let out = BufWriter::new(File::create_new(path("GOLDEN_TO")).unwrap());
    let mut writer = Writer::new(out).unwrap();
    let parts: Vec<_> = recording.parts().collect();
    for (topic, partition, bounds) in parts {
        if topic == Topic::Snapshots {
            continue;
        }
        writer.part(topic, partition, &bounds);
        let mut cursor = recording.open(topic, partition, bounds.start).unwrap();
        while let Some(record) = cursor.next().unwrap() {
            writer.record(topic, &record).unwrap();
        }
    }
    for lane in 0..recording.lanes() {
        writer.part(Topic::Snapshots, lane as i32, &(0..0));
        let mut journal = Journal::open(&mut recording, lane, &settings).unwrap();
        let mut player = Player::new(lane, &settings);
        let mut offset = 0;
        let mut write = |key: SnapshotKey, timestamp_ms: i64, value: Vec<u8>| {
            let record = Record {
                partition: lane as i32,
                offset,
                timestamp_ms,
                key: Some(key.to_string().into_bytes()),
                value: Some(value),
                headers: Vec::new(),
            };
            offset += 1;
            writer.record(Topic::Snapshots, &record).unwrap();
        };
        let mut announced: Option<Manifest> = None;
        while let Some(batch) = journal.next_batch().unwrap() {
            player.play(&mut recording, &batch, false).unwrap();
            if let Some(manifest) = announced.take() {
                let key = SnapshotKey::manifest(lane, manifest.seq);
                let value = serde_json::to_vec(&manifest).unwrap();
                write(key, batch.record.batch_time_ms.as_ms(), value);
            }
            let played = player.lane().unwrap();
            if played.seq().is_multiple_of(EVERY) {
                let (manifest, stored) = stored(played);
                let at_ms = manifest.batch_time_ms.as_ms();
                for (number, chunk) in (0..).zip(stored.chunks(CHUNK_BYTES)) {
                    write(SnapshotKey::chunk(lane, manifest.seq, number), at_ms, chunk.to_vec());
                }
                announced = Some(manifest);
            }
        }
    }
    writer.finish(recording.about().clone()).unwrap();
}

fn stored(lane: &Lane) -> (Manifest, Vec<u8>) {
    let state = lane.snapshot().unwrap();
    let stored = zstd::bulk::compress(&state, 1).unwrap();
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        lane: lane.number(),
        seq: lane.seq(),
        hash: lane.hash(),
        batch_time_ms: lane.batch_time(),
        tasks_offset: lane.positions().tasks.unwrap_or(0),
        state_bytes: state.len() as u64,
        stored_bytes: stored.len() as u64,
        chunks: stored.len().div_ceil(CHUNK_BYTES) as u32,
        stored_hash: format!("{:032x}", xxh3_128(&stored)),
        kept: true,
        last_kept: None,
        previous: None,
        previous_kept: true,
        drops: Vec::new(),
    };
    (manifest, stored)
}
