use proptest::prelude::*;

use super::*;
use zerocopy::IntoBytes as _;

/// Descriptors are numbers here.
type Received = (Vec<u8>, Vec<u32>);

fn head(flags: u32, files: u64) -> Vec<u8> {
    let (magic, version) = (MAGIC, U32::new(1));
    Head { magic, version, flags: U32::new(flags), nonce: U64::new(7), files: U64::new(files) }.as_bytes().to_vec()
}

fn text(kind: u32, count: usize, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Prefix { kind: U32::new(kind), count: U32::new(count as u32) }.as_bytes().to_vec();
    bytes.extend_from_slice(rest);
    bytes
}

fn files(tokens: &[u64]) -> Vec<u8> {
    text(FILES, tokens.len(), &tokens.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<_>>())
}

fn end() -> Vec<u8> {
    End { kind: U32::new(END), reserved: U32::new(0), stamp: U64::new(99) }.as_bytes().to_vec()
}

fn ticket(copy: u32, build_id: usize, argc: u32, rest: &[u8]) -> Vec<u8> {
    let mut record = TicketRecord::read_from_bytes(&[0; 56]).unwrap();
    record.kind = U32::new(TICKET);
    record.copy = U32::new(copy);
    record.inode = U64::new(12);
    record.mtime = U64::new((-5_i64).cast_unsigned());
    record.build_id = U32::new(build_id as u32);
    record.argc = U32::new(argc);
    [record.as_bytes(), rest].concat()
}

fn assemble(messages: &[Received]) -> Result<Option<RawParcel<u32>>, Fault> {
    let mut assembler = Assembler::new(usize::MAX);
    for (bytes, descriptors) in messages {
        if let Progress::Done(parcel) = assembler.push(bytes, descriptors.clone())? {
            return Ok(Some(parcel));
        }
    }
    Ok(None)
}

#[track_caller]
fn refused(messages: &[Received], code: Code, says: &str) {
    let fault = assemble(messages).unwrap_err();
    assert_eq!((fault.code(), fault.to_string().as_str()), (code, says));
}

#[test]
fn a_whole_parcel_keeps_order_and_numbers() {
    let parcel = assemble(&[
        (head(HAS_TICKET, 3), vec![10, 11]),
        (ticket(1, 2, 2, b"\xab\xcdname\0\0"), vec![]),
        (files(&[5, 1]), vec![20, 21]),
        (files(&[u64::MAX]), vec![22]),
        (end(), vec![]),
    ]);
    let parcel = parcel.unwrap().unwrap();
    assert_eq!((parcel.nonce, parcel.stamp_ns, parcel.arena, parcel.reason), (7, 99, 10, None));
    assert_eq!(parcel.files, [(5, 20), (1, 21), (u64::MAX, 22)]);
    let ticket = parcel.ticket.unwrap();
    assert_eq!((ticket.file, ticket.copy, ticket.argv), (11, true, vec!["name".into(), "".into()]));
    assert_eq!((ticket.identity.inode, ticket.identity.mtime), (12, -5));
    assert_eq!(ticket.identity.build_id, [0xab, 0xcd]);

    let back = [(head(HAS_REASON, 0), vec![1]), (text(REASON, 3, "nö".as_bytes()), vec![]), (end(), vec![])];
    assert_eq!(assemble(&back).unwrap().unwrap().reason.as_deref(), Some("nö"));
}

#[test]
fn a_parcel_with_another_side_keeps_its_descriptors_apart() {
    let said = "step\tnode\t5\n";
    let parcel = |flags, descriptors| {
        let report = (text(REPORT, said.len(), said.as_bytes()), vec![]);
        assemble(&[(head(flags, 0), descriptors), report, (end(), vec![])]).unwrap().unwrap()
    };
    let RawParcel { arena, other, report, ticket, .. } = parcel(HAS_BATON | HAS_LINE | HAS_REPORT, vec![1, 2, 3, 4]);
    let other = other.unwrap();
    assert_eq!((arena, other.baton, other.process, other.line), (1, 2, 3, Some(4)));
    assert_eq!((report.as_deref(), ticket.is_none()), (Some(said), true));
    let other = parcel(HAS_BATON | HAS_REPORT, vec![1, 2, 3]).other.unwrap();
    assert_eq!((other.baton, other.process, other.line), (2, 3, None));
    let start = (head(HAS_REPORT, 0), vec![1]);
    let says = "parcel-message: kind: found end, expected report";
    refused(&[start.clone(), (end(), vec![])], Code::ParcelMessage, says);
    let says = "too-large: report: found 65537, expected at most 65536 bytes";
    refused(&[start, (text(REPORT, 65_537, &[b'a'; 9]), vec![])], Code::TooLarge, says);
}

