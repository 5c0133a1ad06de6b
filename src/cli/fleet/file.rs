//! A fleet file → its entries; everything that is wrong is reported together.

use std::path::Path;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::exit::{Exit, coded};
use crate::model::resource::FleetFile;

/// Reads and checks a fleet file.
///
/// # Errors
/// It cannot be read, or everything that is wrong in it.
pub fn read(path: &Path) -> anyhow::Result<FleetFile> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("`{shown}` cannot be read"))?;
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    parse(&text, is_json).map_err(|errors| {
        let count = errors.len();
        let noun = if count == 1 { "error" } else { "errors" };
        let list = errors.join("\n  ");
        coded(Exit::Config, format!("`{shown}` is not valid, {count} {noun}:\n  {list}"))
    })
}

/// The entries, or everything that is wrong.
pub fn parse(text: &str, is_json: bool) -> Result<FleetFile, Vec<String>> {
    let document: Value = if is_json {
        serde_json::from_str(text).map_err(|error| vec![format!("not JSON: {error}")])?
    } else {
        toml::from_str(text)
            .map_err(|error| vec![format!("not TOML: {}", error.to_string().trim())])?
    };
    let Value::Object(document) = document else {
        return Err(vec!["an object with `resource` and `tenant` is expected".to_owned()]);
    };
    let mut errors = Vec::new();
    let mut fleet = FleetFile::default();
    for (key, value) in document {
        match key.as_str() {
            "resource" => fleet.resources = entries("resource", value, &mut errors),
            "tenant" => fleet.tenants = entries("tenant", value, &mut errors),
            other => errors.push(format!("`{other}`: unknown key; allowed: resource, tenant")),
        }
    }
    errors.extend(fleet.validate().into_iter().map(|(entry, error)| format!("{entry}: {error}")));
    if errors.is_empty() { Ok(fleet) } else { Err(errors) }
}

fn entries<Entry: DeserializeOwned>(
    kind: &str,
    value: Value,
    errors: &mut Vec<String>,
) -> Vec<Entry> {
    let Value::Array(values) = value else {
        errors.push(format!("`{kind}`: a list of tables is expected, `[[{kind}]]` in TOML"));
        return Vec::new();
    };
    let mut found = Vec::new();
    for (number, value) in values.into_iter().enumerate() {
        let id = value.get("id").and_then(Value::as_str).unwrap_or("?").to_owned();
        match serde_path_to_error::deserialize::<_, Entry>(value) {
            Ok(entry) => found.push(entry),
            Err(error) => {
                let path = error.path().to_string();
                let at = if path == "." { String::new() } else { format!("{path}: ") };
                errors.push(format!("{kind} {} `{id}`: {at}{}", number + 1, error.inner()));
            }
        }
    }
    found
}
