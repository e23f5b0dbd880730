//! The HTTP/1.1 request that opens a WebSocket (RFC 6455 sections 4.2.1 and 4.2.2), and the few
//! static pages that are served beside it.

use std::borrow::Cow;

use bytes::Bytes;
use httparse::{Header, Status};
use percent_encoding::percent_decode;
use tungstenite::handshake::derive_accept_key;

use super::refusal::RefusalReason as Reason;
pub use super::refusal::{Refusal, RefusalReason, RefuseMode, refuse, write_refusal};

#[cfg(test)]
pub(super) mod tests;

/// Most headers that can be configured, in [`UpgradeConfig::max_headers`].
pub const MOST_HEADERS: usize = 128;

/// What is served, and to whom.
#[derive(Debug, Clone)]
pub struct UpgradeConfig {
    /// Paths of WebSockets. Default `/ws`.
    pub paths: Vec<String>,
    /// Subprotocols spoken here, most wanted first; the first one that the client offers is chosen.
    pub subprotocols: Vec<String>,
    /// Limit of the request's head in bytes. Default 8 KiB.
    pub max_header_bytes: usize,
    /// Limit of the number of headers, at most [`MOST_HEADERS`]. Default 64.
    pub max_headers: usize,
    /// Allowed origins, compared exactly; none means any. A request without an origin comes from
    /// no web page and is allowed.
    pub origins: Vec<String>,
    /// Static pages, answered to a plain GET or HEAD.
    pub pages: Vec<Page>,
    /// How policy refuses.
    pub refuse: RefuseMode,
    /// Request headers passed to logic services.
    pub event_headers: Vec<String>,
    /// Query parameters never passed on. Default `token` and `access_token`.
    pub secret_params: Vec<String>,
}

impl Default for UpgradeConfig {
    fn default() -> UpgradeConfig {
        UpgradeConfig {
            paths: vec!["/ws".to_owned()],
            subprotocols: Vec::new(),
            max_header_bytes: 8 * 1024,
            max_headers: 64,
            origins: Vec::new(),
            pages: Vec::new(),
            refuse: RefuseMode::default(),
            event_headers: Vec::new(),
            secret_params: vec!["token".to_owned(), "access_token".to_owned()],
        }
    }
}

/// A static page.
#[derive(Debug, Clone)]
pub struct Page {
    /// The exact path.
    pub path: String,
    /// The value of `Content-Type`.
    pub content_type: String,
    /// The content.
    pub body: Bytes,
}

/// How far the bytes of a new connection have come.
#[derive(Debug)]
pub enum Progress {
    /// More bytes are needed; never more than [`UpgradeConfig::max_header_bytes`].
    Incomplete,
    /// A valid upgrade. Policy comes next: [`UpgradeRequest::origin_allowed`], identity, load;
    /// then [`write_accept`] or [`refuse`].
    Upgrade {
        /// What was asked.
        request: Box<UpgradeRequest>,
        /// Bytes of the request; those after it belong to the WebSocket.
        consumed: usize,
    },
    /// An answer in plain HTTP, after which the connection is closed.
    Page {
        /// The whole answer.
        response: Vec<u8>,
    },
    /// To be answered by [`write_refusal`], after which the connection is closed.
    Refused {
        /// Why.
        refusal: Refusal,
    },
}

/// A valid request for a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeRequest {
    /// The path, as sent.
    pub path: String,
    /// The query without `?` and without secrets, as sent.
    pub query: String,
    /// The subprotocol chosen.
    pub subprotocol: Option<String>,
    /// The value of `Sec-WebSocket-Accept`.
    pub accept_key: String,
    /// Those of the configured headers that came, in order, by their configured names.
    pub headers: Vec<(String, String)>,
    /// Where the page that asks comes from, if it is a page.
    pub origin: Option<String>,
    /// False when policy must refuse with [`RefusalReason::Origin`].
    pub origin_allowed: bool,
    raw_query: String,
}

