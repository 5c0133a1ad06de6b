use super::*;
use crate::telemetry::LaneState;

/// A server on a free port of loopback, stopped when this is dropped.
struct Running {
    url: String,
    telemetry: Arc<Telemetry>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<std::io::Result<()>>>,
}

impl Running {
    /// `guarded`: as on an address that is not loopback, with the token `geheim`.
    fn start(guarded: bool) -> Self {
        let http = Http { address: SocketAddr::from(([127, 0, 0, 1], 0)), token: None };
        let mut server = Server::bind(&http).unwrap();
        server.token = guarded.then(|| Secret::new("geheim".to_owned()));
        let url = format!("http://{}", server.address());
        let telemetry = Arc::new(Telemetry::new(1));
        let (stop, stopped) = watch::channel(false);
        let served = Arc::clone(&telemetry);
        let thread = Some(std::thread::spawn(move || server.serve(served, stopped)));
        Running { url, telemetry, stop, thread }
    }

    /// Status, content type and body.
    fn get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut request = agent.get(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.call().unwrap();
        let kind = response
            .headers()
            .get("content-type")
            .map_or(String::new(), |value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), kind, response.body_mut().read_to_string().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let ended = self.thread.take().map(|thread| thread.join());
        assert!(matches!(ended, Some(Ok(Ok(())))), "{ended:?}");
    }
}

#[test]
fn probes_say_what_they_wait_for() {
    let server = Running::start(false);
    assert_eq!(server.get("/livez", &[]).2, "ok\n");
    let (status, _, body) = server.get("/readyz", &[]);
    let waiting =
        r#"{"ready":false,"reasons":["worker 0 waits for its first assignment"],"lanes":{}}"#;
    assert_eq!((status, body.as_str()), (503, waiting));
    server.telemetry.assigned(0, &[3]);
    server.telemetry.lane_state(3, LaneState::Running, None);
    let (status, kind, body) = server.get("/readyz", &[]);
    let ready = r#"{"ready":true,"reasons":[],"lanes":{"3":"running"}}"#;
    assert_eq!((status, kind.as_str(), body.as_str()), (200, "application/json", ready));
}

#[test]
fn status_shows_lanes() {
    let server = Running::start(false);
    server.telemetry.assigned(0, &[3]);
    let (status, _, body) = server.get("/api/v1/status", &[]);
    assert_eq!(status, 200);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ready": false,
            "reasons": ["lane 3 is restoring, 0 records to go"],
            "backlog": 0,
            "in_flight": 0,
            "lanes": [{
                "lane": 3, "state": "restoring", "reason": null, "seq": 0, "batch_time_ms": 0,
                "in_flight": 0, "backlog": 0, "restore_remaining_records": 0, "system": null,
                "hindsight": null, "lag": {}
            }],
            "resources": []
        })
    );
}

#[test]
fn a_lanes_hindsight_share_is_shown() {
    use crate::telemetry::Share;
    let server = Running::start(false);
    server.telemetry.assigned(0, &[3]);
    server.telemetry.lane_hindsight(3, Some(Share { share: 0.875, tasks: 96 }));
    let status: serde_json::Value =
        serde_json::from_str(&server.get("/api/v1/status", &[]).2).unwrap();
    let expected = serde_json::json!({"share": 0.875, "tasks": 96});
    assert_eq!(status["lanes"][0]["hindsight"], expected);
    let text = server.get("/metrics", &[]).2;
    for line in ["hindsight_share_ratio{lane=\"3\"} 0.875", "hindsight_tasks{lane=\"3\"} 96.0"] {
        assert!(text.contains(&format!("\npointsman_{line}\n")), "{line}: {text}");
    }
}

