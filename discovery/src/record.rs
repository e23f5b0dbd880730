//! What a gateway tells about itself.

use serde::{Deserialize, Serialize};

/// The format of records. A change that older readers would misunderstand raises it; what is
/// merely added does not, for readers pass over fields they do not know.
pub const FORMAT: u32 = 1;

/// What a gateway registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub id: String,
    /// Its run: random, never 0. A string in JSON, where numbers of 64 bits get lost.
    #[serde(with = "decimal")]
    pub epoch: u64,
    /// How many shards it has, at least 1.
    pub shards: u32,
    /// "host:port" of its common gRPC port.
    pub address: String,
    /// The gRPC address of each shard, as `Describe` tells it: without a host it means the host of
    /// `address`.
    #[serde(default)]
    pub shard_addresses: Vec<String>,
    /// Where it stands, as its operator calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The version of the program.
    #[serde(default)]
    pub version: String,
    /// Whether it takes new work.
    pub state: State,
}

/// Whether a gateway takes new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It does.
    Ready,
    /// It goes away: it does what it was sent, but new work is better sent elsewhere. So are
    /// states read that this version does not know.
    #[serde(other)]
    Draining,
}

/// A record that cannot be used. Whoever wrote it must act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is no JSON, or a field is missing or of the wrong kind.
    #[error("not a gateway's record: {0}")]
    Malformed(String),
    /// It is of a later format, which this version would misunderstand.
    #[error("a record of format {0}; this version reads up to {FORMAT}")]
    Later(u32),
    /// A field has a value that no gateway has.
    #[error("a record with {0} = 0")]
    Zero(&'static str),
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    #[serde(flatten)]
    record: &'a Record,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Record {
    /// The record as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let format = FORMAT;
        let written = Written {
            format,
            record: self,
        };
        serde_json::to_string(&written).expect("strings and numbers can always be written")
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// It is no record that this version understands.
    pub fn from_json(json: &[u8]) -> Result<Self, RecordError> {
        let malformed = |error: serde_json::Error| RecordError::Malformed(error.to_string());
        let Format { format } = serde_json::from_slice(json).map_err(malformed)?;
        if format > FORMAT {
            return Err(RecordError::Later(format));
        }
        let record: Self = serde_json::from_slice(json).map_err(malformed)?;
        match (record.epoch, record.shards) {
            (0, _) => Err(RecordError::Zero("epoch")),
            (_, 0) => Err(RecordError::Zero("shards")),
            _ => Ok(record),
        }
    }

    /// Where the record stands below `prefix`. With its run in the key, a gateway that is replaced
    /// takes away its own record and not its successor's.
    #[must_use]
    pub fn key(&self, prefix: &str) -> String {
        format!("{prefix}{}/{}", self.id, self.epoch)
    }
}

/// A number as a string of decimal digits.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            id: "gw-1".into(),
            epoch: u64::MAX,
            shards: 2,
            address: "10.0.0.7:9000".into(),
            shard_addresses: vec![":9001".into(), ":9002".into()],
            zone: None,
            version: "0.1.0".into(),
            state: State::Ready,
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let record = record();
        let json = record.to_json();
        assert_eq!(Record::from_json(json.as_bytes()), Ok(record.clone()));
        assert!(json.starts_with(r#"{"format":1,"id":"gw-1","epoch":"18446744073709551615","#));
        assert_eq!(
            record.key("/ringway/gateways/"),
            "/ringway/gateways/gw-1/18446744073709551615"
        );
    }

    #[test]
    fn the_record_shown_in_the_docs_is_one() {
        let page = include_str!("../../docs/discovery.md");
        let mut blocks = page
            .split("\n```")
            .filter_map(|block| block.strip_prefix("json\n"));
        let shown = blocks.find(|block| block.contains("\"format\"")).unwrap();
        let record = Record::from_json(shown.as_bytes()).unwrap();
        let written: serde_json::Value = serde_json::from_str(&record.to_json()).unwrap();
        assert_eq!(
            written,
            serde_json::from_str::<serde_json::Value>(shown).unwrap()
        );
        assert!(page.contains(&record.key("/ringway/gateways/")));
    }

    // Gateways and clients are upgraded one after the other.
    #[test]
    fn later_versions_may_add_fields_and_states() {
        let later = r#"{"format": 1, "id": "gw", "epoch": "7", "shards": 1, "address": "a:1",
                        "state": "warming_up", "weight": {"of": 3}}"#;
        let record = Record::from_json(later.as_bytes()).unwrap();
        assert_eq!(record.state, State::Draining);
        assert_eq!(record.zone, None);
    }

    #[test]
    fn what_would_be_misunderstood_is_refused() {
        let written = record().to_json();
        let changed = |from: &str, to: &str| {
            let json = written.replace(from, to);
            assert_ne!(json, written);
            Record::from_json(json.as_bytes()).unwrap_err()
        };
        assert_eq!(
            changed("\"format\":1", "\"format\":2"),
            RecordError::Later(2)
        );
        assert_eq!(
            changed("\"shards\":2", "\"shards\":0"),
            RecordError::Zero("shards")
        );
        assert_eq!(
            changed("18446744073709551615", "0"),
            RecordError::Zero("epoch")
        );
        for (from, to) in [
            ("\"format\":1,", ""),
            ("18446744073709551615", "18446744073709551616"),
            ("\"address\":\"10.0.0.7:9000\",", ""),
            ("}", ""),
        ] {
            let error = changed(from, to);
            assert!(matches!(error, RecordError::Malformed(_)), "{error}");
        }
    }
}
