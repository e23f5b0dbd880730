//! `POST /v1/push`: one message from a script, as JSON. It goes on to the gRPC port of the shard it is for, like any other
//! push: so the limits and checks are the same, and no shard has anything to do with HTTP/1.1.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{
    body::to_bytes,
    extract::{Request, State as Shared},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use gateway_proto::v1::{MessageResponse, message_request::Target};
use h2_stream::Code;
use serde::Serialize;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    State, admin,
    loopback::dialled,
    text::{Kind, Page},
};
use crate::identity::{ConnId, shard_of};

mod courier;
mod request;

use courier::{Answer, Job, NoAnswer};
pub(crate) use request::connection;

/// A call is answered within this time, its body arrives within the same again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pushes waiting for one shard. Each connection to the admin port has one at most, but those that left may have left one.
const QUEUE: usize = 256;

/// Where calls are taken, once the shards run.
pub(super) struct Desk {
    /// By shard.
    couriers: Vec<mpsc::Sender<Job>>,
    /// Longest body in bytes.
    max_body: usize,
    patience: Duration,
    counts: Counts,
}

/// Calls, by how they were answered.
#[derive(Debug, Default)]
struct Counts {
    taken: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

/// The counts of an answer.
#[derive(Serialize)]
struct Taken {
    accepted: u64,
    delivered: u64,
    no_target: u64,
    dropped: u64,
    rejected: u64,
}

#[derive(Serialize)]
struct NotTaken {
    error: String,
}

/// Why a call has no counts.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("not for web pages: call from a server, with a tool like curl")]
    WebPage,
    #[error(
        "body of more than {0} bytes; allowed: at most {0} (grpc.max_message_bytes); base64 needs less room than escaped text"
    )]
    TooLarge(usize),
    #[error("the body did not arrive within {0:?}")]
    BodyTooSlow(Duration),
    #[error("{0}")]
    Refused(String),
    #[error("the gateway is still starting; ask again when /readyz says yes")]
    Starting,
    #[error("too many pushes wait for the shard; nothing was sent")]
    Busy,
    #[error("the shard cannot be reached: {0}; nothing was sent")]
    Unreachable(String),
    #[error("{0}: push through another gateway")]
    GoingAway(String),
    #[error("no answer of the shard: {0}; whether the message was delivered is not known")]
    Lost(String),
}

/// Answers a call.
pub(super) async fn push(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let Some(desk) = state.desk.get() else {
        return Failure::Starting.into_response();
    };
    let answer = desk.answer(request).await;
    desk.counts.count(&answer);
    match answer {
        Ok(counts) => admin::json(StatusCode::OK, &Taken::from(counts)),
        Err(failure) => failure.into_response(),
    }
}

impl Desk {
    /// For shards that listen for gRPC at `shards`, in order. Its tasks run on `runtime`.
    pub(super) fn open(shards: &[SocketAddr], max_body: usize, runtime: &Handle) -> Self {
        let couriers = shards.iter().map(|address| {
            let (jobs, waiting) = mpsc::channel(QUEUE);
            runtime.spawn(courier::run(dialled(*address), waiting));
            jobs
        });
        Self {
            couriers: couriers.collect(),
            max_body,
            patience: PATIENCE,
            counts: Counts::default(),
        }
    }

    /// What the operator sees of it.
    pub(super) fn report(&self, page: &mut Page) {
        let name = "ringway_http_pushes_total";
        page.metric(
            name,
            Kind::Counter,
            "Calls of POST /v1/push, by how they were answered.",
        );
        let Counts {
            taken,
            refused,
            failed,
        } = &self.counts;
        for (result, count) in [("taken", taken), ("refused", refused), ("failed", failed)] {
            page.sample(name, &[("result", result)], count.load(Relaxed));
        }
    }

    async fn answer(&self, request: Request) -> Result<MessageResponse, Failure> {
        refuse_web_pages(request.headers())?;
        let body = to_bytes(request.into_body(), self.max_body);
        let body = timeout(self.patience, body).await;
        let body = body.map_err(|_| Failure::BodyTooSlow(self.patience))?;
        // Or the caller has gone: then nobody reads this.
        let body = body.map_err(|_| Failure::TooLarge(self.max_body))?;
        let push = request::parse(&body).map_err(Failure::Refused)?;
        drop(body);
        let (answer, answered) = oneshot::channel();
        let courier = &self.couriers[self.shard_of(push.target.as_ref())];
        let job = Job {
            request: push,
            until: Instant::now() + self.patience,
            answer,
        };
        courier.try_send(job).map_err(|_| Failure::Busy)?;
        match timeout(self.patience, answered).await {
            Ok(Ok(answer)) => answered_by(answer),
            Ok(Err(_)) | Err(_) => Err(Failure::Lost(format!("none within {:?}", self.patience))),
        }
    }

    /// The shard that has the target, or a part of it: what comes there need not cross. The same for the same target, so that
    /// pushes for it stay in order.
    fn shard_of(&self, target: Option<&Target>) -> usize {
        let shards = self.couriers.len();
        let owner = |name: &str| shard_of(name.as_bytes(), shards as u32) as usize;
        match target {
            Some(Target::UserId(name) | Target::Topic(name)) => owner(name),
            Some(Target::Users(users)) => users.user_ids.first().map_or(0, |user| owner(user)),
            Some(Target::Connection(connection)) => {
                let shard = usize::from(ConnId::from_wire(connection.id).shard());
                if shard < shards { shard } else { 0 }
            }
            Some(Target::Everyone(_)) | None => 0,
        }
    }
}

impl Counts {
    fn count(&self, answer: &Result<MessageResponse, Failure>) {
        let counter = match answer {
            Ok(_) => &self.taken,
            Err(failure) if failure.status().is_client_error() => &self.refused,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl From<MessageResponse> for Taken {
    fn from(counts: MessageResponse) -> Self {
        Self {
            accepted: counts.accepted,
            delivered: counts.delivered,
            no_target: counts.no_target,
            dropped: counts.dropped,
            rejected: counts.rejected,
        }
    }
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::WebPage => StatusCode::FORBIDDEN,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Refused(_) => StatusCode::BAD_REQUEST,
            Self::Starting | Self::Busy | Self::Unreachable(_) | Self::GoingAway(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Lost(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status();
        let error = self.to_string();
        let mut response = admin::json(status, &NotTaken { error });
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let soon = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, soon);
        }
        response
    }
}

/// Browsers say whose page it is that posts; tools do not.
fn refuse_web_pages(head: &HeaderMap) -> Result<(), Failure> {
    match head.contains_key(header::ORIGIN) {
        true => Err(Failure::WebPage),
        false => Ok(()),
    }
}

fn answered_by(answer: Answer) -> Result<MessageResponse, Failure> {
    answer.map_err(|error| match error {
        NoAnswer::Refused(status) => match status.code {
            Code::Unavailable => Failure::GoingAway(status.message),
            Code::DeadlineExceeded | Code::Internal => Failure::Lost(status.message),
            _ => Failure::Refused(status.message),
        },
        NoAnswer::Unreachable(reason) => Failure::Unreachable(reason),
        NoAnswer::Lost(reason) => Failure::Lost(reason),
    })
}
