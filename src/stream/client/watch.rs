//! Asks where partitions end, on a thread of its own: an answer may take as long as a leader's
//! election, and no lane is to wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use tracing::debug;

use super::names::InputNames;
use super::reader::Quiet;
use crate::model::Topic;

/// Questions that may wait. More are dropped: each is asked again anyway.
const QUESTIONS_MAX: usize = 1_024;

const WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The high watermark, which open transactions do not hold back.
    ResultsEnd { lane: u32 },
    /// The log-stable offset, for the lag.
    StableEnd { topic: Topic, lane: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub question: Question,
    /// `None`: nobody knows at the moment.
    pub end: Option<i64>,
}

pub struct Watch {
    ended: Arc<AtomicBool>,
    questions: Option<SyncSender<Question>>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(
        uncommitted: &ClientConfig,
        committed: &ClientConfig,
        names: &InputNames,
    ) -> KafkaResult<Self> {
        let uncommitted: BaseConsumer<Quiet> = uncommitted.create_with_context(Quiet)?;
        let committed: BaseConsumer<Quiet> = committed.create_with_context(Quiet)?;
        let names = names.clone();
        let (questions, asked) = sync_channel::<Question>(QUESTIONS_MAX);
        let (answered, answers) = sync_channel(QUESTIONS_MAX);
        let ended = Arc::new(AtomicBool::new(false));
        let is_ended = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            while let Ok(question) = asked.recv() {
                if is_ended.load(Ordering::Relaxed) {
                    break;
                }
                let (consumer, topic, lane) = match question {
                    Question::ResultsEnd { lane } => (&uncommitted, Topic::TaskResults, lane),
                    Question::StableEnd { topic, lane } => (&committed, topic, lane),
                };
                let end = end_of(consumer, &names, topic, lane);
                if answered.send(Answer { question, end }).is_err() {
                    break;
                }
            }
        });
        Ok(Watch { ended, questions: Some(questions), answers, thread: Some(thread) })
    }

    /// Asks; `false` where too many questions wait already.
    pub fn ask(&self, question: Question) -> bool {
        self.questions.as_ref().is_some_and(|questions| questions.try_send(question).is_ok())
    }

    pub fn next_answer(&self) -> Option<Answer> {
        match self.answers.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }
}

fn end_of(
    consumer: &BaseConsumer<Quiet>,
    names: &InputNames,
    topic: Topic,
    lane: u32,
) -> Option<i64> {
    let name = names.name(topic)?.to_str().ok()?;
    match consumer.fetch_watermarks(name, i32::try_from(lane).ok()?, WAIT) {
        Ok((_, end)) => Some(end),
        Err(error) => {
            debug!(%error, topic = name, lane, "where it ends is not known");
            None
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.questions = None;
        // Answers that nobody takes must not hold the thread.
        while self.answers.try_recv().is_ok() {}
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            debug!("the watching thread has panicked");
        }
    }
}
