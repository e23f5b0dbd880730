use std::collections::BTreeMap;

use gateway_proto::v1::snapshot::{Begin, Chunk, End};
use proptest::prelude::*;

use super::*;

const EPOCH: u64 = 5;

fn directory() -> Directory {
    let mut directory = Directory::new(usize::MAX);
    directory.adopt(0, EPOCH, 1);
    directory.adopt(1, EPOCH + 1, 1);
    directory
}

fn snapshot(stage: Stage) -> Up {
    Up::Snapshot(Snapshot {
        stage: Some(stage),
        shard: 0,
    })
}

fn begin() -> Up {
    snapshot(Stage::Begin(Begin { version: 0 }))
}

fn end() -> Up {
    snapshot(Stage::End(End { version: 0 }))
}

fn entry(user: &str, version: u64, connections: u32) -> UserOnline {
    UserOnline {
        user_id: user.to_owned(),
        version,
        connections,
    }
}

fn chunk(users: &[(&str, u64, u32)]) -> Up {
    let users = users.iter().map(|(user, v, n)| entry(user, *v, *n));
    snapshot(Stage::Chunk(Chunk {
        users: users.collect(),
    }))
}

fn online(user: &str, version: u64, connections: u32) -> Up {
    Up::Online(entry(user, version, connections))
}

fn offline(user: &str, version: u64) -> Up {
    Up::Offline(UserOffline {
        user_id: user.to_owned(),
        version,
    })
}

fn tell(directory: &mut Directory, run: u64, frames: impl IntoIterator<Item = Up>) {
    for frame in frames {
        directory.apply(0, EPOCH, run, frame);
    }
}

fn places(directory: &Directory, user: &str) -> Vec<(u32, u32, bool)> {
    let found = directory.find(user);
    found
        .map(|found| (found.gateway, found.connections, found.complete))
        .collect()
}

#[test]
fn a_snapshot_and_changes_are_the_truth() {
    let mut directory = directory();
    tell(&mut directory, 1, [begin(), chunk(&[("a", 1, 2)])]);
    assert!(!directory.knows(0, "a"));
    tell(&mut directory, 1, [end(), online("b", 2, 1)]);
    assert!(directory.knows(0, "a"));
    assert_eq!(places(&directory, "a"), [(0, 2, true)]);
    assert_eq!(places(&directory, "b"), [(0, 1, true)]);
    tell(&mut directory, 1, [offline("a", 3), online("b", 4, 3)]);
    assert_eq!(places(&directory, "a"), []);
    assert_eq!(places(&directory, "b"), [(0, 3, true)]);
    assert_eq!(
        (directory.figures().users, directory.figures().entries),
        (1, 1)
    );
}

#[test]
fn the_higher_version_wins_in_whatever_order_they_come() {
    let mut directory = directory();
    let told = [
        begin(),
        online("a", 9, 5),
        offline("b", 8),
        chunk(&[("a", 7, 1), ("b", 7, 1), ("c", 7, 1)]),
        offline("c", 6),
        end(),
        // The snapshot is over, but a version that is too old is still no news.
        online("a", 8, 2),
    ];
    tell(&mut directory, 1, told);
    assert_eq!(places(&directory, "a"), [(0, 5, true)]);
    assert_eq!(places(&directory, "b"), [], "offline is remembered");
    assert_eq!(places(&directory, "c"), [(0, 1, true)]);
}

#[test]
fn a_user_may_be_on_several_gateways() {
    let mut directory = directory();
    tell(&mut directory, 1, [begin(), chunk(&[("a", 1, 1)]), end()]);
    directory.apply(1, EPOCH + 1, 1, begin());
    directory.apply(1, EPOCH + 1, 1, chunk(&[("a", 1, 4)]));
    let both = [(0, 1, true), (1, 4, false)];
    assert_eq!(places(&directory, "a"), both);
    assert_eq!(
        (directory.figures().users, directory.figures().entries),
        (1, 2)
    );
    tell(&mut directory, 1, [offline("a", 2)]);
    assert_eq!(places(&directory, "a"), [(1, 4, false)]);
    directory.forget(1);
    assert_eq!(
        (directory.figures().users, directory.figures().entries),
        (0, 0)
    );
}

#[test]
fn what_was_known_stays_until_the_next_snapshot_ends() {
    let mut directory = directory();
    let first = chunk(&[("a", 1, 1), ("b", 1, 1)]);
    tell(&mut directory, 1, [begin(), first, end()]);
    directory.lost(0, Some(0));
    assert_eq!(places(&directory, "a"), [(0, 1, false)]);
    tell(&mut directory, 2, [begin(), chunk(&[("b", 3, 1)])]);
    assert_eq!(places(&directory, "a"), [(0, 1, false)]);
    // What the connection before had still on its way is late.
    tell(&mut directory, 1, [online("late", 2, 1), end()]);
    assert_eq!(places(&directory, "late"), []);
    tell(&mut directory, 2, [end()]);
    assert_eq!(places(&directory, "a"), []);
    assert_eq!(places(&directory, "b"), [(0, 1, true)]);
}