impl UpgradeRequest {
    /// The first query parameter of this name, also a secret one, decoded; `None` when there is
    /// none or it is not UTF-8.
    pub fn param(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.params(name).next()? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
            Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
        }
    }

    /// All query parameters of this name, decoded as forms are: `%` escapes, and `+` for a space.
    pub fn params(&self, name: &str) -> impl Iterator<Item = Cow<'_, [u8]>> {
        pairs(&self.raw_query)
            .filter(move |(key, _)| *form_decode(key) == *name.as_bytes())
            .map(|(_, value)| form_decode(value))
    }
}

/// Reads the beginning of a connection, always from its first byte.
pub fn parse(config: &UpgradeConfig, bytes: &[u8]) -> Progress {
    match read(config, bytes) {
        Ok(progress) => progress,
        Err(reason) => Progress::Refused {
            refusal: reason.into(),
        },
    }
}

/// Appends the answer that accepts (RFC 6455 section 4.2.2).
pub fn write_accept(request: &UpgradeRequest, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\n\
          Upgrade: websocket\r\n\
          Connection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(request.accept_key.as_bytes());
    if let Some(subprotocol) = &request.subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

fn read(config: &UpgradeConfig, bytes: &[u8]) -> Result<Progress, Reason> {
    check_beginning(bytes)?;
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers[..config.max_headers.min(MOST_HEADERS)]);
    let consumed = match request.parse(bytes) {
        Ok(Status::Complete(consumed)) if consumed <= config.max_header_bytes => consumed,
        Ok(Status::Partial) if bytes.len() < config.max_header_bytes => {
            return Ok(Progress::Incomplete);
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Reason::HeaderTooLarge),
        Err(httparse::Error::Version) => return Err(Reason::HttpVersion),
        Err(_) => return Err(Reason::Garbage),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Reason::Garbage);
    };
    let request = Request {
        method,
        target,
        minor,
        headers: request.headers,
    };
    request.answer(config, consumed)
}

/// Tells what can't become HTTP by its first bytes, before a line ends.
fn check_beginning(bytes: &[u8]) -> Result<(), Reason> {
    const METHODS: [&[u8]; 10] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
        b"CONNECT ",
        b"TRACE ",
        b"PRI ",
    ];
    const TLS_HANDSHAKE: u8 = 0x16;

    // RFC 9112 section 2.2: empty lines before a request are overlooked.
    let blank = bytes
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    let bytes = &bytes[blank..];
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return Err(Reason::Tls);
    }
    let begins = |method: &[u8]| {
        let length = method.len().min(bytes.len());
        method[..length] == bytes[..length]
    };
    if METHODS.iter().any(|method| begins(method)) {
        Ok(())
    } else {
        Err(Reason::Garbage)
    }
}

/// A request whose head is complete.
struct Request<'a> {
    method: &'a str,
    target: &'a str,
    minor: u8,
    headers: &'a [Header<'a>],
}

impl<'a> Request<'a> {
    fn answer(&self, config: &UpgradeConfig, consumed: usize) -> Result<Progress, Reason> {
        if self.minor != 1 {
            return Err(Reason::HttpVersion);
        }
        let (path, query) = split_target(self.target)?;
        if self.all("host").count() != 1 {
            return Err(Reason::BadRequest);
        }
        if self.has_body() {
            return Err(Reason::Body);
        }
        let asks = self.lists("upgrade", "websocket") && self.lists("connection", "upgrade");
        if !asks && let Some(page) = config.pages.iter().find(|page| page.path == path) {
            return self.page(page);
        }
        if !config.paths.iter().any(|served| served == path) {
            return Err(Reason::Path);
        }
        if self.method != "GET" {
            return Err(Reason::BadMethod);
        }
        if !asks {
            return Err(Reason::NoUpgrade);
        }
        if self.only("sec-websocket-version") != Some(b"13") {
            return Err(Reason::BadVersion);
        }
        let key = self
            .only("sec-websocket-key")
            .filter(|key| is_key(key))
            .ok_or(Reason::BadKey)?;
        let request = Box::new(self.upgrade(config, path, query, key));
        Ok(Progress::Upgrade { request, consumed })
    }

