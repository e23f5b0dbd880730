use super::*;
use crate::push::{Priority, Push};
use gateway_proto::v1;
use gateway_proto::v1::logic_frame::Body;

const SECOND: Duration = Duration::from_secs(1);

const BOUNDS: Bounds = Bounds {
    items: 3,
    bytes: 1000,
    age: Duration::from_secs(80),
    drop_oldest: false,
};

fn of(stamp: u64, push: Push, expires: Option<Duration>) -> Item {
    Item::new(stamp, Body::Push(push.request), expires)
}

fn item(stamp: u64, payload: usize, expires: Option<Duration>) -> Item {
    of(stamp, Push::user("u").binary(vec![0; payload]), expires)
}

fn small(stamp: u64) -> Item {
    item(stamp, 0, None)
}

fn keyed(stamp: u64, push: Push, key: &str) -> Item {
    of(stamp, push.conflate(key), None)
}

fn important(stamp: u64, priority: Priority) -> Item {
    of(stamp, Push::user("u").priority(priority), None)
}

fn push(buffer: &mut Buffer, item: Item) -> Vec<(u64, ReturnReason)> {
    assert!(buffer.fits(std::slice::from_ref(&item)));
    let mut gave_way = GaveWay::new();
    let _ = buffer.push(item, &mut gave_way);
    told(gave_way)
}

fn told(gave_way: GaveWay) -> Vec<(u64, ReturnReason)> {
    let stamp = |(item, reason): (Item, _)| (item.stamp.order, reason);
    gave_way.into_iter().map(stamp).collect()
}

struct Batch {
    items: Vec<Item>,
    returned: GaveWay,
}

fn take(buffer: &mut Buffer, now: Duration, bytes: usize) -> Batch {
    let (mut items, mut returned) = (VecDeque::new(), GaveWay::new());
    buffer.take(now, bytes, &mut items, &mut returned);
    let items = items.into();
    Batch { items, returned }
}

fn stamps(items: &[Item]) -> Vec<u64> {
    items.iter().map(|item| item.stamp.order).collect()
}

fn rest(buffer: &mut Buffer) -> Vec<u64> {
    stamps(&buffer.drain())
}

#[test]
fn is_full_by_number_and_by_bytes() {
    let mut buffer = Buffer::new(BOUNDS);
    for stamp in 0..3 {
        push(&mut buffer, small(stamp));
    }
    assert!(!buffer.fits(&[small(3)]), "full by number");

    let mut buffer = Buffer::new(BOUNDS);
    push(&mut buffer, item(0, 700, None));
    assert!(buffer.fits(&[item(1, 42, None)]));
    assert!(!buffer.fits(&[item(1, 43, None)]), "full by bytes");
}

#[test]
fn an_empty_buffer_takes_a_command_larger_than_its_bound() {
    let mut buffer = Buffer::new(BOUNDS);
    push(&mut buffer, item(0, 5000, None));
    assert!(!buffer.fits(&[small(1)]));
}

#[test]
fn takes_in_order_up_to_the_bytes_asked_for() {
    let mut buffer = Buffer::new(BOUNDS);
    for stamp in 0..3 {
        push(&mut buffer, item(stamp, 100, None));
    }
    let batch = take(&mut buffer, Duration::ZERO, 300);
    assert_eq!(stamps(&batch.items), [0, 1]);
    assert_eq!((buffer.len(), buffer.bytes()), (1, 229));
    assert_eq!(buffer.oldest(), Some(3));
}

#[test]
fn what_was_taken_takes_room_until_it_is_released() {
    let mut buffer = Buffer::new(BOUNDS);
    for stamp in 0..3 {
        push(&mut buffer, small(stamp));
    }
    let batch = take(&mut buffer, Duration::ZERO, usize::MAX);
    assert!(!buffer.fits(&[small(3)]));
    buffer.release(batch.items[0].load());
    push(&mut buffer, small(3));
    assert!(!buffer.fits(&[small(4)]));
}

#[test]
fn what_was_not_taken_by_the_gateway_goes_back_to_the_front_in_order() {
    let mut buffer = Buffer::new(BOUNDS);
    for stamp in 0..2 {
        push(&mut buffer, small(stamp));
    }
    let batch = take(&mut buffer, Duration::ZERO, usize::MAX);
    push(&mut buffer, small(2));
    for item in &batch.items {
        buffer.release(item.load());
    }
    buffer.put_back(batch.items);
    assert_eq!((buffer.oldest(), buffer.len()), (Some(1), 3));
    assert!(!buffer.fits(&[small(3)]));
    assert_eq!(rest(&mut buffer), [0, 1, 2]);
}

