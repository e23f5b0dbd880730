//! What the admin port answers.

use std::{fmt::Write, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, RawQuery, State as Shared},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};

use serde::Serialize;

use super::{
    Life, State,
    drain::{Refused, Wish},
    profile::{ProfileError, Wanted},
    push, report,
};

/// The text format of Prometheus, version 0.0.4.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Longest body of a call.
const MAX_BODY: usize = 4 << 10;

/// All that the admin port offers.
pub(super) fn router(state: Arc<State>) -> Router {
    reading()
        .route("/drain", get(progress).post(drain))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        // It has a limit of its own.
        .route("/v1/push", post(push::push))
        .with_state(state)
}

/// What changes nothing.
fn reading() -> Router<Arc<State>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/debug/shards", get(shards))
        .route("/debug/profile", get(profile))
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
    match state.life() {
        Life::Ready => plain(StatusCode::OK, "ready\n".to_owned()),
        Life::Starting => plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
        Life::Draining | Life::Ended => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())
        }
    }
}

async fn metrics(Shared(state): Shared<Arc<State>>) -> Response {
    let head = [(header::CONTENT_TYPE, METRICS_TYPE)];
    (head, report::metrics(&state)).into_response()
}

/// What goes on inside each shard.
async fn shards(Shared(state): Shared<Arc<State>>) -> Response {
    match state.subject.get() {
        Some(subject) => json(
            StatusCode::OK,
            &state.observer.report(subject, state.life()),
        ),
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned()),
    }
}

/// A flame graph of one shard's thread. It takes as long as it is asked to.
async fn profile(Shared(state): Shared<Arc<State>>, RawQuery(query): RawQuery) -> Response {
    let Some(subject) = state.subject.get() else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned());
    };
    let wanted = match Wanted::read(&query.unwrap_or_default(), subject.threads.len()) {
        Ok(wanted) => wanted,
        Err(error) => return plain(StatusCode::BAD_REQUEST, error + "\n"),
    };
    let (thread, _) = subject.threads[usize::from(wanted.shard)];
    match state.profiler.profile(wanted, thread).await {
        Ok(svg) => {
            let head = [
                (header::CACHE_CONTROL, "no-store"),
                (header::CONTENT_TYPE, "image/svg+xml"),
            ];
            (head, svg).into_response()
        }
        Err(error) => {
            let status = match error {
                ProfileError::Busy => StatusCode::CONFLICT,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            plain(status, format!("{error}\n"))
        }
    }
}

/// How far the drain is, or what it would have to close.
async fn progress(Shared(state): Shared<Arc<State>>) -> Response {
    match state.progress() {
        Some(progress) => json(StatusCode::OK, &progress),
        None => refused(&Refused::Starting),
    }
}

/// Begins a drain, or tells how it would go.
async fn drain(
    Shared(state): Shared<Arc<State>>,
    head: HeaderMap,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Response {
    // Browsers say whose page it is that posts; tools do not.
    if head.contains_key(header::ORIGIN) {
        let text = "not for web pages: use `ringway drain` or a tool like curl\n";
        return plain(StatusCode::FORBIDDEN, text.to_owned());
    }
    let wish = match wish(&query.unwrap_or_default(), &body) {
        Ok(wish) => wish,
        Err(error) => return plain(StatusCode::BAD_REQUEST, error + "\n"),
    };
    match state.drain(wish) {
        Ok(plan) if wish.dry_run => json(StatusCode::OK, &plan),
        Ok(plan) => json(StatusCode::ACCEPTED, &plan),
        Err(error) => refused(&error),
    }
}

/// What a call asks for, in its body as JSON or in its query; the query wins.
fn wish(query: &str, body: &[u8]) -> Result<Wish, String> {
    let mut wish = match body.trim_ascii() {
        b"" => Wish::default(),
        body => serde_json::from_slice(body).map_err(|error| {
            format!(
                "the body must be JSON like {{\"spread_ms\": 30000, \"dry_run\": true}}: {error}"
            )
        })?,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let refused = |allowed| format!("{name} = {value} is refused; allowed: {allowed}");
        match name {
            "spread_ms" => {
                wish.spread_ms = Some(value.parse().map_err(|_| refused("milliseconds"))?);
            }
            "dry_run" => wish.dry_run = value.parse().map_err(|_| refused("true or false"))?,
            _ => return Err(format!("there is no {name}; allowed: spread_ms, dry_run")),
        }
    }
    Ok(wish)
}

fn refused(error: &Refused) -> Response {
    let status = match error {
        Refused::TooSlow { .. } => StatusCode::BAD_REQUEST,
        Refused::Starting => StatusCode::SERVICE_UNAVAILABLE,
        Refused::Draining => StatusCode::CONFLICT,
    };
    plain(status, format!("{error}\n"))
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let head = [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_TYPE, "application/json"),
    ];
    match serde_json::to_string(value) {
        Ok(text) => (status, head, text + "\n").into_response(),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn plain(status: StatusCode, text: String) -> Response {
    let head = [(header::CACHE_CONTROL, "no-store")];
    (status, head, text).into_response()
}
