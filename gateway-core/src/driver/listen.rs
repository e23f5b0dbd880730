//! Listening sockets, nonblocking from birth.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

/// How long an address may still be in use. An io_uring is taken down by a worker of the kernel, some time after its process has
/// gone or closed it; until then a listener that it accepted on is there. Whoever restarts a gateway at once would meet it.
const PATIENCE: Duration = Duration::from_secs(1);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(10);

/// Binds one listener that nobody shares.
///
/// # Errors
/// The address is in use, and stays so for a second; it is not ours, or not allowed.
pub fn bind(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = bound_alone(address)?;
    socket.listen(clamp(backlog))?;
    Ok(socket.into())
}

/// Binds `count` listeners to the same address, among which the kernel spreads the connections (`SO_REUSEPORT`).
/// With port 0 the first one's port is taken for all.
///
/// # Errors
/// As [`bind`]; also when another process of ours shares its port: two gateways on one port would each get some of the
/// other's clients.
pub fn bind_shared(
    address: SocketAddr,
    backlog: u32,
    count: usize,
) -> io::Result<Vec<TcpListener>> {
    if address.port() != 0 {
        // Without SO_REUSEPORT the kernel refuses a port that anyone has.
        drop(bound_alone(address)?);
    }
    let mut sockets = Vec::with_capacity(count);
    let mut address = address;
    for _ in 0..count {
        let socket = bound(address, true)?;
        if let Some(actual) = socket.local_addr()?.as_socket() {
            address = actual;
        }
        sockets.push(socket);
    }
    // All are bound before the first one listens: no connection ends up in a group that still grows.
    for socket in &sockets {
        socket.listen(clamp(backlog))?;
    }
    Ok(sockets.into_iter().map(Into::into).collect())
}

fn bound_alone(address: SocketAddr) -> io::Result<Socket> {
    let began = Instant::now();
    loop {
        match bound(address, false) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < PATIENCE =>
            {
                thread::park_timeout(BETWEEN_ATTEMPTS);
            }
            other => return other,
        }
    }
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    // Accepted sockets inherit it: one system call instead of one per connection.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn clamp(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn port_zero_is_picked_once_for_all() {
        let listeners = bind_shared(ANY, 16, 3).unwrap();
        let addresses: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        assert_ne!(addresses[0].port(), 0);
        assert!(addresses.iter().all(|address| *address == addresses[0]));
    }

    #[test]
    fn a_second_gateway_cannot_share_the_port() {
        let first = bind_shared(ANY, 16, 2).unwrap();
        let address = first[0].local_addr().unwrap();
        let error = bind_shared(address, 16, 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_port_that_is_given_up_within_a_second_is_waited_for() {
        let first = bind(ANY, 16).unwrap();
        let address = first.local_addr().unwrap();
        let holder = thread::spawn(move || {
            thread::park_timeout(5 * BETWEEN_ATTEMPTS);
            drop(first);
        });
        assert_eq!(bind(address, 16).unwrap().local_addr().unwrap(), address);
        holder.join().unwrap();
    }

    #[test]
    fn accepted_sockets_inherit_nodelay() {
        let listener = bind(ANY, 16).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
