//! Questions to name servers, and what their answers mean.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf::read_system_conf};
use tokio::time::timeout;

/// How often a question is put again that was not answered.
const RETRIES: usize = 2;

/// Whom to ask.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    /// Empty: those of the system.
    pub(super) addresses: Vec<SocketAddr>,
    /// The domains a short name is tried in, if `addresses` are given.
    pub(super) search: Vec<Name>,
    pub(super) timeout: Duration,
}

/// What is asked about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// A and AAAA.
    Addresses,
    /// SRV.
    Services,
}

/// An answer without a failure; there may be no record in it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) records: Vec<RData>,
    /// Zero if nothing is said about it.
    pub(super) ttl: Duration,
}

/// What came of one question.
enum Answer {
    Found(Found),
    NoSuchName,
    Failed(String),
}

/// Asks name servers.
pub(super) struct Asker {
    resolver: TokioResolver,
    search: Vec<Name>,
    /// A name with fewer dots is tried in the search domains first.
    dots: usize,
    patience: Duration,
}

impl Asker {
    pub(super) fn new(servers: &Servers) -> Result<Self, NetError> {
        let (config, mut options) = match servers.addresses.as_slice() {
            [] => read_system_conf()?,
            addresses => {
                let mut options = ResolverOpts::default();
                options.use_hosts_file = ResolveHosts::Never;
                let servers = addresses.iter().map(name_server).collect();
                (ResolverConfig::from_name_servers(servers), options)
            }
        };
        options.timeout = servers.timeout;
        options.attempts = RETRIES;
        // What is known is kept by the asking side.
        options.cache_size = 0;
        let search = match servers.addresses.is_empty() {
            true => config.search().to_vec(),
            false => servers.search.clone(),
        };
        let dots = options.ndots;
        let tries = (config.name_servers().len() * (RETRIES + 1)) as u32;
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Ok(Self {
            resolver: builder.build()?,
            search,
            dots,
            // TCP may follow UDP.
            patience: servers.timeout * 2 * tries,
        })
    }

    /// One answer or failure for each type of `kind`, all under the first name of the search list
    /// that exists. A name of which nothing is known ends the search: it may be the right one.
    pub(super) async fn ask(&self, name: &Name, kind: Kind) -> Vec<Result<Found, String>> {
        for candidate in candidates(name, &self.search, self.dots) {
            let answers = match kind {
                Kind::Addresses => {
                    let v4 = self.query(&candidate, RecordType::A);
                    let v6 = self.query(&candidate, RecordType::AAAA);
                    let (v4, v6) = tokio::join!(v4, v6);
                    vec![v4, v6]
                }
                Kind::Services => vec![self.query(&candidate, RecordType::SRV).await],
            };
            if let Some(settled) = settle(answers) {
                return settled;
            }
        }
        let missing = Err(format!("{name}: there is no such name (NXDOMAIN)"));
        vec![missing; kind.types()]
    }

    async fn query(&self, name: &Name, kind: RecordType) -> Answer {
        let failed = |reason: &dyn ToString| {
            Answer::Failed(format!("{name} {kind}: {}", reason.to_string()))
        };
        let Ok(looked_up) = timeout(self.patience, self.resolver.lookup(name.clone(), kind)).await
        else {
            return failed(&"no answer in time");
        };
        match looked_up {
            Ok(lookup) => {
                // Names on the way to the records have a time to live as well.
                let ttl = lookup.answers().iter().map(|record| record.ttl).min();
                let of_kind = lookup.answers().iter();
                let of_kind = of_kind.filter(|record| record.record_type() == kind);
                Answer::Found(Found {
                    records: of_kind.map(|record| record.data.clone()).collect(),
                    ttl: seconds(ttl),
                })
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code,
                negative_ttl,
                ..
            }))) => match response_code {
                ResponseCode::NoError => Answer::Found(Found {
                    records: Vec::new(),
                    ttl: seconds(negative_ttl),
                }),
                ResponseCode::NXDomain => Answer::NoSuchName,
                other => failed(&other),
            },
            Err(error) => failed(&error),
        }
    }
}

impl Kind {
    /// How many types of records it asks for.
    pub(super) fn types(self) -> usize {
        match self {
            Self::Addresses => 2,
            Self::Services => 1,
        }
    }
}

/// What the answers under one name come to; `None`: the name does not exist.
fn settle(answers: Vec<Answer>) -> Option<Vec<Result<Found, String>>> {
    let found = answers
        .iter()
        .any(|answer| matches!(answer, Answer::Found(_)));
    let missing = answers
        .iter()
        .any(|answer| matches!(answer, Answer::NoSuchName));
    if missing && !found {
        return None;
    }
    let settled = answers.into_iter().map(|answer| match answer {
        Answer::Found(found) => Ok(found),
        // Some servers say so of a name that has records of another type.
        Answer::NoSuchName => Ok(Found {
            records: Vec::new(),
            ttl: Duration::ZERO,
        }),
        Answer::Failed(reason) => Err(reason),
    });
    Some(settled.collect())
}

/// The names to try, in order.
fn candidates(name: &Name, search: &[Name], dots: usize) -> Vec<Name> {
    let mut whole = name.clone();
    whole.set_fqdn(true);
    if name.is_fqdn() {
        return vec![whole];
    }
    let domains = search.iter().filter_map(|domain| {
        let mut name = name.clone().append_domain(domain).ok()?;
        name.set_fqdn(true);
        Some(name)
    });
    let mut names: Vec<_> = domains.collect();
    match usize::from(name.num_labels()) > dots {
        true => names.insert(0, whole),
        false => names.push(whole),
    }
    names
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn seconds(ttl: Option<u32>) -> Duration {
    Duration::from_secs(ttl.unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str, dots: usize) -> Vec<String> {
        let search = ["prod.svc.cluster.local.", "svc.cluster.local"];
        let search = search.map(|domain| Name::from_utf8(domain).unwrap());
        let candidates = candidates(&Name::from_utf8(name).unwrap(), &search, dots);
        candidates.iter().map(Name::to_string).collect()
    }

    #[test]
    fn short_names_are_tried_in_the_search_domains() {
        let expected = [
            "ringway.prod.svc.cluster.local.",
            "ringway.svc.cluster.local.",
            "ringway.",
        ];
        assert_eq!(names("ringway", 5), expected);
        assert_eq!(names("ringway.", 5), ["ringway."]);
        assert_eq!(names("ringway.example.org", 1)[0], "ringway.example.org.");
    }
}
