use super::super::frames::MAX_CONTROL_PAYLOAD;
use super::*;
use proptest::prelude::*;
use tungstenite::protocol::frame::{FrameHeader, coding};

const LIMITS: SessionLimits = SessionLimits {
    max_message: 1 << 16,
    max_fragments: 100,
};

/// An event that owns what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Heard {
    fn from(event: Event<'_>) -> Heard {
        match event {
            Event::Text(text) => Heard::Text(text.to_owned()),
            Event::Binary(data) => Heard::Binary(data.to_owned()),
            Event::Ping(data) => Heard::Ping(data.to_owned()),
            Event::Pong(data) => Heard::Pong(data.to_owned()),
            Event::Close { code, reason } => Heard::Close(code, reason.to_owned()),
        }
    }
}

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame. The header is tungstenite's, so that we don't agree with ourselves only.
fn frame(fin: bool, opcode: Opcode, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        is_final: fin,
        opcode: coding::OpCode::from(opcode as u8),
        mask: Some(mask),
        ..FrameHeader::default()
    };
    let mut out = Vec::new();
    header.format(payload.len() as u64, &mut out).unwrap();
    out.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    out
}

fn whole(opcode: Opcode, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(true, opcode, MASK, payload.as_ref())
}

fn first(opcode: Opcode, payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(false, opcode, MASK, payload.as_ref())
}

/// What a session makes of the parts, received one after the other.
fn receive<P: AsRef<[u8]>>(parts: &[P]) -> (Vec<Heard>, Result<(), Violation>, Session) {
    let mut session = Session::new();
    let mut heard = Vec::new();
    for part in parts {
        let mut bytes = part.as_ref().to_vec();
        let result = session.receive(&LIMITS, &mut bytes, |event| heard.push(event.into()));
        if result.is_err() {
            return (heard, result, session);
        }
    }
    (heard, Ok(()), session)
}

/// The violation of these bytes, the same in one piece and byte by byte.
fn violation(bytes: &[u8]) -> Violation {
    let (_, result, _) = receive(&[bytes]);
    let (_, bytewise, session) = receive(&bytes.chunks(1).collect::<Vec<_>>());
    assert_eq!(result, bytewise);
    assert!(session.is_finished() && session.holds() == 0);
    result.unwrap_err()
}

#[test]
fn an_idle_session_is_two_words_and_holds_nothing() {
    assert!(size_of::<Session>() <= 16);
    let (_, _, session) = receive(&[whole(Opcode::Text, "hi"), whole(Opcode::Ping, "")]);
    assert_eq!(session.holds(), 0);
    assert!(!session.is_mid_message() && !session.is_finished());
}

#[test]
fn what_is_kept_for_a_cut_frame_is_given_back_when_it_ends() {
    let bytes = whole(Opcode::Binary, [7; 1000]);
    let mut session = Session::new();
    let (start, end) = bytes.split_at(600);
    session
        .receive(&LIMITS, &mut start.to_vec(), |_| panic!("not whole"))
        .unwrap();
    assert!(session.is_mid_message() && session.holds() >= 592);
    let mut count = 0;
    session
        .receive(&LIMITS, &mut end.to_vec(), |_| count += 1)
        .unwrap();
    assert_eq!((count, session.holds()), (1, 0));
}

// A client may announce as much as the limit allows and send nothing; were that reserved, a few
// thousand of them would take all memory.
#[test]
fn memory_grows_with_bytes_received_and_not_with_bytes_announced() {
    let limits = SessionLimits {
        max_message: 64 << 20,
        ..LIMITS
    };
    let announced: u64 = 16 << 20;
    let mut bytes = vec![0x82, 0xff];
    bytes.extend_from_slice(&announced.to_be_bytes());
    bytes.extend_from_slice(&MASK);
    bytes.extend_from_slice(&[1; 10]);
    let mut session = Session::new();
    session.receive(&limits, &mut bytes, |_| {}).unwrap();
    let overhead = size_of::<Partial>();
    assert!(overhead <= 160 && session.holds() <= overhead + 16);
    for received in 1..1000 {
        session.receive(&limits, &mut [1; 100], |_| {}).unwrap();
        assert!(session.holds() <= overhead + 2 * (received * 100 + 10));
    }
}

