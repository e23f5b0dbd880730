//! What no gateway can beat that shakes hands by system calls: a process that accepts, reads the request, sends the answer, and
//! does nothing else, with an epoll loop. It looks at nothing in the request, and sends no messages.

use std::{
    convert::Infallible,
    io::{self, ErrorKind, Read, Write},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::Command,
};

use anyhow::bail;
use futures_util::future::LocalBoxFuture;
use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    net::listen,
};
use slab::Slab;

use super::{Door, Peer, Pusher, Stage};
use crate::{process::Process, wire};

const READY: &str = "greeter ready ";
const LISTENER: u64 = u64::MAX;
const BACKLOG: i32 = 4096;
const BATCH: usize = 512;

/// The process, and where it listens.
pub struct Greeter {
    process: Process,
    ws: SocketAddr,
}

impl Greeter {
    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(stage: &Stage) -> anyhow::Result<Self> {
        let mut command = Command::new(&stage.program);
        command.arg("greeter");
        let mut process = Process::start(&mut command, &stage.places.server)?;
        let ws = process.says(READY)?.parse()?;
        Ok(Self { process, ws })
    }
}

impl Peer for Greeter {
    fn about(&self) -> String {
        "accept4(2), one read(2) and one send(2) for each handshake, by epoll".into()
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.process.pid()]
    }

    fn door(&self, user: &str) -> Door {
        Door::of(user, self.ws)
    }

    fn pusher(&self) -> LocalBoxFuture<'_, anyhow::Result<Box<dyn Pusher>>> {
        Box::pin(async { bail!("limit-handshakes pushes nothing: it is for `connect`") })
    }
}

/// The process. It never ends by itself.
///
/// # Errors
/// What the kernel says of the listener.
pub fn serve() -> anyhow::Result<Infallible> {
    crate::clients::check_descriptors(0)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let data = EventData::new_u64(LISTENER);
    epoll::add(&epoll, &listener, data, EventFlags::IN)?;
    println!("{READY}{}", listener.local_addr()?);
    io::stdout().flush()?;
    let mut clients = Slab::new();
    let welcome = wire::welcome();
    let mut buffer = [0; 4096];
    loop {
        let mut room = [const { MaybeUninit::uninit() }; BATCH];
        let (ready, _) = epoll::wait(&epoll, &mut room, None)?;
        for event in &*ready {
            match event.data.u64() {
                LISTENER => accept_all(&listener, &epoll, &mut clients)?,
                at => greet(&mut clients, at as usize, &mut buffer, welcome.as_bytes()),
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    epoll: &OwnedFd,
    clients: &mut Slab<TcpStream>,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(true)?;
                let seat = clients.vacant_entry();
                let data = EventData::new_u64(seat.key() as u64);
                epoll::add(epoll, &socket, data, EventFlags::IN)?;
                seat.insert(socket);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // Gone before it was accepted.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A request is small, and comes as a whole.
fn greet(clients: &mut Slab<TcpStream>, at: usize, buffer: &mut [u8], welcome: &[u8]) {
    let Some(socket) = clients.get_mut(at) else {
        return;
    };
    let gone = match socket.read(buffer) {
        Ok(0) => true,
        Ok(_) => socket.write_all(welcome).is_err(),
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    };
    if gone {
        clients.remove(at);
    }
}
