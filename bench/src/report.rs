//! What a run has shown, for people and for programs.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::verify::Faults;

/// One run of `unicast`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What moves the gateway's bytes, as it says itself. `None`: not ours to look at.
    pub driver: Option<String>,
    /// Shards of the gateway.
    pub shards: u32,
    /// WebSocket clients, a user each.
    pub connections: usize,
    /// Bytes of a message.
    pub payload: usize,
    /// Most messages in flight.
    pub window: u64,
    /// Duration of the measurement.
    pub seconds: f64,
    /// Messages that arrived within it.
    pub messages: u64,
    /// The same by time.
    pub messages_per_second: f64,
    /// CPU time of the gateway's process per message, user and system. `None`: not ours to look at.
    pub gateway_micros_per_message: Option<f64>,
    /// CPU time of the gateway by time: 1 is one core.
    pub gateway_cores: Option<f64>,
    /// CPU time of this program, clients and logic service, by time.
    pub load_cores: f64,
    /// Messages joined in one send of the gateway. `None`: not ours to look at.
    pub messages_per_send: Option<f64>,
    /// Messages that went from one shard to another. `None`: not ours to look at.
    pub crossings: Option<u64>,
    /// From the call that pushes to the client that has received.
    pub latency_micros: Latency,
    /// What went wrong.
    pub faults: Faults,
}

/// Quantiles, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// One in a hundred is slower.
    pub p99: f64,
    /// One in a thousand is slower.
    pub p999: f64,
    /// None is slower.
    pub max: f64,
}

impl Latency {
    /// Of times in nanoseconds.
    #[must_use]
    pub fn of(nanos: &Histogram<u64>) -> Self {
        let micros = |quantile| nanos.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50: micros(0.5),
            p99: micros(0.99),
            p999: micros(0.999),
            max: nanos.max() as f64 / 1e3,
        }
    }

    /// How many times as large as `other`, quantile by quantile.
    #[must_use]
    pub fn by(&self, other: &Self) -> Self {
        Self {
            p50: self.p50 / other.p50,
            p99: self.p99 / other.p99,
            p999: self.p999 / other.p999,
            max: self.max / other.max,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            driver,
            shards,
            connections,
            payload,
            window,
            ..
        } = self;
        let driver = driver.as_deref().unwrap_or("driver not known");
        writeln!(
            f,
            "unicast: {connections} connections, {payload} B, {window} in flight, {shards} shards, {driver}"
        )?;
        writeln!(
            f,
            "  {:>12.0} messages/s      ({} in {:.2} s)",
            self.messages_per_second, self.messages, self.seconds
        )?;
        if let (Some(micros), Some(cores)) = (self.gateway_micros_per_message, self.gateway_cores) {
            writeln!(
                f,
                "  {micros:>12.3} µs of gateway CPU per message ({cores:.2} cores)"
            )?;
        }
        if let Some(joined) = self.messages_per_send {
            writeln!(f, "  {joined:>12.2} messages per send")?;
        }
        if let Some(crossings) = self.crossings {
            writeln!(f, "  {crossings:>12} crossed to another shard")?;
        }
        let Latency {
            p50,
            p99,
            p999,
            max,
        } = self.latency_micros;
        writeln!(
            f,
            "  {p50:>12.0} µs p50, {p99:.0} µs p99, {p999:.0} µs p99.9, {max:.0} µs at most"
        )?;
        writeln!(f, "  {:>12.2} cores of load", self.load_cores)?;
        let Faults {
            missing,
            late,
            damaged,
            astray,
        } = self.faults;
        write!(
            f,
            "  {missing:>12} missing, {late} late or twice, {damaged} damaged, {astray} astray"
        )
    }
}
