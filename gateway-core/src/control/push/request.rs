//! A push as JSON: what scripts write, made into what services send.

use data_encoding::BASE64;
use gateway_proto::UserId;
use gateway_proto::v1::{
    self, Connection, Delivery, Everyone, MessageRequest, PayloadKind, Priority, Users,
    message_request::Target,
};
use prost::bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

/// Most characters of a refused value that are shown.
const SHOWN: usize = 60;

/// The body of a call. What it means stands in `docs/protocol.md`.
#[derive(Debug, Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object like {\"user\": \"alice\", \"text\": \"hi\"}"
)]
struct Fields {
    user: Option<Value>,
    users: Option<Value>,
    topic: Option<Value>,
    connection: Option<Value>,
    everyone: Option<Value>,
    text: Option<Value>,
    base64: Option<Value>,
    ttl_ms: Option<Value>,
    priority: Option<Value>,
    conflation_key: Option<Value>,
}

/// What `body` asks for. Names and sizes are not looked at: whoever takes the push has the limits.
///
/// # Errors
/// A text for people: the key, its value, and what is allowed.
pub(super) fn parse(body: &[u8]) -> Result<MessageRequest, String> {
    let mut fields: Fields = serde_json::from_slice(body)
        .map_err(|error| format!("the body is refused: {error}; allowed: JSON like {{\"user\": \"alice\", \"text\": \"hi\"}}"))?;
    let target = fields.target()?;
    let (kind, payload) = fields.payload()?;
    Ok(MessageRequest {
        target: Some(target),
        payload,
        kind: kind.into(),
        delivery: Some(fields.delivery()?),
    })
}

/// `EPOCH:ID` in decimal, as events name a connection.
pub(crate) fn connection(text: &str) -> Option<Connection> {
    let (epoch, id) = text.split_once(':')?;
    Some(Connection {
        epoch: epoch.parse().ok()?,
        id: id.parse().ok()?,
    })
}

impl Fields {
    fn target(&mut self) -> Result<Target, String> {
        let named = [
            ("user", self.user.take()),
            ("users", self.users.take()),
            ("topic", self.topic.take()),
            ("connection", self.connection.take()),
            ("everyone", self.everyone.take()),
        ];
        let (key, value) = one_of("target", named)?;
        Ok(match (key, value) {
            ("user", Value::String(user)) => Target::UserId(user),
            ("topic", Value::String(topic)) => Target::Topic(topic),
            ("everyone", Value::Bool(true)) => Target::Everyone(Everyone {}),
            ("users", Value::Array(users)) => Target::Users(Users {
                user_ids: users.into_iter().map(user).collect::<Result<_, _>>()?,
            }),
            ("connection", value) => {
                let found = value.as_str().and_then(connection);
                let allowed = "\"EPOCH:ID\", two decimal numbers, as events name a connection";
                Target::Connection(found.ok_or_else(|| refused(key, &value, allowed))?)
            }
            ("users", value) => return Err(refused(key, &value, "a list of user ids")),
            ("everyone", value) => return Err(refused(key, &value, "true")),
            (_, value) => return Err(refused(key, &value, "a string")),
        })
    }

    fn payload(&mut self) -> Result<(PayloadKind, Bytes), String> {
        let named = [("text", self.text.take()), ("base64", self.base64.take())];
        match one_of("payload", named)? {
            ("text", Value::String(text)) => Ok((PayloadKind::Text, text.into())),
            ("base64", Value::String(text)) => match BASE64.decode(text.as_bytes()) {
                Ok(bytes) => Ok((PayloadKind::Binary, bytes.into())),
                Err(error) => {
                    let allowed = format!("base64 with padding (RFC 4648, section 4); {error}");
                    Err(refused("base64", &Value::String(text), &allowed))
                }
            },
            (key, value) => Err(refused(key, &value, "a string")),
        }
    }

    fn delivery(&mut self) -> Result<Delivery, String> {
        let priority = match self.priority.take() {
            None => Priority::Normal,
            Some(value) => match value.as_str() {
                Some("low") => Priority::Low,
                Some("normal") => Priority::Normal,
                Some("high") => Priority::High,
                _ => return Err(refused("priority", &value, "low, normal or high")),
            },
        };
        let ttl_ms = match self.ttl_ms.take() {
            None => 0,
            Some(value) => {
                let number = value.as_u64().and_then(|number| number.try_into().ok());
                let allowed = "0 to 4294967295 (milliseconds; 0: it never expires)";
                number.ok_or_else(|| refused("ttl_ms", &value, allowed))?
            }
        };
        let conflation_key = match self.conflation_key.take() {
            None => String::new(),
            Some(Value::String(key)) => key,
            Some(value) => return Err(refused("conflation_key", &value, "a string")),
        };
        Ok(Delivery {
            ttl_ms,
            priority: priority.into(),
            conflation_key,
            receipt: v1::ReceiptMode::None.into(),
        })
    }
}

fn user(value: Value) -> Result<UserId, String> {
    match value {
        Value::String(user) => Ok(user.into()),
        value => Err(refused("users", &value, "a list of user ids")),
    }
}

/// The one that is there.
fn one_of<const N: usize>(
    what: &str,
    named: [(&'static str, Option<Value>); N],
) -> Result<(&'static str, Value), String> {
    let allowed = named.each_ref().map(|(key, _)| *key).join(", ");
    let given = named
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)));
    let mut given: Vec<_> = given.collect();
    match (given.pop(), given.as_slice()) {
        (Some(one), []) => Ok(one),
        (None, _) => Err(format!(
            "{what} = nothing is refused; allowed: one of {allowed}"
        )),
        (Some((last, _)), others) => {
            let others: Vec<_> = others.iter().map(|(key, _)| *key).collect();
            let others = others.join(" and ");
            Err(format!(
                "{what} = {others} and {last} is refused; allowed: one of {allowed}"
            ))
        }
    }
}

