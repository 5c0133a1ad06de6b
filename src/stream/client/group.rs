//! The consumer that is a member of the group: the lane inputs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tracing::{debug, warn};

use super::WorkerError;
use super::names::InputNames;
use super::reader::{Read, Stray, understand};
use crate::model::Topic;
use crate::stream::committed::{CommittedOffset, LaneCommit};
use crate::stream::ffi::{Batch, BatchQueue};

/// What the group did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupEvent {
    Assigned(Vec<(Topic, i32)>),
    Revoked { lost: bool },
}

/// Runs inside `poll`: it only takes note, and leaves the assignment empty until the worker says
/// from where to read.
struct Membership {
    names: InputNames,
    events: Mutex<VecDeque<GroupEvent>>,
}

impl ClientContext for Membership {
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka consumer");
    }
}

impl ConsumerContext for Membership {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let (event, done) = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let assigned = list.elements();
            let assigned = assigned.iter().filter_map(|element| {
                let topic = self.names.topic(element.topic().as_bytes())?;
                Some((topic, element.partition()))
            });
            let event = GroupEvent::Assigned(assigned.collect());
            (event, consumer.assign(&TopicPartitionList::new()))
        } else {
            let lost = consumer.assignment_lost();
            (GroupEvent::Revoked { lost }, consumer.unassign())
        };
        if let Err(error) = done {
            warn!(%error, "rebalance could not be answered");
        }
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
    }
}

pub struct Group {
    queue: BatchQueue<Membership>,
    consumer: Arc<BaseConsumer<Membership>>,
    names: InputNames,
    reads: Vec<(Topic, i32)>,
}

impl Group {
    /// Joins the group; the first assignment comes by [`Group::poll`].
    pub fn join(config: &ClientConfig, names: &InputNames) -> KafkaResult<Self> {
        let membership = Membership { names: names.clone(), events: Mutex::new(VecDeque::new()) };
        let consumer: BaseConsumer<Membership> = config.create_with_context(membership)?;
        let consumer = Arc::new(consumer);
        let queue = BatchQueue::new(&consumer);
        let topics: Vec<&str> = Topic::LANE_INPUTS
            .iter()
            .filter_map(|topic| names.name(*topic).and_then(|name| name.to_str().ok()))
            .collect();
        consumer.subscribe(&topics)?;
        Ok(Group { queue, consumer, names: names.clone(), reads: Vec::new() })
    }

    /// Serves the group protocol; an error is fatal to this member.
    pub fn poll(&self) -> Result<Vec<GroupEvent>, WorkerError> {
        // Each poll serves one event; a rebalance is two.
        for _ in 0..4 {
            match self.consumer.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => return Err(Stray::of(&message).into()),
                Some(Err(error)) if is_fatal(&error) => return Err(error.into()),
                Some(Err(error)) => debug!(%error, "group"),
            }
        }
        let mut events =
            self.consumer.context().events.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(events.drain(..).collect())
    }

    /// Reads these inputs from these offsets, and no others.
    pub fn read_from(&mut self, inputs: &[(Topic, i32, i64)]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (topic, partition, offset) in inputs {
            if let Some(name) = self.name(*topic) {
                list.add_partition_offset(name, *partition, Offset::Offset(*offset))?;
            }
        }
        // Before they are read: what comes earlier would be in the wrong queue.
        self.reads = inputs.iter().map(|(topic, partition, _)| (*topic, *partition)).collect();
        self.forward();
        self.consumer.assign(&list)?;
        Ok(())
    }

    /// Forwards the fetched queues to this one: to be repeated now and then.
    pub fn forward(&self) {
        for (topic, partition) in &self.reads {
            if let Some(name) = self.names.name(*topic) {
                self.queue.forward(name, *partition);
            }
        }
    }

    pub fn fetch(&self, wait: Duration, records_max: usize) -> Batch<'_> {
        self.queue.fetch(wait, records_max)
    }

    pub fn hand_over(&self, batch: &Batch<'_>, mut take: impl FnMut(Read<'_>)) {
        batch.each(|fetched| {
            if let Some(read) = understand(&self.names, &fetched) {
                take(read);
            }
        });
    }

    pub fn metadata(&self) -> Option<ConsumerGroupMetadata> {
        self.consumer.group_metadata()
    }

    /// The committed offsets of these lanes; waits while a transaction that holds them is ending.
    pub fn committed(&self, lanes: &[u32], wait: Duration) -> KafkaResult<Vec<(u32, LaneCommit)>> {
        let mut list = TopicPartitionList::new();
        for lane in lanes {
            for topic in Topic::LANE_INPUTS {
                if let Some(name) = self.name(topic) {
                    list.add_partition(name, i32::try_from(*lane).unwrap_or(-1));
                }
            }
        }
        let found = self.consumer.committed_offsets(list, wait)?;
        let mut commits: Vec<(u32, LaneCommit)> =
            lanes.iter().map(|lane| (*lane, LaneCommit::default())).collect();
        for element in found.elements() {
            element.error()?;
            let Some(topic) = self.names.topic(element.topic().as_bytes()) else { continue };
            let index = Topic::LANE_INPUTS.iter().position(|input| *input == topic);
            let lane = u32::try_from(element.partition()).ok();
            let commit = commits.iter_mut().find(|(of, _)| Some(*of) == lane);
            if let (Some(index), Some((_, commit)), Offset::Offset(offset)) =
                (index, commit, element.offset())
            {
                let metadata = element.metadata().to_owned();
                commit[index] = Some(CommittedOffset { offset, metadata });
            }
        }
        Ok(commits)
    }

    /// The first offset and the one after the last committed record of a lane input.
    pub fn bounds(&self, topic: Topic, lane: u32, wait: Duration) -> KafkaResult<(i64, i64)> {
        let name = self.name(topic).unwrap_or_default();
        self.consumer.fetch_watermarks(name, i32::try_from(lane).unwrap_or(-1), wait)
    }

    /// How many partitions a topic has; 0 where it does not exist.
    pub fn partitions(&self, name: &str, wait: Duration) -> KafkaResult<i32> {
        let metadata = self.consumer.fetch_metadata(Some(name), wait)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        Ok(topic.map_or(0, |topic| i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX)))
    }

    fn name(&self, topic: Topic) -> Option<&str> {
        self.names.name(topic).and_then(|name| name.to_str().ok())
    }
}

/// Whether this member can never take part again.
fn is_fatal(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || error.rdkafka_error_code().is_some_and(|code| {
            matches!(
                code,
                RDKafkaErrorCode::Fatal
                    | RDKafkaErrorCode::FencedInstanceId
                    | RDKafkaErrorCode::GroupAuthorizationFailed
                    | RDKafkaErrorCode::TopicAuthorizationFailed
            )
        })
}
