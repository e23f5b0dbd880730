//! The task of one stream: carries out what its runner wishes for.

use std::future::{Future, pending};
use std::io::Result as IoResult;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::core::description::Description;
use crate::core::mesh::Mesh;
use crate::core::queue::Queue;
use crate::core::runner::{ConnectionId, Runner, Wish};
use crate::driver::Clock;
use crate::driver::describe::{Gateway, dial};
use crate::driver::socket::{Alarm, Socket};
use crate::error::GatewayError;

/// Something under way, that may be given up at any time by dropping it.
pub(crate) type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

type Dialled = (ConnectionId, Result<TcpStream, GatewayError>);

/// Starts the task of `queue`. It ends when the queue does.
pub(crate) fn spawn(clock: Clock, mesh: &Arc<Mesh>, gateway: &Arc<Gateway>, queue: Arc<Queue>) {
    let task = Task {
        clock,
        runner: Runner::new(Arc::clone(mesh), queue),
        mesh: Arc::clone(mesh),
        gateway: Arc::clone(gateway),
        sockets: Vec::new(),
        asking: None,
        dialling: None,
        alarm: Alarm::new(),
    };
    tokio::spawn(task.run());
}

struct Task {
    clock: Clock,
    runner: Runner,
    mesh: Arc<Mesh>,
    gateway: Arc<Gateway>,
    /// At most two: while a stream moves from one connection to another.
    sockets: Vec<Socket>,
    asking: Pending<Result<Arc<Description>, GatewayError>>,
    dialling: Option<(ConnectionId, Pending<Dialled>)>,
    alarm: Alarm,
}

impl Task {
    async fn run(mut self) {
        loop {
            let now = self.clock.now();
            let mut busy = false;
            for socket in &mut self.sockets {
                busy |= socket.read(&mut self.runner, now);
            }
            busy |= self.runner.poll(now);
            while let Some(wish) = self.runner.next_wish() {
                busy = true;
                if matches!(wish, Wish::End) {
                    return;
                }
                self.carry_out(wish);
            }
            for socket in &mut self.sockets {
                busy |= socket.write(&mut self.runner);
            }
            if busy {
                // Others run, and meanwhile more commands come together.
                tokio::task::yield_now().await;
            } else {
                self.rest().await;
            }
        }
    }

    fn carry_out(&mut self, wish: Wish) {
        let clock = self.clock;
        match wish {
            Wish::Describe { since } => {
                let gateway = Arc::clone(&self.gateway);
                let asking = async move { gateway.describe(clock, since).await };
                self.asking = Some(Box::pin(asking));
            }
            Wish::Start { queue } => spawn(clock, &self.mesh, &self.gateway, queue),
            Wish::Dial {
                connection,
                address,
            } => {
                let dialling = async move { (connection, dial(&address).await) };
                self.dialling = Some((connection, Some(Box::pin(dialling))));
            }
            Wish::Close { connection } => {
                self.sockets
                    .retain(|socket| socket.connection() != connection);
                self.dialling.take_if(|(dialled, _)| *dialled == connection);
            }
            Wish::End => {}
        }
    }

    /// Waits until there is something to do.
    async fn rest(&mut self) {
        let Self {
            clock,
            runner,
            sockets,
            asking,
            dialling,
            alarm,
            ..
        } = self;
        let deadline = runner
            .next_deadline()
            .map(|deadline| clock.instant(deadline));
        let mut none = None;
        let dialling = dialling
            .as_mut()
            .map_or(&mut none, |(_, dialling)| dialling);
        tokio::select! {
            ready = ready(sockets.first(), runner) => told(runner, ready),
            ready = ready(sockets.get(1), runner) => told(runner, ready),
            () = runner.sleep() => {}
            answer = when(asking) => runner.described(clock.now(), answer),
            (connection, answer) = when(dialling) => {
                let answer = answer.map(|tcp| sockets.push(Socket::new(tcp, connection)));
                runner.dialled(clock.now(), connection, answer);
            }
            () = alarm.ring(deadline) => {}
        }
    }
}

/// The result of what is under way; if nothing is, never.
pub(crate) async fn when<T>(under_way: &mut Pending<T>) -> T {
    let Some(future) = under_way else {
        return pending().await;
    };
    let result = future.as_mut().await;
    *under_way = None;
    result
}

/// Waits until a socket can be read or written as wished; a failure says of which connection.
async fn ready(socket: Option<&Socket>, runner: &Runner) -> (ConnectionId, IoResult<()>) {
    let Some(socket) = socket else {
        return pending().await;
    };
    let connection = socket.connection();
    (
        connection,
        socket.ready(runner.wants_bytes(connection)).await,
    )
}

fn told(runner: &mut Runner, (connection, ready): (ConnectionId, IoResult<()>)) {
    if let Err(error) = ready {
        runner.failed(connection, error.to_string());
    }
}
