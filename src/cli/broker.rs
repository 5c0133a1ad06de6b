//! `broker`: the embedded broker alone, for development.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::Global;
use super::exit::{Exit, coded};
use super::print::Format;
use super::signals;
use crate::broker::Settings;
use crate::broker::front::{Front, FrontSettings};
use crate::telemetry::logs;

/// A batch that is as large as a batch may be has room, whatever else there is.
const MEMORY_MIN: usize = 32 << 20;

#[derive(Debug, Args)]
#[command(after_long_help = "\
A single broker that any Kafka client can use: topics, consumer groups, transactions, compaction. \
For development and tests: it keeps nothing on disk, knows neither TLS nor users, and what it has \
is gone when it ends. Where the records exceed --memory, the oldest of the largest partition go; \
who reads there learns so (OFFSET_OUT_OF_RANGE).

Prints its address on stdout once it serves. Ctrl-C and SIGTERM end it.

Examples:
  pointsman broker
  pointsman broker --port 0 --memory 256MiB --json
  kcat -b 127.0.0.1:9092 -L")]
pub struct BrokerArgs {
    /// The port; 0 takes one that is free
    #[arg(long, env = "POINTSMAN_BROKER_PORT", value_name = "PORT", default_value_t = 9092)]
    port: u16,
    /// An address of this host, which clients are told too
    #[arg(
        long,
        env = "POINTSMAN_BROKER_HOST",
        value_name = "ADDRESS",
        default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST),
        value_parser = host
    )]
    host: IpAddr,
    /// How much of the records is kept: bytes, or with KiB, MiB or GiB
    #[arg(
        long,
        env = "POINTSMAN_BROKER_MEMORY",
        value_name = "SIZE",
        default_value = "1GiB",
        value_parser = memory
    )]
    memory: usize,
}

pub fn run(global: &Global, arguments: &BrokerArgs) -> anyhow::Result<Exit> {
    let config = global.config()?;
    let printer = global.printer();
    logs::start(&config.log, printer.stderr_colour());
    let stop = signals::stop_on_signals()?;
    let asked = SocketAddr::new(arguments.host, arguments.port);
    let front = Front::start(FrontSettings {
        address: asked,
        broker: Settings { log_bytes_max: arguments.memory, ..Settings::default() },
        ..FrontSettings::default()
    })
    .with_context(|| format!("{asked} cannot be served; --port 0 takes a free port"))?;

    let address = front.address();
    let mut out = std::io::stdout().lock();
    if printer.format != Format::Table {
        let line = json!({
            "bootstrap_servers": address.to_string(),
            "memory_bytes": arguments.memory,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{address}")?;
    }
    drop(out);
    printer.note(&format!(
        "for development only: nothing is kept on disk, and beyond {} in memory the oldest records go",
        size(arguments.memory)
    ));
    if !address.ip().is_loopback() {
        printer.note(&format!(
            "warning: whoever reaches {address} may read, write and delete everything"
        ));
    }

    signals::wait(&stop, || front.is_serving());
    if !stop.load(Ordering::Relaxed) {
        return Err(coded(Exit::Failed, "the broker failed; this is a bug in it"));
    }
    Ok(Exit::Ok)
}

fn host(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        // Clients are told where to connect, and cannot be told "everywhere".
        Ok(address) if !address.is_unspecified() => Ok(address),
        Ok(_) | Err(_) => Err("one IP address of this host, such as 127.0.0.1".to_owned()),
    }
}

const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

fn memory(text: &str) -> Result<usize, String> {
    let (number, unit) = UNITS
        .into_iter()
        .find_map(|(name, bytes)| Some((text.strip_suffix(name)?, bytes)))
        .unwrap_or((text, 1));
    number
        .trim_end()
        .parse()
        .ok()
        .and_then(|number: usize| number.checked_mul(unit))
        .filter(|bytes| *bytes >= MEMORY_MIN)
        .ok_or_else(|| format!("{} or more, such as 256MiB or 2GiB", size(MEMORY_MIN)))
}

/// Without a remainder: 1.5 GiB are 1536 MiB.
fn size(bytes: usize) -> String {
    UNITS
        .into_iter()
        .find(|(_, unit)| bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{bytes} bytes"), |(name, unit)| format!("{} {name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_said() {
        let rows = [
            ("1GiB", Some(1 << 30), "1 GiB"),
            ("256MiB", Some(256 << 20), "256 MiB"),
            ("65536 KiB", Some(64 << 20), "64 MiB"),
            ("33554433", Some(33_554_433), "33554433 bytes"),
            ("32MiB", Some(32 << 20), "32 MiB"),
            ("31MiB", None, ""),
            ("99999999999GiB", None, ""),
            ("1GB", None, ""),
            ("-1", None, ""),
            ("", None, ""),
        ];
        for (text, expected, said) in rows {
            let read = memory(text).ok();
            assert_eq!(read, expected, "{text}");
            assert_eq!(read.map(size).unwrap_or_default(), said, "{text}");
        }
    }

    #[test]
    fn clients_can_be_told_the_host() {
        for (text, fine) in
            [("127.0.0.1", true), ("::1", true), ("10.0.0.5", true), ("0.0.0.0", false)]
        {
            assert_eq!(host(text).is_ok(), fine, "{text}");
        }
    }
}
