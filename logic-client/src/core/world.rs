//! A world for tests: a client and model gateways on virtual time, without sockets. Bytes need no
//! time; only deadlines move the clock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::builder::Builder;
use crate::core::description::Description;
use crate::core::gateways::Changes;
use crate::core::mesh::Mesh;
use crate::core::queue::Queue;
use crate::core::returned::Returned;
use crate::core::runner::{ConnectionId, Runner, Wish, unreachable};
use crate::core::seeker::Seeker;
use crate::error::GatewayError;
use crate::event::{Notice, What};
use crate::push::Push;
use crate::resolver::Endpoint;
use crate::stats::StreamState;

pub(crate) use model::Gateway;

mod model;

const SESSION: [u8; 16] = [7; 16];

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) mesh: Arc<Mesh>,
    /// By address.
    pub(crate) gateways: BTreeMap<String, Gateway>,
    pub(crate) notices: Arc<Mutex<Vec<Notice>>>,
    pub(crate) returned: Arc<Mutex<Vec<Returned>>>,
    seekers: Vec<Seeker>,
    strands: Vec<Strand>,
}

/// A runner and its connections.
struct Strand {
    runner: Runner,
    wires: Vec<Wire>,
}

/// A connection: its ends.
struct Wire {
    id: ConnectionId,
    address: String,
    peer: usize,
}

impl World {
    /// A client of nobody yet.
    pub(crate) fn new(configure: impl FnOnce(Builder) -> Builder) -> Self {
        let notices = Arc::<Mutex<Vec<Notice>>>::default();
        let returned = Arc::<Mutex<Vec<Returned>>>::default();
        let (seen, back) = (Arc::clone(&notices), Arc::clone(&returned));
        let builder = configure(Builder::new().service("test"))
            .entropy(Arc::new(|| [8; 16]))
            .on_notice(move |notice| seen.lock().unwrap().push(notice.clone()))
            .on_returned(move |push| back.lock().unwrap().push(push));
        Self {
            now: Duration::from_secs(1000),
            mesh: builder.mesh(SESSION).unwrap(),
            gateways: BTreeMap::new(),
            notices,
            returned,
            seekers: Vec::new(),
            strands: Vec::new(),
        }
    }

    /// A process under this address, in place of the one there was.
    pub(crate) fn boot(&mut self, address: &str, epoch: u64, shards: u32) {
        self.gateways
            .insert(address.to_owned(), Gateway::new(address, epoch, shards));
    }

    /// The host under this address is gone without a word: what is sent to it vanishes.
    pub(crate) fn vanish(&mut self, address: &str) {
        let mut gone = self.gateways.remove(address).unwrap();
        gone.cut = true;
        let grave = format!("{address}, gone at {:?}", self.now);
        let wires = self.strands.iter_mut().flat_map(|strand| &mut strand.wires);
        for wire in wires.filter(|wire| wire.address == address) {
            wire.address.clone_from(&grave);
        }
        self.gateways.insert(grave, gone);
    }

    /// What the resolver says.
    pub(crate) fn resolve(&mut self, addresses: &[&str]) {
        let endpoints = addresses.iter().copied().map(Endpoint::new).collect();
        self.resolve_to(endpoints);
    }

    pub(crate) fn resolve_to(&mut self, endpoints: Vec<Endpoint>) {
        let Changes { started } = self.mesh.set_gateways(self.now, endpoints);
        self.seekers.extend(started);
        self.settle();
    }

    pub(crate) fn try_push(&mut self, push: Push) -> bool {
        let pushed = self.mesh.try_push(self.now, push).is_ok();
        self.settle();
        pushed
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(next) = self.next_deadline().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.settle();
        }
        self.now = end;
    }

    /// Whether `count` streams are open, and no other is there.
    pub(crate) fn is_open(&self, count: usize) -> bool {
        let streams = self.mesh.stats().streams;
        let open = |state| matches!(state, StreamState::Open | StreamState::Draining);
        streams.len() == count && streams.iter().all(|stream| open(stream.state))
    }

    pub(crate) fn noticed(&self, what: impl Fn(&What) -> bool) -> usize {
        let notices = self.notices.lock().unwrap();
        notices.iter().filter(|notice| what(&notice.what)).count()
    }

    /// Payloads of what was handed back, with the reason.
    pub(crate) fn back(&self) -> Vec<(String, String)> {
        let returned = self.returned.lock().unwrap();
        let text = |push: &Push| String::from_utf8(push.request.payload.to_vec()).unwrap();
        returned
            .iter()
            .map(|back| (text(&back.push), format!("{:?}", back.reason)))
            .collect()
    }

    fn next_deadline(&self) -> Option<Duration> {
        let seekers = self.seekers.iter().map(Seeker::next_deadline);
        let runners = self
            .strands
            .iter()
            .map(|strand| strand.runner.next_deadline());
        seekers.chain(runners).flatten().min()
    }

    /// Does everything that needs no time.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = self.seek();
            let mut started = Vec::new();
            let mut strands = std::mem::take(&mut self.strands);
            strands.retain_mut(|strand| {
                let lives = strand.step(self.now, &mut self.gateways, &mut started);
                busy |= lives.unwrap_or(true);
                lives.is_some()
            });
            self.strands.append(&mut strands);
            for queue in started {
                self.start(queue);
            }
            if !busy {
                return;
            }
        }
        panic!("it never rests");
    }

    fn start(&mut self, queue: Arc<Queue>) {
        self.strands.push(Strand {
            runner: Runner::new(Arc::clone(&self.mesh), queue),
            wires: Vec::new(),
        });
    }

    fn seek(&mut self) -> bool {
        let mut any = false;
        let mut seekers = std::mem::take(&mut self.seekers);
        let mut started = Vec::new();
        seekers.retain_mut(|seeker| {
            any |= seeker.poll(self.now);
            while let Some(wish) = seeker.next_wish() {
                any = true;
                match wish {
                    Wish::Describe { .. } => {
                        let address = seeker.address().to_owned();
                        if let Some(answer) = describe(&self.gateways, &address) {
                            seeker.described(self.now, answer);
                        }
                    }
                    Wish::Start { queue } => started.push(queue),
                    Wish::End => return false,
                    other => panic!("{other:?}"),
                }
            }
            true
        });
        self.seekers.append(&mut seekers);
        for queue in started {
            self.start(queue);
        }
        any
    }
}

