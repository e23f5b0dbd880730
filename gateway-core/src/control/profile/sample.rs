//! Samples of one thread's stack, taken by the kernel (perf_event_open(2)).

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use perf_event::{Builder, SampleFlag, Sampler, data::Record, events::Software};

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// How often each stack was seen.
    pub(super) stacks: HashMap<Stack, u64>,
    /// Samples that found no room.
    pub(super) lost: u64,
    /// The kernel's part is not in them: the host does not show it.
    pub(super) without_kernel: bool,
}

/// Addresses, the innermost first.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Stack {
    pub(super) kernel: Vec<u64>,
    pub(super) user: Vec<u64>,
}

/// Room for samples that are not fetched yet: within what the kernel lets anybody lock (`kernel.perf_event_mlock_kb`).
const ROOM: usize = 256 << 10;
/// Samples are fetched at least this often.
const FETCH: Duration = Duration::from_millis(100);
/// Different stacks that are kept; a profile of a minute has no more than 60,000 samples.
const MOST_STACKS: usize = 1 << 16;

/// `PERF_CONTEXT_KERNEL` and `PERF_CONTEXT_USER`: what follows in a call chain is the kernel's, the program's.
const CONTEXT_KERNEL: u64 = -128_i64 as u64;
const CONTEXT_USER: u64 = -512_i64 as u64;
/// Whatever is not below this is a context, not an address (`PERF_CONTEXT_MAX`).
const CONTEXTS: u64 = -4095_i64 as u64;

/// Samples `thread`, of this process, for this long: `frequency` times in each second that it is on a CPU.
///
/// # Errors
/// The kernel does not allow it.
pub(super) fn sample(thread: i32, frequency: u64, length: Duration) -> io::Result<Samples> {
    let (mut sampler, without_kernel) = match open(thread, frequency, true) {
        Ok(sampler) => (sampler, false),
        // Its own part a thread may look at where the kernel's is hidden (kernel.perf_event_paranoid = 2).
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            (open(thread, frequency, false)?, true)
        }
        Err(error) => return Err(error),
    };
    let mut samples = Samples {
        without_kernel,
        ..Samples::default()
    };
    sampler.enable()?;
    let end = Instant::now() + length;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        std::thread::park_timeout(left.min(FETCH));
        fetch(&mut sampler, &mut samples);
    }
    sampler.disable()?;
    fetch(&mut sampler, &mut samples);
    Ok(samples)
}

/// A clock of the thread's own, not a cycle counter: virtual machines seldom have one.
fn open(thread: i32, frequency: u64, kernel: bool) -> io::Result<Sampler> {
    let mut builder = Builder::new(Software::CPU_CLOCK);
    builder
        .observe_pid(thread)
        .any_cpu()
        .exclude_kernel(!kernel)
        .exclude_callchain_kernel(!kernel)
        .exclude_hv(true)
        .sample_frequency(frequency)
        .sample(SampleFlag::CALLCHAIN);
    builder.build()?.sampled(ROOM)
}

fn fetch(sampler: &mut Sampler, samples: &mut Samples) {
    while let Some(record) = sampler.next_record() {
        match record.parse_record() {
            Ok(Record::Sample(sample)) => {
                let stack = Stack::of(sample.callchain().unwrap_or_default());
                if stack.is_empty() {
                    continue;
                }
                if samples.stacks.len() < MOST_STACKS || samples.stacks.contains_key(&stack) {
                    *samples.stacks.entry(stack).or_default() += 1;
                } else {
                    samples.lost += 1;
                }
            }
            Ok(Record::Lost(lost)) => samples.lost += lost.lost,
            _ => {}
        }
    }
}

impl Stack {
    fn of(chain: &[u64]) -> Self {
        let mut stack = Self::default();
        let mut kernel = false;
        for &address in chain {
            match address {
                CONTEXT_KERNEL => kernel = true,
                CONTEXT_USER => kernel = false,
                CONTEXTS.. => {}
                address if kernel => stack.kernel.push(address),
                address => stack.user.push(address),
            }
        }
        stack
    }

    fn is_empty(&self) -> bool {
        self.kernel.is_empty() && self.user.is_empty()
    }
}