#[test]
fn load_shows_every_lane_that_is_asked_for() {
    use crate::model::event::{DimensionLoad, LoadSnapshot};
    let server = Running::start(false);
    let empty = r#"{"caught_up":false,"positions":{},"load":[]}"#;
    assert_eq!(server.get("/api/v1/load", &[]).2, empty);
    server.telemetry.load_changed(|view| {
        for (lane, resource) in [(10, "one"), (2, "two"), (2, "one")] {
            let snapshot = LoadSnapshot {
                lane,
                resource: resource.into(),
                at_ms: crate::model::time::Timestamp::from_ms(7),
                health: crate::model::health::HealthStatus::Healthy,
                load: vec![DimensionLoad {
                    dimension: "slots".into(),
                    window_s: 0,
                    limit: 8,
                    units: 4,
                    used: 1,
                    used_max: 2,
                    price: 0.0,
                    rights: 500_000,
                    incarnation: 3,
                    waiting: 0,
                    largest_waiting: 0,
                    waiting_since_ms: None,
                    waiting_critical: 0,
                    waiting_interactive: 0,
                    largest_priority: crate::model::task::Priority::default(),
                    pledged: 0,
                }],
                in_flight: 1,
                backlog: 0,
                system: None,
            };
            let key = format!("{lane}/{resource}").into_bytes();
            view.load.insert(key.into(), Arc::new(snapshot));
        }
        view.positions.insert(2, 9);
        view.caught_up = true;
    });
    let of = |lane: u32, resource: &str| {
        format!(
            r#"{{"lane":{lane},"resource":"{resource}","at_ms":7,"health":"healthy","load":[{{"dimension":"slots","window_s":0,"limit":8,"units":4,"used":1,"used_max":2,"price":0.0,"rights":500000,"incarnation":3,"waiting":0,"largest_waiting":0,"waiting_since_ms":null,"waiting_critical":0,"waiting_interactive":0,"largest_priority":"interactive","pledged":0}}],"in_flight":1,"backlog":0,"system":null}}"#
        )
    };
    let check = |query: &str, rows: &[(u32, &str)]| {
        let load: Vec<String> = rows.iter().map(|(lane, resource)| of(*lane, resource)).collect();
        let load = load.join(",");
        let expected = format!(r#"{{"caught_up":true,"positions":{{"2":9}},"load":[{load}]}}"#);
        let (status, _, body) = server.get(&format!("/api/v1/load{query}"), &[]);
        assert_eq!((status, body), (200, expected), "{query}");
    };
    check("", &[(2, "one"), (2, "two"), (10, "one")]);
    check("?lane=2", &[(2, "one"), (2, "two")]);
    check("?resource=one", &[(2, "one"), (10, "one")]);
    check("?lane=2&resource=two", &[(2, "two")]);
    check("?lane=3", &[]);
    assert_eq!(server.get("/api/v1/load?lane=x", &[]).0, 400);
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() {
    let server = Running::start(false);
    let (_, kind, text) = server.get("/metrics", &[]);
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.contains("# TYPE pointsman_facts_total counter\n"), "{text}");
    let accept = ("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    let (_, kind, text) = server.get("/metrics", &[accept]);
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(text.contains("# TYPE pointsman_facts counter\n") && text.ends_with("# EOF\n"));
    assert!(text.contains("pointsman_http_requests_total{route=\"/metrics\",status=\"200\"} 1"));
}

#[test]
fn only_probes_are_open_without_the_token() {
    let server = Running::start(true);
    let rows = [
        ("/livez", "", 200),
        ("/readyz", "", 503),
        ("/metrics", "", 401),
        ("/metrics", "Bearer gehein", 401),
        ("/metrics", "Bearer geheim1", 401),
        ("/metrics", "Basic geheim", 401),
        ("/metrics", "Bearer geheim", 200),
        ("/api/v1/status", "", 401),
        ("/api/v1/status", "Bearer geheim", 200),
        ("/api/v1/load", "", 401),
        ("/nowhere", "", 404),
    ];
    for (path, authorization, expected) in rows {
        let status = server.get(path, &[("authorization", authorization)]).0;
        assert_eq!(status, expected, "{path} with {authorization:?}");
    }
}
