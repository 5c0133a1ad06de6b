//! (I/O) Schemas of other writers, which the codec must know before a record is offered.

use std::time::Duration;

use tracing::warn;

use crate::clock::Stopwatch;
use crate::codec::{Codec, RawRecord};
use crate::registry::Registry;

/// A registry that does not answer holds a record back for this long; then it is a dead letter,
/// which keeps its bytes and can be sent again.
const PATIENCE: Duration = Duration::from_secs(20);

const ASK_EVERY: Duration = Duration::from_millis(200);

/// Teaches the codec the schema of this record, where it does not know it.
pub fn learn(registry: &Registry, codec: &Codec, record: &RawRecord<'_>) {
    let Some(id) = codec.unknown_schema(record) else { return };
    let waited = Stopwatch::start();
    loop {
        match registry.resolve(id) {
            Ok(Some(text)) => {
                if let Err(error) = codec.learn_schema(id, &text) {
                    warn!(id, %error, "a schema of the registry cannot be used");
                    codec.refuse_schema(id, &error.to_string());
                }
                return;
            }
            Ok(None) => return codec.refuse_schema(id, "the registry does not have it"),
            Err(error) => {
                warn!(id, %error, "schema registry");
                if waited.remaining(PATIENCE).is_zero() {
                    return codec.refuse_schema(id, &error.to_string());
                }
                std::thread::sleep(ASK_EVERY);
            }
        }
    }
}
