//! Messages that lie about themselves, and any messages at all.

use proptest::prelude::*;
use rustix::net::{SendFlags, send};

use super::*;

fn datagram(kind: u32, count: usize, text: &[u8]) -> Vec<u8> {
    let prefix = Prefix { kind: U32::new(kind), count: U32::new(u32::try_from(count).unwrap()) };
    [prefix.as_bytes(), text].concat()
}

fn says(datagrams: &[Vec<u8>]) -> String {
    let mut pieces = Pieces::default();
    for bytes in datagrams {
        match pieces.push(bytes, 0) {
            Ok(None) => {}
            Ok(Some(message)) => return format!("{} of {} bytes", name_of(message.kind), message.text.len()),
            Err(fault) => return fault.to_string(),
        }
    }
    "nothing yet".to_owned()
}

#[test]
fn a_message_is_whole_or_refused() {
    let full = vec![7; PIECE];
    assert_eq!(says(&[datagram(COMMIT, 0, b"")]), "commit of 0 bytes");
    assert_eq!(says(&[datagram(ACCEPTED, PIECE, &full)]), "accepted of 32768 bytes");
    assert_eq!(says(&[datagram(ACCEPTED, PIECE + 1, &full)]), "nothing yet");
    let more = |count, text: &[u8]| vec![datagram(ACCEPTED, PIECE + 1, &full), datagram(MORE, count, text)];
    assert_eq!(says(&more(PIECE + 1, b"x")), "accepted of 32769 bytes");
    assert_eq!(
        says(&more(PIECE + 2, b"xy")),
        "parcel-message: kind: found more, expected more of the message before",
        "another length than before"
    );
    assert_eq!(says(&more(PIECE + 1, b"")), "parcel-message: message: found 0 bytes, expected 1");
    assert_eq!(says(&more(PIECE + 1, b"xy")), "parcel-message: message: found 2 bytes, expected 1");
    assert_eq!(
        says(&[datagram(ACCEPTED, PIECE + 1, &full), datagram(ACCEPTED, PIECE + 1, b"x")]),
        "parcel-message: kind: found accepted, expected more of the message before"
    );
    assert_eq!(says(&[datagram(MORE, 1, b"x")]), "parcel-message: kind: found more, expected a first message");
    assert_eq!(says(&[datagram(HELLO, 2, b"x")]), "parcel-message: message: found 1 bytes, expected 2");
    assert_eq!(says(&[datagram(HELLO, 0, b"x")]), "parcel-message: message: found 1 bytes, expected 0");
    assert_eq!(
        says(&[datagram(HELLO, TEXT_LIMIT + 1, b"x")]),
        "too-large: message: found 1048577, expected at most 1048576 bytes"
    );
    assert_eq!(says(&[vec![0; 7]]), "truncated: message: found 7 bytes, expected 8 bytes and more");
    assert_eq!(says(&[Vec::new()]), "peer-closed: message: the end of the connection");
    let fault = Pieces::default().push(&datagram(HELLO, 0, b""), 253).unwrap_err();
    assert_eq!(fault.to_string(), "parcel-count: message: found 253 descriptors, expected 0");
}

#[test]
fn no_memory_is_taken_for_what_is_only_announced() {
    let mut pieces = Pieces::default();
    assert!(pieces.push(&datagram(ACCEPTED, TEXT_LIMIT, &vec![0; PIECE]), 0).unwrap().is_none());
    let (_, total, text) = pieces.begun.unwrap();
    assert_eq!(total, TEXT_LIMIT);
    assert!(text.capacity() <= 2 * PIECE, "{}", text.capacity());
}

#[test]
fn a_message_whose_end_comes_later_than_its_beginning_is_heard_whole() {
    let (line, other) = Line::pair().unwrap();
    let text: Vec<u8> = (0..=255).cycle().take(2 * PIECE + 5).collect();
    let (first, rest) = text.split_at(PIECE);
    send(&other, &datagram(ACCEPTED, text.len(), first), SendFlags::empty()).unwrap();
    std::thread::scope(|scope| {
        let heard = scope.spawn(|| line.next(None, Instant::now() + Duration::from_secs(20)));
        // It has seen the first piece, and there is no other one.
        while !is_read(&line) {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(30));
        for piece in rest.chunks(PIECE) {
            send(&other, &datagram(MORE, text.len(), piece), SendFlags::empty()).unwrap();
        }
        let Happened::Said(message) = heard.join().unwrap() else { panic!("nothing was heard") };
        assert_eq!((message.kind, message.text == text), (ACCEPTED, true));
    });
}

/// Whether nothing waits to be read.
fn is_read(line: &Line) -> bool {
    socket::recv_peek(line.as_fd(), &mut [0; 8]) == Err(Errno::AGAIN)
}

