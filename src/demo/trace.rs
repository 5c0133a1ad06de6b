//! The bundled trace: one hour of a production code-completion service (see `data/README.md`).

use serde::Deserialize;

const BUNDLED: &str = include_str!("../../data/azure_llm_code_2023.csv");

/// One request of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Microseconds after the first request of the trace.
    pub after_us: u64,
    pub input_tokens: u32,
    /// What the model generated.
    pub output_tokens: u32,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum TraceError {
    #[error("trace row {row}: {detail}")]
    Row { row: usize, detail: String },
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "TIMESTAMP")]
    timestamp: String,
    #[serde(rename = "ContextTokens")]
    input_tokens: u32,
    #[serde(rename = "GeneratedTokens")]
    output_tokens: u32,
}

/// The bundled trace, in order of arrival.
pub fn bundled() -> Result<Vec<Arrival>, TraceError> {
    parse(BUNDLED)
}

/// Parses a trace with the columns TIMESTAMP, ContextTokens and GeneratedTokens, in order of
/// arrival.
pub fn parse(text: &str) -> Result<Vec<Arrival>, TraceError> {
    let mut arrivals = Vec::new();
    let mut first_us = None;
    let mut days_us = 0;
    let mut last_us = 0;
    for (index, row) in csv::Reader::from_reader(text.as_bytes()).deserialize().enumerate() {
        let row_number = index + 1;
        let row: Row =
            row.map_err(|error| TraceError::Row { row: row_number, detail: error.to_string() })?;
        let of_day_us = time_of_day_us(&row.timestamp).ok_or_else(|| TraceError::Row {
            row: row_number,
            detail: format!(
                "`{}` is no timestamp such as `2023-11-16 18:17:03.9799600`",
                row.timestamp
            ),
        })?;
        if of_day_us + days_us < last_us {
            days_us += 86_400_000_000;
        }
        last_us = of_day_us + days_us;
        let first_us = *first_us.get_or_insert(last_us);
        arrivals.push(Arrival {
            after_us: last_us.saturating_sub(first_us),
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
        });
    }
    Ok(arrivals)
}

fn time_of_day_us(timestamp: &str) -> Option<u64> {
    let (_, time) = timestamp.split_once(' ')?;
    let mut parts = time.splitn(3, ':');
    let hours: u64 = parts.next()?.parse().ok()?;
    let minutes: u64 = parts.next()?.parse().ok()?;
    let (seconds, fraction) = parts.next()?.split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let fraction_us: u64 = digits.parse().ok()?;
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_trace_is_whole() {
        let arrivals = bundled().unwrap();
        assert_eq!(arrivals.len(), 8_819);
        assert_eq!(
            arrivals[1],
            Arrival { after_us: 52_000, input_tokens: 3_180, output_tokens: 8 }
        );
        assert_eq!(arrivals[8_818].after_us, 3_435_948_056);
        let input: u64 = arrivals.iter().map(|arrival| u64::from(arrival.input_tokens)).sum();
        assert_eq!(input, 18_059_974);
    }

    #[test]
    fn midnight_is_passed_and_bad_rows_are_named() {
        let head = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        let over = format!("{head}2023-11-16 23:59:59.5,1,2\n2023-11-17 00:00:00.25,3,4\n");
        assert_eq!(
            parse(&over).unwrap(),
            [
                Arrival { after_us: 0, input_tokens: 1, output_tokens: 2 },
                Arrival { after_us: 750_000, input_tokens: 3, output_tokens: 4 },
            ]
        );
        let bad = parse(&format!("{head}yesterday,1,2\n")).unwrap_err().to_string();
        assert_eq!(
            bad,
            "trace row 1: `yesterday` is no timestamp such as `2023-11-16 18:17:03.9799600`"
        );
    }
}
