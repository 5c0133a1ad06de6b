//! The configuration of an instance, with `{instance}` and `{data}` left open.

use pointsman::demo::topics::DemoTopics;

use crate::plan::{SESSION_TIMEOUT_MS, TRANSACTION_TIMEOUT_MS};

/// `sections` are what the kind of run adds: whole sections of TOML.
pub fn configuration(
    brokers: &str,
    prefix: &str,
    topics: &DemoTopics,
    workers: i32,
    sections: &str,
) -> anyhow::Result<String> {
    let names = toml::to_string(&topics.section())?;
    Ok(format!(
        r#"[kafka]
brokers = "{brokers}"
group_id = "{prefix}group"
instance_id = "{{instance}}"
data_directory = "{{data}}"

[topics]
{names}
[worker]
workers = {workers}
session_timeout_ms = {SESSION_TIMEOUT_MS}
transaction_timeout_ms = {TRANSACTION_TIMEOUT_MS}

{sections}
[http]
address = "127.0.0.1:0"

[log]
format = "text"
"#
    ))
}
