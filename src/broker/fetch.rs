//! Fetch, with requests that wait for records.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::{FetchRequest, FetchResponse};

use super::log::{Isolation, Log};
use super::topics::{LogId, Topics};
use super::{Replies, Ticket};

/// One answer; Kafka's `fetch.max.bytes`.
const BYTES_MAX: usize = 55 << 20;

/// Requests that wait, at most one or two of each connection: the front bounds them.
#[derive(Debug, Default)]
pub struct Fetches {
    waiting: BTreeMap<Ticket, Waiting>,
    by_log: BTreeMap<LogId, BTreeSet<Ticket>>,
    by_time: BTreeSet<(i64, Ticket)>,
}

#[derive(Debug)]
struct Waiting {
    request: FetchRequest,
    due_ms: i64,
    logs: Vec<LogId>,
}

impl Fetches {
    pub fn fetch(
        &mut self,
        topics: &Topics,
        now_ms: i64,
        ticket: Ticket,
        request: FetchRequest,
        replies: &mut Replies,
    ) {
        let wait_ms = i64::from(request.max_wait_ms);
        if wait_ms <= 0 || is_enough(topics, &request) {
            replies.push_back((ticket, respond(topics, &request).into()));
            return;
        }
        let logs: Vec<LogId> = partitions(&request)
            .filter_map(|(topic, asked)| topics.id(topic, asked.partition))
            .collect();
        for id in &logs {
            self.by_log.entry(*id).or_default().insert(ticket);
        }
        let due_ms = now_ms.saturating_add(wait_ms);
        self.by_time.insert((due_ms, ticket));
        self.waiting.insert(ticket, Waiting { request, due_ms, logs });
    }

    /// Answers those that have waited enough, or have got enough.
    pub fn wake(&mut self, topics: &Topics, now_ms: i64, replies: &mut Replies) {
        let mut ready = BTreeSet::new();
        for ticket in topics.changed().iter().filter_map(|id| self.by_log.get(id)).flatten() {
            let waiting = self.waiting.get(ticket);
            if waiting.is_some_and(|waiting| is_enough(topics, &waiting.request)) {
                ready.insert(*ticket);
            }
        }
        ready.extend(
            self.by_time
                .iter()
                .take_while(|(due_ms, _)| *due_ms <= now_ms)
                .map(|(_, ticket)| *ticket),
        );
        for ticket in ready {
            if let Some(waiting) = self.remove(ticket) {
                replies.push_back((ticket, respond(topics, &waiting.request).into()));
            }
        }
    }

    pub fn due_ms(&self) -> Option<i64> {
        self.by_time.first().map(|(due_ms, _)| *due_ms)
    }

    pub fn forget(&mut self, ticket: Ticket) {
        self.remove(ticket);
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Waiting> {
        let waiting = self.waiting.remove(&ticket)?;
        self.by_time.remove(&(waiting.due_ms, ticket));
        for id in &waiting.logs {
            if let Some(tickets) = self.by_log.get_mut(id) {
                tickets.remove(&ticket);
                if tickets.is_empty() {
                    self.by_log.remove(id);
                }
            }
        }
        Some(waiting)
    }
}

fn partitions(request: &FetchRequest) -> impl Iterator<Item = (&str, &FetchPartition)> {
    request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(move |partition| (topic.topic.as_str(), partition))
    })
}

/// The log that is asked for.
fn log<'a>(
    topics: &'a Topics,
    topic: &str,
    asked: &FetchPartition,
) -> Result<&'a Log, ResponseError> {
    let log = topics.log(topic, asked.partition).ok_or(ResponseError::UnknownTopicOrPartition)?;
    // The one leader's epoch is 0.
    if asked.current_leader_epoch > 0 { Err(ResponseError::UnknownLeaderEpoch) } else { Ok(log) }
}

fn is_session(request: &FetchRequest) -> bool {
    request.session_id != 0
}

/// Whether there is as much as is asked for, or an error: that is answered at once.
fn is_enough(topics: &Topics, request: &FetchRequest) -> bool {
    let isolation = Isolation::from(request.isolation_level);
    let wanted = usize::try_from(request.min_bytes).unwrap_or_default();
    let mut readable = 0;
    let mut asked_any = false;
    for (topic, asked) in partitions(request) {
        asked_any = true;
        let most = usize::try_from(asked.partition_max_bytes).unwrap_or_default();
        let found = log(topics, topic, asked).and_then(|log| {
            log.readable(asked.fetch_offset, isolation, wanted.saturating_sub(readable).max(1))
        });
        match found {
            // A batch that is larger than what is asked for is given all the same.
            Ok(found) => readable += if readable == 0 { found } else { found.min(most) },
            Err(_) => return true,
        }
    }
    readable >= wanted || !asked_any || is_session(request)
}

fn respond(topics: &Topics, request: &FetchRequest) -> FetchResponse {
    if is_session(request) {
        let code = ResponseError::FetchSessionIdNotFound.code();
        return FetchResponse::default().with_error_code(code);
    }
    let isolation = Isolation::from(request.isolation_level);
    let mut left = usize::try_from(request.max_bytes).unwrap_or_default().min(BYTES_MAX);
    let mut is_first = true;
    let responses = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let data = read(topics, &topic.topic, asked, isolation, left, is_first);
            let size = data.records.as_ref().map_or(0, |records| records.len());
            left = left.saturating_sub(size);
            is_first &= size == 0;
            data
        });
        FetchableTopicResponse::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    FetchResponse::default().with_responses(responses.collect())
}

fn read(
    topics: &Topics,
    topic: &str,
    asked: &FetchPartition,
    isolation: Isolation,
    left: usize,
    is_first: bool,
) -> PartitionData {
    let most = usize::try_from(asked.partition_max_bytes).unwrap_or_default().min(left);
    let read = log(topics, topic, asked)
        .and_then(|log| Ok((log, log.read(asked.fetch_offset, isolation, most, is_first)?)));
    let data = PartitionData::default().with_partition_index(asked.partition);
    match read {
        Ok((log, read)) => {
            let aborted = read.aborted.map(|aborted| {
                let aborted = aborted.iter().map(|aborted| {
                    AbortedTransaction::default()
                        .with_producer_id(aborted.producer_id.into())
                        .with_first_offset(aborted.first_offset)
                });
                aborted.collect()
            });
            data.with_high_watermark(log.end_offset())
                .with_last_stable_offset(log.last_stable_offset())
                .with_log_start_offset(log.start_offset())
                .with_aborted_transactions(aborted)
                .with_records(Some(read.records))
        }
        // Empty, not null: a client takes null for no answer.
        Err(code) => data
            .with_error_code(code.code())
            .with_high_watermark(-1)
            // As Kafka, which asks no log here.
            .with_aborted_transactions(
                (code == ResponseError::UnknownTopicOrPartition).then(Vec::new),
            )
            .with_records(Some(bytes::Bytes::new())),
    }
}
