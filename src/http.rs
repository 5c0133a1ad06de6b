//! Probes, metrics and the status of this instance over HTTP. Sees published views, never the
//! state of a lane.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::{Http, Secret};
use crate::model::event::LoadSnapshot;
use crate::telemetry::{LaneView, LoadView, Readiness, ResourceView, Telemetry};

/// The address is bound and not yet served, so that a taken port is found before any lane is.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    /// Asked for where the address is not loopback.
    token: Option<Secret>,
}

/// How long requests under way may take after the shutdown began: a scrape takes milliseconds.
const DRAIN_MAX: Duration = Duration::from_secs(2);

impl Server {
    /// Binds the address of the configuration.
    ///
    /// # Errors
    /// Where the address is taken, or not this host's.
    pub fn bind(http: &Http) -> std::io::Result<Server> {
        let listener = TcpListener::bind(http.address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let token = http.token.clone().filter(|_| !address.ip().is_loopback());
        Ok(Server { listener, address, token })
    }

    /// The address in fact, where the configuration says port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves on a runtime of its own, in this thread, until `shutdown` says true.
    ///
    /// # Errors
    /// Where the runtime cannot be made.
    pub fn serve(
        self,
        telemetry: Arc<Telemetry>,
        mut shutdown: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let mut stopped = shutdown.clone();
            let server = axum::serve(listener, router(telemetry, self.token))
                .with_graceful_shutdown(async move {
                    // The sender is gone: that is a shutdown too.
                    stopped.wait_for(|stop| *stop).await.ok();
                });
            let deadline = async move {
                shutdown.wait_for(|stop| *stop).await.ok();
                tokio::time::sleep(DRAIN_MAX).await;
            };
            tokio::select! {
                result = server.into_future() => result,
                () = deadline => Ok(()),
            }
        })
    }
}

#[derive(Clone)]
struct Shared {
    telemetry: Arc<Telemetry>,
    token: Option<Secret>,
}

fn router(telemetry: Arc<Telemetry>, token: Option<Secret>) -> Router {
    let shared = Shared { telemetry, token };
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/load", get(load))
        .layer(middleware::from_fn_with_state(shared.clone(), guard));
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .merge(guarded)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(shared.clone(), count))
        .with_state(shared)
}

async fn count(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    shared.telemetry.http_request(&route, response.status().as_u16());
    response
}

async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let Some(token) = &shared.token else { return next.run(request).await };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    if given.is_some_and(|given| equal(given.as_bytes(), token.expose().as_bytes())) {
        return next.run(request).await;
    }
    let headers = [(header::WWW_AUTHENTICATE, "Bearer")];
    let problem = problem("this address asks for `Authorization: Bearer <http.token>`");
    (StatusCode::UNAUTHORIZED, headers, problem).into_response()
}

/// Compares in a time that does not depend on where the first difference is.
fn equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).fold(0, |seen, (left, right)| seen | (left ^ right)) == 0
}

#[derive(Serialize)]
struct Problem {
    error: &'static str,
}

fn problem(error: &'static str) -> Json<Problem> {
    Json(Problem { error })
}

async fn not_found() -> Response {
    let problem = problem(
        "no such page; there are /livez, /readyz, /metrics, /api/v1/status and /api/v1/load",
    );
    (StatusCode::NOT_FOUND, problem).into_response()
}

#[derive(Serialize)]
struct Ready {
    #[serde(flatten)]
    readiness: Readiness,
    /// State by lane.
    lanes: BTreeMap<u32, &'static str>,
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let view = shared.telemetry.view();
    let readiness = view.readiness();
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let lanes = view.lanes.iter().map(|(lane, view)| (*lane, view.state.name())).collect();
    (code, Json(Ready { readiness, lanes })).into_response()
}

async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let open = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("application/openmetrics-text"));
    let (kind, text) = if open {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        (kind, shared.telemetry.open_metrics())
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", shared.telemetry.prometheus_text())
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    #[serde(flatten)]
    readiness: Readiness,
    backlog: u64,
    in_flight: u64,
    lanes: Vec<Lane>,
    resources: Vec<ResourceView>,
}

#[derive(Serialize)]
struct Lane {
    lane: u32,
    #[serde(flatten)]
    view: LaneView,
}

async fn status(State(shared): State<Shared>) -> Json<Status> {
    let view = shared.telemetry.view();
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        readiness: view.readiness(),
        backlog: view.backlog(),
        in_flight: view.in_flight(),
        resources: view.resources(),
        lanes: view.lanes.into_iter().map(|(lane, view)| Lane { lane, view }).collect(),
    })
}

/// Which load is asked for.
#[derive(Deserialize)]
struct LoadOf {
    lane: Option<u32>,
    resource: Option<String>,
}

/// The newest load snapshots of all lanes, whichever instance has them.
#[derive(Serialize)]
struct Load {
    caught_up: bool,
    /// Next offsets of `load-snapshots`, by partition.
    positions: BTreeMap<i32, i64>,
    load: Vec<Arc<LoadSnapshot<'static>>>,
}

async fn load(State(shared): State<Shared>, Query(of): Query<LoadOf>) -> Json<Load> {
    let LoadView { caught_up, positions, load } = shared.telemetry.load();
    let mut load: Vec<_> = load
        .into_values()
        .filter(|snapshot| of.lane.is_none_or(|lane| snapshot.lane == lane))
        .filter(|snapshot| of.resource.as_ref().is_none_or(|id| *id == snapshot.resource))
        .collect();
    load.sort_by(|one, other| (one.lane, &one.resource).cmp(&(other.lane, &other.resource)));
    Json(Load { caught_up, positions, load })
}
