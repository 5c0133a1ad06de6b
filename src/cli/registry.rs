//! The schema registry, asked and never changed.

use std::time::Duration;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::exit::{Exit, coded};
use crate::codec::Codec;
use crate::config::SchemaRegistry;

/// A Confluent-compatible registry.
pub struct Registry<'a> {
    settings: &'a SchemaRegistry,
    agent: ureq::Agent,
}

/// Lets a codec read what another writer wrote: asks the registry for the schema, and notes where
/// it cannot be had.
///
/// # Errors
/// The registry does not answer.
pub fn teach(
    codec: &Codec,
    settings: Option<&SchemaRegistry>,
    timeout: Duration,
    id: u32,
) -> anyhow::Result<()> {
    let Some(settings) = settings else {
        codec.refuse_schema(id, "output.schema_registry.url is not set");
        return Ok(());
    };
    match Registry::new(settings, timeout).schema(id)? {
        None => codec.refuse_schema(id, "the registry does not have it"),
        Some(text) => {
            if let Err(error) = codec.learn_schema(id, &text) {
                codec.refuse_schema(id, &error.to_string());
            }
        }
    }
    Ok(())
}

/// Whether a schema may be registered under a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The subject does not exist: whatever is registered first holds.
    NoSubject,
    Compatible,
    Incompatible,
}

impl<'a> Registry<'a> {
    pub fn new(settings: &'a SchemaRegistry, timeout: Duration) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .build()
            .into();
        Registry { settings, agent }
    }

    fn authorization(&self) -> Option<String> {
        let user = self.settings.user.as_ref()?;
        let password = self.settings.password.as_ref().map_or("", |password| password.expose());
        Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }

    fn unreachable(&self, error: &ureq::Error) -> anyhow::Error {
        let text = format!("the schema registry {} does not answer: {error}", self.settings.url);
        coded(Exit::Unreachable, text)
    }

    fn refused(&self, status: u16, path: &str) -> anyhow::Error {
        let exit = if matches!(status, 401 | 403) { Exit::Denied } else { Exit::Failed };
        let text = format!("the schema registry answers {status} to {}{path}", self.settings.url);
        coded(exit, text)
    }

    /// The subjects that exist.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn subjects(&self) -> anyhow::Result<Vec<String>> {
        let path = "/subjects";
        let mut request = self.agent.get(format!("{}{path}", self.settings.url));
        if let Some(authorization) = self.authorization() {
            request = request.header("authorization", authorization);
        }
        let mut response = request.call().map_err(|error| self.unreachable(&error))?;
        match response.status().as_u16() {
            200 => response.body_mut().read_json().context("no list of subjects"),
            status => Err(self.refused(status, path)),
        }
    }

    /// The text of a registered schema; `None`: there is no such id.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn schema(&self, id: u32) -> anyhow::Result<Option<String>> {
        #[derive(Deserialize)]
        struct Answer {
            schema: String,
        }
        let path = format!("/schemas/ids/{id}");
        let mut request = self.agent.get(format!("{}{path}", self.settings.url));
        if let Some(authorization) = self.authorization() {
            request = request.header("authorization", authorization);
        }
        let mut response = request.call().map_err(|error| self.unreachable(&error))?;
        match response.status().as_u16() {
            200 => {
                let answer: Answer = response.body_mut().read_json().context("no schema")?;
                Ok(Some(answer.schema))
            }
            404 => Ok(None),
            status => Err(self.refused(status, &path)),
        }
    }

    /// Whether a schema could be registered as the subject's next version.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn fits(&self, subject: &str, schema: &str) -> anyhow::Result<Fit> {
        #[derive(Deserialize)]
        struct Answer {
            is_compatible: bool,
        }
        let path = format!("/compatibility/subjects/{subject}/versions/latest");
        let mut request = self.agent.post(format!("{}{path}", self.settings.url));
        if let Some(authorization) = self.authorization() {
            request = request.header("authorization", authorization);
        }
        let mut response = request
            .send_json(serde_json::json!({ "schema": schema }))
            .map_err(|error| self.unreachable(&error))?;
        match response.status().as_u16() {
            200 => {
                let answer: Answer = response.body_mut().read_json().context("no verdict")?;
                Ok(if answer.is_compatible { Fit::Compatible } else { Fit::Incompatible })
            }
            404 => Ok(Fit::NoSubject),
            status => Err(self.refused(status, &path)),
        }
    }
}
