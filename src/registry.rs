//! A client of a Confluent-compatible schema registry (Confluent, Apicurio, Karapace, Redpanda).
//!
//! It asks and answers; what to retry and when is the caller's business. Blocking: never call it
//! on the lanes' hot path or on a tokio thread.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use ureq::http::Response;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::codec::{RegisteredSchemas, schema};
use crate::config::{SchemaRegistry, Secret};
use crate::model::Topic;

/// Of one request, from the name's resolution to the last byte. A registry answers in
/// milliseconds; a start waits at most this long for each schema.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Bound of an answer: the codec reads schemas of at most 256 KiB, here with JSON's escapes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Bound of a registry's own words in an error.
const MESSAGE_BYTES_MAX: usize = 512;
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Why the registry did not answer, or not with what was asked for. No text contains a secret.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RegistryError {
    #[error(
        "schema registry url `{url}`: {problem}; allowed: http:// or https://, a host, and a path where the registry has one"
    )]
    Url { url: String, problem: &'static str },
    #[error("schema registry {url} cannot be reached: {problem}")]
    Unreachable { url: String, problem: String },
    #[error("schema registry {url} refuses these credentials (status {status})")]
    Unauthorized { url: String, status: u16 },
    #[error("schema registry {url} answers {status}: {message}")]
    Refused { url: String, status: u16, message: String },
    #[error("schema registry {url} gives an answer that is not understood: {problem}")]
    Answer { url: String, problem: String },
    #[error("schema {id} in the registry is {kind}; allowed: AVRO without references")]
    NotAvro { id: u32, kind: String },
}

impl RegistryError {
    /// Whether the same question may be answered later.
    pub const fn is_retriable(&self) -> bool {
        match self {
            RegistryError::Unreachable { .. } => true,
            RegistryError::Refused { status, .. } => *status >= 500 || *status == 429,
            RegistryError::Url { .. }
            | RegistryError::Unauthorized { .. }
            | RegistryError::Answer { .. }
            | RegistryError::NotAvro { .. } => false,
        }
    }
}

/// What the registry's compatibility rule says of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compatibility {
    /// The subject has no version yet: any schema may be the first.
    FirstVersion,
    Compatible,
    /// With the registry's reasons, where it gives any.
    Incompatible(Vec<String>),
}

/// A connection to one registry.
#[derive(Debug)]
pub struct Registry {
    agent: Agent,
    /// Without a slash at its end.
    url: String,
    authorization: Option<Secret>,
}

/// The subject of a topic's values (TopicNameStrategy).
pub fn subject(topic_name: &str) -> String {
    format!("{topic_name}-value")
}

#[derive(Deserialize)]
struct Registered {
    id: u32,
}