#[test]
fn expired_commands_are_handed_back_when_taken_and_when_due() {
    let mut buffer = Buffer::new(BOUNDS);
    push(&mut buffer, item(0, 0, Some(SECOND)));
    push(&mut buffer, item(1, 0, Some(SECOND * 3)));
    push(&mut buffer, item(2, 0, Some(SECOND * 2)));
    let mut gave_way = GaveWay::new();
    assert_eq!(buffer.next_deadline(), Some(SECOND));
    buffer.expire(SECOND, &mut gave_way);
    assert_eq!(told(gave_way), [(0, ReturnReason::Expired)]);
    assert_eq!(buffer.next_deadline(), Some(SECOND * 2));
    let batch = take(&mut buffer, SECOND * 2, usize::MAX);
    assert_eq!(stamps(&batch.items), [1]);
    assert_eq!(told(batch.returned), [(2, ReturnReason::Expired)]);
    assert_eq!(buffer.next_deadline(), None, "nothing waits");
}

#[test]
fn what_waits_too_long_is_handed_back_though_nobody_looked_at_the_clock_for_it() {
    let mut buffer = Buffer::new(Bounds { items: 9, ..BOUNDS });
    push(&mut buffer, small(0));
    let mut gave_way = GaveWay::new();
    buffer.expire(SECOND * 100, &mut gave_way);
    // Pushed just after the clock was looked at.
    push(&mut buffer, small(1));
    assert_eq!(buffer.next_deadline(), Some(SECOND * 110));
    buffer.expire(SECOND * 110, &mut gave_way);
    assert_eq!(buffer.next_deadline(), Some(SECOND * 180));
    buffer.expire(SECOND * 180, &mut gave_way);
    assert_eq!(
        told(std::mem::take(&mut gave_way)),
        [(0, ReturnReason::TooOld)]
    );
    buffer.expire(SECOND * 190, &mut gave_way);
    assert_eq!(told(gave_way), [(1, ReturnReason::TooOld)]);
}

#[test]
fn the_runner_is_woken_once_for_a_deadline_before_its_alarm() {
    let mut buffer = Buffer::new(Bounds { items: 9, ..BOUNDS });
    let woken = |buffer: &mut Buffer, item| buffer.push(item, &mut GaveWay::new());
    assert!(woken(&mut buffer, small(0)), "there was none");
    assert!(!woken(&mut buffer, small(1)));
    assert_eq!(buffer.next_deadline(), Some(SECOND * 10));
    assert!(!woken(&mut buffer, item(2, 0, Some(SECOND * 11))));
    assert!(woken(&mut buffer, item(3, 0, Some(SECOND * 9))));
    assert!(
        !woken(&mut buffer, item(4, 0, Some(SECOND * 8))),
        "it will look anyway"
    );
}

#[test]
fn a_newer_push_with_the_same_target_and_key_takes_the_place_of_an_older_one_at_the_end() {
    let mut buffer = Buffer::new(Bounds { items: 9, ..BOUNDS });
    let price = |stamp| keyed(stamp, Push::topic("t"), "price");
    push(&mut buffer, price(0));
    push(&mut buffer, small(1));
    push(&mut buffer, keyed(2, Push::topic("t"), "volume"));
    push(&mut buffer, keyed(3, Push::user("t"), "price"));
    assert_eq!(push(&mut buffer, price(4)), [(0, ReturnReason::Conflated)]);
    assert_eq!(push(&mut buffer, price(5)), [(4, ReturnReason::Conflated)]);
    assert_eq!(rest(&mut buffer), [1, 2, 3, 5]);
}

#[test]
fn a_full_buffer_takes_a_push_that_replaces_another() {
    let mut buffer = Buffer::new(BOUNDS);
    for stamp in 0..3 {
        push(
            &mut buffer,
            keyed(stamp, Push::user(stamp.to_string()), "k"),
        );
    }
    assert!(!buffer.fits(&[keyed(3, Push::user("3"), "k")]));
    let newer = keyed(3, Push::user("1"), "k");
    assert_eq!(push(&mut buffer, newer), [(1, ReturnReason::Conflated)]);
    assert_eq!(rest(&mut buffer), [0, 2, 3]);
}

