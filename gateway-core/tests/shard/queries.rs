//! Questions about users, asked of a shard and of a whole gateway.

use crate::world::{LogicId, World, logic::pushing, user_of, world};
use gateway_proto::v1::{
    self, RejectReason, Scope, gateway_frame::Body as Up, logic_frame::Body as Down,
    query::Question,
};

fn ask(world: &mut World, logic: LogicId, question: Question) -> u64 {
    let question = Some(question);
    world
        .service(logic)
        .command(Down::Query(v1::Query { question }))
}

fn answer(world: &mut World, logic: LogicId, sequence: u64) -> Option<v1::QueryResult> {
    let frames = &world.service(logic).frames;
    let mut results = frames.iter().filter_map(|frame| match frame {
        Up::Result(result) if result.sequence == sequence => Some(result.clone()),
        _ => None,
    });
    let found = results.next();
    assert!(results.next().is_none(), "one answer to a query");
    found
}

fn subscribe(world: &mut World, logic: LogicId, user: &str) {
    let target = v1::subscribe::Target::UserId(user.into());
    world.service(logic).command(Down::Subscribe(v1::Subscribe {
        target: Some(target),
        topic: "news".into(),
    }));
}

fn totals() -> Question {
    Question::Totals(v1::query::Totals {})
}

fn news() -> Question {
    Question::Topic("news".into())
}

/// Two connections of a user on shard 0, one of a user on shard 1, an anonymous one; all users in the topic.
fn populated() -> (World, [String; 2]) {
    let mut world = world(2, |_| {});
    let users = [user_of(0, 2), user_of(1, 2)];
    for user in [&users[0], &users[0], &users[1]] {
        world.connect(1, &format!("/ws?user={user}"));
    }
    world.connect(0, "/ws");
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Gateway));
    for user in &users {
        subscribe(&mut world, logic, user);
    }
    world.settle();
    (world, users)
}

#[test]
fn a_query_of_the_whole_gateway_sums_up_all_shards() {
    let (mut world, users) = populated();
    let logic = world.logic(1);
    world.service(logic).hello(pushing(Scope::Gateway));
    let of_user = ask(&mut world, logic, Question::UserId(users[0].clone()));
    let nobody = ask(&mut world, logic, Question::UserId("nobody".into()));
    let in_all = ask(&mut world, logic, totals());
    let in_topic = ask(&mut world, logic, news());
    world.settle();
    let mut counts = |sequence| {
        let answer = answer(&mut world, logic, sequence).expect("an answer");
        assert!(!answer.truncated);
        let named = answer.connections.len() as u64;
        (answer.users, answer.connection_count, named)
    };
    assert_eq!(counts(of_user), (1, 2, 2));
    assert_eq!(counts(nobody), (0, 0, 0));
    assert_eq!(counts(in_all), (2, 4, 0));
    assert_eq!(counts(in_topic), (2, 3, 3));
    assert_eq!(world.service(logic).acked(), in_topic);
}

#[test]
fn a_query_of_a_shard_answers_for_the_shard() {
    let (mut world, users) = populated();
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    let here = ask(&mut world, logic, Question::UserId(users[0].clone()));
    let elsewhere = ask(&mut world, logic, Question::UserId(users[1].clone()));
    let in_all = ask(&mut world, logic, totals());
    let in_topic = ask(&mut world, logic, news());
    world.settle();
    let mut counts = |sequence| {
        let answer = answer(&mut world, logic, sequence).expect("an answer");
        (answer.users, answer.connection_count)
    };
    assert_eq!(counts(here), (1, 2));
    assert_eq!(counts(in_all), (1, 3));
    assert_eq!(counts(in_topic), (1, 2));
    assert_eq!(answer(&mut world, logic, elsewhere), None);
    let rejections = world.service(logic).rejections();
    assert_eq!(rejections, [(elsewhere, RejectReason::WrongShard)]);
}

