//! The schema registry as the commands ask it: for the schemas of other writers.

use crate::codec::Codec;
use crate::config::SchemaRegistry;
use crate::registry::{Registry, RegistryError};

/// Lets a codec read what another writer wrote: asks the registry for the schema, and notes where
/// it cannot be had.
///
/// # Errors
/// The registry does not answer.
pub fn teach(
    codec: &Codec,
    settings: Option<&SchemaRegistry>,
    id: u32,
) -> Result<(), RegistryError> {
    let Some(settings) = settings else {
        codec.refuse_schema(id, "output.schema_registry.url is not set");
        return Ok(());
    };
    match Registry::new(settings)?.resolve(id) {
        Ok(None) => codec.refuse_schema(id, "the registry does not have it"),
        Ok(Some(text)) => {
            if let Err(error) = codec.learn_schema(id, &text) {
                codec.refuse_schema(id, &error.to_string());
            }
        }
        Err(error @ RegistryError::NotAvro { .. }) => codec.refuse_schema(id, &error.to_string()),
        Err(error) => return Err(error),
    }
    Ok(())
}
