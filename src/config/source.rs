//! The file and the environment, flattened to keys with texts. What the texts mean is decided in
//! `validate`; only the shape is judged here.
//!
//! The TOML crate's spanned tables are read directly: the layered-configuration crates keep no
//! line numbers, fold the case of keys, and stop at the first error.

use std::collections::BTreeMap;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};

/// What every environment variable of the configuration begins with.
pub const ENVIRONMENT_PREFIX: &str = "POINTSMAN__";

/// The section whose keys are passed through to librdkafka.
pub const PROPERTIES: &str = "kafka.properties";

/// A text and where it came from. Not `Debug`: it may be a secret.
#[derive(Clone)]
pub struct Given {
    pub text: String,
    pub origin: Origin,
}

/// Everything that was given, by key; environment before file.
#[derive(Default)]
pub struct Source {
    pub given: BTreeMap<String, Given>,
    pub errors: Vec<ConfigError>,
}

impl Source {
    /// Adds a file's text.
    pub fn read_toml(&mut self, path: &Path, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let at = |offset: usize| Origin::File {
            path: path.to_owned(),
            line: 1 + text[..offset.min(text.len())].matches('\n').count(),
        };
        let is_toml = errors.is_empty();
        for error in errors {
            let origin = at(error.span().map_or(0, |span| span.start));
            let problem = format!("not TOML: {}", error.message());
            self.errors.push(ConfigError { key: String::new(), problem, origin });
        }
        // What was recovered around a syntax error may not be what was meant.
        if is_toml {
            self.flatten("", table.get_ref(), &at);
        }
    }

    fn flatten(&mut self, prefix: &str, table: &DeTable<'_>, at: &impl Fn(usize) -> Origin) {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{prefix}.{}", name.get_ref())
            };
            let origin = at(name.span().start);
            if let DeValue::Table(inner) = value.get_ref() {
                self.flatten(&key, inner, at);
                continue;
            }
            match scalar(value.get_ref()) {
                Some(text) => {
                    // `a.b` quoted and `[a] b` bare are one key here, and two for the TOML parser.
                    if let Some(first) = self.given.get(&key) {
                        let problem = format!("given twice, first at {}", first.origin);
                        self.errors.push(ConfigError { key, problem, origin });
                    } else {
                        self.given.insert(key, Given { text, origin });
                    }
                }
                None => self.errors.push(ConfigError {
                    key,
                    problem: format!(
                        "{} is not allowed; a text, a number or a boolean",
                        kind_of(value.get_ref())
                    ),
                    origin,
                }),
            }
        }
    }

    /// Adds the variables with our prefix; each replaces what the file says.
    pub fn read_environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            let mut key = rest.to_lowercase().replace("__", ".");
            if let Some(property) = key.strip_prefix("kafka.properties.") {
                // No librdkafka property has an underscore in its name.
                key = format!("{PROPERTIES}.{}", property.replace('_', "."));
            }
            // A secret from the one place replaces the same secret from the other.
            for twin in file_twins(&key) {
                self.given.remove(&twin);
            }
            self.given.insert(key, Given { text, origin: Origin::Environment(name) });
        }
    }
}

/// The keys that stand for the same secret as `key`: read from a file, or given directly.
fn file_twins(key: &str) -> Vec<String> {
    let separator = if key.starts_with(PROPERTIES) { ".file" } else { "_file" };
    match key.strip_suffix(separator) {
        Some(direct) => vec![direct.to_owned()],
        None => vec![format!("{key}{separator}")],
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => Some(
            i128::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| integer.to_string(), |number| number.to_string()),
        ),
        DeValue::Float(float) => Some(float.as_str().to_owned()),
        DeValue::Boolean(boolean) => Some(boolean.to_string()),
        DeValue::Array(items) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Some(text.to_string()),
                    DeValue::Integer(_)
                    | DeValue::Float(_)
                    | DeValue::Boolean(_)
                    | DeValue::Datetime(_)
                    | DeValue::Array(_)
                    | DeValue::Table(_) => None,
                })
                .collect();
            texts.map(|texts| texts.join(","))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list of other things than texts",
        DeValue::Table(_) => "a table",
    }
}
