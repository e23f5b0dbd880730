//! People at their browsers: they connect, note what they get, and come back when they are cut off.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use gateway_bench::clients::{Clients, Event};

use super::{load::number, wait_for};

/// Users on a thread of their own.
pub struct Users {
    pub names: Vec<String>,
    seen: Arc<Seen>,
    say: mpsc::Sender<(usize, String)>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    over: AtomicBool,
    stay_away: AtomicBool,
    users: Mutex<Vec<User>>,
}

/// What a user has seen.
#[derive(Clone, Debug, Default)]
pub struct User {
    pub connected: bool,
    /// Connections made so far.
    pub connections: u32,
    pub messages: Vec<String>,
    /// How connections ended.
    pub ends: Vec<Option<u16>>,
}

impl Users {
    /// `count` users; the one with index n goes to gateway n modulo their number.
    pub fn start(gateways: &[SocketAddr], count: usize) -> Self {
        let names: Vec<_> = (0..count).map(|at| format!("person-{at}")).collect();
        let seen = Arc::new(Seen {
            users: Mutex::new(vec![User::default(); count]),
            ..Seen::default()
        });
        let (say, said) = mpsc::channel();
        let (theirs, homes, targets) = (Arc::clone(&seen), gateways.to_vec(), names.clone());
        let thread = thread::spawn(move || theirs.live(&homes, &targets, &said));
        let users = Self {
            names,
            seen,
            say,
            thread: Some(thread),
        };
        users.wait_connected();
        users
    }

    /// Waits until everybody is connected.
    pub fn wait_connected(&self) {
        wait_for("all users to be connected", || {
            let all = self.seen.lock().iter().all(|user| user.connected);
            all.then_some(())
        });
    }

    /// Has a user send a message, as soon as they are connected.
    pub fn say(&self, user: usize, text: impl Into<String>) {
        self.say.send((user, text.into())).unwrap();
    }

    /// Who is cut off does not come back until this is called again with `false`.
    pub fn stay_away(&self, away: bool) {
        self.seen.stay_away.store(away, Relaxed);
    }

    /// What they have seen, as soon as everybody has read the last of these messages (user and number) that is theirs: what
    /// has been written to a socket has not been read yet.
    pub fn seen_after(&self, written: impl IntoIterator<Item = (usize, u64)>) -> Vec<User> {
        let mut last = vec![None; self.names.len()];
        for (user, number) in written {
            last[user] = last[user].max(Some(number));
        }
        wait_for("everybody to have read what was written", || {
            let seen = self.seen();
            let mut all = self.names.iter().zip(&seen).zip(&last);
            let have_read = all.all(|((name, user), last)| {
                let read = user.messages.last();
                read.map(|message| number(name, message)) >= *last
            });
            have_read.then_some(seen)
        })
    }

    /// What they have seen so far.
    pub fn seen(&self) -> Vec<User> {
        self.seen.lock().clone()
    }
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Vec<User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self, homes: &[SocketAddr], names: &[String], said: &mpsc::Receiver<(usize, String)>) {
        let mut sockets: Vec<Option<Clients>> = names.iter().map(|_| None).collect();
        let mut unsaid = Vec::new();
        while !self.over.load(Relaxed) {
            for (at, socket) in sockets.iter_mut().enumerate() {
                let goes_on = match socket {
                    Some(clients) => self.turn(at, clients),
                    None => false,
                };
                if !goes_on {
                    *socket = match self.stay_away.load(Relaxed) {
                        true => None,
                        false => self.connect(at, homes[at % homes.len()], &names[at]),
                    };
                }
            }
            unsaid.extend(said.try_iter());
            unsaid.retain(|(at, text): &(usize, String)| match &mut sockets[*at] {
                Some(clients) => {
                    // Whether it is sent, or lost with the connection, is what a user does not know either.
                    let _ = clients.send(0, true, text.as_bytes());
                    false
                }
                None => true,
            });
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn connect(&self, at: usize, home: SocketAddr, name: &str) -> Option<Clients> {
        let clients = Clients::connect(home, &[Clients::target(name)]).ok()?;
        let user = &mut self.lock()[at];
        user.connected = true;
        user.connections += 1;
        Some(clients)
    }

    /// Takes what has come. Says whether the connection goes on.
    fn turn(&self, at: usize, clients: &mut Clients) -> bool {
        let mut ended = None;
        let taken = clients.receive(Duration::ZERO, |_, event| match event {
            Event::Message { payload, .. } => {
                let text = String::from_utf8_lossy(payload).into_owned();
                self.lock()[at].messages.push(text);
            }
            Event::Closed { code, .. } => ended = Some(code),
        });
        if taken.is_err() {
            ended = Some(None);
        }
        let Some(code) = ended else { return true };
        let user = &mut self.lock()[at];
        user.connected = false;
        user.ends.push(code);
        false
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.seen.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it panicked about has been printed.
            let _ = thread.join();
        }
    }
}
