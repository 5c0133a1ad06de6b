//! A model of a single-node Kafka, without sockets or clock: it takes requests and a time, and returns
//! replies. It serves the simulator, the embedded broker of `demo` and of the tests, and the injection
//! of faults under a real client. For development and tests only; it keeps nothing on disk.
//!
//! What Pointsman, its tests and common tools ask of a broker is modelled as Apache Kafka 4 behaves;
//! what they do not ask (ACLs, quotas, replication, tiered storage, the new group protocol) is not there.

pub mod batch;
mod delete_records;
mod fetch;
pub mod front;
mod groups;
mod guard;
mod list_offsets;
mod log;
mod produce;
mod topics;
mod transactions;
pub mod wire;

use std::collections::{BTreeMap, VecDeque};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use fetch::Fetches;
use groups::Groups;
use topics::Topics;
use transactions::Transactions;
use wire::{Reply, Request};

/// This node's number. A single-node Kafka's is 1 as well.
pub const NODE: BrokerId = BrokerId(1);

/// Names a request that is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where clients reach this broker, as it tells them.
    pub host: String,
    pub port: u16,
    /// All record batches together, in bytes. Beyond that the oldest of the largest partition goes.
    pub log_bytes_max: usize,
    /// One record batch.
    pub batch_bytes_max: usize,
    /// All partitions together.
    pub partitions_max: usize,
    /// Whether a topic comes to be when a client that allows it asks for it by name.
    pub topics_auto_created: bool,
    /// A new group waits this long for more members, milliseconds.
    pub group_initial_rebalance_delay_ms: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            host: "127.0.0.1".to_owned(),
            port: 9092,
            log_bytes_max: 1 << 30,
            // Above what Pointsman allows itself for a dead letter.
            batch_bytes_max: 16 << 20,
            partitions_max: 10_000,
            topics_auto_created: true,
            group_initial_rebalance_delay_ms: 0,
        }
    }
}

/// Answers, in the order in which they were found.
pub(crate) type Replies = VecDeque<(Ticket, Reply)>;

/// The model. Every method takes the time in milliseconds since 1970; it never runs backwards (a
/// smaller one counts as the last).
#[derive(Debug)]
pub struct Broker {
    settings: Settings,
    now_ms: i64,
    topics: Topics,
    fetches: Fetches,
    groups: Groups,
    transactions: Transactions,
    replies: Replies,
}

impl Broker {
    pub fn new(settings: Settings) -> Self {
        Broker {
            now_ms: 0,
            topics: Topics::new(&settings),
            fetches: Fetches::default(),
            groups: Groups::new(settings.group_initial_rebalance_delay_ms),
            transactions: Transactions::default(),
            replies: Replies::new(),
            settings,
        }
    }

