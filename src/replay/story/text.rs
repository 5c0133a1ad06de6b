//! A story as text.

use std::fmt::Write as _;

use serde_json::Value;

use super::Story;
use crate::routing::explain::Considered;

impl Story {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let begun = self.events.first().map_or(0, |event| event.at_ms);
        // Writing to a string cannot fail.
        writeln!(out, "{}  lane {}, {}", self.task_id, self.lane, self.ended).ok();
        for event in &self.events {
            let after_s = (event.at_ms - begun) as f64 / 1_000.0;
            let id = event.decision_id.as_deref().unwrap_or("");
            let detail = detail_text(event.kind, &event.detail);
            writeln!(out, "{after_s:>9.3} s  seq {}  {} {detail}  {id}", event.seq, event.kind)
                .ok();
            let width = event.considered.iter().map(|one| one.resource.len()).max().unwrap_or(0);
            for one in &event.considered {
                writeln!(out, "             {}", considered_text(one, width)).ok();
            }
        }
        let (verified, all) = (self.verified_batches, self.batches);
        let how = if verified == all { "same bytes" } else { "the others were only folded" };
        writeln!(
            out,
            "verified: {verified} of {all} batches decided again under engine {}, {how}",
            self.engine_version
        )
        .ok();
        out
    }
}

fn detail_text(kind: &str, detail: &Value) -> String {
    let text = |name: &str| detail[name].as_str().unwrap_or("-").to_owned();
    match kind {
        "routed" => {
            let fallbacks: Vec<&str> = detail["fallbacks"]
                .as_array()
                .map(|all| all.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            let names = |value: &Value, between: &str| {
                let names = value.as_array().into_iter().flatten().filter_map(Value::as_str);
                names.collect::<Vec<_>>().join(between)
            };
            // Stages count from 1 for people.
            let stage = match (detail["stage"].as_u64(), detail["stages"].as_u64()) {
                (Some(stage), Some(stages)) => {
                    format!(
                        "stage {} of {stages}, chain {}, ",
                        stage + 1,
                        names(&detail["chain"], " → ")
                    )
                }
                (Some(_) | None, _) => String::new(),
            };
            format!(
                "{stage}attempt {} → {}, reserved 1 slot, 1 request, {} tokens, fallbacks {}",
                detail["attempt"],
                text("resource"),
                detail["reserved"]["tokens"],
                if fallbacks.is_empty() { "none".to_owned() } else { fallbacks.join(", ") },
            )
        }
        "slow" => {
            let percent = detail["longer_by"].as_f64().unwrap_or_default() * 100.0;
            format!("takes at least {percent:.0} % longer than expected")
        }
        "queued" => format!("blocked by {}", text("blocked_by")),
        "refused" => text("reason"),
        "attempt_ended" => {
            format!("{}, {} tokens used, then {}", text("end"), detail["tokens"], text("then"))
        }
        _ => String::new(),
    }
}

fn considered_text(one: &Considered, width: usize) -> String {
    let terms = one.terms.map(|terms| {
        // Most tasks have neither.
        let more = [("saved", terms.saved), ("later stages", terms.later)];
        let more = more.into_iter().filter(|(_, worth)| *worth != 0.0);
        let more: String = more.map(|(name, worth)| format!(" + {name} {worth:.4}")).collect();
        let moved = terms.features != 0.0;
        let features =
            if moved { format!(" (features {:+.4})", terms.features) } else { String::new() };
        format!(
            "{:.4} = quality {:.4}{features} − cost {:.4} − latency {:.4} − price {:.4}{more}",
            terms.utility, terms.quality, terms.cost, terms.latency, terms.price
        )
    });
    let tried = if one.tried { "  tried before" } else { "" };
    match &one.refused {
        None => format!("{:width$}  {}{tried}", one.resource, terms.unwrap_or_default()),
        Some(missed) => format!(
            "{:width$}  refused {}: needs {}, has {}{tried}",
            one.resource,
            missed.rule.name(),
            missed.needed,
            missed.had
        ),
    }
}
