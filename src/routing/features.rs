//! What a task's features say of its quality, beyond its class.
//!
//! Two prompts of one class are not equal, and a producer that has an embedding at hand (or a few
//! numbers that it knows of the prompt) may send it along. Whether that is worth anything depends on
//! the embedding, the classes and the fleet; on public data it brought almost nothing. So this
//! model only corrects: per resource a ridge regression (`ridge`) predicts by how much a result's
//! quality is off the class's posterior, and it counts as far as it has been nearer to results that
//! it had not seen than the posterior alone (`proof`). Without evidence its weight is exactly
//! zero, and what is predicted is exactly the posterior.
//!
//! What enters is how a task differs from those of its class that the resource has served: the
//! means of both, features and residuals, are the posterior's affair. So the model can say that a
//! prompt is harder than others, never that a resource is better than it seems. Both means forget
//! alike, and start again together where the posterior sees a change: so they stay those of the same
//! tasks where the routing that this causes sends other tasks there than before.
//!
//! A lane follows one length of vectors, which most results have lately (the majority vote of
//! Boyer and Moore, 1981): another length is another embedding, of which nothing has been learned.
//!
//! `features_v1` is frozen: journals are folded with it.

mod projection;
mod proof;
mod ridge;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::capability::ClassIndex;
use super::fact::ResourceIndex;
use proof::Proof;
use ridge::Ridge;

pub use projection::{Projected, project_v1};

/// Numbers that are kept of a task's features. A regression needs some results for each before it
/// is worth anything, and embeddings of prompts vary in few directions.
pub const DIMENSIONS: usize = 16;

type Vector = [f64; DIMENSIONS];

/// Resources of which a lane learns what features say: 3 KB each with a class or two, and 11 KB at
/// most. The first that have answered; for the others the posteriors serve.
const MODELS_MAX: usize = 1_024;
/// Classes of one resource whose usual task is known: 280 bytes each. The first that have answered;
/// for the others the posteriors serve.
const CLASSES_MAX: usize = 32;

/// A length's lead in the vote is at most so many results: as many of another length, more than come of
/// it, depose it.
const VOTES_MAX: u16 = 256;

/// What is kept of the weight of former tasks in the means of their features: as the posterior keeps
/// of their qualities in its slow and its fast mean.
const SLOW_KEEP: f64 = 0.998;
const FAST_KEEP: f64 = 0.95;
/// A mean of so many tasks counts half.
const USUAL_WEIGHT: f64 = 4.0;

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Mean {
    weight: f64,
    mean: Vector,
}

impl Mean {
    fn add(&mut self, keep: f64, task: &Vector) {
        self.weight = self.weight * keep + 1.0;
        for (mean, value) in self.mean.iter_mut().zip(task) {
            *mean += (value - *mean) / self.weight;
        }
    }
}

/// What the tasks of a class that a resource serves are like.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Usual {
    slow: Mean,
    fast: Mean,
}

impl Usual {
    /// How a task differs from them.
    fn apart(&self, task: &Vector) -> Vector {
        let mut apart = Vector::default();
        if self.slow.weight > 0.0 {
            for ((apart, value), mean) in apart.iter_mut().zip(task).zip(&self.slow.mean) {
                *apart = value - mean;
            }
        }
        apart
    }

    /// In [0, 1): how well they are known.
    fn known(&self) -> f64 {
        self.slow.weight / (self.slow.weight + USUAL_WEIGHT)
    }

    fn add(&mut self, task: &Vector, changed: bool) {
        self.slow.add(SLOW_KEEP, task);
        self.fast.add(FAST_KEEP, task);
        if changed {
            self.slow = self.fast;
        }
    }
}

/// What a result showed against the posterior of its class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Against {
    /// Its quality less the posterior's mean of before, in [-1, 1].
    pub off: f64,
    /// With it the posterior has seen a change, and has started again.
    pub changed: bool,
}

/// What has been learned of one resource.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Model {
    usual: BTreeMap<ClassIndex, Usual>,
    ridge: Ridge,
    proof: Proof,
    /// In [0, 1]: how much it counts.
    weight: f64,
}

