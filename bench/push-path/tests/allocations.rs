//! What the push path allocates: nothing for a message, from the bytes of a link to those of a client, once the buffers have
//! grown.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

// One test: so that no other thread's allocations are in the way.
#[test]
fn a_message_allocates_nothing_once_buffers_have_grown() {
    let most = [
        ("unicast-64", 0.1),
        ("topic-64", 0.1),
        ("crossing-64", 0.1),
        ("unicast-1", 0.1),
        ("multicast-64", 0.2),
    ];
    for (scenario, most) in most {
        let mut allocations = 0;
        let deliveries = push_path::count(scenario, |round| {
            let region = Region::new(ALLOCATOR);
            round();
            let change = region.change();
            allocations += change.allocations + change.reallocations;
        });
        let each = allocations as f64 / deliveries.unwrap() as f64;
        println!("{scenario}: {each:.3} allocations a delivery");
        assert!(each <= most, "{scenario}: {each} allocations a delivery");
    }
}