#[test]
fn a_snapshot_that_begins_anew_ends_with_what_it_told_itself() {
    let mut directory = directory();
    tell(&mut directory, 1, [begin(), chunk(&[("a", 1, 1)])]);
    tell(&mut directory, 1, [begin(), chunk(&[("b", 2, 1)]), end()]);
    assert_eq!(places(&directory, "a"), []);
    assert_eq!(places(&directory, "b"), [(0, 1, true)]);
}

#[test]
fn a_new_epoch_has_nobody_yet() {
    let mut directory = directory();
    tell(&mut directory, 1, [begin(), chunk(&[("a", 90, 1)]), end()]);
    directory.adopt(0, EPOCH, 1);
    assert_eq!(places(&directory, "a"), [(0, 1, true)], "the same epoch");
    directory.adopt(0, 99, 2);
    assert_eq!(places(&directory, "a"), []);
    tell(&mut directory, 1, [online("late", 91, 1)]);
    assert_eq!(directory.figures().users, 0, "told by the old one");
    // Versions begin anew.
    let shard = shard_of(b"a", 2);
    for stage in [
        Stage::Begin(Begin { version: 0 }),
        Stage::Chunk(Chunk {
            users: vec![entry("a", 1, 1)],
        }),
        Stage::End(End { version: 1 }),
    ] {
        let stage = Some(stage);
        directory.apply(0, 99, 1, Up::Snapshot(Snapshot { stage, shard }));
    }
    assert_eq!(places(&directory, "a"), [(0, 1, true)]);
    assert!(directory.knows(0, "a"));
    assert_eq!(directory.figures().complete, 1);
}

#[test]
fn a_gateway_that_breaks_the_protocol_harms_nobody() {
    let mut directory = directory();
    let told = [
        end(),
        chunk(&[("a", 1, 1)]),
        online("a", 1, 1),
        offline("a", 1),
        Up::Snapshot(Snapshot::default()),
        Up::Snapshot(Snapshot {
            stage: Some(Stage::Begin(Begin::default())),
            shard: 9,
        }),
    ];
    tell(&mut directory, 1, told);
    assert_eq!(
        (directory.figures().users, directory.figures().complete),
        (0, 0)
    );
    directory.apply(7, 1, 1, begin());
    directory.lost(7, None);
    directory.forget(7);
}

