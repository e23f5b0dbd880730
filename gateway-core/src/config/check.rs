//! The rules that hold between settings, and those for text.

use std::net::SocketAddr;

use toml::Value;

use super::{Config, registry, settings, uring};

/// A setting that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value} is refused; allowed: {allowed}")]
pub struct Broken {
    /// The setting, for example `ws.listen`.
    pub key: String,
    /// Its value, as TOML.
    pub value: String,
    /// What would be allowed.
    pub allowed: String,
}

/// What a text may be.
#[derive(Clone, Copy, Debug)]
pub struct TextRule {
    /// For people.
    pub allowed: &'static str,
    /// The rule.
    pub holds: fn(&str) -> bool,
}

impl Config {
    /// Whether a gateway can run with these settings, wherever they come from.
    ///
    /// # Errors
    /// The first setting that is out of its range or at odds with another.
    pub fn check(&self) -> Result<(), Broken> {
        let values = Value::try_from(self).expect("a table of plain values");
        for setting in settings::all() {
            let value = value_of(&values, &setting.key);
            if !setting.kind.allows(value) {
                return Err(broken(&setting.key, value, setting.kind.to_string()));
            }
        }
        let rules = [
            listeners_are_safe,
            ports_are_free,
            cores_fit,
            windows_fit,
            outbox_fits,
            drain_ends,
            uring::buffers_fit,
            registry::registry_is_whole,
        ];
        match rules.iter().find_map(|rule| rule(self)) {
            Some((key, allowed)) => Err(broken(key, value_of(&values, key), allowed)),
            None => Ok(()),
        }
    }

    /// The three listeners with their keys.
    #[must_use]
    pub fn listeners(&self) -> [(&'static str, SocketAddr); 3] {
        [
            ("ws.listen", self.ws.listen),
            ("grpc.listen", self.grpc.listen),
            ("admin.listen", self.admin.listen),
        ]
    }
}

/// The rule for a text setting, or for each entry of a list of texts.
pub(super) fn text_rule(key: &str) -> TextRule {
    if let Some(name) = key.strip_prefix("registry.") {
        return registry::text_rule(name);
    }
    let (allowed, holds): (_, fn(&str) -> bool) = match key {
        "gateway.id" => ("at most 256 bytes without control characters", |text| {
            text.len() <= 256 && !text.contains(char::is_control)
        }),
        "grpc.advertise_host" => ("a host name or an IP address, without a port", is_host),
        "ws.paths" => ("a path that begins with /, without ? and #", |text| {
            text.starts_with('/') && !text.contains(['?', '#']) && is_visible(text)
        }),
        "ws.origins" => (
            "null, or scheme://host with :port where it is not the scheme's own, without a path",
            is_origin,
        ),
        "ws.subprotocols" => ("a token (RFC 9110, section 5.6.2)", is_token),
        "ws.event_headers" => ("a header name in lower case", |text| {
            is_token(text) && !text.contains(|c: char| c.is_ascii_uppercase())
        }),
        _ => ("text without blanks", is_visible),
    };
    TextRule { allowed, holds }
}

pub(super) fn broken(key: &str, value: &Value, allowed: String) -> Broken {
    Broken {
        key: key.to_owned(),
        value: value.to_string(),
        allowed,
    }
}

pub(super) fn value_of<'a>(values: &'a Value, key: &str) -> &'a Value {
    let (section, name) = key.split_once('.').expect("a key has a section");
    &values[section][name]
}

