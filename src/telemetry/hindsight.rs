//! What the lanes tell of some of their tasks, kept for a few minutes: see [`crate::hindsight`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::Telemetry;
use crate::hindsight::sample::Sample;
use crate::hindsight::window::{Question, Share, Window};

/// Of each lane of the instance.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<BTreeMap<u32, Window>>);

impl Telemetry {
    /// What a committed batch of a lane tells.
    pub fn sampled(&self, lane: u32, samples: &[Sample]) {
        if samples.is_empty() {
            return;
        }
        let mut lanes = self.samples.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = lanes.entry(lane).or_default();
        samples.iter().for_each(|sample| window.add(sample.clone()));
    }

    /// What there is to solve for the lanes that run here, by lane; the others are forgotten.
    pub fn hindsight_questions(&self) -> Vec<(u32, Option<Question>)> {
        let mut lanes = self.samples.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane, _| self.runs(*lane));
        lanes.iter_mut().map(|(lane, window)| (*lane, window.question())).collect()
    }

    /// The share of the hindsight bound that a lane has reached; `None` where nothing can be said.
    pub fn lane_hindsight(&self, lane: u32, share: Option<Share>) {
        self.change(lane, |view| view.hindsight = share);
    }
}