// A buffer that doubled past the end of a message would hold twice what is needed.
#[test]
fn a_frame_in_pieces_is_kept_in_a_buffer_of_its_size() {
    let payload = vec![1; 40_000];
    let bytes = whole(Opcode::Binary, &payload);
    let mut session = Session::new();
    for part in bytes[..bytes.len() - 1].chunks(1000) {
        session
            .receive(&LIMITS, &mut part.to_vec(), |_| {})
            .unwrap();
    }
    assert!(session.holds() <= size_of::<Partial>() + payload.len());
}

#[test]
fn a_message_over_the_limit_is_refused_at_its_header() {
    let announce =
        |opcode: u8, length: u64| [&[opcode, 0xff][..], &length.to_be_bytes(), &MASK].concat();
    assert_eq!(violation(&announce(0x82, (1 << 16) + 1)), Violation::TooBig);
    assert_eq!(violation(&announce(0x82, u64::MAX >> 1)), Violation::TooBig);
    let fragments = [first(Opcode::Text, "x"), announce(0x80, 1 << 16)].concat();
    assert_eq!(violation(&fragments), Violation::TooBig);
    let (heard, result, _) = receive(&[whole(Opcode::Binary, vec![0; 1 << 16])]);
    assert_eq!((heard.len(), result), (1, Ok(())));
    assert_eq!(Violation::TooBig.code(), CloseCode::TooBig);
}

// Empty fragments take no memory, so the size limit never ends them.
#[test]
fn fragments_without_end_are_refused() {
    let mut bytes = first(Opcode::Text, "");
    for _ in 0..LIMITS.max_fragments {
        bytes.extend(first(Opcode::Continue, ""));
    }
    assert_eq!(violation(&bytes), Violation::TooManyFragments);
}

