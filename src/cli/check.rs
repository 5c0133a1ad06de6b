//! `check`: what is wrong, before it matters. Writes nothing.

mod brokers;
mod schemas;

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::exit::{self, Exit};
use super::kafka::Cluster;
use super::print::{Mark, Printer};
use super::{Global, topics};
use crate::config::Config;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Exits with 0 where nothing is wrong, else with 78 (configuration), 77 (access denied), 69 (Kafka or \
the registry cannot be reached) or 1.

Examples:
  pointsman check
  pointsman check --offline --config pointsman.toml
  pointsman check --json | jq '.findings[] | select(.mark != \"ok\")'")]
pub struct CheckArgs {
    /// Only the configuration; no network
    #[arg(long, env = "POINTSMAN_CHECK_OFFLINE")]
    offline: bool,
    /// A warning is a failure
    #[arg(long, env = "POINTSMAN_CHECK_DENY_WARNINGS")]
    deny_warnings: bool,
}

/// In the order in which they are looked at; each needs those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    Config,
    Brokers,
    Topics,
    Acls,
    Schemas,
    Clock,
}

impl Group {
    const fn name(self) -> &'static str {
        match self {
            Group::Config => "config",
            Group::Brokers => "brokers",
            Group::Topics => "topics",
            Group::Acls => "acls",
            Group::Schemas => "schemas",
            Group::Clock => "clock",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    pub group: Group,
    pub mark: Mark,
    pub text: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// Everything that was found, and the exit code that follows from it.
#[derive(Debug)]
pub struct Findings {
    pub list: Vec<Finding>,
    exits: Vec<Exit>,
}

impl Findings {
    fn new() -> Self {
        Findings { list: Vec::new(), exits: Vec::new() }
    }

    pub fn ok(&mut self, group: Group, text: impl Into<String>) {
        self.list.push(Finding { group, mark: Mark::Ok, text: text.into(), fix: None });
    }

    pub fn warn(&mut self, group: Group, text: impl Into<String>, fix: impl Into<String>) {
        let fix = Some(fix.into());
        self.list.push(Finding { group, mark: Mark::Warning, text: text.into(), fix });
    }

    pub fn fail(
        &mut self,
        group: Group,
        exit: Exit,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let fix = Some(fix.into());
        self.exits.push(exit);
        self.list.push(Finding { group, mark: Mark::Failure, text: text.into(), fix });
    }

    fn count(&self, mark: Mark) -> usize {
        self.list.iter().filter(|finding| finding.mark == mark).count()
    }

    fn exit(&self, deny_warnings: bool) -> Exit {
        for worst in [Exit::Config, Exit::Denied, Exit::Unreachable] {
            if self.exits.contains(&worst) {
                return worst;
            }
        }
        let warned = deny_warnings && self.count(Mark::Warning) > 0;
        if self.exits.is_empty() && !warned { Exit::Ok } else { Exit::Failed }
    }
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    ok: usize,
    warnings: usize,
    failures: usize,
    findings: &'a [Finding],
}

pub fn check(global: &Global, arguments: &CheckArgs) -> anyhow::Result<Exit> {
    let printer = global.printer();
    let mut findings = Findings::new();
    match global.load() {
        Err(errors) => {
            for error in errors.0 {
                let fix = "see `pointsman config reference`";
                findings.fail(Group::Config, Exit::Config, error.to_string(), fix);
            }
        }
        Ok(loaded) => {
            let given = loaded
                .effective
                .iter()
                .filter(|effective| effective.origin != crate::config::Origin::Default)
                .count();
            findings.ok(Group::Config, format!("valid; {given} settings given"));
            if client_works(&loaded.config, &mut findings) && !arguments.offline {
                online(global, &loaded.config, &mut findings)?;
            }
        }
    }
    let report = Report {
        ok: findings.count(Mark::Ok),
        warnings: findings.count(Mark::Warning),
        failures: findings.count(Mark::Failure),
        findings: &findings.list,
    };
    printer.document(&report, || words(&printer, &report))?;
    Ok(findings.exit(arguments.deny_warnings))
}

/// Some properties are judged only when a client is made, such as files of certificates.
fn client_works(config: &Config, findings: &mut Findings) -> bool {
    let cluster = Cluster::new(&config.kafka, std::time::Duration::ZERO);
    match cluster.reader() {
        Ok(_) => true,
        Err(error) => {
            let fix = "correct [kafka.properties]";
            findings.fail(Group::Config, Exit::Config, format!("{error:#}"), fix);
            false
        }
    }
}

fn online(global: &Global, config: &Config, findings: &mut Findings) -> anyhow::Result<()> {
    let cluster = Cluster::new(&config.kafka, global.timeout());
    let Some(authorizer) = brokers::check(config, &cluster, findings) else {
        return Ok(());
    };
    check_topics(config, &cluster, findings);
    brokers::check_acls(config, &cluster, authorizer, findings);
    schemas::check(config, findings);
    brokers::check_clock(config, &cluster, findings);
    Ok(())
}

fn check_topics(config: &Config, cluster: &Cluster<'_>, findings: &mut Findings) {
    let plan = match topics::compare(config, cluster, None, &[]) {
        Ok(plan) => plan,
        Err(error) => {
            let fix = "allow Describe and DescribeConfigs on the topics";
            findings.fail(Group::Topics, exit::of(&error), format!("{error:#}"), fix);
            return;
        }
    };
    let missing: Vec<&str> = plan.missing().map(|row| row.name.as_str()).collect();
    if !missing.is_empty() {
        let text =
            format!("{} of {} missing: {}", missing.len(), plan.topics.len(), missing.join(", "));
        findings.fail(Group::Topics, Exit::Failed, text, "pointsman topics apply");
    }
    let mut right = 0;
    for row in &plan.topics {
        if row.state == topics::plan::State::Right {
            right += 1;
        }
        for finding in &row.findings {
            let text = format!("{} {}", row.name, finding.text);
            if finding.must {
                findings.fail(Group::Topics, Exit::Failed, text, finding.fix.clone());
            } else {
                findings.warn(Group::Topics, text, finding.fix.clone());
            }
        }
    }
    if right > 0 {
        let lanes =
            if plan.lanes == 1 { "1 lane".to_owned() } else { format!("{} lanes", plan.lanes) };
        findings.ok(Group::Topics, format!("{right} right, {lanes}"));
    }
}

fn words(printer: &Printer, report: &Report<'_>) -> String {
    let mut groups: BTreeMap<Group, Vec<&Finding>> = BTreeMap::new();
    for finding in report.findings {
        groups.entry(finding.group).or_default().push(finding);
    }
    let mut text = String::new();
    for (group, findings) in groups {
        for (number, finding) in findings.into_iter().enumerate() {
            let name = if number == 0 { group.name() } else { "" };
            text.push_str(&format!("{name:<8} {} {}\n", printer.mark(finding.mark), finding.text));
            if let Some(fix) = &finding.fix {
                text.push_str(&format!("{:<8}   fix: {fix}\n", ""));
            }
        }
    }
    let plural = |count: usize, noun: &str| {
        if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
    };
    text.push_str(&format!(
        "{} ok, {}, {}\n",
        report.ok,
        plural(report.warnings, "warning"),
        plural(report.failures, "failure")
    ));
    text
}
