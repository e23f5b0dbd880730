//! What peers from Debian's packages have in common: a folder of their own, filled-in configurations.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};

use crate::wire;

/// Descriptors that a peer is told it may use.
pub(super) const DESCRIPTORS: &str = "100000";
/// Time between two attempts to get in.
const AGAIN: Duration = Duration::from_millis(50);

/// A folder for one run of a peer; it goes when this is dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(name: &str) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (id, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(format!("ringway-bench-{id}-{name}-{number}"));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes `template` to the file `name`, with every `{{key}}` replaced by its value.
    pub(super) fn fill(
        &self,
        name: &str,
        template: &str,
        values: &[(&str, &str)],
    ) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        let text = values
            .iter()
            .fold(template.to_owned(), |text, (key, value)| {
                text.replace(&format!("{{{{{key}}}}}"), value)
            });
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// `error` with what its programs have logged here, for whoever wonders why they do not work.
    pub(super) fn with_logs(&self, error: &anyhow::Error) -> anyhow::Error {
        let files = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut logs: Vec<_> = files
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|end| end == "log"))
            .map(|path| {
                let text = fs::read_to_string(&path).unwrap_or_else(|error| error.to_string());
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                format!("{name}: {}", text.trim_end())
            })
            .collect();
        logs.sort();
        anyhow!("{error:#}; what it has logged:\n{}", logs.join("\n"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left lies in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits until `address` lets in a client who asks for `target`; it has as long as `attempt` for each answer.
///
/// # Errors
/// It still does not after `patience`.
pub(super) fn lets_in(
    address: SocketAddr,
    target: &str,
    attempt: Duration,
    patience: Duration,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while let Err(error) = wire::connect(address, target, attempt) {
        if Instant::now() > deadline {
            return Err(error.context(format!("nobody gets in within {patience:?}")));
        }
        thread::park_timeout(AGAIN);
    }
    Ok(())
}

/// What a program says of its version, in one line.
pub(super) fn version(program: &Path, flag: &str) -> String {
    let output = std::process::Command::new(program).arg(flag).output();
    let text = output.map_or_else(
        |error| error.to_string(),
        |output| {
            let told = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&told).into_owned()
        },
    );
    text.lines()
        .next()
        .unwrap_or("of unknown version")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{Ipv4Addr, TcpListener},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn an_error_is_told_first_then_what_each_program_has_logged() {
        let folder = Folder::new("test").unwrap();
        fs::write(folder.path().join("proxy.log"), "no route\n").unwrap();
        fs::write(folder.path().join("handler.log"), "").unwrap();
        fs::write(folder.path().join("routes"), "secret").unwrap();
        let error = folder.with_logs(&anyhow!("refused").context("nobody gets in"));
        assert_eq!(
            error.to_string(),
            "nobody gets in: refused; what it has logged:\nhandler.log: \nproxy.log: no route"
        );
    }

    /// A server that treats its n-th client as the n-th of `answers` says; all others wait for an answer.
    fn server(answers: Vec<String>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut clients = Vec::new();
            for answer in answers.into_iter().chain(std::iter::repeat(String::new())) {
                let (mut client, _) = listener.accept().unwrap();
                // It may have given up.
                let _ = client.write_all(answer.as_bytes());
                clients.push(client);
            }
        });
        address
    }

    #[test]
    fn who_is_not_answered_or_is_refused_tries_again() {
        let refused = "HTTP/1.1 502 Bad Gateway\r\n\r\n".to_owned();
        let address = server(vec![String::new(), refused, wire::welcome()]);
        lets_in(address, "/", Duration::from_millis(50), PATIENCE).unwrap();
    }

    #[test]
    fn waiting_for_a_server_that_answers_nobody_ends() {
        let patience = Duration::from_millis(200);
        let error =
            lets_in(server(Vec::new()), "/", Duration::from_millis(50), patience).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.starts_with("nobody gets in within 200ms: no answer to the handshake"),
            "{error}"
        );
    }

    #[test]
    fn a_configuration_is_filled_in_and_goes_with_its_folder() {
        let folder = Folder::new("test").unwrap();
        let path = folder.path().to_owned();
        let file = folder.fill("a.conf", "listen {{port}}; log {port};", &[("port", "7")]);
        assert_eq!(
            fs::read_to_string(file.unwrap()).unwrap(),
            "listen 7; log {port};"
        );
        drop(folder);
        assert!(!path.exists());
    }
}
