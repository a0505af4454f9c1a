//! HTTP for people and probes: the health address, and the admin socket. Neither shows keys or endpoints' content.

use crate::clock;
use crate::csds;
use crate::fleet::{CommandError, Fleet};
use crate::metrics::Metrics;
use crate::roster::Roster;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use moorgate_snapshot::{Digest, FleetName};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

/// A request that takes longer is ended.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Requests have no bodies to speak of.
const MAX_BODY: usize = 4 * 1024;
/// The version of the JSON that is answered.
const FORMAT_VERSION: u32 = 1;

/// What the handlers look at.
#[derive(Debug, Clone)]
pub struct Admin {
    /// All fleets.
    pub fleets: Roster,
    /// The relay's metrics.
    pub metrics: Arc<Metrics>,
    /// Ready only when an Envoy took the snapshot.
    pub ready_acked: bool,
    /// The relay stops.
    pub drain: CancellationToken,
}

impl Admin {
    /// `/livez`, `/readyz` and `/metrics`.
    pub fn health(self) -> Router {
        let router = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics));
        layered(router.with_state(self))
    }

    /// `/snapshot`, `/clients`, `/pin` and `/quarantine`, Envoy's client status discovery service, and what the health
    /// address has.
    pub fn admin(self) -> Router {
        let router = Router::new()
            .route("/snapshot", get(snapshot))
            .route("/clients", get(clients))
            .route("/pin", get(snapshot).post(pin).delete(unpin))
            .route("/quarantine", delete(forgive))
            .with_state(self.clone());
        // Streams of questions last as long as somebody asks: they have bounds of their own.
        layered(router).merge(csds::router(self.fleets.clone())).merge(self.health())
    }

    /// Why the relay is not ready: a fleet without a verified snapshot, or one that no Envoy took. Fleets on demand do not
    /// count: one that has nothing published would keep the Envoys of all others away.
    fn not_ready(&self) -> Vec<String> {
        if self.drain.is_cancelled() {
            return vec!["the relay stops".to_owned()];
        }
        if self.fleets.is_on_demand() {
            return Vec::new();
        }
        let reason = |fleet: &Fleet| {
            let Some(view) = fleet.hub.view() else {
                let error = fleet.status.borrow().store.error.clone();
                let error = error.map(|error| format!(": {error}")).unwrap_or_default();
                return Some(format!("{}: no verified snapshot yet{error}", fleet.name()));
            };
            let waits = self.ready_acked && !fleet.hub.is_synced(&view.config.id);
            waits.then(|| format!("{}: no Envoy took the snapshot yet", fleet.name()))
        };
        self.fleets.all().iter().filter_map(reason).collect()
    }

    fn find(&self, wanted: Option<&FleetName>) -> Result<Fleet, Refusal> {
        match (wanted, self.fleets.all().as_slice()) {
            (Some(name), _) => self.fleets.find(name).ok_or(Refusal::NoFleet),
            (None, [only]) => Ok(only.clone()),
            (None, _) => Err(Refusal::WhichFleet),
        }
    }
}

fn layered(router: Router) -> Router {
    router
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, TIMEOUT))
        .layer(RequestBodyLimitLayer::new(MAX_BODY))
        .layer(CatchPanicLayer::new())
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let reasons = admin.not_ready();
    if reasons.is_empty() {
        (StatusCode::OK, "ok\n".to_owned()).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let now = clock::unix_now();
    for fleet in admin.fleets.all() {
        let status = fleet.status.borrow().clone();
        let name = fleet.name().to_string();
        let ages = [
            ("moorgate_relay_snapshot_age_seconds", status.since),
            ("moorgate_relay_store_age_seconds", status.store.answered),
        ];
        let (connected, acked) = fleet.hub.envoys(status.snapshot.as_ref());
        for (state, count) in [("connected", connected), ("acked", acked)] {
            #[expect(clippy::cast_precision_loss, reason = "Envoys are few")]
            admin.metrics.set("moorgate_relay_envoys", &[("fleet", &name), ("state", state)], count as f64);
        }
        let converged = status.follows() && connected == acked;
        admin.metrics.set("moorgate_relay_converged", &[("fleet", &name)], if converged { 1.0 } else { 0.0 });
        for (metric, moment) in ages {
            if let Some(moment) = moment {
                #[expect(clippy::cast_precision_loss, reason = "ages are small")]
                admin.metrics.set(metric, &[("fleet", &name)], (now - moment).max(0) as f64);
            }
        }
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.metrics.render()).into_response()
}

async fn snapshot(State(admin): State<Admin>) -> Response {
    let fleets: Vec<_> = admin.fleets.all().iter().map(|fleet| fleet.status.borrow().clone()).collect();
    let fleets: Vec<_> = fleets.iter().map(|status| json!(**status)).collect();
    Json(json!({ "format_version": FORMAT_VERSION, "fleets": fleets })).into_response()
}

async fn clients(State(admin): State<Admin>) -> Response {
    let of = |fleet: &Fleet| json!({ "fleet": fleet.name(), "clients": fleet.hub.clients() });
    let fleets: Vec<_> = admin.fleets.all().iter().map(of).collect();
    Json(json!({ "format_version": FORMAT_VERSION, "fleets": fleets })).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinQuery {
    fleet: Option<FleetName>,
    snapshot: Digest,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FleetQuery {
    fleet: Option<FleetName>,
}

async fn pin(State(admin): State<Admin>, Query(query): Query<PinQuery>) -> Result<Response, Refusal> {
    admin.find(query.fleet.as_ref())?.pin(query.snapshot).await?;
    Ok("pinned\n".into_response())
}

async fn unpin(State(admin): State<Admin>, Query(query): Query<FleetQuery>) -> Result<Response, Refusal> {
    admin.find(query.fleet.as_ref())?.unpin().await?;
    Ok("unpinned\n".into_response())
}

async fn forgive(State(admin): State<Admin>, Query(query): Query<FleetQuery>) -> Result<Response, Refusal> {
    admin.find(query.fleet.as_ref())?.forgive().await?;
    Ok("cleared\n".into_response())
}

/// A request that was understood and is not done.
#[derive(Debug)]
enum Refusal {
    NoFleet,
    WhichFleet,
    Command(CommandError),
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::NoFleet => (StatusCode::NOT_FOUND, "this relay does not serve that fleet".to_owned()),
            Self::WhichFleet => {
                (StatusCode::BAD_REQUEST, "name the fleet: ?fleet=namespace/gateway".to_owned())
            }
            Self::Command(error @ CommandError::NotCached(_)) => (StatusCode::NOT_FOUND, error.to_string()),
            Self::Command(error @ CommandError::PinFile(_)) => (StatusCode::CONFLICT, error.to_string()),
            Self::Command(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        (status, text + "\n").into_response()
    }
}
