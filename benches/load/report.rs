//! What is printed: one row for each figure, with its goal where it has one.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};

/// A figure is worth nothing without the conditions it was taken under.
pub struct Conditions {
    pub brokers: String,
    pub broker_version: String,
}

impl Conditions {
    pub fn text(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = read("/proc/loadavg");
        let load: Vec<&str> = load.split_whitespace().take(3).collect();
        let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
        format!(
            "{cores} cores ({}), shared by generator, broker and what is measured; load average {}; \
             broker {} at {}; librdkafka {librdkafka}; Pointsman {}, {} build",
            cpu.map_or("unknown", |(_, name)| name),
            load.join(" "),
            self.broker_version,
            self.brokers,
            env!("CARGO_PKG_VERSION"),
            if cfg!(debug_assertions) { "debug" } else { "release" },
        )
    }
}

pub struct Report {
    table: Table,
}

impl Report {
    pub fn new() -> Self {
        let mut table = Table::new();
        table.load_style(presets::ASCII_BORDERS_ONLY_CONDENSED);
        table.set_header(["", "Pointsman", "baseline", "ratio", "goal"]);
        for column in 1..5 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Report { table }
    }

    pub fn row(&mut self, name: &str, router: String, baseline: String, ratio: String, goal: &str) {
        self.table.add_row([name.to_owned(), router, baseline, ratio, goal.to_owned()]);
    }

    pub fn figure(&mut self, name: &str, figure: String, goal: &str) {
        self.row(name, figure, String::new(), String::new(), goal);
    }

    pub fn print(&self) {
        println!("{}", self.table);
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// The median of a criterion benchmark that was run before, in nanoseconds.
pub fn criterion_ns(directory: &Path, bench: &str) -> Option<f64> {
    let path = directory.join(bench).join("new/estimates.json");
    let text = std::fs::read_to_string(path).ok()?;
    let estimates: serde_json::Value = serde_json::from_str(&text).ok()?;
    estimates.get("median")?.get("point_estimate")?.as_f64()
}
