//! An instance's own disk: it survives crashes, and is damaged by some of them.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;

use super::dice::Dice;
use crate::model::snapshot::Manifest;
use crate::stream::packed::{Damaged, unpack};

/// What happens to a stored snapshot while its process is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    Lost,
    Truncated,
    /// One bit.
    Flipped,
}

impl Damage {
    pub const ALL: [Damage; 3] = [Damage::Lost, Damage::Truncated, Damage::Flipped];
}

/// One stored snapshot in so many is damaged when its process crashes.
const ONE_IN: u64 = 4;

/// The newest snapshot of each lane, as `store` keeps it.
#[derive(Debug, Default)]
pub struct Disk {
    lanes: BTreeMap<u32, (Manifest, Vec<u8>)>,
}

impl Disk {
    pub fn write(&mut self, manifest: Manifest, stored: Vec<u8>) {
        self.lanes.insert(manifest.lane, (manifest, stored));
    }

    /// The state's bytes of the newest one that is not above `seq_max`. What is damaged is deleted.
    pub fn read(&mut self, lane: u32, seq_max: u64) -> Option<Result<(u64, Vec<u8>), Damaged>> {
        let (manifest, stored) = self.lanes.get(&lane)?;
        if manifest.seq > seq_max {
            return None;
        }
        let found = unpack(manifest, stored).map(|bytes| (manifest.seq, bytes));
        if found.is_err() {
            self.lanes.remove(&lane);
        }
        Some(found)
    }

    pub fn remove(&mut self, lane: u32, seq: u64) {
        if self.lanes.get(&lane).is_some_and(|(manifest, _)| manifest.seq == seq) {
            self.lanes.remove(&lane);
        }
    }

    /// The process has crashed.
    pub fn suffer(&mut self, dice: &mut ChaCha8Rng) -> Vec<Damage> {
        let mut suffered = Vec::new();
        self.lanes.retain(|_, (_, stored)| {
            if !dice.chance(1, ONE_IN) {
                return true;
            }
            let damage = Damage::ALL[dice.within(0..Damage::ALL.len() as u64) as usize];
            suffered.push(damage);
            let at = dice.within(0..stored.len().max(1) as u64) as usize;
            match damage {
                Damage::Lost => return false,
                Damage::Truncated => stored.truncate(at),
                Damage::Flipped => {
                    if let Some(byte) = stored.get_mut(at) {
                        *byte ^= 1 << dice.within(0..8);
                    }
                }
            }
            true
        });
        suffered
    }
}