#[test]
fn what_is_sent_is_not_replaced_any_more() {
    let mut buffer = Buffer::new(BOUNDS);
    push(&mut buffer, keyed(0, Push::user("u"), "k"));
    let batch = take(&mut buffer, Duration::ZERO, usize::MAX);
    assert_eq!(push(&mut buffer, keyed(1, Push::user("u"), "k")), []);
    // It comes back, and nobody knows any more which commands lay between.
    buffer.release(batch.items[0].load());
    buffer.put_back(batch.items);
    assert_eq!(
        push(&mut buffer, keyed(2, Push::user("u"), "k")),
        [(1, ReturnReason::Conflated)]
    );
    assert_eq!(rest(&mut buffer), [0, 2]);
}

#[test]
fn a_push_is_not_replaced_across_a_command_that_changes_who_gets_it() {
    let mut buffer = Buffer::new(Bounds { items: 9, ..BOUNDS });
    push(&mut buffer, keyed(0, Push::topic("t"), "k"));
    let unsubscribe = Body::Unsubscribe(v1::Unsubscribe::default());
    push(&mut buffer, Item::new(1, unsubscribe, None));
    assert_eq!(push(&mut buffer, keyed(2, Push::topic("t"), "k")), []);
    assert_eq!(rest(&mut buffer), [0, 1, 2]);
}

#[test]
fn less_important_pushes_give_way_the_least_and_oldest_first() {
    use Priority::{High, Low, Normal};
    let mut buffer = Buffer::new(Bounds { items: 5, ..BOUNDS });
    for (stamp, priority) in [Normal, Low, High, Low, Normal].into_iter().enumerate() {
        push(&mut buffer, important(stamp as u64, priority));
    }
    let mut displaced = Vec::new();
    for stamp in 5..9 {
        displaced.extend(push(&mut buffer, important(stamp, High)));
    }
    let stamps: Vec<_> = displaced.iter().map(|(stamp, _)| *stamp).collect();
    assert_eq!(stamps, [1, 3, 0, 4]);
    assert!(
        displaced
            .iter()
            .all(|(_, reason)| *reason == ReturnReason::Displaced)
    );
    assert!(
        !buffer.fits(&[important(9, High)]),
        "none is less important"
    );
    assert_eq!(rest(&mut buffer), [2, 5, 6, 7, 8]);
}

#[test]
fn the_oldest_that_are_not_more_important_give_way_if_that_is_the_setting() {
    use Priority::{High, Low, Normal};
    let mut buffer = Buffer::new(Bounds {
        drop_oldest: true,
        ..BOUNDS
    });
    for (stamp, priority) in [High, Normal, Normal].into_iter().enumerate() {
        push(&mut buffer, important(stamp as u64, priority));
    }
    assert!(!buffer.fits(&[important(3, Low)]));
    assert_eq!(
        push(&mut buffer, important(3, Normal)),
        [(1, ReturnReason::Displaced)]
    );
    let command = Body::Subscribe(v1::Subscribe::default());
    assert_eq!(
        push(&mut buffer, Item::new(4, command, None)),
        [(2, ReturnReason::Displaced)]
    );
    assert_eq!(
        push(&mut buffer, important(5, High)),
        [(3, ReturnReason::Displaced)]
    );
    assert_eq!(
        push(&mut buffer, important(6, High)),
        [(0, ReturnReason::Displaced)]
    );
    assert_eq!(
        rest(&mut buffer),
        [4, 5, 6],
        "a command that is no push stays"
    );
}

#[test]
fn many_gaps_cost_neither_memory_nor_order() {
    let mut buffer = Buffer::new(Bounds { items: 9, ..BOUNDS });
    push(&mut buffer, small(0));
    let mut before = 1;
    push(&mut buffer, keyed(1, Push::user("u"), "k"));
    for stamp in 2..100_000 {
        let gone = push(&mut buffer, keyed(stamp, Push::user("u"), "k"));
        assert_eq!(gone, [(before, ReturnReason::Conflated)]);
        before = stamp;
    }
    assert!(buffer.slots.len() < 100);
    assert_eq!(rest(&mut buffer), [0, 99_999]);
}

#[test]
fn a_flush_waits_for_what_was_moved_elsewhere() {
    let mut buffer = Buffer::new(BOUNDS);
    push(&mut buffer, small(0));
    assert_eq!(buffer.drain().len(), 1);
    assert_eq!(buffer.oldest(), Some(1));
}
