//! One connection to one member of a cluster.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::rpc::auth_client::AuthClient;
use super::rpc::kv_client::KvClient;
use super::rpc::lease_client::LeaseClient;
use super::rpc::watch_client::WatchClient;
use super::rpc::watch_request::RequestUnion;
use super::rpc::{
    AuthenticateRequest, KeyValue, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseRevokeRequest, PutRequest, RangeRequest, WatchCreateRequest,
    WatchRequest, WatchResponse,
};
use super::{Error, Password, Registry, User};

/// After how much silence a member is asked whether it is there, while it streams to us. etcd ends
/// connections that ask more often than every 5 s.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The largest answer: many thousand gateways.
const MAX_ANSWER: usize = 64 << 20;

/// One connection to one member of a cluster, logged in.
pub(super) struct Session {
    endpoint: String,
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    timeout: Duration,
}

/// Both directions of a stream. Dropping it ends the stream.
pub(super) struct Duplex<Q, A> {
    requests: mpsc::Sender<Q>,
    answers: Streaming<A>,
    endpoint: String,
    what: &'static str,
}

impl Session {
    pub(super) async fn open(registry: &Registry, endpoint: String) -> Result<Self, Error> {
        let failed = |what, reason: &dyn Display| failure(&endpoint, what, reason);
        let dial = Endpoint::from_shared(endpoint.clone())
            .map_err(|error| failed("dialling", &error))?
            .connect_timeout(registry.timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(registry.timeout);
        let channel = dial.connect().await;
        let channel = channel.map_err(|error| failed("dialling", &chain(&error)))?;
        let mut session = Self {
            endpoint,
            channel,
            token: None,
            timeout: registry.timeout,
        };
        if let Some(user) = &registry.user {
            session.token = Some(session.log_in(user).await?);
        }
        Ok(session)
    }

    /// Everything below `prefix`, and the revision at which that held.
    pub(super) async fn range(&self, prefix: &str) -> Result<(Vec<KeyValue>, i64), Error> {
        let mut kv = KvClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let request = self.request(RangeRequest {
            key: prefix.as_bytes().to_vec(),
            range_end: end_of(prefix.as_bytes()),
            limit: 0,
        });
        let answer = self
            .within("reading the registry", kv.range(request))
            .await?;
        let revision = answer.header.unwrap_or_default().revision;
        Ok((answer.kvs, revision))
    }

    pub(super) async fn put(&self, key: &str, value: String, lease: i64) -> Result<(), Error> {
        let request = self.request(PutRequest {
            key: key.as_bytes().to_vec(),
            value: value.into_bytes(),
            lease,
        });
        let mut kv = KvClient::new(self.channel.clone());
        self.within("registering", kv.put(request)).await?;
        Ok(())
    }

    /// A lease of `ttl` seconds or somewhat more, as etcd likes.
    pub(super) async fn grant(&self, ttl: u32) -> Result<i64, Error> {
        const WHAT: &str = "taking a lease";
        let request = self.request(LeaseGrantRequest {
            ttl: ttl.into(),
            id: 0,
        });
        let mut leases = LeaseClient::new(self.channel.clone());
        let granted = self.within(WHAT, leases.lease_grant(request)).await?;
        match granted.error.as_str() {
            "" => Ok(granted.id),
            error => Err(failure(&self.endpoint, WHAT, &error)),
        }
    }

    /// Ends a lease, and with it what was put under it.
    pub(super) async fn revoke(&self, id: i64) -> Result<(), Error> {
        let request = self.request(LeaseRevokeRequest { id });
        let mut leases = LeaseClient::new(self.channel.clone());
        self.within("withdrawing", leases.lease_revoke(request))
            .await?;
        Ok(())
    }

    /// What becomes of the keys below `prefix`, from `revision` on.
    pub(super) async fn watch(
        &self,
        prefix: &str,
        revision: i64,
    ) -> Result<Duplex<WatchRequest, WatchResponse>, Error> {
        const WHAT: &str = "watching the registry";
        let create = WatchCreateRequest {
            key: prefix.as_bytes().to_vec(),
            range_end: end_of(prefix.as_bytes()),
            start_revision: revision,
        };
        let (requests, taken) = mpsc::channel(1);
        let first = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        // There is room for one.
        let _ = requests.try_send(first);
        let client = WatchClient::new(self.channel.clone());
        let mut client = client.max_decoding_message_size(MAX_ANSWER);
        let request = self.request_with_leader(ReceiverStream::new(taken));
        let answers = self.within(WHAT, client.watch(request)).await?;
        Ok(self.duplex(WHAT, requests, answers))
    }

    /// A stream on which leases are renewed.
    pub(super) async fn keep_alive(
        &self,
        id: i64,
    ) -> Result<Duplex<LeaseKeepAliveRequest, LeaseKeepAliveResponse>, Error> {
        const WHAT: &str = "renewing the lease";
        let (requests, taken) = mpsc::channel(1);
        let _ = requests.try_send(LeaseKeepAliveRequest { id });
        let mut leases = LeaseClient::new(self.channel.clone());
        let request = self.request_with_leader(ReceiverStream::new(taken));
        let answers = self.within(WHAT, leases.lease_keep_alive(request)).await?;
        Ok(self.duplex(WHAT, requests, answers))
    }

    async fn log_in(&self, user: &User) -> Result<MetadataValue<Ascii>, Error> {
        const WHAT: &str = "logging in";
        let failed = |reason: &dyn Display| failure(&self.endpoint, WHAT, reason);
        let password = match &user.password {
            Password::Given(password) => password.clone(),
            Password::File(path) => {
                // Small and local: not worth a thread.
                let read = std::fs::read_to_string(path);
                let read = read.map_err(|error| failed(&format!("{}: {error}", path.display())))?;
                read.trim().to_owned()
            }
        };
        let request = Request::new(AuthenticateRequest {
            name: user.name.clone(),
            password,
        });
        let mut auth = AuthClient::new(self.channel.clone());
        let answer = self.within(WHAT, auth.authenticate(request)).await?;
        answer.token.parse().map_err(|error| failed(&error))
    }

    async fn within<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let answer = timeout(self.timeout, call).await;
        let silent = |_| failure(&self.endpoint, what, &"no answer in time");
        let answer = answer.map_err(silent)?;
        let answer = answer.map_err(|status| failure(&self.endpoint, what, &plain(&status)))?;
        Ok(answer.into_inner())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    /// A member that loses its cluster ends such a stream instead of staying silent.
    fn request_with_leader<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        let wanted = MetadataValue::from_static("true");
        request.metadata_mut().insert("hasleader", wanted);
        request
    }

