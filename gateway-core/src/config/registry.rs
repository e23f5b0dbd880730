//! Where the gateway registers itself, so that logic services find it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Config,
    check::{TextRule, Verdict, is_host, is_visible},
};

/// Where the gateway registers itself, so that logic services find it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Registry {
    /// The members of an etcd cluster, as they listen for clients. Empty: the gateway does not register.
    pub etcd: Vec<String>,
    /// The key below which gateways register; what looks for them must be told the same.
    pub prefix: String,
    /// How long the record of a gateway that died stays, in seconds. It is renewed three times in that time.
    #[schemars(range(min = 2, max = 3_600))]
    pub lease_ttl_s: u32,
    /// Where logic services reach the common gRPC port; without a port at that of `grpc.listen`. Empty:
    /// `grpc.advertise_host`, or else the host of `grpc.listen`.
    pub advertise: String,
    /// Where the gateway stands, for those who look for one nearby. Empty: nothing is said.
    pub zone: String,
    /// Who the gateway is for etcd. Empty: nobody in particular.
    pub username: String,
    /// The file with the password of `username`, read whenever the gateway logs in.
    pub password_file: String,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            etcd: Vec::new(),
            prefix: "/ringway/gateways/".into(),
            lease_ttl_s: 10,
            advertise: String::new(),
            zone: String::new(),
            username: String::new(),
            password_file: String::new(),
        }
    }
}

/// The rule for a text of this section.
pub(super) fn text_rule(name: &str) -> TextRule {
    let (allowed, holds): (_, fn(&str) -> bool) = match name {
        "etcd" => ("a member of etcd: http://host:port", |text| {
            text.strip_prefix("http://").is_some_and(is_host_and_port)
        }),
        "prefix" => ("a key that ends in /", |text| {
            text.len() > 1 && text.ends_with('/') && is_visible(text)
        }),
        "advertise" => ("a host, or host:port", |text| {
            is_host(text) || is_host_and_port(text)
        }),
        _ => ("at most 256 bytes without control characters", |text| {
            text.len() <= 256 && !text.contains(char::is_control)
        }),
    };
    TextRule { allowed, holds }
}

/// Who registers must be reachable, and be let in.
pub(super) fn registry_is_whole(config: &Config) -> Verdict {
    let registry = &config.registry;
    if registry.etcd.is_empty() {
        return None;
    }
    let nowhere = registry.advertise.is_empty()
        && config.grpc.advertise_host.is_empty()
        && config.grpc.listen.ip().is_unspecified();
    if nowhere {
        let allowed = "a host or host:port where logic services reach this gateway, since grpc.listen is every address \
                       of this machine and grpc.advertise_host is empty";
        return Some(("registry.advertise", allowed.to_owned()));
    }
    let no_password = !registry.username.is_empty() && registry.password_file.is_empty();
    let allowed = || "a file, since registry.username is set".to_owned();
    no_password.then(|| ("registry.password_file", allowed()))
}

fn is_host_and_port(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| {
        let is_port = matches!(port.parse::<u16>(), Ok(1..));
        let is_bare_ip6 = host.contains(':') && !host.starts_with('[');
        is_port && !host.is_empty() && !is_bare_ip6 && is_host(host)
    })
}
