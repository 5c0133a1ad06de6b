//! argv → command → exit code. One file per command.

mod backtest;
mod broker;
mod check;
mod completions;
mod config;
mod demo;
mod dlq;
pub mod exit;
mod explain;
mod fleet;
mod health;
mod inspect;
pub mod kafka;
pub mod print;
mod record;
mod recover;
mod registry;
mod replay;
mod run;
mod signals;
mod simulate;
mod submit;
mod tap;
#[cfg(test)]
mod tests;
pub mod topics;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::codec::{Codec, OutputFormat, RegisteredSchemas};
use crate::config::{Config, ConfigErrors, Loaded};
use exit::Exit;
use print::{Format, Printer};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const LONG_ABOUT: &str = "\
Pointsman reads AI tasks from Kafka, decides which model serves each one, reserves that model's \
capacity, and publishes the decision, exactly once.

Data goes to stdout, progress and logs to stderr. Settings come from a TOML file (--config) and \
from variables such as POINTSMAN__KAFKA__BROKERS, which win; without any, the defaults serve \
localhost:9092.";

const AFTER_LONG_HELP: &str = "\
See it work, with nothing else installed:
  pointsman demo

A first run, against a broker on localhost:9092 (`pointsman broker` is one):
  pointsman check                        what is missing, and how to mend it
  pointsman topics apply                 create the topics
  pointsman fleet apply -f fleet.toml    say which models there are
  pointsman run                          route
  pointsman submit -f tasks.jsonl        give it work
  pointsman tap                          watch the decisions

Exit codes:
   0  done                               69  Kafka, or the registry, cannot be reached
   1  failed                             70  the state refuses to start: do not restart
   2  wrong usage                        75  fenced, or a passing failure: restart
   3  a difference was found             77  access denied
   4  not found                          78  the configuration is wrong: do not restart
   5  refused by you (or without a terminal: pass --yes)";

/// The event-driven router between AI tasks and models
#[derive(Debug, Parser)]
#[command(
    name = "pointsman",
    version,
    long_about = LONG_ABOUT,
    after_long_help = AFTER_LONG_HELP,
    styles = STYLES,
    max_term_width = 100,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file (TOML); without it the defaults and the environment hold
    #[arg(long, short, global = true, env = "POINTSMAN_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How data is printed
    #[arg(
        long,
        short,
        global = true,
        env = "POINTSMAN_OUTPUT",
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub output: Format,
    /// The same as --output jsonl: one JSON object a line
    #[arg(long, global = true, env = "POINTSMAN_JSON")]
    pub json: bool,
    /// When to use colour; NO_COLOR is respected
    #[arg(
        long,
        global = true,
        env = "POINTSMAN_COLOR",
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub color: ColorChoice,
    /// Seconds to wait for Kafka before giving up
    #[arg(
        long,
        global = true,
        env = "POINTSMAN_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub timeout: u64,
}