    fn duplex<Q, A>(
        &self,
        what: &'static str,
        requests: mpsc::Sender<Q>,
        answers: Streaming<A>,
    ) -> Duplex<Q, A> {
        Duplex {
            requests,
            answers,
            endpoint: self.endpoint.clone(),
            what,
        }
    }
}

impl<Q, A> Duplex<Q, A> {
    /// Sends, if what was sent before has left.
    pub(super) fn send(&self, request: Q) {
        // If it has not, the answer to it is missing already, and that is noticed.
        let _ = self.requests.try_send(request);
    }

    /// The next answer. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<A, Error> {
        match self.answers.message().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.failed(&"the stream ended")),
            Err(status) => Err(self.failed(&plain(&status))),
        }
    }

    pub(super) fn failed(&self, reason: &dyn Display) -> Error {
        failure(&self.endpoint, self.what, reason)
    }
}

fn failure(endpoint: &str, what: &'static str, reason: &dyn Display) -> Error {
    Error {
        endpoint: endpoint.to_owned(),
        what,
        reason: reason.to_string(),
    }
}

fn plain(status: &Status) -> String {
    let message = match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    };
    with_causes(message, status)
}

/// An error with its causes: the first alone says "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    with_causes(error.to_string(), error)
}

fn with_causes(mut text: String, error: &dyn std::error::Error) -> String {
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some repeat what they wrap.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The first key behind all that begin with `prefix`.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // "To the end", for a prefix that no larger key can follow.
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_behind_it() {
        assert_eq!(end_of(b"/a/"), b"/a0");
        assert_eq!(end_of(&[b'a', u8::MAX]), b"b");
        assert_eq!(end_of(&[u8::MAX]), [0]);
    }
}