/// The setting that breaks a rule, and what would be allowed.
pub(super) type Verdict = Option<(&'static str, String)>;

/// Nobody is authenticated yet: what could push or look inside stays on loopback unless the operator says otherwise.
/// WebSockets may be open: beyond loopback `?user=` is not trusted without `insecure`, and clients are anonymous.
fn listeners_are_safe(config: &Config) -> Verdict {
    let [_, grpc, admin] = config.listeners();
    let open = |(_, address): &(_, SocketAddr)| !address.ip().is_loopback();
    let (key, _) = [grpc, admin].into_iter().find(open)?;
    let allowed = "a loopback address; any other only with gateway.insecure = true (--insecure), \
                   because nobody who connects is authenticated yet";
    (!config.gateway.insecure).then(|| (key, allowed.to_owned()))
}

fn ports_are_free(config: &Config) -> Verdict {
    let listen = config.grpc.listen;
    // With port 0 the kernel chooses.
    let last = match listen.port() {
        0 => 0,
        port => u32::from(port) + config.shards.count,
    };
    if last > u32::from(u16::MAX) {
        let allowed = format!(
            "a port of at most {}, so that each shard has one above it",
            u32::from(u16::MAX) - config.shards.count
        );
        return Some(("grpc.listen", allowed));
    }
    let meets = |a: SocketAddr, b: SocketAddr| {
        a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified()
    };
    let of_grpc = |address: SocketAddr| {
        meets(address, listen) && (u32::from(listen.port())..=last).contains(&address.port().into())
    };
    let (ws, admin) = (config.ws.listen, config.admin.listen);
    let ports = match last - u32::from(listen.port()) {
        0 => format!("a port other than grpc.listen's ({listen})"),
        _ => format!(
            "a port outside {} to {last}, which gRPC uses",
            listen.port()
        ),
    };
    if ws.port() != 0 && of_grpc(ws) {
        return Some(("ws.listen", ports));
    }
    if admin.port() != 0 && of_grpc(admin) {
        return Some(("admin.listen", ports));
    }
    let same = ws.port() != 0 && ws.port() == admin.port() && meets(ws, admin);
    same.then(|| {
        (
            "admin.listen",
            format!("a port other than ws.listen's ({ws})"),
        )
    })
}

fn cores_fit(config: &Config) -> Verdict {
    let shards = &config.shards;
    if shards.cores.is_empty() {
        return None;
    }
    let fits = shards.count == 0 || shards.count as usize == shards.cores.len();
    let allowed = || format!("as many CPUs as shards.count ({}), or none", shards.count);
    (!fits).then(|| ("shards.cores", allowed()))
}

fn windows_fit(config: &Config) -> Verdict {
    let (grpc, limits) = (&config.grpc, &config.limits);
    if grpc.shard_window_bytes < grpc.stream_window_bytes {
        let allowed = format!(
            "at least grpc.stream_window_bytes ({})",
            grpc.stream_window_bytes
        );
        return Some(("grpc.shard_window_bytes", allowed));
    }
    let allowed = || {
        format!(
            "at most grpc.max_message_bytes ({}), which carries it",
            grpc.max_message_bytes
        )
    };
    (limits.max_payload_bytes > grpc.max_message_bytes)
        .then(|| ("limits.max_payload_bytes", allowed()))
}

/// Otherwise a push that the gateway accepts could never be delivered to a connection that has anything pending.
fn outbox_fits(config: &Config) -> Verdict {
    let most = config.limits.max_payload_bytes;
    let allowed = || {
        format!(
            "at least limits.max_payload_bytes ({most}), so that the longest push fits; or lower that"
        )
    };
    (config.outbox.max_bytes < most).then(|| ("outbox.max_bytes", allowed()))
}

fn drain_ends(config: &Config) -> Verdict {
    let (drain, most) = (&config.drain, config.drain.max_spread_ms);
    let allowed = || format!("at most drain.max_spread_ms ({most})");
    (drain.spread_ms > most).then(|| ("drain.spread_ms", allowed()))
}

pub(super) fn is_visible(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_control() || c.is_whitespace())
}

fn is_token(text: &str) -> bool {
    let special = |c| "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || special(c))
}

pub(super) fn is_host(text: &str) -> bool {
    let is_name = |text: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        text.chars().all(plain)
    };
    is_name(text)
        || text
            .trim_matches(['[', ']'])
            .parse::<std::net::Ipv6Addr>()
            .is_ok()
}

fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").map(|(_, host)| host);
    let is_plain = |host: &str| is_visible(host) && !host.contains(['/', '?', '#', '*']);
    text == "null" || host.is_some_and(is_plain)
}