/// What a gateway answers; `None`: nothing.
fn describe(
    gateways: &BTreeMap<String, Gateway>,
    address: &str,
) -> Option<Result<Arc<Description>, GatewayError>> {
    let Some(gateway) = gateways.get(address).filter(|gateway| !gateway.down) else {
        return Some(Err(unreachable(address, &"refused")));
    };
    let peer = SocketAddr::from(([127, 0, 0, 1], 9000));
    gateway.answers().then(|| {
        let mut described = Description::new(address, peer, gateway.described(address))?;
        described.common = Some(format!("{address}:common"));
        Ok(Arc::new(described))
    })
}

impl Strand {
    /// Does what can be done now; says whether that was anything, and `None` when the runner ended.
    fn step(
        &mut self,
        now: Duration,
        gateways: &mut BTreeMap<String, Gateway>,
        started: &mut Vec<Arc<Queue>>,
    ) -> Option<bool> {
        let mut any = self.runner.poll(now);
        while let Some(wish) = self.runner.next_wish() {
            any = true;
            match wish {
                Wish::Describe { .. } => {
                    if let Some(answer) = describe(gateways, self.runner.gateway()) {
                        self.runner.described(now, answer);
                    }
                }
                Wish::Start { queue } => started.push(queue),
                Wish::Dial {
                    connection,
                    address,
                } => self.dial(now, gateways, connection, &address),
                Wish::Close { connection } => self.wires.retain(|wire| {
                    if wire.id == connection
                        && let Some(gateway) = gateways.get_mut(&wire.address)
                    {
                        gateway.hang_up(now, wire.peer);
                    }
                    wire.id != connection
                }),
                Wish::End => return None,
            }
        }
        for wire in &self.wires {
            any |= wire.carry(now, &mut self.runner, gateways);
        }
        Some(any)
    }

    /// A shard's address is "gateway:shard", the common one "gateway:common".
    fn dial(
        &mut self,
        now: Duration,
        gateways: &mut BTreeMap<String, Gateway>,
        id: ConnectionId,
        to: &str,
    ) {
        let (address, shard) = to.split_once(':').unwrap();
        let shard = shard.parse().ok();
        let gateway = gateways.get_mut(address);
        let gateway = gateway.filter(|gateway| gateway.is_reached_at(shard));
        let Some(gateway) = gateway else {
            let refused = Err(unreachable(to, &"refused"));
            self.runner.dialled(now, id, refused);
            return;
        };
        if gateway.cut {
            return;
        }
        let peer = gateway.accept(now, shard);
        self.wires.push(Wire {
            id,
            address: address.to_owned(),
            peer,
        });
        self.runner.dialled(now, id, Ok(()));
    }
}

impl Wire {
    fn carry(
        &self,
        now: Duration,
        runner: &mut Runner,
        gateways: &mut BTreeMap<String, Gateway>,
    ) -> bool {
        let gateway = gateways.get_mut(&self.address);
        let Some(gateway) = gateway else {
            runner.failed(self.id, "reset".to_owned());
            return false;
        };
        if !gateway.has(self.peer) {
            runner.failed(self.id, "reset".to_owned());
            return false;
        }
        if gateway.frozen {
            return false;
        }
        let mut bytes = Vec::new();
        let sent = runner.write_output(self.id, &mut bytes, 64 << 10) > 0;
        if gateway.cut {
            if sent {
                gateway.miss(self.peer);
            }
            return sent;
        }
        let mut any = sent;
        if sent {
            gateway.receive(now, self.peer, &bytes);
        }
        bytes.clear();
        if runner.wants_bytes(self.id) {
            match gateway.write(now, self.peer, &mut bytes) {
                Some(0) => {}
                Some(_) => {
                    any = true;
                    runner.receive(now, self.id, &bytes);
                }
                None => {
                    any = true;
                    runner.receive_eof(now, self.id);
                }
            }
        }
        any
    }
}
