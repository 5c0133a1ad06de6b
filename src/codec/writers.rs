//! The schemas of other writers, by registry id, each compiled for every topic that it fits.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use apache_avro::Schema;
use apache_avro::rabin::Rabin;

use crate::model::Topic;

use super::error::{DecodeError, LearnError, WriterId};
use super::resolve::Plan;
use super::schema;

/// Bound of the writer schemas that are known at once: a registry holds one id per version of a
/// topic's schema, and eleven topics with twenty versions each are fewer.
pub const WRITERS_MAX: usize = 256;
/// Bound of a schema's text; ours have 7 KB at most.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// Bound of the refused ids that are remembered. When it is reached all are forgotten and may be
/// asked for again, so garbage that looks like Confluent framing costs one question per id.
const REFUSED_MAX: usize = 1_024;

/// How the records of one writer are read, by topic.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None`: the writer's schema is the topic's.
    plans: BTreeMap<Topic, Result<Option<Plan>, String>>,
}

impl Writer {
    /// The datum in the encoding of the topic's own schema; `None` where it is that already.
    pub(super) fn resolve(
        &self,
        schema: WriterId,
        topic: Topic,
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, DecodeError> {
        match self.plans.get(&topic) {
            Some(Ok(None)) => Ok(None),
            Some(Ok(Some(plan))) => plan.resolve(body).map(Some),
            Some(Err(problem)) => {
                Err(DecodeError::IncompatibleSchema { schema, problem: problem.clone() })
            }
            None => {
                let problem = "the topic has no schema".to_owned();
                Err(DecodeError::IncompatibleSchema { schema, problem })
            }
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    by_id: BTreeMap<u32, Arc<Writer>>,
    /// The same writers, for single-object encoding.
    by_fingerprint: BTreeMap<u64, Arc<Writer>>,
    refused: BTreeMap<u32, String>,
}

/// Behind a lock because the shell learns while lanes decode; it is held for a look-up only.
#[derive(Debug, Default)]
pub(super) struct Writers {
    known: RwLock<Known>,
}

impl Writers {
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        // A panic elsewhere cannot leave the maps half written: each change is one insertion.
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, schema: WriterId) -> Result<Arc<Writer>, DecodeError> {
        let known = self.read();
        let (writer, unknown) = match schema {
            WriterId::Registry(id) => (known.by_id.get(&id), DecodeError::UnknownSchemaId(id)),
            WriterId::Fingerprint(fingerprint) => (
                known.by_fingerprint.get(&fingerprint),
                DecodeError::UnknownFingerprint(fingerprint),
            ),
        };
        let refused = match schema {
            WriterId::Registry(id) => known.refused.get(&id).cloned(),
            WriterId::Fingerprint(_) => None,
        };
        match (writer, refused) {
            (Some(writer), _) => Ok(Arc::clone(writer)),
            (None, Some(problem)) => Err(DecodeError::IncompatibleSchema { schema, problem }),
            (None, None) => Err(unknown),
        }
    }

    pub(super) fn knows(&self, id: u32) -> bool {
        let known = self.read();
        known.by_id.contains_key(&id) || known.refused.contains_key(&id)
    }

    pub(super) fn refuse(&self, id: u32, problem: &str) {
        let mut known = self.write();
        if known.refused.len() >= REFUSED_MAX {
            known.refused.clear();
        }
        known.refused.insert(id, problem.to_owned());
    }

    pub(super) fn learn(&self, id: u32, text: &str) -> Result<(), LearnError> {
        if text.len() > SCHEMA_BYTES_MAX {
            let problem = format!("{} bytes; at most {SCHEMA_BYTES_MAX} are read", text.len());
            return Err(LearnError::Parse { id, problem });
        }
        let (fingerprint, writer) = compile(id, text)?;
        let writer = Arc::new(writer);
        let mut known = self.write();
        if known.by_id.len() >= WRITERS_MAX && !known.by_id.contains_key(&id) {
            return Err(LearnError::TooMany { max: WRITERS_MAX });
        }
        known.refused.remove(&id);
        known.by_id.insert(id, Arc::clone(&writer));
        // An id that is learnt again with another text leaves its fingerprint behind: keep the bound.
        if known.by_fingerprint.len() < WRITERS_MAX {
            known.by_fingerprint.insert(fingerprint, writer);
        }
        Ok(())
    }
}

/// The fingerprint of a schema, as it stands in single-object encoding.
pub(super) fn fingerprint(schema: &Schema) -> u64 {
    let bytes = schema.fingerprint::<Rabin>().bytes;
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn compile(id: u32, text: &str) -> Result<(u64, Writer), LearnError> {
    let parse = |text: &str| {
        Schema::parse_str(text)
            .map_err(|error| LearnError::Parse { id, problem: error.to_string() })
    };
    let writer = parse(text)?;
    let own = fingerprint(&writer);
    let mut plans = BTreeMap::new();
    let mut problems = Vec::new();
    for topic in Topic::ALL {
        let Some(reader) = schema::of(topic) else { continue };
        let plan = if own == reader.fingerprint {
            Ok(None)
        } else {
            Plan::new(&writer, &parse(reader.text)?).map(Some)
        };
        if let Err(problem) = &plan {
            problems.push(format!("{}: {problem}", topic.default_name()));
        }
        plans.insert(topic, plan);
    }
    if plans.values().all(Result::is_err) {
        return Err(LearnError::Incompatible { id, problem: problems.join("; ") });
    }
    Ok((own, Writer { plans }))
}
