//! The report for people and for programs.

use std::io::Write;

use comfy_table::{Cell, CellAlignment, Table};

use crate::backtest::summary::{Report, Summary};
use crate::cli::print;

pub fn print(report: &Report, as_json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", words(report))?;
    }
    Ok(())
}

fn words(report: &Report) -> String {
    let core = &report.core;
    let mut text = format!("{}\n", print::text_of(&routers(report)));
    let refused: Vec<String> =
        core.refused.iter().map(|(reason, tasks)| format!("{reason} {tasks}")).collect();
    if !refused.is_empty() {
        text.push_str(&format!("\nrefused by pointsman: {}", refused.join(", ")));
    }
    if core.by_priority.len() > 1 {
        text.push_str(&format!("\n\n{}\n", print::text_of(&priorities(core))));
    }
    let bounds = [
        ("utility, knowing everything", core.bound),
        ("utility, knowing class means", core.bound_class_informed),
        ("quality, knowing everything", core.quality_bound),
        ("quality, knowing class means", core.quality_bound_class_informed),
    ];
    let bounds: Vec<String> = bounds
        .iter()
        .filter_map(|(name, bound)| Some(format!("{name} {:.2}", (*bound)?)))
        .collect();
    if !bounds.is_empty() {
        text.push_str(&format!("\nat most: {}", bounds.join("; ")));
    }
    text.push_str(&format!(
        "\n{} tasks, {} attempts, {} failed, oversubscribed {}, overrun tokens {}, seed {}, {:.1} s",
        core.tasks,
        core.attempts,
        core.failed_attempts,
        core.oversubscribed,
        core.overrun_tokens,
        report.seed,
        report.elapsed_s,
    ));
    if core.messages + core.advice > 0 {
        let (messages, advice) = (core.messages, core.advice);
        text.push_str(&format!(
            "\nbetween lanes: rights moved {messages} times, advised {advice} times"
        ));
    }
    text
}

fn routers(report: &Report) -> Table {
    let mut table = print::table(&[
        "router",
        "utility",
        "of class-informed",
        "of hindsight",
        "quality",
        "of class-informed",
        "cost, USD",
        "answered",
        "late",
        "refused",
        "mean wait, s",
    ]);
    table.add_row(row("pointsman", &report.core));
    for (name, summary) in &report.baselines {
        table.add_row(row(name, summary));
    }
    table
}

/// How tasks of each priority fare with Pointsman.
fn priorities(core: &Summary) -> Table {
    let mut table = print::table(&[
        "priority",
        "tasks",
        "utility",
        "quality",
        "cost, USD",
        "answered",
        "late",
        "refused",
        "mean wait, s",
    ]);
    for (priority, of) in &core.by_priority {
        let numbers = [
            of.tasks.to_string(),
            format!("{:.2}", of.utility),
            format!("{:.2}", of.quality),
            format!("{:.2}", of.cost_usd),
            of.routed.to_string(),
            of.late.to_string(),
            of.refused_all().to_string(),
            format!("{:.2}", of.mean_wait_ms / 1_000.0),
        ];
        table.add_row(cells(priority.name(), numbers));
    }
    table
}

fn row(name: &str, summary: &Summary) -> Vec<Cell> {
    let percent = |share: Option<f64>| {
        share.map_or("–".to_owned(), |share| format!("{:.1} %", share * 100.0))
    };
    let numbers = [
        format!("{:.2}", summary.utility),
        percent(summary.share_class_informed),
        percent(summary.share),
        format!("{:.2}", summary.quality),
        percent(summary.quality_share_class_informed),
        format!("{:.2}", summary.cost_usd),
        summary.routed.to_string(),
        summary.late.to_string(),
        summary.refused_all().to_string(),
        format!("{:.2}", summary.mean_wait_ms / 1_000.0),
    ];
    cells(name, numbers)
}

fn cells<const COUNT: usize>(name: &str, numbers: [String; COUNT]) -> Vec<Cell> {
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    std::iter::once(Cell::new(name)).chain(numbers.into_iter().map(right)).collect()
}
