//! What `tuning/tune` turns when it is told CPUs or a network card: who else works on the shards' CPUs, and how many CPUs work on
//! packets.

use std::{fs, path::Path};

use super::Finding;

/// Work of the kernel that may run on the CPUs of `shards.cores`, where not all `allowed` ones are the shards' anyhow.
pub(super) fn set_aside(root: &Path, cores: &[usize], allowed: usize) -> Vec<Finding> {
    if cores.is_empty() || cores.len() >= allowed {
        return Vec::new();
    }
    let masks = [
        (
            "workqueue/cpumask",
            "sys/devices/virtual/workqueue/cpumask",
            "the kernel's unbound work",
        ),
        (
            "irq/default_smp_affinity",
            "proc/irq/default_smp_affinity",
            "interrupts of devices that come later",
        ),
    ];
    let judge = |(about, path, what)| {
        let mask = fs::read_to_string(root.join(path)).ok()?;
        let shared: Vec<_> = cores.iter().filter(|cpu| has(&mask, **cpu)).collect();
        Some(if shared.is_empty() {
            Finding::ok(about, mask.trim())
        } else {
            let text = format!("{what} may run on the shards' CPUs, {shared:?}");
            let list: Vec<_> = cores.iter().map(usize::to_string).collect();
            let advice = format!("tuning/tune apply --cpus {}", list.join(","));
            Finding::warn(about, text, advice)
        })
    };
    masks.into_iter().filter_map(judge).collect()
}

/// Each network card, if it has fewer queues than there are CPUs and the kernel does not spread what comes.
pub(super) fn queues(root: &Path, cpus: usize) -> Vec<Finding> {
    let interfaces = fs::read_dir(root.join("sys/class/net"));
    let mut found: Vec<_> = interfaces
        .into_iter()
        .flatten()
        .flatten()
        .filter(|interface| interface.path().join("device").exists())
        .filter_map(|interface| {
            let spread = spread(&interface.path())?;
            let name = interface.file_name().to_string_lossy().into_owned();
            let about = format!("queues/{name}");
            let text = format!("{} for {cpus} CPUs", spread.len());
            let are_spread = spread.len() >= cpus || spread.iter().all(|mask| !is_zero(mask));
            Some(if are_spread {
                Finding::ok(&about, text)
            } else {
                let text =
                    format!("{text}, RPS is off: no more CPUs than that work on what comes in");
                Finding::warn(
                    &about,
                    text,
                    format!("tuning/tune apply --interface {name}"),
                )
            })
        })
        .collect();
    found.sort_by(|one, other| one.about.cmp(&other.about));
    found
}

/// The CPUs to which each receive queue of an interface is spread.
fn spread(interface: &Path) -> Option<Vec<String>> {
    let queues = fs::read_dir(interface.join("queues")).ok()?.flatten();
    let receive = queues.filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-"));
    let masks = receive.map(|queue| fs::read_to_string(queue.path().join("rps_cpus")));
    let masks: Vec<_> = masks.map(Result::unwrap_or_default).collect();
    (!masks.is_empty()).then_some(masks)
}

/// Whether a mask ("ff,00000003") has that CPU.
fn has(mask: &str, cpu: usize) -> bool {
    let word = mask.trim().rsplit(',').nth(cpu / 32);
    let word = word.and_then(|word| u32::from_str_radix(word, 16).ok());
    word.unwrap_or(0) >> (cpu % 32) & 1 == 1
}

fn is_zero(mask: &str) -> bool {
    mask.trim()
        .chars()
        .all(|digit| digit == '0' || digit == ',')
}
