//! The table of settings, read off the structs: key, meaning, default, and what is allowed.

use std::{fmt, net::SocketAddr, sync::LazyLock};

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use toml::Value;

use super::{Config, check};

/// One setting.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Section and name, for example `ws.listen`.
    pub key: String,
    /// What it does.
    pub meaning: String,
    /// What is allowed.
    pub kind: Kind,
    /// What holds when nothing is set.
    pub default: Value,
}

/// One table of the settings file.
#[derive(Clone, Debug)]
pub struct Section {
    /// For example `ws`.
    pub name: String,
    /// What it is about.
    pub meaning: String,
    /// Its settings, in the order of the struct.
    pub settings: Vec<Setting>,
}

/// What values a setting takes.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number in a range, both ends included.
    Integer {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// One of a few words.
    Choice(Vec<String>),
    /// Address and port.
    Address,
    /// Text that follows a rule.
    Text(check::TextRule),
    /// Any number of such values.
    List(Box<Kind>),
}

/// All settings, by section.
#[must_use]
pub fn settings() -> &'static [Section] {
    static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(read_structs);
    &SECTIONS
}

/// The setting of that key.
#[must_use]
pub fn find(key: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.key == key)
}

pub(super) fn all() -> impl Iterator<Item = &'static Setting> {
    settings().iter().flat_map(|section| &section.settings)
}

impl Setting {
    /// The name within its section.
    #[must_use]
    pub fn name(&self) -> &str {
        self.key.split_once('.').map_or(&self.key, |(_, name)| name)
    }

    /// The environment variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("RINGWAY_{}", self.key.replace('.', "_").to_uppercase())
    }
}

impl Kind {
    /// Whether `value` is allowed.
    #[must_use]
    pub fn allows(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Bool, Value::Boolean(_)) => true,
            (Self::Integer { min, max }, Value::Integer(number)) => (min..=max).contains(&number),
            (Self::Choice(words), Value::String(word)) => words.contains(word),
            (Self::Address, Value::String(text)) => text.parse::<SocketAddr>().is_ok(),
            (Self::Text(rule), Value::String(text)) => (rule.holds)(text),
            (Self::List(kind), Value::Array(values)) => values.iter().all(|v| kind.allows(v)),
            _ => false,
        }
    }

    /// Reads a value as it stands in a variable or a flag: lists are comma separated. `None`: not of this kind.
    #[must_use]
    pub fn parse(&self, text: &str) -> Option<Value> {
        let value = match self {
            Self::Bool => Value::Boolean(text.parse().ok()?),
            Self::Integer { .. } => Value::Integer(text.replace('_', "").parse().ok()?),
            Self::List(kind) => {
                let parts = text.split(',').map(str::trim);
                let parts = parts.filter(|part| !part.is_empty());
                Value::Array(parts.map(|part| kind.parse(part)).collect::<Option<_>>()?)
            }
            Self::Choice(_) | Self::Address | Self::Text(_) => Value::String(text.to_owned()),
        };
        Some(value)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("true or false"),
            Self::Integer { min, max } => write!(f, "{} to {}", grouped(*min), grouped(*max)),
            Self::Choice(words) => f.write_str(&words.join(", ")),
            Self::Address => f.write_str("an IP address and port, for example 127.0.0.1:8080"),
            Self::Text(rule) => f.write_str(rule.allowed),
            Self::List(kind) => write!(f, "a list; each: {kind}"),
        }
    }
}

/// Digits in threes, as TOML may have them: 1_048_576.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

/// The structs' doc comments, types and ranges come as a JSON schema, their defaults by serialising one.
fn read_structs() -> Vec<Section> {
    let generator = SchemaSettings::default().with(|settings| settings.inline_subschemas = true);
    let schema = generator.into_generator().into_root_schema_for::<Config>();
    let defaults = Value::try_from(Config::default()).expect("a table of plain values");
    let sections = properties(schema.as_value()).map(|(section, schema)| Section {
        name: section.clone(),
        meaning: meaning(schema),
        settings: properties(schema)
            .map(|(name, schema)| {
                let key = format!("{section}.{name}");
                Setting {
                    kind: kind(&key, schema),
                    meaning: meaning(schema),
                    default: defaults[section.as_str()][name.as_str()].clone(),
                    key,
                }
            })
            .collect(),
    });
    sections.collect()
}

fn properties(schema: &Json) -> impl Iterator<Item = (&String, &Json)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn meaning(schema: &Json) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn kind(key: &str, schema: &Json) -> Kind {
    match schema["type"].as_str() {
        Some("boolean") => Kind::Bool,
        Some("integer") => Kind::Integer {
            min: schema["minimum"].as_i64().unwrap_or(0),
            max: schema["maximum"].as_i64().unwrap_or(i64::MAX),
        },
        Some("array") => Kind::List(Box::new(kind(key, &schema["items"]))),
        _ if schema["format"] == "address" => Kind::Address,
        _ => match schema["oneOf"].as_array() {
            Some(words) => Kind::Choice(
                words
                    .iter()
                    .filter_map(|word| word["const"].as_str().map(str::to_owned))
                    .collect(),
            ),
            None => Kind::Text(check::text_rule(key)),
        },
    }
}
