//! `submit`: tasks, one JSON object a line, published as they are.

mod lines;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufReader, IsTerminal, Read};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use governor::clock::{Clock, DefaultClock};
use governor::{Quota, RateLimiter};
use indicatif::{ProgressBar, ProgressStyle};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use serde::Serialize;

use super::Global;
use super::exit::{Exit, coded};
use super::kafka::Cluster;
use super::print::Printer;
use crate::clock::Stopwatch;
use crate::codec::headers::{CONTENT_TYPE, CONTENT_TYPE_JSON};
use crate::model::Topic;
use lines::{Invalid, Lines, Valid};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Each line is a task as the documentation's formats describe it; `task_id` and `input_tokens` are \
required. A file is checked whole before anything is sent. The record's key is the session, else \
the tenant, else the task id.

Examples:
  pointsman submit -f tasks.jsonl
  pointsman submit -f tasks.jsonl --rate 500
  echo '{\"task_id\":\"t-1\",\"input_tokens\":100}' | pointsman submit -f -")]
pub struct SubmitArgs {
    /// JSON lines; `-`: standard input
    #[arg(long, short, env = "POINTSMAN_SUBMIT_FILE", value_name = "FILE")]
    file: PathBuf,
    /// At most so many tasks a second
    #[arg(long, env = "POINTSMAN_SUBMIT_RATE", value_name = "N")]
    rate: Option<NonZeroU32>,
    /// Send the valid lines although others are not
    #[arg(long, env = "POINTSMAN_SUBMIT_SKIP_INVALID")]
    skip_invalid: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Summary {
    topic: String,
    submitted: u64,
    /// Lines that are no valid task.
    invalid: u64,
    /// Valid lines that were not acknowledged.
    failed: u64,
    elapsed_s: f64,
}

/// Invalid lines that are printed; the others are counted.
const INVALID_SHOWN_MAX: u64 = 20;

pub fn submit(global: &Global, arguments: &SubmitArgs) -> anyhow::Result<Exit> {
    let config = global.config()?;
    let printer = global.printer();
    let from_stdin = arguments.file.as_os_str() == "-";
    if !from_stdin && !arguments.skip_invalid {
        check_whole(arguments, &printer)?;
    }

    let topic = config.topics.name(Topic::Tasks).to_owned();
    let cluster = Cluster::new(&config.kafka, global.timeout());
    if !cluster.partitions()?.contains_key(&topic) {
        let text = format!("there is no topic `{topic}`; fix: pointsman topics apply");
        return Err(coded(Exit::NotFound, text));
    }
    let producer: ThreadedProducer<Deliveries> =
        ThreadedProducer::from_config_and_context(&cluster.producer(), Deliveries::default())
            .context("the Kafka client cannot be made")?;
    let mut sender = Sender { producer, topic, cluster: &cluster, sent: 0, limit: None };
    if let Some(rate) = arguments.rate {
        // A burst of one: the rate is kept from the first task on.
        let quota = Quota::per_second(rate).allow_burst(NonZeroU32::MIN);
        sender.limit = Some(RateLimiter::direct(quota));
    }

    let progress = progress_of(arguments, from_stdin);
    let watch = Stopwatch::start();
    let mut invalid = 0;
    let mut stopped = None;
    for line in Lines::new(open(arguments)?) {
        match line.context("the input cannot be read")? {
            Ok(valid) => {
                progress.inc(valid.line_bytes);
                sender.send(&valid)?;
            }
            Err(error) => {
                invalid += 1;
                tell(&printer, invalid, &error);
                if !arguments.skip_invalid {
                    stopped = Some(error.line);
                    break;
                }
            }
        }
    }
    sender.finish()?;
    progress.finish_and_clear();
    report(&printer, &sender, invalid, stopped, watch.elapsed())
}

fn report(
    printer: &Printer,
    sender: &Sender<'_>,
    invalid: u64,
    stopped: Option<u64>,
    elapsed: Duration,
) -> anyhow::Result<Exit> {
    let deliveries = sender.producer.context();
    let submitted = deliveries.delivered.load(Ordering::Relaxed);
    let summary = Summary {
        topic: sender.topic.clone(),
        submitted,
        invalid,
        failed: sender.sent - submitted,
        elapsed_s: (elapsed.as_secs_f64() * 1e3).round() / 1e3,
    };
    printer.document(&summary, || {
        let rate = submitted as f64 / elapsed.as_secs_f64().max(1e-3);
        let noun = if submitted == 1 { "task" } else { "tasks" };
        format!(
            "{submitted} {noun} submitted to `{}` in {:.1} s ({rate:.0}/s)\n",
            summary.topic, summary.elapsed_s
        )
    })?;
    if let Some(error) = deliveries.first_error() {
        let text = format!("{} tasks were not accepted", summary.failed);
        return Err(anyhow::Error::new(error).context(text));
    }
    if summary.failed > 0 {
        let text = format!("{} tasks were not acknowledged in time", summary.failed);
        return Err(coded(Exit::Unreachable, text));
    }
    if let Some(line) = stopped {
        return Err(coded(Exit::Failed, format!("stopped at line {line}, which is no valid task")));
    }
    if invalid > 0 {
        return Err(coded(Exit::Failed, format!("{invalid} lines are no valid tasks")));
    }
    Ok(Exit::Ok)
}

fn open(arguments: &SubmitArgs) -> anyhow::Result<Box<dyn Read>> {
    if arguments.file.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin()));
    }
    let file = File::open(&arguments.file)
        .with_context(|| format!("`{}` cannot be read", arguments.file.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

fn check_whole(arguments: &SubmitArgs, printer: &Printer) -> anyhow::Result<()> {
    let mut invalid = 0;
    for line in Lines::new(open(arguments)?) {
        if let Err(error) = line.context("the input cannot be read")? {
            invalid += 1;
            tell(printer, invalid, &error);
        }
    }
    if invalid == 0 {
        return Ok(());
    }
    let noun = if invalid == 1 { "line is no valid task" } else { "lines are no valid tasks" };
    let text = format!("{invalid} {noun}; nothing was sent (--skip-invalid sends the others)");
    Err(coded(Exit::Failed, text))
}

fn tell(printer: &Printer, count: u64, error: &Invalid) {
    if count <= INVALID_SHOWN_MAX {
        printer.note(&format!("line {}: {}", error.line, error.problem));
    } else if count == INVALID_SHOWN_MAX + 1 {
        printer.note("further lines are counted only");
    }
}

fn progress_of(arguments: &SubmitArgs, from_stdin: bool) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let length = if from_stdin {
        None
    } else {
        std::fs::metadata(&arguments.file).ok().map(|metadata| metadata.len())
    };
    let (progress, template) = match length {
        Some(length) => {
            (ProgressBar::new(length), "{bar:32} {percent}% of {total_bytes}, {eta} left")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => progress.with_style(style),
        Err(_) => progress,
    }
}

type Limiter = RateLimiter<
    governor::state::NotKeyed,
    governor::state::InMemoryState,
    DefaultClock,
    governor::middleware::NoOpMiddleware<<DefaultClock as Clock>::Instant>,
>;

struct Sender<'a> {
    producer: ThreadedProducer<Deliveries>,
    topic: String,
    cluster: &'a Cluster<'a>,
    sent: u64,
    limit: Option<Limiter>,
}

impl Sender<'_> {
    fn send(&mut self, task: &Valid) -> anyhow::Result<()> {
        if let Some(limit) = &self.limit {
            while let Err(early) = limit.check() {
                std::thread::sleep(early.wait_time_from(DefaultClock::default().now()));
            }
        }
        let headers = OwnedHeaders::new()
            .insert(Header { key: CONTENT_TYPE, value: Some(CONTENT_TYPE_JSON) });
        let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(&self.topic)
            .key(task.key.as_str())
            .payload(task.json.as_slice())
            .headers(headers);
        let waiting = Stopwatch::start();
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again))
                    if waiting.elapsed() < self.cluster.timeout() =>
                {
                    record = again;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err((error, _)) => {
                    return Err(error).context("the tasks cannot be written");
                }
            }
        }
        self.sent += 1;
        Ok(())
    }

    /// Waits until every task is acknowledged or given up, which the client does by itself.
    fn finish(&mut self) -> anyhow::Result<()> {
        let patience = self.cluster.timeout() + Duration::from_secs(1);
        match self.producer.flush(patience) {
            Ok(()) | Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) => Ok(()),
            Err(error) => Err(error).context("the tasks cannot be written"),
        }
    }
}

#[derive(Default)]
struct Deliveries {
    delivered: AtomicU64,
    failed: Mutex<Option<KafkaError>>,
}

impl Deliveries {
    fn first_error(&self) -> Option<KafkaError> {
        self.failed.lock().ok().and_then(|failed| failed.clone())
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                if let Ok(mut failed) = self.failed.lock() {
                    failed.get_or_insert_with(|| error.clone());
                }
            }
        }
    }
}
