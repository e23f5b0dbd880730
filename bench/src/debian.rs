//! Programs of others, from Debian's packages: found, never installed by us.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
};

use anyhow::Context;

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

/// An address of loopback where nobody listens at the moment.
///
/// # Errors
/// There is no port left.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
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
