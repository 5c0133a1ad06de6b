//! What a demo ends with: one JSON object for machines, tables for people.

use std::collections::BTreeMap;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, Table};
use serde::Serialize;

use super::audit::{AuditReport, Peak};
use super::quantile::Quantiles;
use super::workers::Work;

/// The summary of `demo --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub tasks: u64,
    pub decided: u64,
    pub refused: BTreeMap<String, u64>,
    pub dead_lettered: u64,
    pub failed_over: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub oversubscribed: u64,
    pub overrun_tokens: u64,
    pub seed: u64,
    /// Deciding one task, as the router measures it.
    pub routing_us: Quantiles,
    /// From the task's publication to its first decision at a worker.
    pub end_to_end_ms: Quantiles,
    pub cost_usd: f64,
    /// Tasks by the resource of their last decision.
    pub by_resource: BTreeMap<String, u64>,
    pub elapsed_s: f64,
    /// The bootstrap list, or `embedded`.
    pub broker: String,
    /// Findings of the audit of every other kind: see `audit::Finding`.
    pub unreserved: u64,
    pub undecided: u64,
    pub unreleased: u64,
    pub inconsistent: u64,
    /// Attempts whose lease ended.
    pub expired: u64,
    /// Tasks that did not end in time.
    pub unfinished: u64,
    /// Resources that passed 90 % of one of their limits.
    pub near_limit: u64,
    /// Times that the router was killed and started again.
    pub kills: u64,
    /// The resource of the outage, where it came to one.
    pub broke: Option<String>,
    pub workers: WorkCounts,
    /// The fullest that each limit of each resource has been.
    pub peaks: BTreeMap<String, Vec<Peak>>,
}

/// Answers of the simulated workers, by attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WorkCounts {
    pub succeeded: u64,
    pub failed: u64,
    pub rate_limited: u64,
    pub late: u64,
    pub hung: u64,
}

/// What the demo itself knows, beside the audit.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub seed: u64,
    pub routing_us: Quantiles,
    pub elapsed_s: f64,
    pub broker: String,
    pub unfinished: u64,
    pub kills: u64,
    pub broke: Option<String>,
}

/// A limit counts as nearly reached from here.
const NEAR_LIMIT: f64 = 0.9;

impl Summary {
    pub fn new(report: &AuditReport, work: Work, measured: Measured) -> Self {
        let near = |peaks: &&Vec<Peak>| peaks.iter().any(|peak| peak.share() > NEAR_LIMIT);
        Summary {
            tasks: report.tasks,
            decided: report.decided,
            refused: report.refused.clone(),
            dead_lettered: report.dead_lettered,
            failed_over: report.failed_over,
            lost: report.lost,
            duplicated: report.duplicated,
            oversubscribed: report.oversubscribed,
            overrun_tokens: report.overrun_tokens,
            seed: measured.seed,
            routing_us: measured.routing_us,
            end_to_end_ms: Quantiles::of_samples(work.end_to_end_ms),
            cost_usd: (work.cost_usd * 1e6).round() / 1e6,
            by_resource: report.by_resource.clone(),
            elapsed_s: (measured.elapsed_s * 1e3).round() / 1e3,
            broker: measured.broker,
            unreserved: report.unreserved,
            undecided: report.undecided,
            unreleased: report.unreleased,
            inconsistent: report.inconsistent,
            expired: report.expired,
            unfinished: measured.unfinished,
            near_limit: report.peaks.values().filter(near).count() as u64,
            kills: measured.kills,
            broke: measured.broke,
            workers: WorkCounts {
                succeeded: work.succeeded,
                failed: work.failed,
                rate_limited: work.rate_limited,
                late: work.late,
                hung: work.hung,
            },
            peaks: report.peaks.clone(),
        }
    }

    /// Whether the demo kept what Pointsman promises.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.oversubscribed == 0
            && self.unreserved + self.undecided + self.unreleased + self.inconsistent == 0
            && self.unfinished == 0
    }

    /// The tables for people, without a final newline.
    pub fn tables(&self) -> String {
        format!("{}\n\n{}\n\n{}", self.resources(), self.totals(), self.verdict())
    }

    fn resources(&self) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header([
            "resource",
            "tasks",
            "slots, peak",
            "requests, peak",
            "tokens, peak",
        ]);
        for (resource, peaks) in &self.peaks {
            let tasks = self.by_resource.get(resource).copied().unwrap_or_default();
            let mut row = vec![Cell::new(resource), number(thousands(tasks))];
            for dimension in ["slots", "requests", "tokens"] {
                let peak = peaks.iter().find(|peak| peak.dimension == dimension);
                let share = peak.map(|peak| format!("{:.0} %", peak.share() * 100.0));
                row.push(number(share.unwrap_or_default()));
            }
            table.add_row(row);
        }
        table
    }

    fn totals(&self) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        let mut row = |name: &str, value: String| {
            table.add_row([Cell::new(name), number(value)]);
        };
        row("tasks", thousands(self.tasks));
        row("decided", thousands(self.decided));
        row("routed", thousands(self.by_resource.values().sum()));
        for (reason, tasks) in &self.refused {
            row(&format!("refused: {reason}"), thousands(*tasks));
        }
        row("dead letters", thousands(self.dead_lettered));
        if let Some(resource) = &self.broke {
            row("broke, and recovered", resource.clone());
        }
        row("failed over", thousands(self.failed_over));
        row("leases ended", thousands(self.expired));
        row("answers: failed", thousands(self.workers.failed));
        row("answers: 429", thousands(self.workers.rate_limited));
        row("answers: late", thousands(self.workers.late));
        row("never answered", thousands(self.workers.hung));
        row("overrun tokens", thousands(self.overrun_tokens));
        row("routing, p50 / p95 / p99", spread(&self.routing_us, "µs"));
        row("end to end, p50 / p95 / p99", spread(&self.end_to_end_ms, "ms"));
        row("cost", format!("{:.2} USD", self.cost_usd));
        row("resources above 90 % of a limit", thousands(self.near_limit));
        if self.kills > 0 {
            row("router killed and restarted", thousands(self.kills));
        }
        row("elapsed", format!("{:.1} s", self.elapsed_s));
        table
    }

    fn verdict(&self) -> String {
        let counts = format!(
            "lost {}, duplicated {}, oversubscribed {}",
            self.lost, self.duplicated, self.oversubscribed
        );
        if self.is_clean() {
            return format!("audit: {counts}");
        }
        let mut verdict = format!("audit FAILED: {counts}");
        for (name, count) in [
            ("unreserved", self.unreserved),
            ("undecided", self.undecided),
            ("unreleased", self.unreleased),
            ("inconsistent", self.inconsistent),
            ("unfinished", self.unfinished),
        ] {
            if count > 0 {
                verdict.push_str(&format!(", {name} {count}"));
            }
        }
        verdict
    }
}

fn number(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn spread(quantiles: &Quantiles, unit: &str) -> String {
    let one = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.1}"));
    format!("{} / {} / {} {unit}", one(quantiles.p50), one(quantiles.p95), one(quantiles.p99))
}