/// What an answer names can be pushed to.
#[test]
fn connections_of_an_answer_are_those_of_the_user() {
    let mut world = world(1, |_| {});
    let client = world.connect(0, "/ws?user=alice");
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    let query = ask(&mut world, logic, Question::UserId("alice".into()));
    world.settle();
    let answer = answer(&mut world, logic, query).expect("an answer");
    let target = v1::message_request::Target::Connection(answer.connections[0]);
    world
        .service(logic)
        .push(crate::world::logic::to(target, "hi"));
    world.settle();
    assert_eq!(world.client(client).texts(), ["hi"]);
    world.reset(client);
    let query = ask(&mut world, logic, Question::UserId("alice".into()));
    let in_all = ask(&mut world, logic, totals());
    world.settle();
    for sequence in [query, in_all] {
        let answer = self::answer(&mut world, logic, sequence).expect("an answer");
        assert_eq!((answer.users, answer.connection_count), (0, 0));
    }
}

#[test]
fn invalid_questions_are_rejected() {
    let mut world = world(1, |_| {});
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    ask(&mut world, logic, Question::UserId(String::new()));
    ask(&mut world, logic, Question::Topic("x".repeat(257)));
    world
        .service(logic)
        .command(Down::Query(v1::Query::default()));
    world.settle();
    let reasons = [
        RejectReason::InvalidName,
        RejectReason::InvalidName,
        RejectReason::UnknownTarget,
    ];
    let rejections = world.service(logic).rejections();
    let rejected: Vec<_> = rejections.into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(rejected, reasons);
}

#[test]
fn an_answer_names_at_most_10_000_connections() {
    let mut world = world(2, |config| {
        config.limits.max_connections_per_user = 20_000;
    });
    let users = [user_of(0, 2), user_of(1, 2)];
    for (shard, user) in users.iter().enumerate() {
        let members = if shard == 0 { 10_001 } else { 5 };
        crate::world::crowd(&mut world, shard, members, |_| user.clone());
    }
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Gateway));
    for user in &users {
        subscribe(&mut world, logic, user);
    }
    let of_user = ask(&mut world, logic, Question::UserId(users[0].clone()));
    let in_topic = ask(&mut world, logic, news());
    world.settle();
    let answers = [of_user, in_topic].map(|sequence| answer(&mut world, logic, sequence));
    let [of_user, in_topic] = answers.map(|answer| answer.expect("an answer"));
    assert!(of_user.truncated && in_topic.truncated);
    assert_eq!((of_user.connections.len(), of_user.users), (10_000, 1));
    assert_eq!(of_user.connection_count, 10_001);
    assert_eq!((in_topic.connections.len(), in_topic.users), (10_000, 2));
    assert_eq!(in_topic.connection_count, 10_006);
}

/// Answers are larger than questions: who asks and does not read gets no more, and is told so once it reads.
#[test]
fn who_reads_no_answers_gets_a_bounded_number_of_them() {
    let mut world = world(2, |config| {
        config.limits.max_connections_per_user = 1000;
    });
    let user = user_of(1, 2);
    crate::world::crowd(&mut world, 1, 1000, |_| user.clone());
    let window = h2_stream::Config {
        stream_window: 64 << 10,
        ..Default::default()
    };
    let logic = world.logic_with(0, window);
    world.service(logic).hello(pushing(Scope::Gateway));
    world.settle();
    world.service(logic).reads = false;
    let mut questions = Vec::new();
    for _ in 0..500 {
        questions.push(ask(&mut world, logic, Question::UserId(user.clone())));
        world.settle();
    }
    let answered = world.total(|m| m.queries.get());
    assert!((50..200).contains(&answered), "{answered} answers");
    world.service(logic).release_all();
    world.settle();
    let rejections = world.service(logic).rejections();
    let refused: Vec<u64> = rejections.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(refused.len() as u64 + answered, 500);
    for sequence in questions {
        let answer = answer(&mut world, logic, sequence);
        assert_ne!(answer.is_some(), refused.contains(&sequence));
    }
}

/// Large topics are looked through one per tick, and commands of other shards are not starved by them.
#[test]
fn large_queries_are_spread_over_ticks() {
    let mut world = world(1, |config| {
        config.limits.max_connections_per_user = 5000;
    });
    crate::world::crowd(&mut world, 0, 3000, |n| format!("user-{n}"));
    let logic = world.logic(0);
    world.service(logic).hello(pushing(Scope::Shard));
    for n in 0..3000 {
        subscribe(&mut world, logic, &format!("user-{n}"));
    }
    world.settle();
    for _ in 0..20 {
        ask(&mut world, logic, news());
    }
    let mut before = 0;
    while world.step() {
        let answered = world.total(|m| m.queries.get());
        assert!(answered - before <= 1);
        before = answered;
    }
    assert_eq!(before, 20);
}
