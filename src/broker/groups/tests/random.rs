//! Random scripts: what holds whatever clients send.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::Script;

/// What a client does next: which action, of which known member, how long after the last, and one
/// more choice.
type Step = (u8, usize, u16, u8);

struct Line {
    kind: &'static str,
    /// The member that sends it, where it has an id.
    id: String,
    text: String,
}

/// A script that goes on from what was answered, and what is known of the answers.
struct Play {
    script: Script,
    now_ms: i64,
    /// Members' ids as they were given out, in short, with their static id.
    ids: Vec<String>,
    generation: i64,
    /// Joins and syncs that are not answered, with the member where its id was given.
    waiting: BTreeMap<u64, (&'static str, String)>,
    /// Requests that are never answered, perhaps: the member sent another one, or left.
    dropped: BTreeSet<u64>,
    answered: BTreeSet<u64>,
    answers: Vec<String>,
}

impl Play {
    fn new(initial_delay_ms: i64) -> Self {
        Play {
            script: Script::new(initial_delay_ms),
            now_ms: 0,
            ids: Vec::new(),
            generation: 0,
            waiting: BTreeMap::new(),
            dropped: BTreeSet::new(),
            answered: BTreeSet::new(),
            answers: Vec::new(),
        }
    }

    fn choose(&self, (action, member, _, choice): Step) -> (&'static str, String, String) {
        let id = match self.ids.len() {
            0 => "stranger",
            known => &self.ids[member % known],
        };
        let (id, name) = (id.to_owned(), id.split('#').next().unwrap_or_default());
        let instance = if ["s", "t"].contains(&name) && choice % 8 != 7 {
            format!(" static={name}")
        } else {
            String::new()
        };
        let generation = self.generation - i64::from(choice % 8 == 0);
        let protocols = ["range:m", "range:m,roundrobin:m", "roundrobin:n,range:n"];
        let protocols = protocols[usize::from(choice % 16).saturating_sub(13)];
        let of = format!("id={id}{instance}");
        match action % 16 {
            0 => ("join", String::new(), format!("v=3 client=a protocols={protocols}")),
            1 => ("join", String::new(), format!("client=b protocols={protocols}")),
            2 => ("join", String::new(), format!("client=c static=s protocols={protocols}")),
            3 => ("join", String::new(), format!("client=c static=t protocols={protocols}")),
            4..=8 => ("join", id, format!("{of} protocols={protocols}")),
            9..=11 => ("sync", id.clone(), format!("{of} gen={generation} give={id}:x")),
            12 => ("beat", id, format!("{of} gen={generation}")),
            13 => ("leave", id.clone(), format!("id={id}")),
            14 => ("commit", id, format!("{of} gen={generation} at=t:0:1")),
            _ => ("wait", String::new(), String::new()),
        }
    }

    fn next(&mut self, step: Step) -> Line {
        let (kind, id, words) = self.choose(step);
        // Most requests come soon after the last; waits are long enough for sessions to end.
        self.now_ms += i64::from(step.2) / if kind == "wait" { 4 } else { 400 };
        Line { kind, id, text: format!("{} {kind} {words}", self.now_ms) }
    }

    fn run(&mut self, line: &Line) {
        let Line { kind, id, text } = line;
        let replaced = match *kind {
            "join" => "join",
            "sync" | "leave" => "sync",
            _ => "",
        };
        let same = self.waiting.iter().filter(|(_, of)| **of == (replaced, id.clone()));
        self.dropped.extend(same.map(|(ticket, _)| *ticket));
        let said = self.script.run(text);
        if ["join", "sync"].contains(kind) {
            self.waiting.insert(self.script.tickets, (kind, id.clone()));
        }
        self.hear(said);
    }

    fn hear(&mut self, said: Vec<String>) {
        for answer in &said {
            let mut words = answer.split(' ');
            let ticket = words.next().unwrap().parse().unwrap();
            assert!(self.answered.insert(ticket), "answered twice: {answer}");
            self.waiting.remove(&ticket);
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                if key == "gen" {
                    let generation = value.parse().unwrap();
                    assert!(self.generation <= generation, "an old generation: {answer}");
                    self.generation = generation;
                }
                if key == "id" && value.contains('#') && !self.ids.contains(&value.to_owned()) {
                    self.ids.push(value.to_owned());
                }
            }
        }
        self.answers.extend(said);
    }
}

proptest! {
    #[test]
    fn every_request_is_answered_once(
        initial_delay_ms in prop_oneof![Just(0), Just(3_000)],
        steps in prop::collection::vec(any::<Step>(), 0..80),
    ) {
        let mut play = Play::new(initial_delay_ms);
        for step in steps {
            let line = play.next(step);
            play.run(&line);
        }
        // Longer than any session, rebalance, or join of a new member.
        let said = play.script.advance(play.now_ms + 1_000_000);
        play.hear(said);
        let lost = play.waiting.keys().filter(|ticket| !play.dropped.contains(ticket));
        prop_assert_eq!(lost.collect::<Vec<_>>(), Vec::<&u64>::new());
        prop_assert_eq!(play.script.groups.due_ms(), None);
        let described = play.script.run(&format!("{} describe", play.now_ms + 1_000_000));
        let state = described[0].split(' ').nth(2);
        prop_assert!(["Empty", "Dead"].map(Some).contains(&state), "{:?}", described);
    }

    #[test]
    fn nothing_depends_on_how_often_time_is_told(
        initial_delay_ms in prop_oneof![Just(0), Just(3_000)],
        steps in prop::collection::vec(any::<Step>(), 0..60),
    ) {
        let [mut seldom, mut often] = [(); 2].map(|()| Play::new(initial_delay_ms));
        for step in steps {
            let line = seldom.next(step);
            seldom.run(&line);
            let is_due = |due_ms: &i64| *due_ms <= seldom.now_ms;
            while let Some(due_ms) = often.script.groups.due_ms().filter(is_due) {
                let said = often.script.advance(due_ms);
                often.hear(said);
            }
            often.run(&line);
            prop_assert_eq!(&seldom.answers, &often.answers);
        }
    }
}
