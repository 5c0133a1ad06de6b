//! `config show` and `config reference`.

use std::io::Write;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Global;
use super::exit::Exit;
use super::print::table;
use crate::config;

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Every setting in force, and where it comes from; secrets are not shown
    Show,
    /// All settings with their defaults and ranges, as Markdown
    Reference,
}

#[derive(Debug, Serialize)]
struct Row {
    key: String,
    /// `null`: not set.
    value: Option<String>,
    origin: String,
}

pub fn run(global: &Global, arguments: &ConfigArgs) -> anyhow::Result<Exit> {
    match arguments.verb {
        Verb::Show => show(global),
        Verb::Reference => {
            std::io::stdout().write_all(config::reference().as_bytes())?;
            Ok(Exit::Ok)
        }
    }
}

fn show(global: &Global) -> anyhow::Result<Exit> {
    let loaded = global.load()?;
    let rows: Vec<Row> = loaded
        .effective
        .iter()
        .map(|effective| Row {
            key: effective.key.clone(),
            value: effective.value.as_ref().map(|_| effective.shown()),
            origin: effective.origin.to_string(),
        })
        .collect();
    global.printer().rows(&rows, |rows| {
        let mut table = table(&["key", "value", "from"]);
        for row in rows {
            let value = row.value.as_deref().unwrap_or("–");
            table.add_row([row.key.as_str(), value, row.origin.as_str()]);
        }
        table
    })?;
    Ok(Exit::Ok)
}
