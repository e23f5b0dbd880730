//! Where the gateways are: a [`Resolver`] tells the client, for as long as the client lives.
//!
//! Ready to use: [`Fixed`], a list that never changes; and, each with the crate's feature of that
//! name because it needs libraries of its own, `Dns`, a watched `File`, and `Etcd`.

use std::future::Future;
use std::net::Ipv6Addr;
use std::pin::Pin;

use tokio::sync::watch;

#[cfg(feature = "dns")]
mod dns;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "file")]
mod file;

#[cfg(feature = "dns")]
pub use dns::Dns;
#[cfg(feature = "etcd")]
pub use etcd::Etcd;
#[cfg(feature = "file")]
pub use file::File;

/// Finds gateways, and goes on finding them: tells the whole set whenever it changes.
///
/// The client runs it as a task of its own and ends that task with itself. A resolver that can no
/// longer find out, for a while, tells so with [`Updates::trouble`] and tries again; the client
/// goes on with the set that was told last. One that returns has told the last set there will be.
///
/// ```
/// use std::{future::Future, pin::Pin};
/// use logic_client::resolver::{Endpoint, Resolver, Updates};
///
/// struct OwnInventory;
///
/// impl Resolver for OwnInventory {
///     fn run(self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
///         Box::pin(async move {
///             updates.set(vec![Endpoint::new("10.0.0.7:9000"), Endpoint::new("10.0.0.8:9000")]);
///         })
///     }
/// }
/// ```
pub trait Resolver: Send + 'static {
    /// Tells `updates` which gateways there are, until there is nothing more to tell.
    fn run(self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// A gateway, as far as a resolver knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// "host:port" of the gateway's common gRPC port.
    pub address: String,
    /// The gateway's name. For information.
    pub id: Option<String>,
    /// Its run. `None`: not known before it is asked.
    pub epoch: Option<u64>,
    /// Where it stands, as its operator calls it. For information.
    pub zone: Option<String>,
    /// It is about to go. For information: the client uses a gateway until it leaves the set.
    pub draining: bool,
}

impl Endpoint {
    /// A gateway of which only the address is known: "host:port" of its common gRPC port.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            ..Self::default()
        }
    }
}

/// A resolver that cannot work as it was set up. The caller must act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(String);

/// A list of gateways that never changes.
#[derive(Clone, Debug)]
pub struct Fixed(Vec<Endpoint>);

impl Fixed {
    /// Each address is "host:port" of a gateway's common gRPC port.
    ///
    /// # Errors
    /// One of them is none.
    pub fn new<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Self, SetupError> {
        let addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
        match addresses.iter().find(|address| !is_address(address)) {
            Some(address) => Err(SetupError(not_an_address(address))),
            None => Ok(Self(addresses.into_iter().map(Endpoint::new).collect())),
        }
    }
}

impl Resolver for Fixed {
    fn run(self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { updates.set(self.0) })
    }
}

/// A resolver's way to tell. Clones tell the same client. Only the latest set counts: what was not
/// taken before the next one came is skipped, so nothing piles up.
#[derive(Clone, Debug)]
pub struct Updates {
    known: watch::Sender<Known>,
}

/// The client's side of [`Updates`]. Public so that resolvers can be tested.
#[derive(Debug)]
pub struct Updated {
    known: watch::Receiver<Known>,
}

/// What a resolver has told so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Known {
    /// The latest set, sorted by address, each address once. `None`: no set was told yet.
    pub endpoints: Option<Vec<Endpoint>>,
    /// What has gone wrong since, in the resolver's latest words. `None`: nothing.
    pub trouble: Option<String>,
}

/// Both sides.
#[must_use]
pub fn channel() -> (Updates, Updated) {
    let (sender, receiver) = watch::channel(Known::default());
    (Updates { known: sender }, Updated { known: receiver })
}

impl Updates {
    /// These are the gateways, all of them; an empty set means that there is none. Ends trouble.
    /// Of several with one address the last stands.
    pub fn set(&self, endpoints: Vec<Endpoint>) {
        let told = Known {
            endpoints: Some(normal(endpoints)),
            trouble: None,
        };
        self.known.send_if_modified(|known| {
            let changed = *known != told;
            *known = told;
            changed
        });
    }

