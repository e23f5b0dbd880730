use super::*;
use crate::identity::LinkId;

fn sessions(max: usize) -> Sessions {
    Sessions::new(&config::Sessions { keep_ms: 1000, max })
}

fn claim(index: u32, token: u64) -> Claim {
    Claim {
        key: SessionKey { id: [7; 16], index },
        token,
        knows_epoch: token != 0,
    }
}

fn at(stream: u32) -> StreamRef {
    let link = LinkId {
        slot: 0,
        generation: 0,
    };
    StreamRef { link, stream }
}

fn dealt_with(last_sequence: u64) -> Progress {
    Progress {
        last_sequence,
        partial: None,
        used: true,
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Resume, last sequence, and what was replaced.
fn begun(attached: Attached) -> (Resume, u64, Option<StreamRef>) {
    match attached {
        Attached::Begins {
            resumption,
            replaced,
        } => (
            resumption.resume,
            resumption.progress.last_sequence,
            replaced,
        ),
        Attached::Clash => panic!("a clash"),
    }
}

#[test]
fn a_broken_stream_is_resumed_with_the_token_it_was_given() {
    let mut sessions = sessions(10);
    let new = begun(sessions.attach(ms(0), &claim(0, 0), 100, at(1)));
    assert_eq!(new, (Resume::New, 0, None));
    sessions.detach(ms(1), &claim(0, 0).key, at(1), dealt_with(9));
    let resumed = begun(sessions.attach(ms(2), &claim(0, 100), 101, at(3)));
    assert_eq!(resumed, (Resume::Resumed, 9, None));
    assert_eq!(sessions.stream_of(&claim(0, 0).key), Some(at(3)));
}

#[test]
fn a_newer_stream_takes_the_place_of_one_that_is_still_there() {
    let mut sessions = sessions(10);
    sessions.attach(ms(0), &claim(0, 0), 100, at(1));
    sessions.note(&claim(0, 0).key, dealt_with(5));
    let taken = begun(sessions.attach(ms(1), &claim(0, 100), 101, at(3)));
    assert_eq!(taken, (Resume::Resumed, 5, Some(at(1))));
    // The end of the old one comes late, and must not detach the new one.
    sessions.detach(ms(2), &claim(0, 0).key, at(1), dealt_with(5));
    assert_eq!(sessions.stream_of(&claim(0, 0).key), Some(at(3)));
    assert_eq!(sessions.next_expiry(), None);
}

#[test]
fn the_previous_token_is_good_only_while_the_new_one_may_be_unknown() {
    let mut sessions = sessions(10);
    sessions.attach(ms(0), &claim(0, 0), 100, at(1));
    // The Welcome was lost: the client still has no token.
    let again = begun(sessions.attach(ms(1), &claim(0, 0), 101, at(3)));
    assert_eq!(again, (Resume::New, 0, Some(at(1))));
    sessions.note(&claim(0, 0).key, dealt_with(1));
    let clash = sessions.attach(ms(2), &claim(0, 0), 102, at(5));
    assert_eq!(clash, Attached::Clash, "somebody has used token 101");
    assert_eq!(
        sessions.attach(ms(2), &claim(0, 100), 102, at(5)),
        Attached::Clash,
        "nobody can know token 100 any more"
    );
    assert_eq!(sessions.stream_of(&claim(0, 0).key), Some(at(3)));
}

#[test]
fn a_lost_welcome_of_a_resumption_is_no_clash_either() {
    let mut sessions = sessions(10);
    sessions.attach(ms(0), &claim(0, 0), 100, at(1));
    sessions.detach(ms(1), &claim(0, 0).key, at(1), dealt_with(4));
    sessions.attach(ms(2), &claim(0, 100), 101, at(3));
    let unused = Progress {
        used: false,
        ..dealt_with(4)
    };
    sessions.detach(ms(3), &claim(0, 0).key, at(3), unused);
    let resumed = begun(sessions.attach(ms(4), &claim(0, 100), 102, at(5)));
    assert_eq!(resumed, (Resume::Resumed, 4, None));
}

#[test]
fn who_missed_that_its_session_is_unknown_is_told_again() {
    let mut sessions = sessions(10);
    let unknown = begun(sessions.attach(ms(0), &claim(0, 77), 100, at(1)));
    assert_eq!(unknown, (Resume::Unknown, 0, None));
    let unused = Progress::default();
    sessions.detach(ms(1), &claim(0, 0).key, at(1), unused);
    // Resumed would make it send again what an earlier run of the session may have done.
    let again = begun(sessions.attach(ms(2), &claim(0, 77), 101, at(3)));
    assert_eq!(again, (Resume::Unknown, 0, None));
    let resumed = begun(sessions.attach(ms(3), &claim(0, 101), 102, at(5)));
    assert_eq!(resumed, (Resume::Resumed, 0, Some(at(3))));
}

#[test]
fn time_forgets_what_has_no_stream_and_nothing_else() {
    let mut sessions = sessions(10);
    sessions.attach(ms(0), &claim(0, 0), 100, at(1));
    sessions.attach(ms(0), &claim(1, 0), 200, at(3));
    sessions.detach(ms(10), &claim(0, 0).key, at(1), dealt_with(1));
    assert_eq!(sessions.next_expiry(), Some(ms(1010)));
    sessions.expire(ms(1009));
    assert_eq!(sessions.len(), 2);
    let late = begun(sessions.attach(ms(1010), &claim(0, 100), 101, at(5)));
    assert_eq!(late, (Resume::Unknown, 0, None));
    sessions.expire(ms(100_000));
    assert_eq!(sessions.len(), 2, "both have a stream");
}

#[test]
fn the_longest_detached_goes_first_when_there_are_too_many() {
    let mut sessions = sessions(2);
    for index in [0, 1] {
        sessions.attach(ms(0), &claim(index, 0), 100, at(index));
        let at_ms = ms(10 - u64::from(index));
        sessions.detach(at_ms, &claim(index, 0).key, at(index), dealt_with(1));
    }
    sessions.attach(ms(20), &claim(2, 0), 100, at(2));
    assert_eq!(sessions.take_evicted(), 1);
    let kept = begun(sessions.attach(ms(20), &claim(0, 100), 101, at(3)));
    assert_eq!(kept.0, Resume::Resumed);
    // Now both places have a stream: one more can't be kept, and says so.
    let Attached::Begins { resumption, .. } = sessions.attach(ms(21), &claim(1, 100), 9, at(4))
    else {
        panic!("a clash");
    };
    assert_eq!(resumption, Resumption::impossible(true));
    assert_eq!(sessions.take_evicted(), 1);
}

#[test]
fn another_epoch_makes_a_session_new_instead_of_unknown() {
    let mut sessions = sessions(10);
    let other_epoch = Claim {
        knows_epoch: false,
        ..claim(0, 100)
    };
    let new = begun(sessions.attach(ms(0), &other_epoch, 1, at(1)));
    assert_eq!(new, (Resume::New, 0, None));
}
