//! Gateways listed in a file that may change.

use std::fs;
use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::{Endpoint, Resolver, SetupError, Updates, is_address, not_an_address};

/// A larger file is refused.
const MAX_BYTES: u64 = 4 << 20;

/// A file that lists gateways, read again and again; what it says replaces what it said before.
///
/// TOML if its name ends in `.toml`, JSON if in `.json`:
///
/// ```toml
/// gateways = ["10.0.0.7:9000", { address = "10.0.0.8:9000", zone = "b", draining = true }]
/// ```
///
/// Whoever writes the file should replace it as a whole, by renaming another over it. While it is
/// missing or cannot be understood, the gateways it named last stay, and the client says what is
/// wrong where.
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
    parse: fn(&str) -> Result<Listing, Mistake>,
    every: Duration,
}

/// The file's content.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    gateways: Vec<Entry>,
}

/// One gateway: an address, or a table with more about it.
#[derive(Debug)]
struct Entry(Endpoint);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: Address,
    id: Option<String>,
    zone: Option<String>,
    #[serde(default)]
    draining: bool,
}

struct Address(String);

/// What cannot be understood, and where: line and column count from 1.
#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    line: usize,
    column: usize,
    message: String,
}

impl File {
    /// The file of this name. It may be missing yet.
    ///
    /// # Errors
    /// The name ends neither in `.toml` nor in `.json`.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, SetupError> {
        let path = path.into();
        let ending = path.extension().and_then(|ending| ending.to_str());
        let parse = match ending {
            Some("toml") => parse_toml,
            Some("json") => parse_json,
            _ => {
                let file = path.display();
                let problem = format!("{file}: the name must end in .toml or .json");
                return Err(SetupError(problem));
            }
        };
        Ok(Self {
            path,
            parse,
            every: Duration::from_secs(1),
        })
    }

    /// How often the file is read. Default: every second; at least every 10 ms.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every.max(Duration::from_millis(10));
        self
    }

    fn tell(&self, content: &Result<String, String>, updates: &Updates) {
        let listing = content.as_deref().map_err(Clone::clone).and_then(|text| {
            (self.parse)(text).map_err(
                |Mistake {
                     line,
                     column,
                     message,
                 }| {
                    format!("{}:{line}:{column}: {message}", self.path.display())
                },
            )
        });
        match listing {
            Ok(listing) => {
                let endpoints = listing.gateways.into_iter().map(|Entry(endpoint)| endpoint);
                updates.set(endpoints.collect());
            }
            Err(trouble) => updates.trouble(trouble),
        }
    }
}

impl Resolver for File {
    fn run(self: Box<Self>, updates: Updates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        // Reading, rather than asking the kernel for notices, sees every way to change a file:
        // renames, links that are turned (as of a ConfigMap), and network file systems.
        Box::pin(async move {
            let mut last = None;
            loop {
                let path = self.path.clone();
                let Ok(content) = spawn_blocking(move || read(&path)).await else {
                    // The runtime shuts down.
                    return;
                };
                if last.as_ref() != Some(&content) {
                    self.tell(&content, &updates);
                    last = Some(content);
                }
                sleep(self.every).await;
            }
        })
    }
}

fn read(path: &Path) -> Result<String, String> {
    let content = fs::File::open(path).and_then(|file| {
        let mut content = String::new();
        match file.take(MAX_BYTES + 1).read_to_string(&mut content)? as u64 {
            ..=MAX_BYTES => Ok(content),
            _ => {
                let problem = format!("larger than {MAX_BYTES} bytes");
                Err(io::Error::other(problem))
            }
        }
    });
    content.map_err(|error| format!("{}: {error}", path.display()))
}

fn parse_toml(text: &str) -> Result<Listing, Mistake> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or_default();
        Mistake {
            line: before.matches('\n').count() + 1,
            column: before.chars().rev().take_while(|c| *c != '\n').count() + 1,
            message: error.message().to_owned(),
        }
    })
}

fn parse_json(text: &str) -> Result<Listing, Mistake> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        Mistake {
            line: error.line(),
            column: error.column(),
            message: message.strip_suffix(&place).unwrap_or(&message).to_owned(),
        }
    })
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Entry;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"host:port\" or a table with an address")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Entry, E> {
                Ok(Entry(Endpoint::new(address(text)?)))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Entry, M::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Entry(Endpoint {
                    address: table.address.0,
                    id: table.id,
                    epoch: None,
                    zone: table.zone,
                    draining: table.draining,
                }))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        address(&String::deserialize(deserializer)?).map(Self)
    }
}

fn address<E: de::Error>(text: &str) -> Result<String, E> {
    match is_address(text) {
        true => Ok(text.to_owned()),
        false => Err(E::custom(not_an_address(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(listing: Result<Listing, Mistake>) -> Vec<Endpoint> {
        let gateways = listing.unwrap().gateways;
        gateways
            .into_iter()
            .map(|Entry(endpoint)| endpoint)
            .collect()
    }

    fn place(parsed: Result<Listing, Mistake>) -> (usize, usize, String) {
        let mistake = parsed.unwrap_err();
        (mistake.line, mistake.column, mistake.message)
    }

    #[test]
    fn both_formats_take_addresses_and_tables() {
        let expected = [
            Endpoint::new("a:1"),
            Endpoint {
                id: Some("gw-2".into()),
                zone: Some("b".into()),
                draining: true,
                ..Endpoint::new("[::1]:2")
            },
        ];
        let toml = "gateways = [\"a:1\", { address = \"[::1]:2\", id = \"gw-2\", zone = \"b\", \
                    draining = true }]";
        assert_eq!(endpoints(parse_toml(toml)), expected);
        let json = r#"{"gateways": ["a:1", {"address": "[::1]:2", "id": "gw-2", "zone": "b",
                       "draining": true}]}"#;
        assert_eq!(endpoints(parse_json(json)), expected);
        assert_eq!(endpoints(parse_toml("gateways = []")), []);
    }

    // An operator who mistypes an address must find the place.
    #[test]
    fn mistakes_are_told_with_their_place() {
        let cases = [
            (
                "gateways = [\n  \"a:1\",\n  \"b\",\n]",
                3,
                3,
                "\"b\" is not \"host:port\"",
            ),
            (
                "\ngateway = []\n",
                2,
                1,
                "unknown field `gateway`, expected `gateways`",
            ),
            (
                "[[gateways]]\naddress = \"a:0\"\n",
                2,
                11,
                "\"a:0\" is not \"host:port\"",
            ),
        ];
        for (text, line, column, message) in cases {
            let found = place(parse_toml(text));
            assert_eq!(
                (found.0, found.1, found.2.as_str()),
                (line, column, message)
            );
        }
        let (line, _, message) = place(parse_json("{\"gateways\": [\n\"a:1\",\n7]}"));
        assert_eq!(line, 3);
        assert_eq!(
            message,
            "invalid type: integer `7`, expected \"host:port\" or a table with an address"
        );
        // A file caught while it is written, and an empty one, are no empty set.
        for text in ["", "gateways = [\"a:1\","] {
            parse_toml(text).unwrap_err();
        }
        for text in ["", "{}", "{\"gateways\": [\"a:1\""] {
            parse_json(text).unwrap_err();
        }
    }
}
