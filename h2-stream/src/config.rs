use std::time::Duration;

/// Limits and times of one connection; the same for both sides.
///
/// Every queue behind [`Server`](crate::Server) and [`Client`](crate::Client) is bounded by
/// one of these numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Largest message taken from the peer, in bytes, before and after inflating. A larger
    /// one ends its stream with `RESOURCE_EXHAUSTED`. Default 4 MiB.
    pub max_message: usize,
    /// Bytes of incomplete messages held for all streams of the connection. Their credit has
    /// gone back already, so this is what bounds their memory. At least `max_message`;
    /// default 64 MiB.
    pub max_incomplete: usize,
    /// Flow-control window of a stream, in bytes. Default 1 MiB, at most 2³¹ - 1.
    pub stream_window: u32,
    /// Flow-control window of the connection, in bytes. Streams that are held back share it:
    /// choose at least the sum of the windows of streams that may be held at the same time.
    /// Default 16 MiB, at most 2³¹ - 1.
    pub connection_window: u32,
    /// Streams the peer may have open at once. Default 1,024.
    pub max_streams: u32,
    /// Largest header list taken, in bytes as RFC 9113 section 6.5.2 counts them. Larger
    /// requests are answered with 431. Default 16 KiB.
    pub max_header_list: u32,
    /// Largest DATA frame taken, in bytes, 16 KiB (the default) to 16 MiB - 1.
    pub max_frame_size: u32,
    /// Framing overhead of small DATA frames that may wait inside `h2`, in bytes, before the
    /// connection ends with `ENHANCE_YOUR_CALM`. Frames never wait there longer than one read
    /// (held streams are joined here, within their windows), so the default is no limit and
    /// a peer may send any number of small messages, one to a frame.
    pub data_frame_budget: usize,
    /// Unsent bytes of a stream from which on `can_send` says no. Default 1 MiB.
    pub send_buffer: usize,
    /// Unread bytes from the socket from which on `wants_bytes` says no. Default 256 KiB.
    pub receive_buffer: usize,
    /// Silence of the peer after which a PING goes out; `None` sends none. Default 20 s.
    pub keepalive_interval: Option<Duration>,
    /// Silence after that PING after which the connection is lost. Default 20 s.
    pub keepalive_timeout: Duration,
    /// Time in which a client has to send the HTTP/2 preface. Default 10 s; server side.
    pub handshake_timeout: Duration,
    /// Streams the peer opened and reset before they were looked at ("rapid reset",
    /// CVE-2023-44487) that the connection survives. Default 64.
    pub max_pending_resets: usize,
    /// Streams that may end by a RST_STREAM of ours in the life of the connection; then it
    /// goes away gracefully. `h2` remembers each of them, without a clock. Default 4,096.
    pub max_resets: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_message: 4 << 20,
            max_incomplete: 64 << 20,
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            max_streams: 1024,
            max_header_list: 16 << 10,
            max_frame_size: 16 << 10,
            data_frame_budget: usize::MAX >> 1,
            send_buffer: 1 << 20,
            receive_buffer: 256 << 10,
            keepalive_interval: Some(Duration::from_secs(20)),
            keepalive_timeout: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(10),
            max_pending_resets: 64,
            max_resets: 4096,
        }
    }
}

/// The largest window RFC 9113 section 6.9.1 allows.
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;

impl Config {
    pub(crate) fn stream_window(&self) -> u32 {
        self.stream_window.min(MAX_WINDOW)
    }

    pub(crate) fn connection_window(&self) -> u32 {
        self.connection_window.min(MAX_WINDOW)
    }
}