impl Global {
    /// The configuration with the origin of each value.
    ///
    /// # Errors
    /// Everything that is wrong with it, together.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        crate::config::load(self.config.as_deref(), environment())
    }

    /// The configuration.
    ///
    /// # Errors
    /// As [`Global::load`].
    pub fn config(&self) -> Result<Config, ConfigErrors> {
        self.load().map(|loaded| loaded.config)
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    pub fn printer(&self) -> Printer {
        let format = match self.output {
            Format::Table if self.json => Format::Jsonl,
            given @ (Format::Table | Format::Json | Format::Jsonl) => given,
        };
        Printer::new(format, self.color)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Route tasks, until SIGTERM or Ctrl-C
    Run(run::RunArgs),
    /// Find out what is wrong before it matters; changes nothing
    Check(check::CheckArgs),
    /// See it work: a real trace, a bundled fleet, simulated workers and an audit
    Demo(demo::DemoArgs),
    /// A Kafka broker in memory, for development
    Broker(broker::BrokerArgs),
    /// Show the configuration in force, or the reference of all settings
    Config(config::ConfigArgs),
    /// Compare the topics with what is needed, and create what is missing
    Topics(topics::TopicsArgs),
    /// Describe which resources and tenants there are
    Fleet(fleet::FleetArgs),
    /// Find out why a lane does not run, and resolve it
    Recover(recover::RecoverArgs),
    /// Publish tasks
    Submit(submit::SubmitArgs),
    /// Print the records of a topic as JSON lines, as they come
    Tap(tap::TapArgs),
    /// Give a resource, provider, region or failure domain no new work
    Drain(health::DrainArgs),
    /// Undo `drain`
    Undrain(health::UndrainArgs),
    /// Look for faults: the whole system from a seed, in virtual time
    Simulate(simulate::SimulateArgs),
    /// Tell the story of one task: candidates, refusals, utility terms, results
    Explain(explain::ExplainArgs),
    /// Decide recorded tasks again: as they were, or under another fleet or policy
    Replay(replay::ReplayArgs),
    /// Write the router's topics into one file, for replays without a broker
    Record(record::RecordArgs),
    /// Look at dead letters, and send them again
    Dlq(dlq::DlqArgs),
    /// Look at lanes, journals and offsets; works without a running router
    Inspect(inspect::InspectArgs),
    /// Measure routing against simple routers and against perfect foresight, offline
    Backtest(backtest::BacktestArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// The command line as clap sees it; for completions and tests.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Help and usage errors are printed while parsing, so their colour has to be known before.
    let matches = match Cli::command().color(colour_of(&arguments)).try_get_matches_from(arguments)
    {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let printer = cli.global.printer();
    match dispatch(cli) {
        Ok(exit) => exit.into(),
        Err(error) if exit::is_broken_pipe(&error) => Exit::Ok.into(),
        Err(error) => {
            printer.error(&error);
            exit::of(&error).into()
        }
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    // Where even this cannot be printed there is nobody to tell.
    error.print().ok();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
}

fn colour_of(arguments: &[OsString]) -> ColorChoice {
    let mut texts = arguments.iter().filter_map(|argument| argument.to_str());
    let mut given = std::env::var("POINTSMAN_COLOR").ok();
    while let Some(text) = texts.next() {
        if text == "--color" {
            given = texts.next().map(str::to_owned);
        } else if let Some(value) = text.strip_prefix("--color=") {
            given = Some(value.to_owned());
        }
    }
    match given.as_deref() {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        Some(_) | None => ColorChoice::Auto,
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let Cli { global, command } = cli;
    match command {
        Command::Run(arguments) => run::run(&global, &arguments),
        Command::Check(arguments) => check::check(&global, &arguments),
        Command::Demo(arguments) => demo::run(&global, arguments),
        Command::Broker(arguments) => broker::run(&global, &arguments),
        Command::Config(arguments) => config::run(&global, &arguments),
        Command::Topics(arguments) => topics::run(&global, &arguments),
        Command::Fleet(arguments) => fleet::run(&global, &arguments),
        Command::Recover(arguments) => recover::recover(&global, &arguments),
        Command::Submit(arguments) => submit::submit(&global, &arguments),
        Command::Tap(arguments) => tap::tap(&global, &arguments),
        Command::Drain(arguments) => health::drain(&global, &arguments),
        Command::Undrain(arguments) => health::undrain(&global, &arguments),
        Command::Simulate(arguments) => simulate::run(&global, &arguments),
        Command::Explain(arguments) => explain::run(&global, &arguments),
        Command::Replay(arguments) => replay::run(&global, &arguments),
        Command::Record(arguments) => record::run(&global, &arguments),
        Command::Dlq(arguments) => dlq::run(&global, &arguments),
        Command::Inspect(arguments) => inspect::run(&global, &arguments),
        Command::Backtest(arguments) => backtest::run(&global, &arguments),
        Command::Completions(arguments) => completions::run(&arguments),
    }
}

/// The codec of the commands. What they write needs no registered schema: inputs are recognised by
/// their first bytes, whatever the output format.
pub(crate) fn tool_codec(config: &Config) -> anyhow::Result<Codec> {
    let format = match config.output.format {
        OutputFormat::Json => OutputFormat::Json,
        OutputFormat::Avro | OutputFormat::Confluent => OutputFormat::Avro,
    };
    Ok(Codec::new(format, RegisteredSchemas::default())?)
}

/// The variables of this process; one that is not Unicode cannot be a setting.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
