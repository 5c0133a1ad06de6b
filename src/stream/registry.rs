//! [io] A Confluent-compatible schema registry: the ids of what is written, and the schemas of what
//! others wrote.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use serde::Deserialize;
use serde_json::json;
use tracing::warn;

use crate::clock::Stopwatch;
use crate::codec::{Codec, REGISTERED_TOPICS, RawRecord, RegisteredSchemas, schema};
use crate::config::{Config, SchemaRegistry};

const WAIT: Duration = Duration::from_secs(5);

/// A registry that does not answer holds its records back for so long in all; then they are dead
/// letters, which keep their bytes and can be sent again.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
#[error("the schema registry at {url} cannot be used: {problem}")]
pub struct RegistryError {
    pub url: String,
    pub problem: String,
}

/// A client of the registry.
#[derive(Debug, Clone)]
pub struct Registry {
    url: String,
    authorization: Option<String>,
    agent: ureq::Agent,
}

#[derive(Deserialize)]
struct Registered {
    id: u32,
}

#[derive(Deserialize)]
struct Schema {
    schema: String,
}

/// The registry's answer to an id, where it gave one.
enum Found {
    Schema(String),
    /// It has nothing under this id.
    Nothing,
}

impl Registry {
    pub fn new(settings: &SchemaRegistry) -> Self {
        let authorization = settings.user.as_ref().map(|user| {
            let password = settings.password.as_ref().map_or("", |password| password.expose());
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            format!("Basic {encoded}")
        });
        let agent = ureq::Agent::config_builder().timeout_global(Some(WAIT)).build().into();
        let url = settings.url.trim_end_matches('/').to_owned();
        Registry { url, authorization, agent }
    }

    /// Registers the schemas of what is written, and returns their ids.
    ///
    /// # Errors
    /// The registry does not answer, or refuses a schema.
    pub fn register(&self, config: &Config) -> Result<RegisteredSchemas, RegistryError> {
        let mut ids = BTreeMap::new();
        for topic in REGISTERED_TOPICS {
            let Some(schema) = schema::of(topic) else { continue };
            let url = format!("{}/subjects/{}-value/versions", self.url, config.topics.name(topic));
            let mut request = self.agent.post(&url);
            if let Some(authorization) = &self.authorization {
                request = request.header("authorization", authorization);
            }
            let registered = request
                .send_json(json!({ "schema": schema.text }))
                .and_then(|mut response| response.body_mut().read_json::<Registered>())
                .map_err(|error| self.error(&error))?;
            ids.insert(topic, registered.id);
        }
        Ok(RegisteredSchemas { ids, writers: BTreeMap::new() })
    }

    /// Teaches the codec the schema of this record, where it does not know it.
    pub fn learn(&self, codec: &Codec, record: &RawRecord<'_>) {
        let Some(id) = codec.unknown_schema(record) else { return };
        let waited = Stopwatch::start();
        loop {
            match self.find(id) {
                Ok(Found::Schema(text)) => {
                    if let Err(error) = codec.learn_schema(id, &text) {
                        warn!(id, %error, "a schema of the registry cannot be used");
                        codec.refuse_schema(id, &error.to_string());
                    }
                    return;
                }
                Ok(Found::Nothing) => {
                    return codec.refuse_schema(id, "the registry does not have it");
                }
                Err(error) => {
                    warn!(id, %error, "schema registry");
                    if waited.remaining(PATIENCE).is_zero() {
                        return codec.refuse_schema(id, &error.to_string());
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    }

    fn find(&self, id: u32) -> Result<Found, RegistryError> {
        let mut request = self.agent.get(&format!("{}/schemas/ids/{id}", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        match request.call() {
            Ok(mut response) => {
                let schema: Schema =
                    response.body_mut().read_json().map_err(|error| self.error(&error))?;
                Ok(Found::Schema(schema.schema))
            }
            Err(ureq::Error::StatusCode(404)) => Ok(Found::Nothing),
            Err(error) => Err(self.error(&error)),
        }
    }

    fn error(&self, error: &ureq::Error) -> RegistryError {
        RegistryError { url: self.url.clone(), problem: error.to_string() }
    }
}
