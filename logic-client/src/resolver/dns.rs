//! Gateways named in the DNS.

mod facts;
mod lookup;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use tokio::time::sleep_until;

use self::facts::Facts;
use self::lookup::{Asker, Kind, Servers};
use super::{Endpoint, Resolver, SetupError, Updates};

/// A name in the DNS whose records lead to the gateways, asked again whenever their time to live
/// has run out.
///
/// While the name servers do not answer, answer with a failure, or say that the name does not
/// exist, the gateways found last stay, and the client says what is wrong. Only an answer without
/// records (`NOERROR`) means that there is no gateway.
#[derive(Clone, Debug)]
pub struct Dns {
    name: Name,
    /// `None`: it stands in the SRV records.
    port: Option<u16>,
    servers: Servers,
    bounds: Bounds,
}

/// How long to wait before a name is asked for again, whatever its time to live.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    min: Duration,
    max: Duration,
}

impl Dns {
    /// Every A and AAAA record of `name` is a gateway whose common gRPC port is `port`: for
    /// example a headless service of Kubernetes, "ringway.prod.svc.cluster.local".
    ///
    /// # Errors
    /// The name is none, or an address.
    pub fn addresses(name: &str, port: u16) -> Result<Self, SetupError> {
        if name.parse::<IpAddr>().is_ok() {
            let problem = format!("{name} is an address, not a name: use a fixed list");
            return Err(SetupError(problem));
        }
        Self::new(name, Some(port))
    }

    /// Every SRV record of `name`, for example "_grpc._tcp.ringway.prod.svc.cluster.local", leads
    /// to a gateway: its port is the common gRPC port, its target's A and AAAA records are the
    /// address. Priorities and weights do not matter: a push goes where its user is.
    ///
    /// # Errors
    /// The name is none.
    pub fn services(name: &str) -> Result<Self, SetupError> {
        Self::new(name, None)
    }

    /// The name servers to ask, and the domains a short name is tried in. Default: what
    /// `/etc/resolv.conf` says when the client starts.
    ///
    /// # Errors
    /// There is no server, or a domain is no name.
    pub fn name_servers(
        mut self,
        servers: impl IntoIterator<Item = SocketAddr>,
        search: &[&str],
    ) -> Result<Self, SetupError> {
        self.servers.addresses = servers.into_iter().collect();
        if self.servers.addresses.is_empty() {
            return Err(SetupError("name at least one name server".into()));
        }
        let search = search.iter().map(|domain| parse(domain));
        self.servers.search = search.collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// When to ask again, whatever the records' time to live: not before `min`, at `max` at the
    /// latest. After failures the wait grows from one to the other. Default: 5 s, 60 s.
    #[must_use]
    pub fn refresh(mut self, min: Duration, max: Duration) -> Self {
        let min = min.max(Duration::from_millis(10));
        self.bounds = Bounds {
            min,
            max: max.max(min),
        };
        self
    }

    /// How long a name server may take to answer before the next is asked, or the same again.
    /// Each question is put three times. Default: 2 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.servers.timeout = timeout;
        self
    }

    fn new(name: &str, port: Option<u16>) -> Result<Self, SetupError> {
        Ok(Self {
            name: parse(name)?,
            port,
            servers: Servers {
                addresses: Vec::new(),
                search: Vec::new(),
                timeout: Duration::from_secs(2),
            },
            bounds: Bounds {
                min: Duration::from_secs(5),
                max: Duration::from_secs(60),
            },
        })
    }

    async fn watch(self, updates: Updates) {
        let mut facts = Facts::new(self.bounds);
        let mut asker = None;
        loop {
            if asker.is_none() {
                match Asker::new(&self.servers) {
                    Ok(made) => asker = Some(Arc::new(made)),
                    Err(error) => {
                        updates.trouble(format!("/etc/resolv.conf: {error}"));
                    }
                }
            }
            if let Some(asker) = &asker {
                let troubles = self.refresh_facts(asker, &mut facts).await;
                let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
                updates.tell(self.endpoints(&facts), trouble);
            }
            sleep_until(facts.due()).await;
        }
    }

    /// Asks what must be asked; says what went wrong.
    async fn refresh_facts(&self, asker: &Arc<Asker>, facts: &mut Facts) -> Vec<String> {
        let root = (self.name.clone(), self.kind());
        let mut wanted = vec![root.clone()];
        let mut troubles = facts.refresh(asker, &wanted).await;
        if self.port.is_none() {
            let targets = facts.services(&self.name).unwrap_or_default();
            let question = |(target, _)| (target, Kind::Addresses);
            wanted.extend(targets.into_iter().map(question));
            wanted.sort();
            wanted.dedup();
            troubles.extend(facts.refresh(asker, &wanted).await);
        }
        facts.keep_only(&wanted);
        troubles.sort();
        troubles.dedup();
        troubles
    }

    /// The gateways, as far as the facts go. `None`: nothing is known yet.
    fn endpoints(&self, facts: &Facts) -> Option<Vec<Endpoint>> {
        let found = match self.port {
            Some(port) => addresses(facts.addresses(&self.name)?, port),
            None => {
                let services = facts.services(&self.name)?;
                let known = services
                    .iter()
                    .filter_map(|(target, port)| Some(addresses(facts.addresses(target)?, *port)));
                let known: Vec<_> = known.collect();
                if known.is_empty() && !services.is_empty() {
                    return None;
                }
                known.concat()
            }
        };
        Some(found)
    }

    fn kind(&self) -> Kind {
        match self.port {
            Some(_) => Kind::Addresses,
            None => Kind::Services,
        }
    }
}

impl Resolver for Dns {
    fn run(self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.watch(updates))
    }
}

fn addresses(ips: Vec<IpAddr>, port: u16) -> Vec<Endpoint> {
    let endpoint = |ip| Endpoint::new(SocketAddr::new(ip, port).to_string());
    ips.into_iter().map(endpoint).collect()
}

fn parse(name: &str) -> Result<Name, SetupError> {
    Name::from_utf8(name)
        .ok()
        .filter(|name| name.num_labels() > 0)
        .ok_or_else(|| SetupError(format!("{name:?} is no name of the DNS")))
}