fn refused(key: &str, value: &Value, allowed: &str) -> String {
    let text = value.to_string();
    let end = text
        .char_indices()
        .nth(SHOWN)
        .map_or(text.len(), |(end, _)| end);
    let more = if end < text.len() { "…" } else { "" };
    format!(
        "{key} = {}{more} is refused; allowed: {allowed}",
        &text[..end]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(json: &str) -> Target {
        let body = format!("{{{json}, \"text\": \"\"}}");
        parse(body.as_bytes()).unwrap().target.unwrap()
    }

    #[test]
    fn every_target_has_a_name() {
        assert_eq!(
            target("\"user\": \"alice\""),
            Target::UserId("alice".into())
        );
        assert_eq!(target("\"topic\": \"news\""), Target::Topic("news".into()));
        assert_eq!(target("\"everyone\": true"), Target::Everyone(Everyone {}));
        let user_ids = vec!["a".into(), "b".into()];
        let users = Target::Users(Users { user_ids });
        assert_eq!(target("\"users\": [\"a\", \"b\"]"), users);
        let connection = Connection {
            epoch: u64::MAX,
            id: 7,
        };
        assert_eq!(
            target("\"connection\": \"18446744073709551615:7\""),
            Target::Connection(connection)
        );
        // What a language without absent fields writes.
        assert_eq!(
            target("\"user\": \"alice\", \"topic\": null"),
            Target::UserId("alice".into())
        );
    }

    #[test]
    fn a_push_has_what_was_asked_for() {
        let push = parse(
            br#"{"user": "alice", "base64": "AP8=", "ttl_ms": 1500, "priority": "high", "conflation_key": "k"}"#,
        )
        .unwrap();
        assert_eq!(
            (push.kind(), &push.payload[..]),
            (PayloadKind::Binary, &[0, 255][..])
        );
        let delivery = push.delivery.unwrap();
        assert_eq!(delivery.priority(), Priority::High);
        assert_eq!(
            (delivery.ttl_ms, delivery.conflation_key),
            (1500, "k".to_owned())
        );
        let push = parse(r#"{"user": "alice", "text": "gr\u00fc\u00df"}"#.as_bytes()).unwrap();
        assert_eq!(
            (push.kind(), &push.payload[..]),
            (PayloadKind::Text, "grüß".as_bytes())
        );
    }

    #[test]
    fn what_is_refused_is_named_with_its_value_and_what_is_allowed() {
        let cases = [
            (
                r#"{"text": ""}"#,
                "target = nothing is refused; allowed: one of user, users, topic, connection, everyone",
            ),
            (
                r#"{"user": "a", "topic": "t", "text": ""}"#,
                "target = user and topic is refused",
            ),
            (
                r#"{"user": "a"}"#,
                "payload = nothing is refused; allowed: one of text, base64",
            ),
            (
                r#"{"user": "a", "text": "", "base64": ""}"#,
                "payload = text and base64 is refused",
            ),
            (
                r#"{"user": 7, "text": ""}"#,
                "user = 7 is refused; allowed: a string",
            ),
            (
                r#"{"users": ["a", {}], "text": ""}"#,
                "users = {} is refused; allowed: a list of user ids",
            ),
            (r#"{"users": "a", "text": ""}"#, "users = \"a\" is refused"),
            (
                r#"{"everyone": false, "text": ""}"#,
                "everyone = false is refused; allowed: true",
            ),
            (
                r#"{"connection": "1", "text": ""}"#,
                "connection = \"1\" is refused; allowed: \"EPOCH:ID\"",
            ),
            (
                r#"{"connection": "-1:2", "text": ""}"#,
                "connection = \"-1:2\" is refused",
            ),
            (
                r#"{"user": "a", "text": 1}"#,
                "text = 1 is refused; allowed: a string",
            ),
            (
                r#"{"user": "a", "base64": "AP8"}"#,
                "base64 = \"AP8\" is refused; allowed: base64 with padding",
            ),
            (
                r#"{"user": "a", "text": "", "ttl_ms": -1}"#,
                "ttl_ms = -1 is refused; allowed: 0 to 4294967295",
            ),
            (
                r#"{"user": "a", "text": "", "ttl_ms": 4294967296}"#,
                "ttl_ms = 4294967296 is refused",
            ),
            (
                r#"{"user": "a", "text": "", "priority": "urgent"}"#,
                "priority = \"urgent\" is refused; allowed: low, normal or high",
            ),
            (
                r#"{"user": "a", "text": "", "conflation_key": []}"#,
                "conflation_key = [] is refused",
            ),
            (
                r#"{"user": "a", "txt": ""}"#,
                "unknown field `txt`, expected one of `user`",
            ),
            (
                r#"{"user": "a", "user": "b", "text": ""}"#,
                "duplicate field `user`",
            ),
            (r#"{"user": "a", "text": "\ud800"}"#, "the body is refused"),
            (
                "[]",
                "allowed: JSON like {\"user\": \"alice\", \"text\": \"hi\"}",
            ),
            ("", "the body is refused"),
        ];
        for (body, expected) in cases {
            let error = parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{body}: {error}");
        }
        // Nested beyond reason, and no UTF-8.
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        assert!(parse(b"{\"user\": \"\xff\", \"text\": \"\"}").is_err());
    }

    #[test]
    fn a_long_value_is_not_told_in_full() {
        let body = format!(
            "{{\"user\": \"a\", \"base64\": \"{}\"}}",
            "ü".repeat(10_000)
        );
        let error = parse(body.as_bytes()).unwrap_err();
        assert!(error.len() < 400 && error.contains('…'), "{error}");
    }
}
