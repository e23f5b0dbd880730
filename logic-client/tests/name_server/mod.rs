//! A name server on loopback, UDP and TCP, that says what the test wants.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Longest wait for what a test expects.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What is answered to a question.
#[derive(Clone, Debug)]
pub enum Reply {
    /// These, with this time to live in seconds; none: `NOERROR` without an answer.
    Records(u32, Vec<RData>),
    /// The records of another name, with that name.
    Alias(u32, &'static str),
    Code(ResponseCode),
    Silence,
}

#[derive(Default)]
struct Zone {
    replies: HashMap<(String, RecordType), Reply>,
    /// Answers over UDP are cut off.
    truncates: bool,
    asked: HashMap<(String, RecordType), usize>,
}

pub struct NameServer {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    came: Arc<Notify>,
}

impl NameServer {
    /// What it does not know does not exist.
    pub async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // The port may be taken for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let server = Self {
            address: udp.local_addr().unwrap(),
            zone: Arc::default(),
            came: Arc::default(),
        };
        let (zone, came) = (Arc::clone(&server.zone), Arc::clone(&server.came));
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                let answer = zone.lock().unwrap().answer(&buffer[..length], true);
                came.notify_waiters();
                if let Some(answer) = answer {
                    udp.send_to(&answer, from).await.unwrap();
                }
            }
        });
        let zone = Arc::clone(&server.zone);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let length = stream.read_u16().await.unwrap();
                let mut question = vec![0; length.into()];
                stream.read_exact(&mut question).await.unwrap();
                let answer = zone.lock().unwrap().answer(&question, false);
                if let Some(answer) = answer {
                    stream.write_u16(answer.len() as u16).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        server
    }

    /// `name` ends in a dot.
    pub fn set(&self, name: &str, kind: RecordType, reply: Reply) {
        let mut zone = self.zone.lock().unwrap();
        zone.replies.insert((name.to_owned(), kind), reply);
    }

    /// A and AAAA records of a name, by the kind of each address.
    pub fn set_addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
        for (kind, ips) in [(RecordType::A, v4), (RecordType::AAAA, v6)] {
            let records = ips.into_iter().map(RData::from).collect();
            self.set(name, kind, Reply::Records(ttl, records));
        }
    }

    /// Both types of addresses are answered so.
    pub fn set_both(&self, name: &str, reply: &Reply) {
        self.set(name, RecordType::A, reply.clone());
        self.set(name, RecordType::AAAA, reply.clone());
    }

    pub fn set_services(&self, name: &str, ttl: u32, targets: &[(&str, u16)]) {
        let srv = |(target, port): &(&str, u16)| RData::SRV(SRV::new(0, 0, *port, fqdn(target)));
        let records = targets.iter().map(srv).collect();
        self.set(name, RecordType::SRV, Reply::Records(ttl, records));
    }

    pub fn truncate_udp(&self) {
        self.zone.lock().unwrap().truncates = true;
    }

    pub fn asked(&self, name: &str, kind: RecordType) -> usize {
        let zone = self.zone.lock().unwrap();
        let asked = zone.asked.get(&(name.to_owned(), kind));
        asked.copied().unwrap_or_default()
    }

    /// Waits until the question has come `times` more.
    pub async fn until_asked_again(&self, name: &str, kind: RecordType, times: usize) {
        let wanted = self.asked(name, kind) + times;
        let asked = async {
            loop {
                let came = self.came.notified();
                if self.asked(name, kind) >= wanted {
                    return;
                }
                came.await;
            }
        };
        timeout(PATIENCE, asked).await.unwrap();
    }
}

impl Zone {
    fn answer(&mut self, question: &[u8], udp: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).unwrap();
        let query = question.queries[0].clone();
        let name = query.name().to_lowercase().to_ascii();
        let key = (name, query.query_type());
        *self.asked.entry(key.clone()).or_default() += 1;
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = true;
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        let reply = self.replies.get(&key).cloned();
        match reply.unwrap_or(Reply::Code(ResponseCode::NXDomain)) {
            Reply::Silence => return None,
            Reply::Code(code) => answer.metadata.response_code = code,
            _ if udp && self.truncates => answer.metadata.truncation = true,
            Reply::Records(ttl, records) => self.fill(&mut answer, query.name(), ttl, records),
            Reply::Alias(ttl, other) => {
                let alias = RData::CNAME(CNAME(fqdn(other)));
                answer.add_answer(Record::from_rdata(query.name().clone(), ttl, alias));
                let behind = (other.to_owned(), query.query_type());
                if let Some(Reply::Records(ttl, records)) = self.replies.get(&behind).cloned() {
                    self.fill(&mut answer, &fqdn(other), ttl, records);
                }
            }
        }
        Some(answer.to_vec().unwrap())
    }

    fn fill(&self, answer: &mut Message, name: &Name, ttl: u32, records: Vec<RData>) {
        if records.is_empty() {
            // The time to live of "nothing" stands in the zone's record.
            let soa = SOA::new(fqdn("ns.test."), fqdn("me.test."), 1, 60, 60, 60, ttl);
            answer.add_authority(Record::from_rdata(fqdn("test."), ttl, RData::SOA(soa)));
        }
        for record in records {
            answer.add_answer(Record::from_rdata(name.clone(), ttl, record));
        }
    }
}

fn fqdn(name: &str) -> Name {
    Name::from_ascii(name).unwrap()
}