#[derive(Deserialize)]
struct Schema {
    schema: String,
    #[serde(default, rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Compatible {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

impl Registry {
    /// # Errors
    /// The URL cannot be used.
    pub fn new(settings: &SchemaRegistry) -> Result<Self, RegistryError> {
        let url = settings.url.trim_end_matches('/');
        check_url(url)?;
        let password = settings.password.as_ref().map_or("", Secret::expose);
        let authorization = settings.user.as_ref().map(|user| {
            Secret::new(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        });
        // The operating system's roots: registries inside a company have its own authority.
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .timeout_global(Some(REQUEST_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .http_status_as_error(false)
            // A redirected POST would become a GET; a moved registry is a setting to correct.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .tls_config(tls)
            .user_agent("pointsman")
            .build()
            .new_agent();
        Ok(Registry { agent, url: url.to_owned(), authorization })
    }

    /// Registers a schema under a subject and returns its id; the id it has, where it is there.
    pub fn register(&self, subject: &str, text: &str) -> Result<u32, RegistryError> {
        let path = format!("/subjects/{}/versions", encode(subject));
        let answer = self.post(&path, text)?;
        self.required::<Registered>(answer).map(|registered| registered.id)
    }

    /// The id of a schema under a subject; `None` where the subject does not have it. Changes
    /// nothing.
    pub fn lookup(&self, subject: &str, text: &str) -> Result<Option<u32>, RegistryError> {
        let answer = self.post(&format!("/subjects/{}", encode(subject)), text)?;
        Ok(self.optional::<Registered>(answer)?.map(|registered| registered.id))
    }

    /// The text of a schema; `None` where the registry has no such id.
    pub fn resolve(&self, id: u32) -> Result<Option<String>, RegistryError> {
        let answer = self.get(&format!("/schemas/ids/{id}"))?;
        let Some(schema) = self.optional::<Schema>(answer)? else {
            return Ok(None);
        };
        match schema.kind.as_deref() {
            None | Some("AVRO") if schema.references.is_empty() => Ok(Some(schema.schema)),
            None | Some("AVRO") => {
                Err(RegistryError::NotAvro { id, kind: "AVRO with references".to_owned() })
            }
            Some(kind) => Err(RegistryError::NotAvro { id, kind: cut(kind).to_owned() }),
        }
    }

    /// What the subject's compatibility rule says of a schema. Changes nothing.
    pub fn check_compatibility(
        &self,
        subject: &str,
        text: &str,
    ) -> Result<Compatibility, RegistryError> {
        let subject = encode(subject);
        let path = format!("/compatibility/subjects/{subject}/versions/latest?verbose=true");
        let answer = self.post(&path, text)?;
        Ok(match self.optional::<Compatible>(answer)? {
            None => Compatibility::FirstVersion,
            Some(Compatible { is_compatible: true, .. }) => Compatibility::Compatible,
            Some(Compatible { is_compatible: false, messages }) => Compatibility::Incompatible(
                messages.iter().map(|message| cut(message).to_owned()).collect(),
            ),
        })
    }

    /// Registers the schema of each topic under the topic's name. A topic may have several names
    /// (one decision topic for each pool).
    pub fn register_topics<'a>(
        &self,
        topics: impl IntoIterator<Item = (Topic, &'a str)>,
    ) -> Result<RegisteredSchemas, RegistryError> {
        let mut ids = BTreeMap::new();
        for (topic, name) in topics {
            if let Some(schema) = schema::of(topic) {
                ids.insert(topic, self.register(&subject(name), schema.text)?);
            }
        }
        Ok(RegisteredSchemas { ids, writers: BTreeMap::new() })
    }

    fn get(&self, path: &str) -> Result<Response<Body>, RegistryError> {
        let mut request =
            self.agent.get(format!("{}{path}", self.url)).header("accept", CONTENT_TYPE);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization.expose());
        }
        request.call().map_err(|error| self.unreachable(&error))
    }

    fn post(&self, path: &str, text: &str) -> Result<Response<Body>, RegistryError> {
        let mut request = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("accept", CONTENT_TYPE)
            .header("content-type", CONTENT_TYPE);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization.expose());
        }
        let body = json!({ "schema": text }).to_string();
        request.send(body).map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, error: &ureq::Error) -> RegistryError {
        RegistryError::Unreachable { url: self.url.clone(), problem: error.to_string() }
    }

    fn required<T: DeserializeOwned>(&self, answer: Response<Body>) -> Result<T, RegistryError> {
        let status = answer.status().as_u16();
        let url = || self.url.clone();
        let bytes =
            answer.into_body().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(
                |error| match error {
                    ureq::Error::BodyExceedsLimit(_) => {
                        let problem = format!("more than {ANSWER_BYTES_MAX} bytes");
                        RegistryError::Answer { url: url(), problem }
                    }
                    error => self.unreachable(&error),
                },
            )?;
        match status {
            200..=299 => serde_json::from_slice(&bytes)
                .map_err(|error| RegistryError::Answer { url: url(), problem: error.to_string() }),
            401 | 403 => Err(RegistryError::Unauthorized { url: url(), status }),
            _ => {
                let message = serde_json::from_slice::<Refusal>(&bytes).map_or_else(
                    |_| String::from_utf8_lossy(&bytes).into_owned(),
                    |refusal| refusal.message,
                );
                let message = cut(message.trim()).to_owned();
                Err(RegistryError::Refused { url: url(), status, message })
            }
        }
    }

    /// As `required`; `None` where the registry does not have what was asked for.
    fn optional<T: DeserializeOwned>(
        &self,
        answer: Response<Body>,
    ) -> Result<Option<T>, RegistryError> {
        if answer.status().as_u16() == 404 {
            return Ok(None);
        }
        self.required(answer).map(Some)
    }
}

fn check_url(url: &str) -> Result<(), RegistryError> {
    let wrong = |url: &str, problem| Err(RegistryError::Url { url: url.to_owned(), problem });
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return wrong(url, "no scheme");
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if let Some((_, host)) = host.rsplit_once('@') {
        // The text of an error must not repeat what stands before the host.
        return wrong(host, "credentials in the url (`user` and `password` are settings)");
    }
    if host.is_empty() {
        return wrong(url, "no host");
    }
    if rest.contains(['?', '#']) || url.contains(char::is_whitespace) {
        return wrong(url, "a query, a fragment or white space");
    }
    Ok(())
}

/// A subject as a segment of a path.
fn encode(subject: &str) -> String {
    let mut encoded = String::with_capacity(subject.len());
    for byte in subject.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The beginning of a text that fits an error.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(MESSAGE_BYTES_MAX)).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests;
