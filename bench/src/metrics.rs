//! What the gateway says of itself at its admin port.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail};

/// The samples of one look at `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Metrics(HashMap<String, f64>);

impl Metrics {
    /// Looks at the admin port.
    ///
    /// # Errors
    /// No answer, or not the one expected.
    pub fn read(admin: SocketAddr) -> anyhow::Result<Self> {
        let body = get(admin, "/metrics")?;
        Ok(Self::parse(&body))
    }

    /// The sum of all samples of `name` whose labels contain each of `labels` (`kind="push"`).
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let samples = self.0.iter().filter(|(sample, _)| {
            let (known, rest) = sample.split_once('{').unwrap_or((sample, ""));
            known == name && labels.iter().all(|label| rest.contains(label))
        });
        samples.map(|(_, value)| value).sum()
    }

    /// The value of a label of a sample of `name`.
    #[must_use]
    pub fn label(&self, name: &str, label: &str) -> Option<String> {
        let mut samples = self.0.keys().filter_map(|sample| sample.split_once('{'));
        let (_, labels) = samples.find(|(known, _)| *known == name)?;
        let (_, rest) = labels.split_once(&format!("{label}=\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    }

    fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| line.rsplit_once(' '));
        let samples =
            samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Self(samples.collect())
    }
}

/// The body of a page of the admin port.
///
/// # Errors
/// No answer, or another status than 200.
pub fn get(admin: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut socket =
        TcpStream::connect(admin).with_context(|| format!("no admin port at {admin}"))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => bail!("{admin}{path} answers {answer:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_label() {
        let metrics = Metrics::parse(
            "# TYPE a_total counter\na_total{shard=\"0\",kind=\"push\"} 2\na_total{shard=\"1\",kind=\"push\"} 3\n\
             a_total{shard=\"1\",kind=\"event\"} 10\na_total_other 100\nplain 7\n",
        );
        assert_eq!(metrics.sum("a_total", &["kind=\"push\""]), 5.0);
        assert_eq!(metrics.sum("a_total", &[]), 15.0);
        assert_eq!(metrics.sum("plain", &[]), 7.0);
        assert_eq!(metrics.sum("absent", &[]), 0.0);
        assert_eq!(
            metrics.label("a_total", "shard").map(|shard| shard.len()),
            Some(1)
        );
        assert_eq!(metrics.label("plain", "shard"), None);
    }
}
