//! What the kernel allows: io_uring and sysctls.

use std::{fs, io};

use super::{Finding, advice};
use crate::{
    config::{self, Config},
    driver::{Chosen, Driver, choose, monoio},
};

/// Chooses the driver, as a gateway would: rings are built for it.
pub(super) fn driver(config: &config::Shards) -> Finding {
    let about = "driver";
    let release = release();
    match choose(config) {
        Ok(Chosen {
            driver: Driver::MonoioRing(flags),
            ..
        }) if !flags.cooperative => Finding::warn(
            about,
            format!("io_uring works, but Linux {release} lacks cooperative task running"),
            "use Linux 6.0 or later",
        ),
        Ok(Chosen { driver, why, lacks }) => {
            let text = format!("{driver} on Linux {release} ({why})");
            match lacks {
                None => Finding::ok(about, text),
                Some(lacks) => Finding::warn(about, format!("{text}; {lacks}"), way_to_io_uring()),
            }
        }
        Err(error) => Finding::fail(about, error.to_string(), "change the setting"),
    }
}

/// For example `6.18.4`.
fn release() -> String {
    let name = rustix::system::uname();
    name.release().to_string_lossy().into_owned()
}

/// Whether this kernel is of that version or a later one.
pub(super) fn is_from(major: u32, minor: u32) -> bool {
    let release = release();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
    (number().unwrap_or(0), number().unwrap_or(0)) >= (major, minor)
}

/// Who forbids io_uring, as far as one can tell.
fn way_to_io_uring() -> String {
    let disabled = sysctl("kernel.io_uring_disabled").unwrap_or(0);
    if disabled > 0 {
        return format!(
            "kernel.io_uring_disabled is {disabled}: set it to 0 (tuning/99-ringway.conf)"
        );
    }
    match monoio::probe().map_err(|error| error.kind()) {
        Err(io::ErrorKind::PermissionDenied) => {
            "a seccomp filter forbids it: give the container a profile that allows io_uring_setup, io_uring_enter and \
             io_uring_register"
                .to_owned()
        }
        Err(io::ErrorKind::OutOfMemory) => "raise the memlock limit (tuning/limits.conf)".to_owned(),
        _ => "use a later Linux, or a sandbox that offers io_uring".to_owned(),
    }
}

/// The kernel cuts a listener's backlog in silence.
pub(super) fn backlog(config: &Config) -> Finding {
    let wanted = u64::from(config.ws.backlog);
    match sysctl("net.core.somaxconn") {
        Some(most) if most < wanted => Finding::warn(
            "backlog",
            format!("ws.backlog = {wanted} is cut to net.core.somaxconn = {most}"),
            format!("sysctl -w net.core.somaxconn={wanted}"),
        ),
        _ => Finding::ok("backlog", format!("{wanted} per shard")),
    }
}

/// Every sysctl of `tuning/99-ringway.conf` that this kernel has.
pub(super) fn sysctls() -> Vec<Finding> {
    let judge = |advice: advice::Advice| {
        let actual = sysctl(&advice.key)?;
        let (key, wanted) = (&advice.key, advice.wanted);
        if advice.is_followed_by(actual) {
            return Some(Finding::ok(key, actual.to_string()));
        }
        let text = format!(
            "{actual}, {} is wanted ({})",
            advice.wanted(),
            advice.reason
        );
        let advice = format!("sysctl -w {key}={wanted}, for good: tuning/99-ringway.conf");
        Some(Finding::warn(key, text, advice))
    };
    advice::sysctls().into_iter().filter_map(judge).collect()
}

/// Every switch of `tuning/ringway-tmpfiles.conf` that this kernel has.
pub(super) fn switches() -> Vec<Finding> {
    let judge = |choice: advice::Choice| {
        let actual = fs::read_to_string(&choice.path).ok()?;
        let (path, wanted) = (&choice.path, &choice.wanted);
        let actual = chosen(&actual);
        if actual == wanted {
            return Some(Finding::ok(path, actual));
        }
        let text = format!("{actual}, {wanted} is wanted ({})", choice.reason);
        let advice = format!("echo {wanted} > {path}, for good: tuning/ringway-tmpfiles.conf");
        Some(Finding::warn(path, text, advice))
    };
    advice::choices().into_iter().filter_map(judge).collect()
}

/// Of "always [madvise] never" the word in brackets.
pub(super) fn chosen(words: &str) -> &str {
    let inside = words
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(words.trim(), |(word, _)| word)
}

/// `None`: this kernel, or this network namespace, has no such setting.
fn sysctl(key: &str) -> Option<u64> {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
