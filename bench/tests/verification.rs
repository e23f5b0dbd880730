//! A peer that loses, doubles, swaps or damages messages is found out.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
};

use futures_util::future::LocalBoxFuture;
use gateway_bench::{
    load::{self, Flow, Plan, Until},
    peers::{Audience, Door, Peer, Pusher},
    receive::{Place, Receiving, Task},
    verify::{Faults, Wrong},
};

const USERS: usize = 3;
const MESSAGES: u64 = 300;
/// Those that are pushed, with the warm-up: each user's first two.
const PUSHED: u64 = MESSAGES + 2 * USERS as u64;
/// Which of them goes wrong.
const VICTIM: u64 = 100;

/// What happens to a message: given it and the one after it, what is sent.
type Crime = fn(Vec<u8>, Vec<u8>) -> Vec<Vec<u8>>;

#[test]
fn honest_peers_have_no_faults() {
    for found in found_of(|first, second| vec![first, second]) {
        let faults = found.unwrap();
        assert!(faults.is_none(), "{faults:?}");
    }
}

#[test]
fn a_message_twice_is_seen() {
    for found in found_of(|first, second| vec![first.clone(), first, second]) {
        let late = Faults {
            late: 1,
            ..Faults::default()
        };
        assert_eq!(found.unwrap(), late);
    }
}

#[test]
fn a_lost_message_ends_the_run_as_wrong() {
    let lose: Crime = |_, second| vec![second];
    // With nothing behind it, too: then nothing that comes shows that it has not.
    let lose_the_last: Crime = |first, _| vec![first];
    for found in [lose, lose_the_last]
        .into_iter()
        .zip([VICTIM, PUSHED - 2])
        .flat_map(|(crime, victim)| found_by(&|| Crook::start(crime, victim)))
    {
        let error = found.unwrap_err();
        assert!(error.is::<Wrong>(), "{error:#}");
        assert!(error.to_string().contains("missing: 1,"), "{error:#}");
    }
}

#[test]
fn swapped_messages_end_the_run_as_wrong() {
    for found in found_of(|first, second| vec![second, first]) {
        let error = found.unwrap_err();
        assert!(error.is::<Wrong>(), "{error:#}");
        assert!(error.to_string().contains("late: 1,"), "{error:#}");
    }
}

#[test]
fn a_wrong_byte_ends_the_run_as_wrong() {
    let damage = |mut first: Vec<u8>, second| {
        *first.last_mut().unwrap() ^= 1;
        vec![first, second]
    };
    for found in found_of(damage) {
        let error = found.unwrap_err();
        assert!(error.is::<Wrong>(), "{error:#}");
        assert!(error.to_string().contains("damaged: 1,"), "{error:#}");
    }
}

#[test]
fn a_client_that_is_closed_ends_the_run_with_the_reason() {
    // A Close instead of a message: 4000, "bye".
    for found in found_by(&|| Crook {
        close: true,
        ..Crook::start(|first, _| vec![first], VICTIM)
    }) {
        let error = found.unwrap_err();
        assert!(error.to_string().contains("bye"), "{error:#}");
    }
}