#[test]
fn a_message_of_which_half_comes_is_late() {
    let (line, other) = Line::pair().unwrap();
    send(&other, &datagram(ACCEPTED, PIECE + 1, &vec![0; PIECE]), SendFlags::empty()).unwrap();
    let end = Instant::now() + Duration::from_millis(50);
    assert!(matches!(line.next(None, end), Happened::Late));
}

#[test]
fn what_is_said_is_bounded_and_moves_no_cursor() {
    let said = |text: &[u8]| Message { kind: REFUSED, text: text.to_vec() }.said();
    assert_eq!(said(b"not\ttoday\n\x1b[2Jgone\0\x7f"), "not\ttoday\n\u{fffd}[2Jgone\u{fffd}\u{fffd}");
    assert_eq!(said(&[0xff, b'a']), "\u{fffd}a");
    assert_eq!(said(&vec![b'a'; TEXT_LIMIT]).len(), REASON_LIMIT);
}

proptest! {
    /// Any messages give a text or a fault.
    #[test]
    fn any_datagrams_are_heard_or_refused(
        datagrams in proptest::collection::vec(
            (
                prop_oneof![Just(MORE), HELLO..=PROCESS, any::<u32>()],
                prop_oneof![0_usize..80_000, Just(PIECE), Just(PIECE + 3), Just(TEXT_LIMIT + 1)],
                prop_oneof![0_usize..64, Just(PIECE)],
                0_usize..8,
                prop_oneof![9 => Just(0_usize), 1 => Just(253)],
            ),
            0..12,
        )
    ) {
        let mut pieces = Pieces::default();
        for (kind, count, text, cut, descriptors) in datagrams {
            let mut bytes = datagram(kind, count, &vec![0x5a; text]);
            bytes.truncate(bytes.len() - cut);
            let held = pieces.begun.as_ref().map_or(0, |(_, _, text)| text.len());
            match pieces.push(&bytes, descriptors) {
                Ok(Some(message)) => prop_assert_eq!(message.text.len(), held + bytes.len() - 8),
                Ok(None) => prop_assert!(pieces.begun.is_some()),
                Err(fault) => prop_assert!(!fault.to_string().is_empty()),
            }
            let held = pieces.begun.as_ref().map_or(0, |(_, _, text)| text.len());
            prop_assert!(held <= TEXT_LIMIT);
        }
    }

    /// So do any bytes of a hello and of the wish to keep.
    #[test]
    fn any_bytes_are_a_hello_or_none(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..96),
        real in any::<bool>(),
        nonce: u64,
    ) {
        if let Some(head) = bytes.get_mut(..8).filter(|_| real) {
            head.copy_from_slice(&MAGIC);
        }
        match Hello::read(&bytes) {
            Ok((hello, note)) => prop_assert_eq!((hello.version.get(), note.len()), (1, bytes.len() - 16)),
            Err(fault) => prop_assert!(!fault.to_string().is_empty()),
        }
        prop_assert_eq!(Keep::read(&bytes).is_ok(), bytes.len() >= 48 && real && bytes[8..12] == [1, 0, 0, 0]);
        let wish = datagram(KEEP, bytes.len(), &bytes);
        prop_assert_eq!(is_keep_of(&wish, nonce), false);
    }
}

#[test]
fn a_hello_of_another_version_is_a_mismatch_and_no_corruption() {
    let hello = Hello { version: U32::new(2), ..Hello::new() };
    let fault = Hello::read(hello.as_bytes()).unwrap_err();
    assert_eq!(fault.to_string(), "version-newer: hello: found kho-upgrade-v2, expected kho-upgrade-v1");
    let hello = Hello { version: U32::ZERO, ..Hello::new() };
    assert_eq!(Hello::read(hello.as_bytes()).unwrap_err().code(), Code::VersionOlder);
    let hello = Hello { reserved: U32::new(1), ..Hello::new() };
    assert_eq!(Hello::read(hello.as_bytes()).unwrap_err().to_string(), "reserved: hello.reserved: found 1, expected 0");
}

#[test]
fn the_last_words_of_a_peer_that_did_not_listen_are_heard() {
    let (ours, theirs) = Line::pair().unwrap();
    let theirs = Line::of(theirs).unwrap();
    ours.say(HELLO, &[b"unread"], Wait::Never).unwrap();
    theirs.say(REFUSED, &[b"not today"], Wait::Never).unwrap();
    drop(theirs);
    let wait = Wait::for_(Duration::from_secs(1));
    assert_eq!(ours.expect(PREPARED, wait).unwrap_err().to_string(), "refused: not today");
    assert_eq!(ours.expect(PREPARED, wait).unwrap_err().code(), Code::PeerClosed);
    let says = "peer-closed: process: the end of the connection";
    assert_eq!(ours.take_process(wait).unwrap_err().to_string(), says);
}