#[test]
fn another_version_is_a_mismatch_and_no_corruption() {
    let mut later = head(0, 0);
    later[8] = 2;
    // Longer than ours, and still not corrupt.
    later.extend_from_slice(&[1; 40]);
    refused(
        &[(later.clone(), vec![1])],
        Code::VersionNewer,
        "version-newer: parcel: found kho-parcel-v2, expected kho-parcel-v1",
    );
    later[8] = 0;
    refused(
        &[(later, vec![1])],
        Code::VersionOlder,
        "version-older: parcel: found kho-parcel-v0, expected kho-parcel-v1",
    );
}

#[test]
fn a_head_that_is_none() {
    let mut other = head(0, 0);
    other[0] = b'X';
    let says = "magic: head.magic: found 0x584b484f50434c0a, expected 0x7f4b484f50434c0a";
    refused(&[(other, vec![1])], Code::Magic, says);
    refused(
        &[(head(0, 0)[..31].to_vec(), vec![1])],
        Code::Truncated,
        "truncated: head: found 31 bytes, expected 32 bytes",
    );
    let mut longer = head(0, 0);
    longer.push(0);
    refused(&[(longer, vec![1])], Code::ParcelMessage, "parcel-message: head: found 33 bytes, expected 32 bytes");
    for (flags, count) in [(3, 2), (5, 4), (6, 3), (8, 2), (9, 3), (32, 1)] {
        let says = format!(
            "parcel-message: head.flags: found {flags:#x}, expected at most one of 1 (ticket), 2 (reason), 4 (baton); \
             8 (line) with a baton; 16 (report)"
        );
        refused(&[(head(flags, 0), vec![1; count])], Code::ParcelMessage, &says);
    }
    refused(&[(head(0, 0), vec![])], Code::ParcelCount, "parcel-count: head: found 0 descriptors, expected 1");
    refused(&[(head(1, 0), vec![1])], Code::ParcelCount, "parcel-count: head: found 1 descriptors, expected 2");
    refused(&[(head(4, 0), vec![1; 2])], Code::ParcelCount, "parcel-count: head: found 2 descriptors, expected 3");
    refused(&[(head(12, 0), vec![1; 3])], Code::ParcelCount, "parcel-count: head: found 3 descriptors, expected 4");
}

#[test]
fn fewer_and_more_files_than_the_head_says() {
    let start = (head(0, 2), vec![1]);
    let says = "parcel-count: files: found 1 descriptors, expected 2";
    refused(&[start.clone(), (files(&[1]), vec![2]), (end(), vec![])], Code::ParcelCount, says);
    refused(&[start.clone(), (files(&[1, 2]), vec![2])], Code::ParcelCount, says);
    let says = "parcel-count: files: found 3 descriptors, expected 2";
    refused(&[start.clone(), (files(&[1, 2, 3]), vec![2, 3, 4])], Code::ParcelCount, says);
    refused(&[start.clone(), (files(&[1, 2]), vec![2, 3, 4])], Code::ParcelCount, says);
    let says = "parcel-count: end: found 1 descriptors, expected 0";
    refused(&[start, (files(&[1, 2]), vec![2, 3]), (end(), vec![4])], Code::ParcelCount, says);
}

#[test]
fn tokens_that_lie() {
    let start = (head(0, 600), vec![1]);
    let says = "token-duplicate: files.token: 9";
    refused(
        &[(head(0, 2), vec![1]), (files(&[9]), vec![2]), (files(&[9]), vec![3]), (end(), vec![])],
        Code::TokenDuplicate,
        says,
    );
    let says = "parcel-message: files.count: found 0, expected 1..=253";
    refused(&[start.clone(), (files(&[]), vec![])], Code::ParcelMessage, says);
    let many: Vec<u64> = (0..254).collect();
    let says = "parcel-message: files.count: found 254, expected 1..=253";
    refused(&[start.clone(), (files(&many), vec![0; 254])], Code::ParcelMessage, says);
    let says = "truncated: files.tokens: found 8 bytes, expected 16 bytes";
    refused(&[start.clone(), (text(FILES, 2, &[0; 8]), vec![2, 3])], Code::Truncated, says);
    let says = "parcel-message: files.tokens: found 9 bytes, expected 8 bytes";
    refused(&[start, (text(FILES, 1, &[0; 9]), vec![2])], Code::ParcelMessage, says);
}

#[test]
fn messages_out_of_order() {
    let start = (head(HAS_TICKET, 1), vec![1, 2]);
    let says = "parcel-message: kind: found files, expected ticket";
    refused(&[start.clone(), (files(&[1]), vec![2])], Code::ParcelMessage, says);
    let ticket = (ticket(0, 0, 1, b"x\0"), vec![]);
    let says = "parcel-message: kind: found ticket, expected files";
    refused(&[start.clone(), ticket.clone(), ticket.clone()], Code::ParcelMessage, says);
    refused(&[(head(0, 0), vec![1]), ticket], Code::ParcelMessage, says);
    let says = "parcel-message: kind: found an unknown kind, expected ticket";
    refused(&[start.clone(), (vec![9, 0, 0, 0], vec![])], Code::ParcelMessage, says);
    refused(&[start, (vec![9, 0, 0], vec![])], Code::Truncated, "truncated: message: found 3 bytes, expected 4 bytes");
}