#[test]
fn a_process_that_cannot_connect_says_why() {
    // Connections of others come from 127.0.0.1: this port is nobody's even later.
    let nobody = TcpListener::bind("127.83.86.67:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let task = Task::Clients {
        doors: vec![Door::of("user-0", address)],
        members: 1,
        payload: 64,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let place = apart();
    let refused = runtime.block_on(Receiving::apart(&place, &task));
    let Err(error) = refused else {
        panic!("nobody listens at {address}");
    };
    assert!(error.to_string().contains("refused"), "{error:#}");
}

/// What is found of a peer that does so to a message and the next one.
fn found_of(crime: Crime) -> [anyhow::Result<Faults>; 2] {
    found_by(&|| Crook::start(crime, VICTIM))
}

/// What is found by those who receive on the thread that pushes, and by those in a process of their own.
fn found_by(crook: &(dyn Fn() -> Crook + Sync)) -> [anyhow::Result<Faults>; 2] {
    let find = |apart| {
        let plan = Plan {
            audience: Audience::of(USERS, 1),
            payload: 64,
            flow: Flow::Window(4),
            until: Until::Messages(MESSAGES),
            apart,
        };
        Ok(load::run(&crook(), &plan)?.faults)
    };
    // At the same time: either waits for what is lost.
    thread::scope(|scope| {
        let both = [None, Some(apart())].map(|apart| scope.spawn(|| find(apart)));
        both.map(|found| found.join().unwrap())
    })
}

fn apart() -> Place {
    Place {
        program: PathBuf::from(env!("CARGO_BIN_EXE_ringway-bench")),
        cpus: Vec::new(),
        own: false,
    }
}

/// A server in this process whose pusher writes to the clients' sockets itself.
struct Crook {
    address: SocketAddr,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
    crime: Crime,
    victim: u64,
    /// The victim is no message, but a Close.
    close: bool,
}

impl Crook {
    fn start(crime: Crime, victim: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sockets = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&sockets);
        // Clients connect one after the other: the sockets are those of users 0, 1, 2.
        thread::spawn(move || {
            for _ in 0..USERS {
                let (mut socket, _) = listener.accept().unwrap();
                let (mut request, mut byte) = (Vec::new(), [0]);
                while !request.ends_with(b"\r\n\r\n") {
                    socket.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                // Before the answer: whoever is welcome is there already.
                theirs.lock().unwrap().push(socket.try_clone().unwrap());
                let welcome = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                               Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                socket.write_all(welcome.as_bytes()).unwrap();
            }
        });
        Self {
            address,
            sockets,
            crime,
            victim,
            close: false,
        }
    }
}

impl Peer for Crook {
    fn about(&self) -> String {
        "a crook".into()
    }

    fn pids(&self) -> Vec<u32> {
        vec![std::process::id()]
    }

    fn door(&self, _user: &str) -> Door {
        Door {
            address: self.address,
            target: "/".into(),
            greeting: Vec::new(),
        }
    }

    fn pusher(&self) -> LocalBoxFuture<'_, anyhow::Result<Box<dyn Pusher>>> {
        Box::pin(async {
            let hands: Box<dyn Pusher> = Box::new(Hands {
                sockets: Arc::clone(&self.sockets),
                crime: self.crime,
                victim: self.victim,
                close: self.close,
                pushed: 0,
                held: None,
            });
            Ok(hands)
        })
    }

    fn in_a_row(&self) -> usize {
        // So that the victim and the next message are for the same user.
        2
    }
}

struct Hands {
    sockets: Arc<Mutex<Vec<TcpStream>>>,
    crime: Crime,
    victim: u64,
    close: bool,
    pushed: u64,
    held: Option<Vec<u8>>,
}

impl Pusher for Hands {
    fn push(&mut self, target: usize, payload: Vec<u8>) -> bool {
        self.pushed += 1;
        if self.close && self.pushed == self.victim {
            let close = [&[0x88, 5, 0x0f, 0xa0][..], b"bye"].concat();
            let socket = &mut self.sockets.lock().unwrap()[target];
            socket.write_all(&close).unwrap();
            return true;
        }
        let messages = match (self.pushed, self.held.take()) {
            (_, Some(held)) => (self.crime)(held, payload),
            (pushed, None) if pushed == self.victim + 1 => {
                self.held = Some(payload);
                return true;
            }
            _ => vec![payload],
        };
        for message in messages {
            let mut frame = vec![0x82, message.len() as u8];
            frame.extend_from_slice(&message);
            self.sockets.lock().unwrap()[target]
                .write_all(&frame)
                .unwrap();
        }
        true
    }

    fn flush(&mut self) -> LocalBoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn finish(self: Box<Self>) -> LocalBoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
