use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::ApiKey;

use super::*;
use crate::clock::Stopwatch;

/// Nothing on loopback takes longer; where it does the test fails.
const LIMIT: Duration = Duration::from_secs(20);

struct Client {
    stream: TcpStream,
}

/// What comes back for a request.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Correlation id, and the error behind it.
    Answer(i32, i16),
    Closed,
}

impl Client {
    fn new(front: &Front) -> Self {
        let stream = TcpStream::connect(front.address()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client { stream }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn seen(&mut self) -> Seen {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            // What was sent and not read when the front closed it makes it a reset.
            Err(error)
                if [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset]
                    .contains(&error.kind()) =>
            {
                return Seen::Closed;
            }
            Err(error) => panic!("{error}"),
        }
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.stream.read_exact(&mut frame).unwrap();
        let id = i32::from_be_bytes(frame[..4].try_into().unwrap());
        Seen::Answer(id, i16::from_be_bytes(frame[4..6].try_into().unwrap()))
    }
}

/// A request in the older encoding, without a client id. In version 0 the error stands first in the
/// answers that are asked for here.
fn request(api: ApiKey, id: i32, body: &[u8]) -> Vec<u8> {
    let mut frame = [api as i16, 0].map(i16::to_be_bytes).concat();
    frame.extend(id.to_be_bytes());
    frame.extend((-1_i16).to_be_bytes());
    frame.extend(body);
    framed(&frame)
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&i32::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat()
}

fn versions(id: i32) -> Vec<u8> {
    request(ApiKey::ApiVersions, id, &[])
}

fn coordinator(id: i32) -> Vec<u8> {
    request(ApiKey::FindCoordinator, id, b"\0\x01g")
}

fn front() -> Front {
    Front::start(FrontSettings::default()).unwrap()
}

#[test]
fn requests_are_answered_in_their_order_however_their_bytes_arrive() {
    let front = front();
    let mut client = Client::new(&front);
    let bytes = [versions(1), coordinator(2), versions(3)].concat();
    client.send(&bytes);
    for id in 1..=3 {
        assert_eq!(client.seen(), Seen::Answer(id, 0));
    }
    for byte in bytes {
        client.send(&[byte]);
    }
    for id in 1..=3 {
        assert_eq!(client.seen(), Seen::Answer(id, 0));
    }
}

#[test]
fn a_bad_frame_ends_its_connection_and_no_other() {
    let front = front();
    let mut other = Client::new(&front);
    let huge = (100_i32 << 20) + 1;
    let unknown_version = framed(b"\0\x0a\0\x63\0\0\0\x01\xff\xff");
    for bytes in [
        // Lengths that no frame has.
        huge.to_be_bytes().to_vec(),
        (-1_i32).to_be_bytes().to_vec(),
        b"GET / HTTP/1.1\r\n".to_vec(),
        // Frames that hold no request.
        framed(b""),
        framed(b"\0\x12\0"),
        framed(b"\0\x12\0\0\0\0"),
        framed(b"\x7f\xff\0\0\0\0\0\x01\xff\xff"),
        unknown_version,
        request(ApiKey::FindCoordinator, 1, b"\0\x09g"),
        // An array of 2 billion topics.
        request(ApiKey::Metadata, 1, b"\x7f\xff\xff\xff"),
    ] {
        let mut client = Client::new(&front);
        client.send(&bytes);
        assert_eq!(client.seen(), Seen::Closed, "{bytes:?}");
        other.send(&versions(7));
        assert_eq!(other.seen(), Seen::Answer(7, 0), "{bytes:?}");
    }
    // A version that is not known of the request that asks for versions: what is known, as 0.
    other.send(&framed(b"\0\x12\0\x63\0\0\0\x05\xff\xff\0"));
    assert_eq!(other.seen(), Seen::Answer(5, ResponseError::UnsupportedVersion.code()));
}

#[test]
fn a_client_that_leaves_takes_nothing_with_it() {
    let front = front();
    let mut client = Client::new(&front);
    client.send(&versions(1)[..5]);
    drop(client);
    let mut client = Client::new(&front);
    client.send(&versions(1));
    drop(client);
    let mut client = Client::new(&front);
    client.send(&versions(1));
    assert_eq!(client.seen(), Seen::Answer(1, 0));
}

#[test]
fn connections_are_bounded_and_end_with_the_front() {
    let settings = FrontSettings { connections_max: 2, ..FrontSettings::default() };
    let front = Front::start(settings).unwrap();
    let address = front.address();
    let mut clients = [Client::new(&front), Client::new(&front)];
    for client in &mut clients {
        client.send(&versions(1));
        assert_eq!(client.seen(), Seen::Answer(1, 0));
    }
    assert_eq!(Client::new(&front).seen(), Seen::Closed);
    assert!(front.is_serving());
    drop(front);
    for client in &mut clients {
        assert_eq!(client.seen(), Seen::Closed);
    }
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn an_address_that_is_taken_is_an_error() {
    let first = front();
    let settings = FrontSettings { address: first.address(), ..FrontSettings::default() };
    assert_eq!(Front::start(settings).unwrap_err().kind(), ErrorKind::AddrInUse);
}

/// Sends ApiVersions 1, FindCoordinator 2 and 3, ApiVersions 4, each on a new connection where the
/// last one was closed; `None` is silence.
fn seen_with(rules: &[Rule]) -> (Vec<Option<Seen>>, Vec<u32>) {
    let front = front();
    let rules: Vec<RuleId> = rules.iter().map(|rule| front.faults().inject(rule.clone())).collect();
    let mut client = Client::new(&front);
    let mut all = Vec::new();
    for bytes in [versions(1), coordinator(2), coordinator(3), versions(4)] {
        client.send(&bytes);
        // Silence is known by the answer to the next request.
        client.send(&request(ApiKey::ApiVersions, 99, &[]));
        let seen = client.seen();
        match seen {
            Seen::Answer(99, _) => all.push(None),
            Seen::Answer(..) => {
                all.push(Some(seen));
                assert_eq!(client.seen(), Seen::Answer(99, 0));
            }
            Seen::Closed => {
                all.push(Some(seen));
                client = Client::new(&front);
            }
        }
    }
    (all, rules.iter().map(|rule| front.faults().hits(*rule)).collect())
}

#[test]
fn rules_say_which_requests_meet_a_fault() {
    let rule = |skip, times, fault| Rule {
        api: Some(ApiKey::FindCoordinator),
        skip,
        times,
        fault,
        ..Rule::default()
    };
    let answer = |id, error: i16| Some(Seen::Answer(id, error));
    let fine = |id| Some(Seen::Answer(id, 0));
    let busy = ResponseError::CoordinatorLoadInProgress;
    type Row<'a> = (&'a [Rule], [Option<Seen>; 4], &'a [u32]);
    let rows: &[Row<'_>] = &[
        (&[], [fine(1), fine(2), fine(3), fine(4)], &[]),
        (&[rule(0, 1, Fault::DropRequest)], [fine(1), None, fine(3), fine(4)], &[1]),
        (&[rule(1, 5, Fault::DropResponse)], [fine(1), fine(2), None, fine(4)], &[1]),
        (&[rule(0, 5, Fault::Error(busy))], [fine(1), answer(2, 14), answer(3, 14), fine(4)], &[2]),
        (&[rule(1, 1, Fault::ErrorAfter(busy))], [fine(1), fine(2), answer(3, 14), fine(4)], &[1]),
        (&[rule(0, 1, Fault::CloseBefore)], [fine(1), Some(Seen::Closed), fine(3), fine(4)], &[1]),
        (&[rule(1, 1, Fault::CloseAfter)], [fine(1), fine(2), Some(Seen::Closed), fine(4)], &[1]),
        // The first one wins, and the others count all the same.
        (
            &[rule(0, 1, Fault::DropRequest), rule(1, 1, Fault::Error(busy))],
            [fine(1), None, answer(3, 14), fine(4)],
            &[1, 1],
        ),
        (
            &[rule(0, 1, Fault::DropRequest), rule(0, 1, Fault::Error(busy))],
            [fine(1), None, answer(3, 14), fine(4)],
            &[1, 1],
        ),
        // From the first request on there is no coordinator.
        (
            &[Rule {
                api: Some(ApiKey::ApiVersions),
                fault: Fault::CoordinatorAway(LIMIT),
                ..Rule::default()
            }],
            [fine(1), answer(2, 15), answer(3, 15), fine(4)],
            &[1],
        ),
        (
            &[rule(0, 1, Fault::CoordinatorAway(Duration::ZERO))],
            [fine(1), fine(2), fine(3), fine(4)],
            &[1],
        ),
        // No coordinator is looked for by a topic.
        (
            &[Rule { topic: Some("t".to_owned()), ..rule(0, 5, Fault::DropRequest) }],
            [fine(1), fine(2), fine(3), fine(4)],
            &[0],
        ),
        (&[Rule { share: 0.0, ..Rule::default() }], [fine(1), fine(2), fine(3), fine(4)], &[0]),
    ];
    for (rules, expected, hits) in rows {
        let (seen, counted) = seen_with(rules);
        assert_eq!((&seen[..], &counted[..]), (&expected[..], *hits), "{rules:?}");
    }
}

#[test]
fn delays_are_waited_for() {
    let delay = Duration::from_millis(30);
    for fault in [Fault::DelayRequest(delay), Fault::DelayResponse(delay)] {
        let front = front();
        front.faults().inject(Rule { fault, ..Rule::default() });
        let mut client = Client::new(&front);
        let began = Stopwatch::start();
        client.send(&versions(1));
        assert_eq!(client.seen(), Seen::Answer(1, 0));
        assert!(began.elapsed() >= delay, "{fault:?}");
    }
}

#[test]
fn faults_end_when_they_are_cleared() {
    let front = front();
    let mut client = Client::new(&front);
    let away = Fault::CoordinatorAway(LIMIT);
    let rule = front.faults().inject(Rule { fault: away, ..Rule::default() });
    let no = ResponseError::CoordinatorNotAvailable.code();
    for (id, error) in [(1, no), (2, no)] {
        client.send(&coordinator(id));
        assert_eq!(client.seen(), Seen::Answer(id, error));
    }
    assert_eq!(front.faults().hits(rule), 1);
    front.faults().clone().clear();
    client.send(&coordinator(3));
    assert_eq!(client.seen(), Seen::Answer(3, 0));
    assert_eq!(front.faults().hits(rule), 0);
}