#[test]
fn nothing_counts_after_a_refused_message() {
    let mut assembler = Assembler::new(usize::MAX);
    assert!(assembler.push(b"junk", vec![1]).is_err());
    let fault = assembler.push(&head(0, 0), vec![1]).unwrap_err();
    assert_eq!(fault.to_string(), "parcel-message: kind: found after a refused message, expected nothing");
}

#[test]
fn tickets_reasons_and_ends_that_lie() {
    let ticket_says = |bytes: Vec<u8>, code, says| {
        refused(&[(head(HAS_TICKET, 0), vec![1, 2]), (bytes, vec![])], code, says);
    };
    let says = "parcel-message: ticket.copy: found 2, expected 0 or 1";
    ticket_says(ticket(2, 0, 1, b"x\0"), Code::ParcelMessage, says);
    let says = "too-large: ticket.build_id: found 65, expected at most 64 bytes";
    ticket_says(ticket(0, 65, 1, &[0; 70]), Code::TooLarge, says);
    let says = "truncated: ticket.build_id: found 3 bytes, expected 20 bytes";
    ticket_says(ticket(0, 20, 1, &[0; 3]), Code::Truncated, says);
    ticket_says(ticket(0, 0, 1, b"x\0y"), Code::Text, "text: ticket.argv: an argument without its NUL");
    ticket_says(ticket(0, 0, 3, b"x\0y\0"), Code::ParcelCount, "parcel-count: ticket.argc: found 3, expected 2");
    ticket_says(ticket(0, 0, 0, b""), Code::ParcelCount, "parcel-count: ticket.argc: found 0, expected 1");
    let says = "too-large: ticket.argv: found 65537, expected at most 65536 bytes";
    ticket_says(ticket(0, 0, 1, &[0; 65_537]), Code::TooLarge, says);
    ticket_says(
        ticket(0, 0, 1, b"")[..55].to_vec(),
        Code::Truncated,
        "truncated: ticket: found 55 bytes, expected 56 bytes",
    );

    let reason_says = |bytes: Vec<u8>, code, says| {
        refused(&[(head(HAS_REASON, 0), vec![1]), (bytes, vec![])], code, says);
    };
    reason_says(text(REASON, 2, b"a\xff"), Code::Text, "text: reason at offset 0x1: no UTF-8");
    reason_says(
        text(REASON, 4097, &[b'a'; 4097]),
        Code::TooLarge,
        "too-large: reason: found 4097, expected at most 4096 bytes",
    );
    reason_says(text(REASON, 2, b"a"), Code::Truncated, "truncated: reason: found 1 bytes, expected 2 bytes");

    let mut last = end();
    last[5] = 1;
    let says = "reserved: end.reserved: found 256, expected 0";
    refused(&[(head(0, 0), vec![1]), (last, vec![])], Code::Reserved, says);
    let says = "truncated: end: found 15 bytes, expected 16 bytes";
    refused(&[(head(0, 0), vec![1]), (end()[..15].to_vec(), vec![])], Code::Truncated, says);
}

fn any_message() -> impl Strategy<Value = Received> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..100),
        (0..33_u32, 0..5_u64).prop_map(|(flags, files)| head(flags, files)),
        prop::collection::vec(0..9_u64, 0..4).prop_map(|tokens| files(&tokens)),
        (0..3_u32, 0..5_usize, 0..3_u32).prop_map(|(copy, id, argc)| ticket(copy, id, argc, b"abcd\0e\0")),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| text(REASON, bytes.len(), &bytes)),
        Just(end()),
    ];
    let bent =
        (bytes, any::<prop::sample::Index>(), prop::option::of(any::<u8>())).prop_map(|(mut bytes, at, byte)| {
            if let (Some(byte), false) = (byte, bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        });
    (bent, prop_oneof![0..4_usize, 0..300_usize].prop_map(|count| vec![0; count]))
}

proptest! {
    #[test]
    fn any_messages_give_a_parcel_or_a_fault(messages in prop::collection::vec(any_message(), 0..12)) {
        let _ = assemble(&messages);
    }

    #[test]
    fn any_batches_come_together(tokens in prop::collection::hash_set(any::<u64>(), 0..700), size in 1..=BATCH) {
        let tokens: Vec<u64> = tokens.into_iter().collect();
        let mut messages = vec![(head(0, tokens.len() as u64), vec![1])];
        messages.extend(tokens.chunks(size).map(|some| (files(some), some.iter().map(|token| *token as u32).collect())));
        messages.push((end(), vec![]));
        let parcel = assemble(&messages).unwrap().unwrap();
        let expected: Vec<(u64, u32)> = tokens.iter().map(|token| (*token, *token as u32)).collect();
        prop_assert_eq!(parcel.files, expected);
    }
}
