//! What the admin port answers.

use std::{fmt::Write, sync::Arc};

use axum::{
    Router,
    extract::State as Shared,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Phase, State, report};

/// The text format of Prometheus, version 0.0.4.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state)
}

/// Whether a restart would help: 503 names the shards that do not tick.
async fn healthz(Shared(state): Shared<Arc<State>>) -> Response {
    let stalled = state.stalled();
    if stalled.is_empty() {
        return plain(StatusCode::OK, "ok\n".to_owned());
    }
    let mut text = String::new();
    for (shard, age) in stalled {
        let (age, limit) = (age.as_millis(), state.stalled_after.as_millis());
        let _ = writeln!(
            text,
            "shard {shard} has not ticked for {age} ms (admin.stalled_after_ms = {limit})"
        );
    }
    plain(StatusCode::SERVICE_UNAVAILABLE, text)
}

/// Whether new clients should be sent here.
async fn readyz(Shared(state): Shared<Arc<State>>) -> Response {
    match state.phase() {
        Phase::Starting => plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
        Phase::Serving => plain(StatusCode::OK, "ready\n".to_owned()),
        Phase::Draining => plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
    }
}

async fn metrics(Shared(state): Shared<Arc<State>>) -> Response {
    let head = [(header::CONTENT_TYPE, METRICS_TYPE)];
    (head, report::metrics(&state)).into_response()
}

fn plain(status: StatusCode, text: String) -> Response {
    let head = [(header::CACHE_CONTROL, "no-store")];
    (status, head, text).into_response()
}