impl Model {
    /// By how much a result is off the posterior, in [-1, 1], as far as the regression knows.
    fn off(&self, class: ClassIndex, task: &Vector) -> f64 {
        let Some(usual) = self.usual.get(&class) else { return 0.0 };
        self.ridge.of(&usual.apart(task)) * usual.known()
    }

    /// Predicts, then learns: what proves it are results that it has not seen.
    fn observe(&mut self, class: ClassIndex, task: &Vector, Against { off, changed }: Against) {
        let predicted = self.off(class, task);
        let is_full = self.usual.len() >= CLASSES_MAX;
        if is_full && !self.usual.contains_key(&class) {
            return;
        }
        let usual = self.usual.entry(class).or_default();
        let apart = usual.apart(task);
        usual.add(task, changed);
        if self.ridge.is_ripe() {
            self.proof.add(off, predicted);
            if self.weight > 0.0 && self.proof.is_refuted() {
                // Nothing that it learned holds any more.
                (self.ridge, self.proof) = (Ridge::default(), Proof::default());
            }
        }
        self.ridge.observe(&apart, off);
        self.weight = self.proof.weight();
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Features {
    /// Numbers in the vectors that are followed; 0: none has been seen.
    length: u16,
    /// Its lead over other lengths, in results.
    votes: u16,
    /// By resource.
    models: Vec<Option<Box<Model>>>,
    kept: u16,
    /// How many of them count.
    proven: u16,
}

impl Features {
    /// Whether they count anywhere.
    pub fn are_proven(&self) -> bool {
        self.proven > 0
    }

    /// Whether a task's features may move what is predicted of it anywhere.
    pub fn counts(&self, task: &Projected) -> bool {
        self.are_proven() && task.length == self.length
    }

    /// By how much they move what is expected of the quality of an answer there, in [-1, 1].
    pub fn moved(&self, class: ClassIndex, resource: ResourceIndex, task: &Projected) -> f64 {
        if !self.counts(task) {
            return 0.0;
        }
        match self.models.get(usize::from(resource)) {
            Some(Some(model)) if model.weight > 0.0 => {
                model.weight * model.off(class, &task.vector())
            }
            Some(_) | None => 0.0,
        }
    }

    /// `features_v1`: one more result.
    pub fn observe_v1(
        &mut self,
        class: ClassIndex,
        resource: ResourceIndex,
        task: &Projected,
        against: Against,
    ) {
        if !self.votes_for(task.length) {
            return;
        }
        let Some(model) = self.model(resource) else { return };
        let was_proven = model.weight > 0.0;
        model.observe(class, &task.vector(), against);
        let is_proven = model.weight > 0.0;
        self.proven = self.proven + u16::from(is_proven) - u16::from(was_proven);
    }

    /// One more result of this length; whether it is the one that is followed.
    fn votes_for(&mut self, length: u16) -> bool {
        if length == self.length {
            self.votes = (self.votes + 1).min(VOTES_MAX);
            return true;
        }
        if self.votes > 0 {
            self.votes -= 1;
            return false;
        }
        *self = Features { length, votes: 1, ..Features::default() };
        true
    }

    fn model(&mut self, resource: ResourceIndex) -> Option<&mut Model> {
        let at = usize::from(resource);
        if !matches!(self.models.get(at), Some(Some(_))) {
            if usize::from(self.kept) >= MODELS_MAX {
                return None;
            }
            if self.models.len() <= at {
                self.models.resize(at + 1, None);
            }
            self.kept += 1;
        }
        self.models.get_mut(at).map(|model| &mut **model.get_or_insert_default())
    }

    /// Another resource has this index now.
    pub fn forget(&mut self, resource: ResourceIndex) {
        if let Some(place) = self.models.get_mut(usize::from(resource))
            && let Some(model) = place.take()
        {
            self.kept -= 1;
            self.proven -= u16::from(model.weight > 0.0);
        }
    }
}

#[cfg(test)]
mod tests;
