//! Data on stdout: as a table for people, or as JSON for programs.

use std::io::{IsTerminal, Write};

use clap::{ColorChoice, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
}

/// What a mark says; each has a sign of its own, so that no meaning is in the colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    Ok,
    /// Goes on without.
    Warning,
    Failure,
}

#[derive(Debug, Clone, Copy)]
pub struct Printer {
    pub format: Format,
    stdout_colour: bool,
    stderr_colour: bool,
}

impl Printer {
    pub fn new(format: Format, choice: ColorChoice) -> Self {
        let wanted = |terminal: bool| match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        };
        Printer {
            format,
            stdout_colour: wanted(std::io::stdout().is_terminal()),
            stderr_colour: wanted(std::io::stderr().is_terminal()),
        }
    }

    pub fn stderr_colour(&self) -> bool {
        self.stderr_colour
    }

    /// Rows as a table, one document, or lines.
    ///
    /// # Errors
    /// Where stdout cannot be written to.
    pub fn rows<Row: Serialize>(
        &self,
        rows: &[Row],
        table: impl FnOnce(&[Row]) -> Table,
    ) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self.format {
            Format::Table => writeln!(out, "{}", text_of(&table(rows)))?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut out, rows)?;
                writeln!(out)?;
            }
            Format::Jsonl => {
                for row in rows {
                    serde_json::to_writer(&mut out, row)?;
                    writeln!(out)?;
                }
            }
        }
        Ok(())
    }

    /// One document: words for people, or JSON.
    ///
    /// # Errors
    /// Where stdout cannot be written to.
    pub fn document<Document: Serialize>(
        &self,
        document: &Document,
        words: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self.format {
            Format::Table => write!(out, "{}", words())?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut out, document)?;
                writeln!(out)?;
            }
            Format::Jsonl => {
                serde_json::to_writer(&mut out, document)?;
                writeln!(out)?;
            }
        }
        Ok(())
    }

    /// A mark, coloured where stdout is.
    pub fn mark(&self, mark: Mark) -> String {
        let (sign, colour) = match mark {
            Mark::Ok => ("✓", "32"),
            Mark::Warning => ("‼", "33"),
            Mark::Failure => ("×", "31"),
        };
        if self.stdout_colour { format!("\x1b[{colour}m{sign}\x1b[0m") } else { sign.to_owned() }
    }

    /// An error with its causes, on stderr.
    pub fn error(&self, error: &anyhow::Error) {
        let head = if self.stderr_colour { "\x1b[31;1merror:\x1b[0m" } else { "error:" };
        // Where stderr is gone there is nobody to tell.
        writeln!(std::io::stderr(), "{head} {error:#}").ok();
    }

    /// A remark on stderr.
    pub fn note(&self, text: &str) {
        writeln!(std::io::stderr(), "{text}").ok();
    }
}

/// A table without lines, as wide as the terminal; not folded where there is none.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    table
}

/// The lines of a table, without the white space around it.
pub fn text_of(table: &Table) -> String {
    let trimmed = |line: String| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned();
    let lines: Vec<String> = table.lines().map(trimmed).collect();
    lines.join("\n")
}

/// Asks on stderr; without a terminal the answer is no.
pub fn confirm(question: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    let mut err = std::io::stderr();
    if write!(err, "{question} [y/N] ").and_then(|()| err.flush()).is_err() {
        return false;
    }
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok()
        && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}