    fn page(&self, page: &Page) -> Result<Progress, Reason> {
        let body: &[u8] = match self.method {
            "GET" => &page.body,
            "HEAD" => &[],
            _ => return Err(Reason::BadMethod),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\n\
             Content-Type: {}\r\n\
             Content-Length: {}\r\n\
             Cache-Control: no-cache\r\n\
             X-Content-Type-Options: nosniff\r\n\
             Connection: close\r\n\r\n",
            page.content_type,
            page.body.len()
        );
        Ok(Progress::Page {
            response: [head.as_bytes(), body].concat(),
        })
    }

    fn upgrade(
        &self,
        config: &UpgradeConfig,
        path: &str,
        query: &str,
        key: &[u8],
    ) -> UpgradeRequest {
        let allowed = |origin: &[u8]| {
            config
                .origins
                .iter()
                .any(|allowed| allowed.as_bytes() == origin)
        };
        UpgradeRequest {
            path: path.to_owned(),
            query: without_secrets(query, &config.secret_params),
            subprotocol: config
                .subprotocols
                .iter()
                .find(|name| self.offers(name))
                .cloned(),
            accept_key: derive_accept_key(key),
            headers: self.event_headers(&config.event_headers),
            origin: self.all("origin").next().map(lossy),
            origin_allowed: config.origins.is_empty() || self.all("origin").all(allowed),
            raw_query: query.to_owned(),
        }
    }

    fn event_headers(&self, wanted: &[String]) -> Vec<(String, String)> {
        let find = |header: &Header<'_>| {
            let name = wanted
                .iter()
                .find(|name| name.eq_ignore_ascii_case(header.name))?;
            Some((name.clone(), lossy(header.value)))
        };
        self.headers.iter().filter_map(find).collect()
    }

    fn has_body(&self) -> bool {
        self.all("transfer-encoding").next().is_some()
            || self.all("content-length").any(|length| length != b"0")
    }

    /// The values of a header, in order.
    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let same = move |header: &&Header<'_>| header.name.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(same)
            .map(|header| header.value.trim_ascii())
    }

    /// The value of a header that came exactly once.
    fn only(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.all(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// The elements of a header that is a list, over all its lines.
    fn tokens(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
    }

    /// Subprotocols, unlike other tokens, are told apart by case (RFC 6455 section 4.1).
    fn offers(&self, subprotocol: &str) -> bool {
        self.tokens("sec-websocket-protocol")
            .any(|offered| offered == subprotocol.as_bytes())
    }

    fn lists(&self, name: &str, token: &str) -> bool {
        self.tokens(name)
            .any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// Path and query of a target in origin form, or in absolute form, which servers must take too
/// (RFC 9112 section 3.2.2).
fn split_target(target: &str) -> Result<(&str, &str), Reason> {
    let local = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            &rest[rest.find(['/', '?']).unwrap_or(rest.len())..]
        }
        _ if target.starts_with('/') => target,
        _ => return Err(Reason::BadRequest),
    };
    if local.contains('#') {
        return Err(Reason::BadRequest);
    }
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    Ok((if path.is_empty() { "/" } else { path }, query))
}

/// Whether a key is 16 bytes in base64: 22 characters and two of padding.
fn is_key(key: &[u8]) -> bool {
    let in_alphabet = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key[..22].iter().all(in_alphabet) && key.ends_with(b"==")
}

fn without_secrets(query: &str, secrets: &[String]) -> String {
    let public = |pair: &&str| {
        let (key, _) = pair.split_once('=').unwrap_or((pair, ""));
        !secrets
            .iter()
            .any(|secret| *form_decode(key) == *secret.as_bytes())
    };
    query
        .split('&')
        .filter(public)
        .collect::<Vec<_>>()
        .join("&")
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn form_decode(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        Cow::Owned(percent_decode(spaced.as_bytes()).collect())
    } else {
        percent_decode(text.as_bytes()).into()
    }
}

fn lossy(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
