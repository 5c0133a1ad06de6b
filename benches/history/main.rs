//! Histories of a lane that is driven directly: what snapshots cost and save, and how fast a
//! recorded history is explained and audited. No broker is needed.
//!
//! `cargo bench --bench history -- recovery`, `cargo bench --bench history -- replay`

mod driven;
#[expect(dead_code, reason = "the load generator needs more of it")]
#[path = "../load/material.rs"]
mod material;
mod recovery;
mod replay;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Measures snapshots, recovery and replay")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Given by `cargo bench`.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One lane: its snapshot, its recovery, and what the core spends on its journal.
    Recovery(recovery::Arguments),
    /// A recording: explain and audit.
    Replay(replay::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Recovery(arguments) => recovery::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
    }
}
