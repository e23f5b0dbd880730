//! From a file, the environment and flags to a [`Config`]: the later wins, and a mistake names its place.

use std::{collections::HashMap, fmt};

use serde::Deserialize;
use toml::{Value, de::DeTable};

use super::{Config, check::Broken, settings};

/// What every variable of ours begins with.
const PREFIX: &str = "RINGWAY_";
/// Variables that are no settings: the file to read and the log filter.
const OTHER_VARIABLES: [&str; 2] = ["RINGWAY_CONFIG", "RINGWAY_LOG"];

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody has set it.
    #[default]
    Default,
    /// A settings file.
    File {
        /// Its name.
        path: String,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag, for example `--ws`.
    Flag(String),
}

/// Where each value that is not a default comes from, by key.
pub type Origins = HashMap<String, Origin>;

/// Settings that are refused. The operator must act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file is not TOML.
    #[error("{origin}: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What is wrong.
        message: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting {key}; did you mean {nearest}?")]
    Unknown {
        /// Where.
        origin: Origin,
        /// As it was written.
        key: String,
        /// The existing one that looks most like it.
        nearest: String,
    },
    /// There is such a setting, but it does not take this value.
    #[error("{origin}: {broken}")]
    Refused {
        /// Where.
        origin: Origin,
        /// Which, and what is allowed.
        broken: Broken,
    },
}

/// Collects settings, weakest first: what is added later replaces what was there.
#[derive(Debug, Default)]
pub struct Loader {
    values: toml::Table,
    origins: Origins,
}

impl Loader {
    /// Adds the contents of a TOML file; `path` is for messages.
    ///
    /// # Errors
    /// Not TOML, a key that does not exist, or a value that is not allowed.
    pub fn file(&mut self, path: &str, text: &str) -> Result<(), ConfigError> {
        let origin = |at: usize| Origin::File {
            path: path.to_owned(),
            line: text[..at.min(text.len())].matches('\n').count() + 1,
        };
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            origin: origin(error.span().map_or(0, |span| span.start)),
            message: error.message().replace('\n', ", "),
        };
        let spans = DeTable::parse(text).map_err(syntax)?;
        let values: toml::Table = toml::from_str(text).map_err(syntax)?;
        for (section, content) in spans.get_ref() {
            let name = section.get_ref().as_ref();
            let Some(settings) = content.get_ref().as_table() else {
                return Err(unknown(origin(section.span().start), name));
            };
            if settings.is_empty() && !settings::settings().iter().any(|s| s.name == name) {
                return Err(unknown(origin(section.span().start), name));
            }
            for key in settings.keys() {
                let setting = key.get_ref().as_ref();
                let value = values[name][setting].clone();
                self.set(
                    &format!("{name}.{setting}"),
                    value,
                    origin(key.span().start),
                )?;
            }
        }
        Ok(())
    }

    /// Adds what the environment sets: `RINGWAY_WS_LISTEN` for `ws.listen`. Other variables are passed over, also those
    /// that Kubernetes sets for a service whose name begins with "ringway".
    ///
    /// # Errors
    /// A variable that names no setting, or a value that is not allowed.
    pub fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (variable, text) in variables {
            let Some(name) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            if OTHER_VARIABLES.contains(&variable.as_str()) || is_service_link(name) {
                continue;
            }
            let origin = Origin::Variable(variable.clone());
            match settings::all().find(|setting| setting.variable() == variable) {
                Some(setting) => self.text(&setting.key, &text, origin)?,
                None => {
                    let names = settings::all().map(settings::Setting::variable);
                    return Err(ConfigError::Unknown {
                        nearest: nearest(&variable, names),
                        key: variable,
                        origin,
                    });
                }
            }
        }
        Ok(())
    }

    /// Adds what a flag sets.
    ///
    /// # Errors
    /// A key that does not exist, or a value that is not allowed.
    pub fn flag(&mut self, flag: &str, key: &str, text: &str) -> Result<(), ConfigError> {
        self.text(key, text, Origin::Flag(flag.to_owned()))
    }

    /// The settings, checked as a whole, and where they come from.
    ///
    /// # Errors
    /// Settings at odds with each other.
    pub fn finish(self) -> Result<(Config, Origins), ConfigError> {
        let refused = |broken: Broken| ConfigError::Refused {
            origin: self.origins.get(&broken.key).cloned().unwrap_or_default(),
            broken,
        };
        let config = Config::deserialize(self.values.clone()).map_err(|error| {
            let message = error.message().to_owned();
            ConfigError::Syntax {
                origin: Origin::Default,
                message,
            }
        })?;
        config.check().map_err(refused)?;
        Ok((config, self.origins))
    }

    fn text(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let parsed = settings::find(key).and_then(|setting| setting.kind.parse(text));
        let value = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
        self.set(key, value, origin)
    }

    fn set(&mut self, key: &str, value: Value, origin: Origin) -> Result<(), ConfigError> {
        let Some(setting) = settings::find(key) else {
            return Err(unknown(origin, key));
        };
        if !setting.kind.allows(&value) {
            let broken = super::check::broken(key, &value, setting.kind.to_string());
            return Err(ConfigError::Refused { origin, broken });
        }
        let (section, name) = key.split_once('.').expect("settings have a section");
        let section = self
            .values
            .entry(section)
            .or_insert_with(|| Value::Table(toml::Table::new()));
        if let Value::Table(section) = section {
            section.insert(name.to_owned(), value);
        }
        self.origins.insert(key.to_owned(), origin);
        Ok(())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

fn unknown(origin: Origin, key: &str) -> ConfigError {
    ConfigError::Unknown {
        origin,
        key: key.to_owned(),
        nearest: nearest(key, settings::all().map(|setting| setting.key.clone())),
    }
}

/// The name that looks most like `wrong`; among equals, the first.
fn nearest(wrong: &str, names: impl Iterator<Item = String>) -> String {
    let likeness = |name: &String| (strsim::jaro_winkler(wrong, name) * 1e6) as u32;
    let best = names.map(|name| (std::cmp::Reverse(likeness(&name)), name));
    best.min_by_key(|(likeness, _)| *likeness)
        .map_or_else(String::new, |(_, name)| name)
}

/// Kubernetes tells pods of a service "ringway" or "ringway-x" by `RINGWAY_SERVICE_HOST`, `RINGWAY_X_PORT_80_TCP_ADDR`
/// and so on. No setting has such a name (a test says so).
pub(super) fn is_service_link(name: &str) -> bool {
    let words: Vec<_> = name.split('_').collect();
    let after = |word: &str| {
        words
            .iter()
            .rposition(|w| *w == word)
            .map(|at| &words[at + 1..])
    };
    if let Some(rest) = after("SERVICE") {
        return matches!(rest, ["HOST"] | ["PORT", ..]);
    }
    let first = words.iter().position(|word| *word == "PORT");
    match first.map(|at| &words[at + 1..]) {
        Some([]) => true,
        Some([port, "TCP" | "UDP" | "SCTP", rest @ ..]) => {
            port.parse::<u16>().is_ok() && matches!(rest, [] | ["PROTO" | "PORT" | "ADDR"])
        }
        _ => false,
    }
}