    /// Takes a request. Its answer comes by [`Broker::next_reply`], at once or after others, except
    /// for what is produced with `acks=0`: that has none.
    pub fn request(
        &mut self,
        now_ms: i64,
        ticket: Ticket,
        client_id: &str,
        version: i16,
        request: Request,
    ) {
        self.advance(now_ms);
        let now_ms = self.now_ms;
        let Broker { settings, topics, fetches, groups, transactions, replies, .. } = self;
        let reply: Option<Reply> = match request {
            Request::ApiVersions(_) => Some(wire::api_versions(version).into()),
            Request::Metadata(request) => Some(topics.metadata(settings, version, request).into()),
            Request::CreateTopics(request) => Some(topics.create(request).into()),
            Request::DeleteTopics(request) => {
                let response = topics.delete(&request);
                let deleted = response.responses.iter().filter(|topic| topic.error_code == 0);
                for name in deleted.filter_map(|topic| topic.name.as_ref()) {
                    groups.forget_topic(name);
                }
                Some(response.into())
            }
            Request::DeleteRecords(request) => {
                Some(delete_records::delete_records(topics, &request).into())
            }
            Request::CreatePartitions(request) => Some(topics.create_partitions(&request).into()),
            Request::DescribeConfigs(request) => Some(topics.describe_configs(&request).into()),
            Request::Produce(request) => {
                produce::produce(topics, transactions, now_ms, request).map(Reply::from)
            }
            Request::Fetch(request) => {
                fetches.fetch(topics, now_ms, ticket, request, replies);
                None
            }
            Request::ListOffsets(request) => {
                Some(list_offsets::list_offsets(topics, version, &request).into())
            }
            Request::FindCoordinator(request) => Some(find_coordinator(settings, &request).into()),
            Request::JoinGroup(request) => {
                groups.join(now_ms, ticket, client_id, version, request, replies);
                None
            }
            Request::SyncGroup(request) => {
                groups.sync(now_ms, ticket, request, replies);
                None
            }
            Request::Heartbeat(request) => Some(groups.heartbeat(now_ms, &request).into()),
            Request::LeaveGroup(request) => Some(groups.leave(now_ms, request, replies).into()),
            Request::OffsetCommit(request) => Some(groups.commit(now_ms, topics, &request).into()),
            Request::OffsetFetch(request) => Some(groups.committed(&request).into()),
            Request::ListGroups(request) => Some(groups.list(&request).into()),
            Request::DescribeGroups(request) => Some(groups.describe(&request).into()),
            Request::DeleteGroups(request) => Some(groups.delete(&request).into()),
            Request::InitProducerId(request) => {
                Some(transactions.init(now_ms, topics, groups, version, &request).into())
            }
            Request::AddPartitionsToTxn(request) => {
                Some(transactions.add_partitions(now_ms, topics, &request).into())
            }
            Request::AddOffsetsToTxn(request) => {
                Some(transactions.add_offsets(now_ms, &request).into())
            }
            Request::TxnOffsetCommit(request) => {
                Some(groups.commit_in_transaction(now_ms, topics, transactions, &request).into())
            }
            Request::EndTxn(request) => {
                Some(transactions.end(now_ms, topics, groups, &request).into())
            }
        };
        self.replies.extend(reply.map(|reply| (ticket, reply)));
        self.settle();
    }

    /// Lets time pass: sessions, rebalances, transactions and waiting fetches end by it.
    pub fn advance(&mut self, now_ms: i64) {
        self.now_ms = self.now_ms.max(now_ms);
        self.groups.advance(self.now_ms, &mut self.replies);
        self.transactions.advance(self.now_ms, &mut self.topics, &mut self.groups);
        self.settle();
    }

    /// When [`Broker::advance`] has something to do, at the latest.
    pub fn due_ms(&self) -> Option<i64> {
        [self.groups.due_ms(), self.transactions.due_ms(), self.fetches.due_ms()]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn next_reply(&mut self) -> Option<(Ticket, Reply)> {
        self.replies.pop_front()
    }

    /// The client is gone: what it waits for need not be answered. Its group membership stays until
    /// its session ends.
    pub fn forget(&mut self, ticket: Ticket) {
        self.fetches.forget(ticket);
        self.groups.forget(ticket);
        self.replies.retain(|(of, _)| *of != ticket);
    }

    fn settle(&mut self) {
        self.topics.keep_bounds(self.now_ms);
        self.fetches.wake(&self.topics, self.now_ms, &mut self.replies);
    }
}

/// Each of what a request names, once, and whether it names that again, which Kafka refuses.
fn once<T, K: Ord>(asked: &[T], key: impl Fn(&T) -> K) -> impl Iterator<Item = (&T, bool)> {
    let mut counts = BTreeMap::<K, usize>::new();
    for one in asked {
        *counts.entry(key(one)).or_default() += 1;
    }
    asked.iter().filter_map(move |one| counts.remove(&key(one)).map(|count| (one, count > 1)))
}

fn find_coordinator(
    settings: &Settings,
    request: &FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    // Of a group, of a transaction.
    if ![0, 1].contains(&request.key_type) {
        return FindCoordinatorResponse::default()
            .with_error_code(ResponseError::InvalidRequest.code())
            .with_node_id(BrokerId(-1))
            .with_port(-1);
    }
    FindCoordinatorResponse::default()
        .with_node_id(NODE)
        .with_host(StrBytes::from_string(settings.host.clone()))
        .with_port(i32::from(settings.port))
}