    /// The set cannot be found out now, for this reason. The one told last stays.
    pub fn trouble(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.known.send_if_modified(|known| {
            let changed = known.trouble.as_ref() != Some(&reason);
            known.trouble = Some(reason);
            changed
        });
    }

    /// A set, if one is known, and what is wrong beside it, as one piece of news.
    #[cfg(any(feature = "dns", feature = "etcd"))]
    fn tell(&self, endpoints: Option<Vec<Endpoint>>, trouble: Option<String>) {
        let endpoints = endpoints.map(normal);
        self.known.send_if_modified(|known| {
            let endpoints = endpoints.or_else(|| known.endpoints.clone());
            let told = Known { endpoints, trouble };
            let changed = *known != told;
            *known = told;
            changed
        });
    }

    /// Waits until nobody listens any more: the client is gone.
    pub async fn closed(&self) {
        self.known.closed().await;
    }
}

impl Updated {
    /// Waits for something new, and gives all that is known. `None`: the resolver has ended, and
    /// there is nothing new.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Known> {
        self.known.changed().await.ok()?;
        Some(self.known.borrow_and_update().clone())
    }

    /// What is known now.
    #[must_use]
    pub fn known(&self) -> Known {
        self.known.borrow().clone()
    }
}

/// Whether `text` is "host:port"; an IPv6 address stands in brackets.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let inside = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match inside {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '/', '[', ']']),
    };
    let is_visible = !text.contains(|c: char| c.is_whitespace() || c.is_control());
    is_host && is_visible && matches!(port.parse::<u16>(), Ok(1..))
}

fn not_an_address(text: &str) -> String {
    format!("{text:?} is not \"host:port\"")
}

/// Sorted by address; of several with one address the last.
fn normal(mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    endpoints.reverse();
    endpoints.sort_by(|one, other| one.address.cmp(&other.address));
    endpoints.dedup_by(|later, earlier| later.address == earlier.address);
    endpoints
}

/// The examples of the page about discovery.
#[cfg(all(doctest, feature = "dns", feature = "etcd", feature = "file"))]
#[doc = include_str!("../../docs/discovery.md")]
struct Page;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn trouble_leaves_the_set_that_was_told_last() {
        let (updates, mut updated) = channel();
        updates.trouble("the name server is silent");
        let known = updated.next().await.unwrap();
        assert_eq!(known.endpoints, None);
        updates.set(vec![Endpoint::new("a:1")]);
        assert_eq!(updated.next().await.unwrap().trouble, None);
        updates.trouble("again");
        let known = updated.next().await.unwrap();
        assert_eq!(known.endpoints, Some(vec![Endpoint::new("a:1")]));
        assert_eq!(known.trouble.as_deref(), Some("again"));
    }

    #[tokio::test]
    async fn the_same_set_in_another_order_is_no_news() {
        let (updates, mut updated) = channel();
        updates.set(vec![Endpoint::new("b:1"), Endpoint::new("a:1")]);
        updated.next().await.unwrap();
        updates.set(vec![Endpoint::new("a:1"), Endpoint::new("b:1")]);
        drop(updates);
        assert_eq!(updated.next().await, None);
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["gw-1:9000", "10.0.0.7:1", "[::1]:9000", "a.b.c.:65535"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            "gw",
            "gw:",
            ":9000",
            "gw:0",
            "gw:65536",
            "::1:9000",
            "[gw]:9000",
            "a b:1",
            "http://gw:9000",
            "gw:9000/",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
        let error = Fixed::new(["gw:1", "gw"]).unwrap_err();
        assert_eq!(error.to_string(), "\"gw\" is not \"host:port\"");
    }

    #[test]
    fn of_two_with_one_address_the_last_stands() {
        let (updates, updated) = channel();
        let gone = Endpoint {
            epoch: Some(1),
            ..Endpoint::new("a:1")
        };
        let here = Endpoint {
            epoch: Some(2),
            ..Endpoint::new("a:1")
        };
        updates.set(vec![gone, here.clone()]);
        assert_eq!(updated.known().endpoints, Some(vec![here]));
    }
}
