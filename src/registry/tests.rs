//! Against a registry of one thread that answers what each test tells it to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use super::*;

/// A request as the stub saw it: `METHOD path`, its authorization, its body.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    line: String,
    authorization: Option<String>,
    body: String,
}

struct Stub {
    url: String,
    served: JoinHandle<Vec<Seen>>,
}

fn read_request(stream: &TcpStream) -> Seen {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let (mut authorization, mut length) = (None, 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_owned()),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
    Seen { line, authorization, body: String::from_utf8(body).unwrap() }
}

/// Answers one connection with each answer: its status and its body.
fn stub(answers: Vec<(u16, String)>) -> Stub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api", listener.local_addr().unwrap());
    let served = thread::spawn(move || {
        let mut seen = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            seen.push(read_request(&stream));
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            // A client that has read enough closes early.
            let _closed = stream.write_all(answer.as_bytes());
        }
        seen
    });
    Stub { url, served }
}

fn registry(url: &str) -> Registry {
    Registry::new(&SchemaRegistry {
        url: url.to_owned(),
        user: Some("ann".to_owned()),
        password: Some(Secret::new("open sesame".to_owned())),
    })
    .unwrap()
}

const AUTHORIZATION: &str = "Basic YW5uOm9wZW4gc2VzYW1l";

#[test]
fn questions_and_answers() {
    let stub = stub(vec![
        (200, r#"{"id": 41}"#.to_owned()),
        (200, r#"{"subject": "tasks-value", "id": 42, "version": 1, "schema": "x"}"#.to_owned()),
        (404, r#"{"error_code": 40403, "message": "Schema not found"}"#.to_owned()),
        (200, r#"{"schema": "\"null\""}"#.to_owned()),
        (404, r#"{"error_code": 40403, "message": "Schema not found"}"#.to_owned()),
        (200, r#"{"schema": "syntax", "schemaType": "PROTOBUF"}"#.to_owned()),
        (404, r#"{"error_code": 40401, "message": "Subject not found"}"#.to_owned()),
        (200, r#"{"is_compatible": true}"#.to_owned()),
        (200, r#"{"is_compatible": false, "messages": ["no default for x"]}"#.to_owned()),
    ]);
    let registry = registry(&format!("{}/", stub.url));
    let text = "\"null\"";
    assert_eq!(registry.register("tasks-value", text), Ok(41));
    assert_eq!(registry.lookup("tasks-value", text), Ok(Some(42)));
    assert_eq!(registry.lookup("a/b", text), Ok(None));
    assert_eq!(registry.resolve(7), Ok(Some(text.to_owned())));
    assert_eq!(registry.resolve(8), Ok(None));
    let kind = "PROTOBUF".to_owned();
    assert_eq!(registry.resolve(9), Err(RegistryError::NotAvro { id: 9, kind }));
    let check = |name: &str| registry.check_compatibility(name, text);
    assert_eq!(check("a"), Ok(Compatibility::FirstVersion));
    assert_eq!(check("b"), Ok(Compatibility::Compatible));
    let reasons = vec!["no default for x".to_owned()];
    assert_eq!(check("c"), Ok(Compatibility::Incompatible(reasons)));

    let asked = |line: &str, body: &str| Seen {
        line: line.to_owned(),
        authorization: Some(AUTHORIZATION.to_owned()),
        body: body.to_owned(),
    };
    let schema = r#"{"schema":"\"null\""}"#;
    let verbose = "versions/latest?verbose=true";
    assert_eq!(
        stub.served.join().unwrap(),
        [
            asked("POST /api/subjects/tasks-value/versions", schema),
            asked("POST /api/subjects/tasks-value", schema),
            asked("POST /api/subjects/a%2Fb", schema),
            asked("GET /api/schemas/ids/7", ""),
            asked("GET /api/schemas/ids/8", ""),
            asked("GET /api/schemas/ids/9", ""),
            asked(&format!("POST /api/compatibility/subjects/a/{verbose}"), schema),
            asked(&format!("POST /api/compatibility/subjects/b/{verbose}"), schema),
            asked(&format!("POST /api/compatibility/subjects/c/{verbose}"), schema),
        ]
    );
}

#[test]
fn answers_that_are_none() {
    let rows = [
        ((401, String::new()), "refuses these credentials (status 401)", false),
        (
            (409, r#"{"error_code": 409, "message": "incompatible"}"#.to_owned()),
            "answers 409: incompatible",
            false,
        ),
        ((503, "try later\n".to_owned()), "answers 503: try later", true),
        ((302, String::new()), "answers 302: ", false),
        (
            (200, "<html>".to_owned()),
            "gives an answer that is not understood: expected value at line 1 column 1",
            false,
        ),
        (
            (200, " ".repeat(2 << 20)),
            "gives an answer that is not understood: more than 1048576 bytes",
            false,
        ),
    ];
    for (answer, text, retriable) in rows {
        let stub = stub(vec![answer]);
        let error = registry(&stub.url).register("s", "\"null\"").unwrap_err();
        assert_eq!(error.to_string(), format!("schema registry {} {text}", stub.url));
        assert_eq!(error.is_retriable(), retriable, "{text}");
        stub.served.join().unwrap();
    }
}

#[test]
fn a_registry_that_is_not_there() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = registry(&format!("http://{address}")).resolve(1).unwrap_err();
    assert!(error.is_retriable(), "{error}");
    let start = format!("schema registry http://{address} cannot be reached: ");
    assert!(error.to_string().starts_with(&start), "{error}");
}

#[test]
fn urls_and_secrets() {
    let rows = [
        ("localhost:8081", "`localhost:8081`: no scheme"),
        ("http://", "`http:`: no scheme"),
        ("http:///x", "`http:///x`: no host"),
        ("http://h/x?a=b", "`http://h/x?a=b`: a query, a fragment or white space"),
        ("http://ann:open@h/x", "`h`: credentials in the url (`user` and `password` are settings)"),
    ];
    for (url, problem) in rows {
        let settings = SchemaRegistry { url: url.to_owned(), user: None, password: None };
        let text = Registry::new(&settings).unwrap_err().to_string();
        let allowed = "allowed: http:// or https://, a host, and a path where the registry has one";
        assert_eq!(text, format!("schema registry url {problem}; {allowed}"));
    }
    let shown = format!("{:?}", registry("http://h").authorization);
    assert_eq!(shown, "Some([redacted])");
}

#[test]
fn every_topic_is_registered_under_its_name() {
    let stub = stub(vec![(200, r#"{"id": 1}"#.to_owned()), (200, r#"{"id": 2}"#.to_owned())]);
    let topics =
        [(Topic::RouteDecisions, "routes.default"), (Topic::AllocationEvents, "allocation-events")];
    let registered = registry(&stub.url).register_topics(topics).unwrap();
    let ids = BTreeMap::from([(Topic::RouteDecisions, 1), (Topic::AllocationEvents, 2)]);
    assert_eq!(registered, RegisteredSchemas { ids, writers: BTreeMap::new() });
    let lines: Vec<String> =
        stub.served.join().unwrap().into_iter().map(|seen| seen.line).collect();
    assert_eq!(
        lines,
        [
            "POST /api/subjects/routes.default-value/versions",
            "POST /api/subjects/allocation-events-value/versions"
        ]
    );
}
