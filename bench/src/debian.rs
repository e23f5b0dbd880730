//! Programs of others, from Debian's packages: found, never installed by us.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use anyhow::Context;

/// The first port of [`free_address`].
const FIRST_PORT: u16 = 10_000;
/// Where daemons may lie although `PATH` does not say so.
const ALSO: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// The program `name`.
///
/// # Errors
/// It is not there: the text names the package that brings it.
pub fn program(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(ALSO.map(PathBuf::from));
    let found = folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    found.with_context(|| format!("no program {name} here: {}", advice(package)))
}

/// The file `path`, for example of a module that is loaded.
///
/// # Errors
/// As [`program`].
pub fn file(path: &str, package: &str) -> anyhow::Result<PathBuf> {
    let file = PathBuf::from(path);
    let found = file.is_file().then_some(file);
    found.with_context(|| format!("no file {path} here: {}", advice(package)))
}

/// An address of loopback that nobody else takes until the daemon that is told it does. A port of 127.0.0.1 that the kernel
/// calls free would be any connection's a moment later: the address is this process's, the port this call's.
///
/// # Errors
/// There is no port left.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    // Process ids have 22 bits at most (pid_max, proc_sys_kernel(5)). The crowds of clients come from the other half.
    let own = Ipv4Addr::from_bits(0x7f80_0000 | std::process::id());
    let mut free = std::iter::repeat_with(|| SocketAddr::from((own, NEXT.fetch_add(1, Relaxed))))
        .take(usize::from(u16::MAX - FIRST_PORT));
    // Others may listen on that port of all addresses.
    let free = free.find(|address| TcpListener::bind(address).is_ok());
    free.context("no port of loopback is free")
}

fn advice(package: &str) -> String {
    format!(
        "apt-get install --no-install-recommends {package} (or leave it out of what is measured)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_given_once_and_the_kernel_gives_it_to_no_connection() {
        let given: Vec<_> = (0..100).map(|_| free_address().unwrap()).collect();
        let different: std::collections::HashSet<_> = given.iter().collect();
        assert_eq!(different.len(), given.len());
        let listener = TcpListener::bind(given[0]).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_ne!(client.local_addr().unwrap().ip(), given[0].ip());
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        assert!(program("sh", "dash").is_ok());
        let error = program("no-such-daemon", "some-package")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no-such-daemon")
                && error.contains("install --no-install-recommends some-package"),
            "{error}"
        );
    }
}