/// What happens on one of two gateways.
#[derive(Clone, Debug)]
enum Act {
    Online(u8, u32),
    Offline(u8),
    /// The snapshot tells of the next users.
    Chunk(u8),
    Begin,
    Lose,
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<(u32, Act)>> {
    let act = prop_oneof![
        6 => (0..20_u8, 1..4_u32).prop_map(|(user, n)| Act::Online(user, n)),
        5 => (0..20_u8).prop_map(Act::Offline),
        6 => (1..8_u8).prop_map(Act::Chunk),
        1 => Just(Act::Begin),
        1 => Just(Act::Lose),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec((0..2_u32, act), 1..300)
}

/// A gateway, and how far its snapshot is.
#[derive(Default)]
struct Model {
    epoch: u64,
    run: u64,
    version: u64,
    users: BTreeMap<String, u32>,
    /// The snapshot: who is still to be told, as of when it began.
    left: Option<Vec<UserOnline>>,
    listening: bool,
}

impl Model {
    fn change(&mut self, user: String, connections: u32) -> Option<Up> {
        self.version += 1;
        if connections > 0 {
            self.users.insert(user.clone(), connections);
        } else {
            self.users.remove(&user)?;
        }
        let frame = match connections {
            0 => offline(&user, self.version),
            n => online(&user, self.version, n),
        };
        self.listening.then_some(frame)
    }

    /// A snapshot of this moment, told later: changes come between.
    fn begin(&mut self) -> Up {
        let users = self.users.iter();
        let users = users.map(|(user, n)| entry(user, self.version, *n));
        self.left = Some(users.collect());
        self.listening = true;
        begin()
    }

    fn chunk(&mut self, users: u8) -> Option<Up> {
        let left = self.left.as_mut()?;
        if left.is_empty() {
            self.left = None;
            return Some(end());
        }
        let users = left.drain(..left.len().min(users.into())).collect();
        Some(snapshot(Stage::Chunk(Chunk { users })))
    }
}

#[test]
fn a_shard_that_found_no_room_for_somebody_is_not_known_until_all_fit() {
    let mut directory = Directory::new(2);
    directory.adopt(0, EPOCH, 1);
    tell(
        &mut directory,
        1,
        [begin(), chunk(&[("a", 1, 1), ("b", 2, 1)])],
    );
    tell(&mut directory, 1, [end()]);
    assert!(directory.knows(0, "c") && !directory.any_cut());
    tell(&mut directory, 1, [online("c", 3, 1)]);
    assert!(!directory.knows(0, "c") && directory.is_cut(0, "a"));
    assert_eq!(
        places(&directory, "a"),
        [(0, 1, true)],
        "is there all the same"
    );
    assert_eq!(
        (directory.figures().refused, directory.figures().cut),
        (1, 1)
    );
    // Room alone tells nobody who it was.
    tell(&mut directory, 1, [offline("a", 4), offline("b", 5)]);
    assert!(directory.is_cut(0, "c"));
    tell(&mut directory, 2, [begin(), chunk(&[("c", 3, 1)]), end()]);
    assert!(directory.knows(0, "c") && !directory.any_cut());
    assert_eq!(places(&directory, "c"), [(0, 1, true)]);
}

#[test]
fn what_is_remembered_during_a_snapshot_takes_room_too() {
    let mut directory = Directory::new(2);
    directory.adopt(0, EPOCH, 1);
    let gone = (0..100).map(|user| offline(&format!("user-{user}"), 9));
    tell(&mut directory, 1, [begin()].into_iter().chain(gone));
    assert_eq!(directory.gone, 2);
    tell(&mut directory, 1, [end()]);
    assert!(!directory.knows(0, "user-7"), "not all was remembered");
    tell(&mut directory, 2, [begin(), end()]);
    assert!(directory.knows(0, "user-7"));
    assert_eq!(directory.gone, 0);
}

proptest! {
    /// Whatever happens, a complete directory is the truth, and an incomplete one misses nobody it was told of.
    #[test]
    fn a_complete_directory_is_the_truth(acts in acts(), most in prop_oneof![0..30_usize, Just(usize::MAX)]) {
        let mut directory = Directory::new(most);
        let mut models = [Model::default(), Model::default()];
        for (at, model) in (0..).zip(&mut models) {
            (model.epoch, model.run) = (1 + u64::from(at) * 1000, 1);
            directory.adopt(at, model.epoch, 1);
        }
        for (at, act) in acts {
            let model = &mut models[at as usize];
            let frame = match act {
                Act::Online(user, n) => model.change(format!("user-{user}"), n),
                Act::Offline(user) => model.change(format!("user-{user}"), 0),
                Act::Chunk(users) => model.chunk(users),
                Act::Begin => Some(model.begin()),
                Act::Lose => {
                    directory.lost(at, None);
                    (model.left, model.listening) = (None, false);
                    model.run += 1;
                    None
                }
                Act::Restart => {
                    let (epoch, run) = (model.epoch + 1, 1);
                    *model = Model { epoch, run, ..Model::default() };
                    directory.adopt(at, epoch, 1);
                    None
                }
            };
            if let Some(frame) = frame {
                directory.apply(at, model.epoch, model.run, frame);
            }
            check(&directory, &models)?;
            prop_assert!(directory.figures().entries <= most);
        }
        for (at, model) in (0..).zip(&mut models) {
            let frame = model.begin();
            directory.apply(at, model.epoch, model.run, frame);
            while let Some(frame) = model.chunk(3) {
                directory.apply(at, model.epoch, model.run, frame);
            }
        }
        prop_assert_eq!(directory.figures().complete, 2);
        check(&directory, &models)?;
        directory.forget(0);
        directory.forget(1);
        prop_assert_eq!(directory.figures().entries + directory.figures().users, 0);
        prop_assert_eq!(directory.figures().sources + directory.figures().cut, 0);
        prop_assert_eq!(directory.gone, 0);
    }
}

fn check(directory: &Directory, models: &[Model; 2]) -> Result<(), TestCaseError> {
    for user in (0..20).map(|user| format!("user-{user}")) {
        let found: Vec<_> = directory.find(&user).collect();
        for (at, model) in (0..).zip(models) {
            let here = found.iter().find(|found| found.gateway == at);
            if directory.knows(at, &user) {
                let connections = here.map(|found| found.connections);
                prop_assert_eq!(connections, model.users.get(&user).copied());
            }
        }
        prop_assert!(found.len() <= 2);
    }
    Ok(())
}

/// Run with `--ignored --nocapture`: what users cost.
#[test]
#[ignore = "prints figures of the whole process"]
fn memory_per_user() {
    const USERS: u32 = 100_000;
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    };
    // Kept, so that none gets the memory of another.
    let mut kept = Vec::new();
    for (what, gateways) in [("one gateway each", 1), ("both gateways", 2)] {
        let before = resident();
        let mut directory = directory();
        for user in 0..USERS {
            let name = format!("user-{user:08}");
            for at in (0..2).filter(|at| gateways == 2 || user % 2 == *at) {
                let epoch = EPOCH + u64::from(at);
                if user < 2 {
                    directory.apply(at, epoch, 1, begin());
                }
                directory.apply(at, epoch, 1, chunk(&[(&name, 1, 1)]));
            }
        }
        assert_eq!(directory.figures().users, USERS as usize);
        let bytes = (resident() - before) / USERS as usize;
        assert!(bytes <= 250, "{bytes} bytes on {what}");
        kept.push(directory);
        println!("{bytes} bytes per user of 13 bytes on {what}, two gateways");
    }
}
