//! Profiles of a thread of the test.

use std::{hint::black_box, sync::atomic::Ordering::Relaxed};

use super::*;

#[test]
fn queries_are_read_and_refused_with_what_is_allowed() {
    let read = |query| Wanted::read(query, 2);
    let usual = Wanted {
        shard: 0,
        seconds: 5,
    };
    assert_eq!(read(""), Ok(usual));
    let wanted = Wanted {
        shard: 1,
        seconds: 60,
    };
    assert_eq!(read("shard=1&seconds=60"), Ok(wanted));
    let cases = [
        ("shard=2", "0 to 1"),
        ("seconds=0", "1 to 60"),
        ("seconds=61", "1 to 60"),
        ("hertz=9", "shard, seconds"),
    ];
    for (query, allowed) in cases {
        let error = read(query).unwrap_err();
        assert!(error.contains(allowed), "{error}");
    }
}

#[inline(never)]
fn a_name_to_be_found(over: &AtomicBool) {
    while !over.load(Relaxed) {
        std::hint::spin_loop();
        black_box(over);
    }
}

// A busy thread beside one that another function keeps busy: only the one that was asked for is in the picture.
#[tokio::test]
async fn a_profile_shows_the_thread_that_was_asked_for_and_no_other() {
    let over = Arc::new(AtomicBool::new(false));
    let (told, thread) = std::sync::mpsc::channel();
    let busy = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            told.send(rustix::thread::gettid().as_raw_nonzero().get())
                .unwrap();
            a_name_to_be_found(&over);
        })
    };
    let thread = thread.recv().unwrap();
    let profiler = Profiler::default();
    let wanted = Wanted {
        shard: 3,
        seconds: 1,
    };
    let (profile, second) = tokio::join!(
        profiler.profile(wanted, thread),
        profiler.profile(wanted, thread)
    );
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let idle = profiler.profile(wanted, own).await;
    over.store(true, Relaxed);
    busy.join().unwrap();
    assert!(matches!(second, Err(ProfileError::Busy)), "one at a time");
    match profile {
        Ok(svg) => {
            let svg = String::from_utf8(svg).unwrap();
            assert!(svg.contains("a_name_to_be_found"), "{svg}");
            assert!(svg.contains("shard 3: 1 s at 997 Hz"), "{svg}");
            let others = idle
                .map(|svg| String::from_utf8(svg).unwrap())
                .unwrap_or_default();
            assert!(!others.contains("a_name_to_be_found"), "{others}");
        }
        // A host that forbids it says what to set.
        Err(error) => assert!(error.to_string().contains("perf_event_paranoid"), "{error}"),
    }
}