#[test]
fn broken_headers_are_refused_by_the_first_byte_that_shows_it() {
    for bits in [0x40, 0x20, 0x10] {
        assert_eq!(violation(&[0x81 | bits]), Violation::ReservedBits);
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_eq!(violation(&[0x80 | opcode]), Violation::ReservedOpcode);
    }
    for opcode in [8, 9, 10] {
        assert_eq!(violation(&[opcode]), Violation::FragmentedControl);
        assert_eq!(
            violation(&[0x80 | opcode, 0xfe]),
            Violation::OversizeControl
        );
    }
    assert_eq!(violation(&[0x81, 0x05]), Violation::Unmasked);
    assert_eq!(violation(&[0x81, 0xfe, 0, 125]), Violation::BadLength);
    assert_eq!(
        violation(&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
        Violation::BadLength
    );
    assert_eq!(
        violation(&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        Violation::BadLength
    );
    assert_eq!(Violation::Unmasked.code(), CloseCode::Protocol);
}

#[test]
fn fragments_come_in_turn() {
    let stray = whole(Opcode::Continue, "x");
    assert_eq!(violation(&stray), Violation::UnexpectedContinuation);
    let nested = [first(Opcode::Text, "a"), whole(Opcode::Text, "b")].concat();
    assert_eq!(violation(&nested), Violation::ExpectedContinuation);
    let after = [whole(Opcode::Text, "a"), stray].concat();
    assert_eq!(violation(&after), Violation::UnexpectedContinuation);
}

#[test]
fn control_frames_between_fragments_are_heard_at_once() {
    let parts = [
        first(Opcode::Text, "Hel"),
        whole(Opcode::Ping, [9; MAX_CONTROL_PAYLOAD]),
        first(Opcode::Continue, ""),
        whole(Opcode::Pong, ""),
        whole(Opcode::Continue, "lo"),
    ];
    let (heard, result, _) = receive(&parts);
    let expected = [
        Heard::Ping(vec![9; MAX_CONTROL_PAYLOAD]),
        Heard::Pong(Vec::new()),
        Heard::Text("Hello".to_owned()),
    ];
    assert_eq!((heard.as_slice(), result), (expected.as_slice(), Ok(())));
}

// Autobahn 6.3 and 6.4: "κόσμε", a surrogate or a code point over U+10FFFF, then more.
#[test]
fn text_fails_as_soon_as_it_cannot_become_utf8() {
    for invalid in [&b"\xed\xa0"[..], b"\xf4\x90", b"\xc0", b"\xff", b"\xe2\x28"] {
        let text = ["κόσμε".as_bytes(), invalid].concat();
        // A frame that announces more than this never ends; the failure may not wait for it.
        let mut endless = whole(Opcode::Text, vec![0; 1000]);
        let (header, payload) = endless.split_at_mut(8);
        payload[..text.len()].copy_from_slice(&text);
        unmask(&mut payload[..text.len()], MASK, 0);
        let cut = [&header[..], &payload[..text.len()]].concat();
        assert_eq!(violation(&cut), Violation::InvalidUtf8);
        assert_eq!(
            violation(&first(Opcode::Text, &text)),
            Violation::InvalidUtf8
        );
        assert_eq!(
            violation(&whole(Opcode::Text, &text)),
            Violation::InvalidUtf8
        );
    }
    assert_eq!(Violation::InvalidUtf8.code(), CloseCode::InvalidUtf8);
}

#[test]
fn a_character_may_be_cut_by_fragments_but_not_by_the_end() {
    let text = "a😀é";
    for cut in 0..=text.len() {
        let (start, end) = text.as_bytes().split_at(cut);
        let parts = [first(Opcode::Text, start), whole(Opcode::Continue, end)];
        assert_eq!(receive(&parts).0, [Heard::Text(text.to_owned())]);
    }
    let cut = &text.as_bytes()[..3];
    assert_eq!(violation(&whole(Opcode::Text, cut)), Violation::InvalidUtf8);
    let fragments = [first(Opcode::Text, cut), whole(Opcode::Continue, "")].concat();
    assert_eq!(violation(&fragments), Violation::InvalidUtf8);
}

#[test]
fn close_frames_are_checked() {
    let close = |payload: &[u8]| whole(Opcode::Close, payload);
    assert_eq!(violation(&close(b"x")), Violation::BadClosePayload);
    assert_eq!(
        violation(&close(&1005u16.to_be_bytes())),
        Violation::BadCloseCode
    );
    assert_eq!(violation(&close(b"\x03\xe8\xff")), Violation::InvalidUtf8);
    assert_eq!(
        receive(&[close(b"")]).0,
        [Heard::Close(None, String::new())]
    );
    let (heard, _, _) = receive(&[close("\u{3}è bye".as_bytes())]);
    assert_eq!(
        heard,
        [],
        "é is two bytes, so this code is 0x03c3: not valid"
    );
    let (heard, _, _) = receive(&[close(b"\x03\xe8bye")]);
    assert_eq!(heard, [Heard::Close(Some(1000), "bye".to_owned())]);
}

#[test]
fn nothing_is_read_after_a_close_or_a_violation() {
    let text = whole(Opcode::Text, "late");
    let closed = [whole(Opcode::Close, ""), text.clone(), vec![0xff; 9]].concat();
    let (heard, result, session) = receive(&[&closed[..], &text]);
    assert_eq!((heard.len(), result), (1, Ok(())));
    assert!(session.is_finished() && !session.is_mid_message());
    let mut session = Session::new();
    session.receive(&LIMITS, &mut [0xff], |_| {}).unwrap_err();
    session
        .receive(&LIMITS, &mut text.clone(), |_| panic!("after a violation"))
        .unwrap();
}

/// What a client says, and how it cuts it into fragments.
fn said() -> impl Strategy<Value = (Heard, Vec<prop::sample::Index>)> {
    let small = || prop::collection::vec(any::<u8>(), 0..=MAX_CONTROL_PAYLOAD);
    let heard = prop_oneof![
        "[ -~é€😀]{0,300}".prop_map(Heard::Text),
        prop::collection::vec(any::<u8>(), 0..700).prop_map(Heard::Binary),
        small().prop_map(Heard::Ping),
        small().prop_map(Heard::Pong),
    ];
    (
        heard,
        prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    )
}

/// Frames of a message, cut into fragments; those of a control frame stay one.
fn frames(heard: &Heard, cuts: &[prop::sample::Index], mask: u32) -> Vec<Vec<u8>> {
    let (opcode, payload) = match heard {
        Heard::Text(text) => (Opcode::Text, text.as_bytes()),
        Heard::Binary(data) => (Opcode::Binary, data.as_slice()),
        Heard::Ping(data) => (Opcode::Ping, data.as_slice()),
        Heard::Pong(data) => (Opcode::Pong, data.as_slice()),
        Heard::Close(..) => unreachable!("not generated"),
    };
    let cuts = if opcode.is_control() { &[] } else { cuts };
    let mut ends: Vec<usize> = cuts
        .iter()
        .map(|cut| cut.index(payload.len() + 1))
        .collect();
    ends.push(payload.len());
    ends.sort_unstable();
    let mut from = 0;
    let mut frames = Vec::new();
    for (i, to) in ends.iter().copied().enumerate() {
        let opcode = if i == 0 { opcode } else { Opcode::Continue };
        let mask = mask.rotate_left(i as u32).to_le_bytes();
        frames.push(frame(i + 1 == ends.len(), opcode, mask, &payload[from..to]));
        from = to;
    }
    frames
}

fn cut(mut bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    for size in sizes.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (part, rest) = bytes.split_at((*size).min(bytes.len()));
        parts.push(part.to_vec());
        bytes = rest;
    }
    parts
}

proptest! {
    // Messages in fragments, a ping between any two of them, cut anywhere: the same events in the
    // same order, and nothing kept at the end.
    #[test]
    fn what_is_said_is_heard_however_it_is_cut(
        all in prop::collection::vec(said(), 0..12),
        mask: u32, pings: bool,
        sizes in prop::collection::vec(prop_oneof![1usize..20, 1usize..2000], 1..6),
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for (heard, cuts) in &all {
            let frames = frames(heard, cuts, mask);
            for (i, frame) in frames.iter().enumerate() {
                if i > 0 && pings {
                    bytes.extend(whole(Opcode::Ping, "between"));
                    expected.push(Heard::Ping(b"between".to_vec()));
                }
                bytes.extend(frame);
            }
            expected.push(heard.clone());
        }
        let (heard, result, session) = receive(&cut(&bytes, &sizes));
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(heard, expected);
        prop_assert_eq!(session.holds(), 0);
    }

    // Garbage that begins like frames gets further into the machine than plain garbage.
    #[test]
    fn garbage_never_panics_and_is_judged_the_same_however_it_is_cut(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20),
            (0u8..16, any::<bool>(), prop::collection::vec(any::<u8>(), 0..130)).prop_map(
                |(opcode, fin, payload)| {
                    let first = opcode | if fin { 0x80 } else { 0 };
                    [&[first, 0x80 | payload.len() as u8][..], &MASK, &payload].concat()
                }
            ),
        ], 0..8),
        size in 1usize..50,
    ) {
        let bytes = pieces.concat();
        let (heard, result, _) = receive(&[&bytes]);
        let (heard_in_parts, result_in_parts, _) = receive(&cut(&bytes, &[size]));
        prop_assert_eq!(heard, heard_in_parts);
        prop_assert_eq!(result, result_in_parts);
    }
}
