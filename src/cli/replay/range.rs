//! `--since` and `--until`: a time, or how long ago.

use clap::Args;

use crate::cli::exit::{Exit, coded};
use crate::model::time::Timestamp;
use crate::replay::audit::Range;

#[derive(Debug, Args)]
pub struct RangeArgs {
    /// Begin with this time: -90s, -15m, -1h, -2d, milliseconds since the epoch, or 2026-01-31T12:00:00Z
    #[arg(
        long,
        env = "POINTSMAN_SINCE",
        value_name = "TIME",
        allow_hyphen_values = true,
        value_parser = parse
    )]
    pub since: Option<When>,
    /// End before this time, in the same forms
    #[arg(
        long,
        env = "POINTSMAN_UNTIL",
        value_name = "TIME",
        allow_hyphen_values = true,
        value_parser = parse
    )]
    pub until: Option<When>,
}

/// A time, or a distance from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    At(Timestamp),
    AgoMs(u64),
}

impl When {
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            When::At(at) => at,
            When::AgoMs(ms) => now.minus_ms(ms),
        }
    }
}

impl RangeArgs {
    /// The range as times.
    ///
    /// # Errors
    /// It ends before it begins.
    pub fn range(&self, now: Timestamp) -> anyhow::Result<Range> {
        let since = self.since.map_or(Timestamp::EPOCH, |when| when.at(now));
        let until = self.until.map_or(Timestamp::MAX, |when| when.at(now));
        if since >= until {
            return Err(coded(Exit::Usage, "--until must be later than --since"));
        }
        Ok(Range { since, until })
    }
}

pub fn parse(text: &str) -> Result<When, String> {
    let allowed = "-90s, -15m, -1h, -2d, milliseconds since the epoch, or 2026-01-31T12:00:00Z";
    let error = || format!("allowed: {allowed}");
    if let Some(ago) = text.strip_prefix('-') {
        let (number, unit) = ago.split_at(ago.len() - ago.chars().last().map_or(0, char::len_utf8));
        let number: u64 = number.parse().map_err(|_| error())?;
        let unit_ms = match unit {
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(error()),
        };
        return number.checked_mul(unit_ms).map(When::AgoMs).ok_or_else(error);
    }
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(When::At(Timestamp::from_ms(ms)));
    }
    utc_ms(text).map(|ms| When::At(Timestamp::from_ms(ms))).ok_or_else(error)
}

/// `YYYY-MM-DDTHH:MM[:SS]Z` as milliseconds since the epoch.
fn utc_ms(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, separator: char| -> Option<Vec<i64>> {
        text.split(separator).map(|part| part.parse().ok()).collect()
    };
    let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
    let time = numbers(time, ':')?;
    let (hour, minute, second) = match time[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let is_valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..60).contains(&second);
    if !is_valid {
        return None;
    }
    // Days from the epoch, by counting years that begin in March.
    let years = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = years * 365 + years / 4 - years / 100 + years / 400 + day_of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        let rows = [
            ("-90s", Some(When::AgoMs(90_000))),
            ("-15m", Some(When::AgoMs(900_000))),
            ("-1h", Some(When::AgoMs(3_600_000))),
            ("-2d", Some(When::AgoMs(172_800_000))),
            ("1700158623979", Some(When::At(Timestamp::from_ms(1_700_158_623_979)))),
            ("1970-01-01T00:00Z", Some(When::At(Timestamp::EPOCH))),
            ("2000-02-29T12:34:56Z", Some(When::At(Timestamp::from_ms(951_827_696_000)))),
            ("2023-11-16T18:17:03Z", Some(When::At(Timestamp::from_ms(1_700_158_623_000)))),
            ("2023-13-16T18:17:03Z", None),
            ("-1y", None),
            ("-", None),
            ("yesterday", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }
}
