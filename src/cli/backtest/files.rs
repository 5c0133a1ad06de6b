//! The files of a backtest: the scenario's are read whole, the decisions are written.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use super::BacktestArgs;
use crate::backtest::parse::{Files, Lines, scenario};
use crate::backtest::scenario::Scenario;
use crate::backtest::site::{Run, Verdict};
use crate::cli::exit::{Exit, coded};
use crate::cli::fleet::file::read as read_fleet;

/// Bound of each file, which is read whole: a million tasks with long outcomes fit.
const FILE_BYTES_MAX: u64 = 4 << 30;

struct Named {
    name: String,
    text: String,
}

impl Named {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let unreadable = || format!("`{name}` cannot be read");
        let bytes = std::fs::metadata(path).with_context(unreadable)?.len();
        if bytes > FILE_BYTES_MAX {
            let what = format!("`{name}` has {bytes} bytes; at most {FILE_BYTES_MAX} are allowed");
            return Err(coded(Exit::Config, what));
        }
        let text = std::fs::read_to_string(path).with_context(unreadable)?;
        Ok(Named { name, text })
    }

    fn lines(&self) -> Lines<'_> {
        Lines { name: &self.name, text: &self.text }
    }
}

/// Reads the scenario.
///
/// # Errors
/// A file cannot be read, or everything that is wrong in the files.
pub fn read(arguments: &BacktestArgs) -> anyhow::Result<Scenario> {
    let fleet = read_fleet(&arguments.fleet)?;
    if fleet.resources.is_empty() {
        let shown = arguments.fleet.display();
        return Err(coded(Exit::Config, format!("`{shown}` names no resource; one is needed")));
    }
    let tasks = Named::read(&arguments.tasks)?;
    let optional = |path: &Option<std::path::PathBuf>| path.as_deref().map(Named::read).transpose();
    let outcomes = optional(&arguments.outcomes)?;
    let outages = optional(&arguments.outages)?;
    let health = optional(&arguments.health)?;
    let history = optional(&arguments.history)?;
    let files = Files {
        tasks: tasks.lines(),
        fleet,
        outcomes: outcomes.as_ref().map(Named::lines),
        outages: outages.as_ref().map(Named::lines),
        health: health.as_ref().map(Named::lines),
        history: history.as_ref().map(Named::lines),
    };
    scenario(&files, arguments.seed).map_err(|problems| {
        let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
        coded(Exit::Config, format!("the scenario is not valid:\n  {}", list.join("\n  ")))
    })
}

/// Writes every decision of the core, in their order.
///
/// # Errors
/// The file cannot be written.
pub fn write_decisions(path: &Path, scenario: &Scenario, run: &Run) -> anyhow::Result<()> {
    let unwritable = || format!("`{}` cannot be written", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(unwritable)?);
    for decision in &run.decisions {
        let task_id = &scenario.tasks[decision.task].task.task_id;
        let decided_ms = decision.decided_ms;
        let line = match decision.verdict {
            Verdict::Routed { resource, attempt } => {
                let resource = &scenario.resources()[resource].id;
                json!({"task_id": task_id, "resource": resource, "attempt": attempt, "decided_ms": decided_ms})
            }
            Verdict::Refused(reason) => {
                json!({"task_id": task_id, "refused": reason.name(), "decided_ms": decided_ms})
            }
        };
        writeln!(out, "{line}").with_context(unwritable)?;
    }
    out.flush().with_context(unwritable)
}
