//! Faults that tests ask for: what happens to which request on its way to the model or back. What
//! happens is fixed by the rules, their seeds and the order in which requests arrive.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::ApiKey;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::refusal::{is_coordinated, names_topic};
use crate::broker::wire::Request;
use crate::clock::Stopwatch;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It arrives later; also where its client has gone away by then. What the same connection
    /// sends after it waits.
    DelayRequest(Duration),
    /// Its answer arrives later. What the same connection sends after it waits.
    DelayResponse(Duration),
    /// It never arrives: the client sees silence, on a connection that goes on.
    DropRequest,
    /// It takes effect; the client sees silence.
    DropResponse,
    /// It is refused, and takes no effect. All that it names gets the same error.
    Error(ResponseError),
    /// It takes effect, and seems to be refused.
    ErrorAfter(ResponseError),
    /// A fetch is answered by a leader that was elected a moment ago and does not know yet what is
    /// committed: as far as it can tell, its partitions end at 0. What is no fetch takes effect.
    Behind,
    /// The connection ends before it takes effect.
    CloseBefore,
    /// It takes effect; the connection ends instead of an answer.
    CloseAfter,
    /// From now on, for that long, there is no coordinator: who looks for it gets
    /// COORDINATOR_NOT_AVAILABLE, requests of groups and transactions get NOT_COORDINATOR.
    CoordinatorAway(Duration),
}

/// Which requests meet a fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// `None`: all of them.
    pub api: Option<ApiKey>,
    /// Only requests that name this topic.
    pub topic: Option<String>,
    /// Only requests of clients that name themselves so (`client.id`).
    pub client: Option<String>,
    /// So many pass before.
    pub skip: u32,
    /// So many meet it, then the rule is over.
    pub times: u32,
    /// In [0, 1]: each of the others meets it with this probability, drawn from the seed and from
    /// how many came before it.
    pub share: f64,
    pub seed: u64,
    pub fault: Fault,
}

impl Default for Rule {
    /// The next request of any kind gets lost.
    fn default() -> Self {
        Rule {
            api: None,
            topic: None,
            client: None,
            skip: 0,
            times: 1,
            share: 1.0,
            seed: 0,
            fault: Fault::DropRequest,
        }
    }
}

/// Names a rule. No two rules of a front share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

/// The faults of one front. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    shared: Arc<Mutex<Rules>>,
}

#[derive(Debug, Default)]
struct Rules {
    /// In the order in which they were injected; as many as tests inject.
    list: Vec<Counted>,
    injected: u64,
    /// Since when the coordinator is away, and for how long.
    away: Option<(Stopwatch, Duration)>,
}

#[derive(Debug)]
struct Counted {
    id: RuleId,
    rule: Rule,
    /// Requests that the rule is about.
    seen: u32,
    hits: u32,
}

impl Faults {
    /// Adds a rule. Where several are due for a request, the one that was injected first wins; all
    /// of them count the request.
    pub fn inject(&self, rule: Rule) -> RuleId {
        let mut rules = self.rules();
        let id = RuleId(rules.injected);
        rules.injected += 1;
        rules.list.push(Counted { id, rule, seen: 0, hits: 0 });
        id
    }

    /// How often the rule's fault happened; 0 where the rule was cleared.
    pub fn hits(&self, rule: RuleId) -> u32 {
        self.rules().list.iter().find(|one| one.id == rule).map_or(0, |one| one.hits)
    }

    /// Forgets all rules, and the coordinator is back.
    pub fn clear(&self) {
        let mut rules = self.rules();
        rules.list.clear();
        rules.away = None;
    }

    /// What happens to this request, which counts as seen.
    pub(super) fn befalls(&self, client_id: &str, request: &Request) -> Option<Fault> {
        let mut rules = self.rules();
        let mut due = None;
        for one in &mut rules.list {
            if one.is_due(client_id, request) && due.is_none() {
                one.hits += 1;
                due = Some(one.rule.fault);
            }
        }
        if let Some(Fault::CoordinatorAway(duration)) = due {
            rules.away = Some((Stopwatch::start(), duration));
            due = None;
        }
        due.or_else(|| rules.absence(request.api()))
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        // Whoever panicked held it for a look or an insertion: nothing is half done.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rules {
    fn absence(&mut self, api: ApiKey) -> Option<Fault> {
        let (since, duration) = self.away?;
        if since.elapsed() >= duration {
            self.away = None;
            return None;
        }
        if api == ApiKey::FindCoordinator {
            return Some(Fault::Error(ResponseError::CoordinatorNotAvailable));
        }
        is_coordinated(api).then_some(Fault::Error(ResponseError::NotCoordinator))
    }
}

impl Counted {
    fn is_due(&mut self, client_id: &str, request: &Request) -> bool {
        let Rule { api, topic, client, skip, times, share, seed, fault: _ } = &self.rule;
        let is_meant = api.is_none_or(|api| api == request.api())
            && topic.as_ref().is_none_or(|topic| names_topic(request, topic))
            && client.as_ref().is_none_or(|client| client == client_id);
        if !is_meant {
            return false;
        }
        let before = self.seen;
        self.seen = self.seen.saturating_add(1);
        before >= *skip && self.hits < *times && draw(*seed, before) < *share
    }
}

/// The draw of this number, in [0, 1).
fn draw(seed: u64, number: u32) -> f64 {
    // The upper 53 bits: as many as a float holds exactly.
    (xxh3_64_with_seed(&number.to_le_bytes(), seed) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::HeartbeatRequest;

    /// Which of 10,000 heartbeats meet the fault.
    fn met(share: f64, seed: u64, times: u32) -> Vec<usize> {
        let faults = Faults::default();
        faults.inject(Rule { share, seed, times, ..Rule::default() });
        let request = Request::Heartbeat(HeartbeatRequest::default());
        (0..10_000).filter(|_| faults.befalls("c", &request).is_some()).collect()
    }

    #[test]
    fn a_share_is_drawn_from_the_seed_alone() {
        let all = met(0.1, 1, u32::MAX);
        assert!((900..1_100).contains(&all.len()), "{}", all.len());
        assert_eq!(met(0.1, 1, u32::MAX), all);
        assert_ne!(met(0.1, 2, u32::MAX), all);
        assert_eq!(met(0.1, 1, 3), all[..3]);
    }

    #[test]
    fn a_rule_can_be_about_one_client() {
        let faults = Faults::default();
        faults.inject(Rule { client: Some("b".to_owned()), ..Rule::default() });
        let request = Request::Heartbeat(HeartbeatRequest::default());
        let met = ["a", "b", "b"].map(|client| faults.befalls(client, &request));
        assert_eq!(met, [None, Some(Fault::DropRequest), None]);
    }
}
