//! The live tasks of a snapshot: a table of shapes, then each task in the order of the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;
use crate::routing::TaskKey;
use crate::routing::affinity::SessionHash;
use crate::routing::chain::{Progress, Stages};
use crate::routing::eligibility::Memo;
use crate::routing::fact::NewTask;
use crate::routing::features::Projected;
use crate::routing::shape::{Shape, SharedShape};
use crate::routing::state::{Fallbacks, LiveTask, Phase, State, Tried};
use crate::routing::tasks::TaskList;

/// A task without its key, which stands before it.
#[derive(Serialize, Deserialize)]
struct Row<'a> {
    task_id: &'a str,
    shape: u32,
    offset: i64,
    deadline_at: Timestamp,
    input_tokens: u32,
    max_output_tokens: u32,
    attempt: u32,
    failures: u32,
    fallbacks: Fallbacks,
    tried: Option<Vec<Tried>>,
    phase: Phase,
    stage: u32,
    stages: Option<Stages>,
    session: SessionHash,
    progress: Option<Progress>,
    features: Option<Box<Projected>>,
}

/// Shapes by the order of their first task.
#[derive(Default)]
struct Shapes<'a> {
    table: Vec<&'a Shape>,
    /// Most tasks share the object.
    by_address: BTreeMap<*const Shape, u32>,
    /// Equal ones may be several objects, which must not show in the bytes.
    by_hash: BTreeMap<u64, Vec<u32>>,
    last: Option<(*const Shape, u32)>,
}

impl<'a> Shapes<'a> {
    fn number(&mut self, shape: &'a SharedShape) -> u32 {
        let address = Arc::as_ptr(shape);
        if let Some((last, number)) = self.last
            && last == address
        {
            return number;
        }
        let number = match self.by_address.get(&address) {
            Some(number) => *number,
            None => {
                let number = self.number_by_value(shape);
                self.by_address.insert(address, number);
                number
            }
        };
        self.last = Some((address, number));
        number
    }

    fn number_by_value(&mut self, shape: &'a Shape) -> u32 {
        let same = self.by_hash.entry(shape.hash()).or_default();
        let equal =
            |number: &&u32| self.table.get(**number as usize).is_some_and(|known| *known == shape);
        if let Some(number) = same.iter().find(equal) {
            return *number;
        }
        let number = self.table.len() as u32;
        self.table.push(shape);
        same.push(number);
        number
    }
}

pub fn write(tasks: &TaskList, bytes: Vec<u8>) -> postcard::Result<Vec<u8>> {
    let mut shapes = Shapes::default();
    for (_, live) in tasks.iter() {
        shapes.number(&live.task.shape);
    }
    let mut bytes = postcard::to_extend(&shapes.table, bytes)?;
    bytes = postcard::to_extend(&tasks.len(), bytes)?;
    for (key, live) in tasks.iter() {
        bytes.extend_from_slice(&key.0);
        let task = &*live.task;
        let row = Row {
            task_id: &task.task_id,
            shape: shapes.number(&task.shape),
            offset: task.offset,
            deadline_at: task.deadline_at,
            input_tokens: task.input_tokens,
            max_output_tokens: task.max_output_tokens,
            attempt: live.attempt,
            failures: live.failures,
            fallbacks: live.fallbacks,
            tried: live.tried.as_deref().cloned(),
            phase: live.phase,
            stage: task.stage,
            stages: task.stages.clone(),
            session: task.session,
            progress: live.progress.as_deref().cloned(),
            features: task.features.clone(),
        };
        bytes = postcard::to_extend(&row, bytes)?;
    }
    Ok(bytes)
}

/// Puts the tasks and their leases into the state, and returns what follows them.
pub fn read<'a>(state: &mut State, memo: &mut Memo, bytes: &'a [u8]) -> postcard::Result<&'a [u8]> {
    let (shapes, bytes): (Vec<Shape>, _) = postcard::take_from_bytes(bytes)?;
    let shapes: Vec<SharedShape> = shapes
        .into_iter()
        .map(|shape| memo.candidates_of(state, &Arc::new(shape)).shape.clone())
        .collect();
    let (count, mut bytes): (usize, _) = postcard::take_from_bytes(bytes)?;
    let end = || postcard::Error::DeserializeUnexpectedEnd;
    for _ in 0..count {
        let (key, rest) = bytes.split_first_chunk::<16>().ok_or_else(end)?;
        let (row, rest): (Row<'_>, _) = postcard::take_from_bytes(rest)?;
        bytes = rest;
        let key = TaskKey(*key);
        let task = NewTask {
            task_id: row.task_id.into(),
            shape: shapes.get(row.shape as usize).ok_or_else(end)?.clone(),
            offset: row.offset,
            deadline_at: row.deadline_at,
            input_tokens: row.input_tokens,
            max_output_tokens: row.max_output_tokens,
            stage: row.stage,
            stages: row.stages,
            session: row.session,
            features: row.features,
        };
        match row.phase {
            Phase::InFlight { lease_until, .. } => {
                state.leases.insert((lease_until, key));
            }
            Phase::Waiting { .. } | Phase::GivenUp => {}
        }
        let live = LiveTask {
            task: Arc::new(task),
            attempt: row.attempt,
            failures: row.failures,
            fallbacks: row.fallbacks,
            tried: row.tried.map(Box::new),
            phase: row.phase,
            progress: row.progress.map(Box::new),
        };
        state.tasks.insert(key, live);
    }
    Ok(bytes)
}
