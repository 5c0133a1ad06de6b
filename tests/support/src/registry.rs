//! A schema registry with Confluent's interface, in memory.

use std::sync::OnceLock;

use crate::component::Component;

/// An Apicurio registry. Dropping it, or the end of the process, stops it.
#[derive(Debug)]
pub struct SchemaRegistry {
    url: String,
    _component: Component,
}

impl SchemaRegistry {
    /// Starts an empty registry; fifteen seconds, and 142 MB to fetch the first time.
    ///
    /// It refuses no change of a schema until a test sets a compatibility rule (`PUT <url>/config`).
    ///
    /// # Panics
    /// Where it cannot be started, saying what to install.
    pub fn start() -> Self {
        let component = Component::new("ops/registry/registry");
        let url = component.run("start", [] as [&str; 0]);
        SchemaRegistry { url, _component: component }
    }

    /// The one registry that all tests of this process share.
    pub fn shared() -> &'static SchemaRegistry {
        static SHARED: OnceLock<SchemaRegistry> = OnceLock::new();
        SHARED.get_or_init(SchemaRegistry::start)
    }

    /// Where Confluent's interface answers, such as `http://127.0.0.1:18081/apis/ccompat/v7`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    #[ignore = "needs a schema registry: see ops/test"]
    fn answers_as_a_confluent_registry_does() {
        let registry = SchemaRegistry::start();
        let address = registry.url().trim_start_matches("http://").to_owned();
        let (host, path) = address.split_once('/').unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        write!(stream, "GET /{path}/subjects HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(body.trim(), "[]", "{answer}");
        drop(registry);
        assert!(TcpStream::connect(host).is_err(), "the registry still answers");
    }
}
