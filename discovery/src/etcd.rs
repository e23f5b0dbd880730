//! A registry in etcd 3.
//!
//! Both sides hold one connection to one member of the cluster at a time, begin with a random one, and
//! go on to the next when it fails, does not answer in time, or has lost its cluster's leader.

mod backoff;
mod registration;
mod session;
mod set;
mod watcher;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use registration::{Registration, Status};
pub use watcher::Watcher;

/// Messages and clients of etcd's API.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod rpc {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

/// Where the registry is, and how to get in.
#[derive(Clone, Debug)]
pub struct Registry {
    endpoints: Vec<String>,
    prefix: String,
    user: Option<User>,
    timeout: Duration,
}

/// Who to be for etcd.
#[derive(Clone)]
struct User {
    name: String,
    password: Password,
}

/// A password, or where it is read each time it is needed.
#[derive(Clone)]
pub enum Password {
    /// This one.
    Given(String),
    /// The content of a file, without blanks and line ends around it.
    File(PathBuf),
}

/// What went wrong with a member of the cluster. It passes, or the operator must act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("etcd {endpoint}: {what}: {reason}")]
pub struct Error {
    /// Which member.
    pub endpoint: String,
    /// What was tried.
    pub what: &'static str,
    /// What it said, or what the system said.
    pub reason: String,
}

/// A registry that cannot work as it is described. The operator must act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RegistryError(String);

impl Registry {
    /// The registry below the key `prefix`, for example "/ringway/gateways/", of the cluster whose
    /// members listen for clients at `endpoints`: "http://host:port".
    ///
    /// # Errors
    /// There is no endpoint, one is none, or the prefix is empty.
    pub fn new<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        prefix: impl Into<String>,
    ) -> Result<Self, RegistryError> {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        let prefix = prefix.into();
        if endpoints.is_empty() {
            return Err(RegistryError(
                "name at least one member of the cluster".into(),
            ));
        }
        if let Some(wrong) = endpoints.iter().find(|endpoint| !is_endpoint(endpoint)) {
            let problem = format!("{wrong:?} is not \"http://host:port\" (TLS is not there yet)");
            return Err(RegistryError(problem));
        }
        if prefix.is_empty() {
            let problem = "an empty prefix would be all of etcd: use \"/ringway/gateways/\"";
            return Err(RegistryError(problem.into()));
        }
        Ok(Self {
            endpoints,
            prefix,
            user: None,
            timeout: Duration::from_secs(3),
        })
    }

    /// Logs in. Without it no password is sent.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: Password) -> Self {
        let name = name.into();
        self.user = Some(User { name, password });
        self
    }

    /// How long a member may take for each answer, and to be dialled. Default: 3 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Whether `text` is "http://host:port".
#[must_use]
pub fn is_endpoint(text: &str) -> bool {
    let Some(authority) = text.strip_prefix("http://") else {
        return false;
    };
    let port = authority
        .rsplit_once(':')
        .map(|(_, port)| port.parse::<u16>());
    let uri = authority.parse::<tonic::codegen::http::uri::Authority>();
    matches!(port, Some(Ok(1..))) && uri.is_ok_and(|uri| !uri.host().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_with_host_and_port() {
        for good in [
            "http://etcd-0.etcd:2379",
            "http://127.0.0.1:1",
            "http://[::1]:2379",
        ] {
            assert!(is_endpoint(good), "{good}");
        }
        for bad in [
            "",
            "etcd:2379",
            "https://etcd:2379",
            "http://etcd",
            "http://:2379",
            "http://etcd:2379/",
            "http://etcd:0",
            "http://a b:1",
        ] {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let registry = Registry::new(["http://a:1"], "/x/").unwrap();
        let registry = registry.user("ringway", Password::Given("secret".into()));
        let shown = format!("{registry:?}");
        assert!(
            shown.contains("ringway") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
