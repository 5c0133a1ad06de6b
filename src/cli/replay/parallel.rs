//! Lanes audited at the same time: each is a history of its own.

use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::anyhow;
use indicatif::ProgressBar;

use super::Opened;
use crate::replay::audit::{Audit, Range, audit_lane};
use crate::replay::source::Source;

/// More threads than this would only wait for the brokers.
const THREADS_MAX: usize = 16;

/// Audits all lanes that are asked for.
///
/// # Errors
/// The source cannot be read.
pub fn audit(opened: &Opened, range: Range, bar: &ProgressBar) -> anyhow::Result<Audit> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let count = opened.lanes.len().min(processors).min(THREADS_MAX);
    let mut sources = Vec::new();
    for _ in 0..count {
        sources.push(opened.source.duplicate()?);
    }
    let lanes = Mutex::new(opened.lanes.iter());
    let next = || lanes.lock().unwrap_or_else(PoisonError::into_inner).next();
    let settings = &opened.settings;
    let work = |mut source: Box<dyn Source + Send>| -> anyhow::Result<Audit> {
        let mut found = Audit::default();
        while let Some(lane) = next() {
            audit_lane(&mut *source, settings, *lane, range, &mut found, &mut |_| bar.inc(1))?;
        }
        Ok(found)
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            sources.into_iter().map(|source| scope.spawn(|| work(source))).collect();
        let mut found = Audit::default();
        for thread in threads {
            let audited = thread.join().map_err(|_| anyhow!("an audit panicked; this is a bug"))?;
            found.merge(audited?);
        }
        Ok(found)
    })
}
