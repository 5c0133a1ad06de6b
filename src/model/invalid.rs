//! Why a value that could be decoded is not accepted, and the checks that several kinds of records share.

use std::fmt;

/// Bound of a name, bytes: tenant, class, session, region, modality, model. Ids of tasks have their own.
pub const NAME_BYTES_MAX: usize = 128;

/// The field, what was given, what is allowed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field}: {given} is not allowed; {allowed}")]
pub struct Invalid {
    pub field: String,
    pub given: String,
    pub allowed: String,
}

impl Invalid {
    pub fn new(field: &str, given: impl fmt::Display, allowed: &str) -> Self {
        let mut given = given.to_string();
        // An error travels in a record header; the value itself is in the dead letter.
        if given.len() > 64 {
            let cut = (0..=64).rev().find(|at| given.is_char_boundary(*at)).unwrap_or(0);
            given.truncate(cut);
            given.push('…');
        }
        Invalid { field: field.to_owned(), given, allowed: allowed.to_owned() }
    }
}

pub(super) fn check_name(field: &str, name: &str, bytes_max: usize) -> Result<(), Invalid> {
    if name.is_empty() {
        return Err(Invalid::new(field, "an empty string", "a name of at least one byte"));
    }
    if name.len() > bytes_max {
        let allowed = format!("at most {bytes_max} bytes");
        return Err(Invalid::new(field, format!("{} bytes", name.len()), &allowed));
    }
    Ok(())
}

pub(super) fn check_number(field: &str, number: f64, low: f64, high: f64) -> Result<(), Invalid> {
    if number.is_finite() && (low..=high).contains(&number) {
        return Ok(());
    }
    let allowed = if high == f64::MAX {
        format!("a finite number of at least {low}")
    } else {
        format!("a number in [{low}, {high}]")
    };
    Err(Invalid::new(field, number, &allowed))
}

pub(super) fn check_count(field: &str, count: usize, max: usize) -> Result<(), Invalid> {
    if count <= max {
        return Ok(());
    }
    Err(Invalid::new(field, format!("{count} entries"), &format!("at most {max}")))
}
