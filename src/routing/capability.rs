//! The capability scorer: how well each resource serves each class of tasks, from the fleet's priors
//! and the tasks' results.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fact::ResourceIndex;
use super::posterior::{Belief, Posterior};
use super::trust::Trust;

/// A class's place in the table of classes.
pub type ClassIndex = u16;

/// Producers choose classes, so their number must not grow without end. Beyond it the priors serve.
const CLASSES_MAX: usize = 1_024;

/// Pairs of class and resource that are learned: 6 MB. Beyond it the priors serve.
const CELLS_MAX: usize = 1 << 16;

/// Before there are failures, none are expected.
const SUCCESS_PRIOR: f64 = 1.0;

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Cell {
    quality: Posterior,
    success: Posterior,
    /// What the fleet entry said of the quality when the last result came.
    quality_prior: f64,
}

/// What a worker said of an answer, and what the fleet entry had said before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Graded {
    /// In [0, 1], both.
    pub quality: f64,
    pub prior: f64,
}

/// What is believed of a resource for a class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capable {
    pub quality: Belief,
    /// In [0, 1]: that an attempt succeeds.
    pub success: f64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Capability {
    classes: BTreeMap<Box<str>, ClassIndex>,
    /// By class, then by resource.
    cells: Vec<Vec<Cell>>,
    kept: usize,
    trust: Trust,
}

impl Capability {
    /// Where a class's results are; `None` where there are none yet.
    pub fn class(&self, name: &str) -> Option<ClassIndex> {
        self.classes.get(name).copied()
    }

    /// The variance of the truth around the priors, on which every belief depends.
    pub fn spread(&self) -> f64 {
        self.trust.spread()
    }

    /// What is believed, with the fleet entry's prior for the quality.
    pub fn belief(
        &self,
        class: Option<ClassIndex>,
        resource: ResourceIndex,
        quality_prior: f64,
    ) -> Capable {
        let row = class.and_then(|class| self.cells.get(usize::from(class)));
        let cell = row.and_then(|row| row.get(usize::from(resource))).copied().unwrap_or_default();
        Capable {
            quality: cell.quality.belief_within(quality_prior, self.trust.spread()),
            success: cell.success.belief(SUCCESS_PRIOR).mean,
        }
    }

    /// Learns from an attempt that ended with an answer, or with a failure of the resource's own;
    /// `quality` in [0, 1], where the worker said so.
    pub fn observe_v1(
        &mut self,
        class: &str,
        resource: ResourceIndex,
        succeeded: bool,
        quality: Option<Graded>,
    ) {
        let Some(cell) = self.cell(class, resource) else { return };
        cell.success.observe_v1(f64::from(u8::from(succeeded)));
        if let Some(Graded { quality, prior }) = quality {
            cell.quality.observe_v1(quality);
            cell.quality_prior = prior;
            let Capability { trust, cells, .. } = self;
            trust.observe_v1(|| {
                cells.iter().flatten().filter_map(|cell| cell.quality.apart(cell.quality_prior))
            });
        }
    }

    fn cell(&mut self, class: &str, resource: ResourceIndex) -> Option<&mut Cell> {
        let at = match self.classes.get(class) {
            Some(at) => *at,
            None if self.cells.len() < CLASSES_MAX => {
                let at = self.cells.len() as ClassIndex;
                self.classes.insert(class.into(), at);
                self.cells.push(Vec::new());
                at
            }
            None => return None,
        };
        let row = self.cells.get_mut(usize::from(at))?;
        let wanted = usize::from(resource) + 1;
        if row.len() < wanted {
            if self.kept + wanted - row.len() > CELLS_MAX {
                return None;
            }
            self.kept += wanted - row.len();
            row.resize(wanted, Cell::default());
        }
        row.get_mut(usize::from(resource))
    }

    /// Failures are no evidence any more; whether there were any.
    pub fn forgive(&mut self, resource: ResourceIndex) -> bool {
        let mut any = false;
        for cell in self.cells.iter_mut().filter_map(|row| row.get_mut(usize::from(resource))) {
            any |= cell.success != Posterior::default();
            cell.success = Posterior::default();
        }
        any
    }

    /// Another resource has this index now.
    pub fn forget(&mut self, resource: ResourceIndex) {
        for row in &mut self.cells {
            if let Some(cell) = row.get_mut(usize::from(resource)) {
                *cell = Cell::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graded(quality: f64) -> Option<Graded> {
        Some(Graded { quality, prior: 0.5 })
    }

    #[test]
    fn each_pair_learns_for_itself() {
        let mut capability = Capability::default();
        for _ in 0..1_000 {
            capability.observe_v1("code", 3, true, graded(0.9));
            capability.observe_v1("chat", 3, true, graded(0.2));
        }
        let rows = [("code", 3, 0.9), ("chat", 3, 0.2), ("code", 2, 0.5), ("other", 3, 0.5)];
        for (class, resource, expected) in rows {
            let capable = capability.belief(capability.class(class), resource, 0.5);
            let mean = capable.quality.mean;
            assert!((mean - expected).abs() < 0.01, "{class} {resource}: {mean}");
        }
        capability.forget(3);
        assert_eq!(capability.belief(capability.class("code"), 3, 0.5).quality.mean, 0.5);
    }

    #[test]
    fn a_failure_says_nothing_about_the_quality_of_an_answer() {
        let mut capability = Capability::default();
        for _ in 0..100 {
            capability.observe_v1("code", 0, false, None);
        }
        let capable = capability.belief(capability.class("code"), 0, 0.7);
        assert_eq!(capable.quality.mean, 0.7);
        assert!(capable.success < 0.1, "{capable:?}");
    }

    #[test]
    fn tables_are_bounded() {
        let mut capability = Capability::default();
        for class in 0..2_000 {
            capability.observe_v1(&format!("c{class}"), 9_999, true, graded(1.0));
        }
        assert!(capability.cells.len() <= CLASSES_MAX);
        assert!(capability.cells.iter().map(Vec::len).sum::<usize>() <= CELLS_MAX);
        assert_eq!(capability.belief(capability.class("c1999"), 9_999, 0.4).quality.mean, 0.4);
    }
}
