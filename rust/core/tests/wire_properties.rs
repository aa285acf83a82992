//! The wire format against a second reader: what was written is read back, and whatever else comes is refused by the
//! same rule, without a look beyond the input.

#![allow(clippy::unwrap_used)] // Helpers of tests fail as tests do.

mod wire_model;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sagacore_core::limits::{
    CONSUMES_MAX, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, PUBLISHES_MAX, SECTION_BYTES_MAX, TRANSACTION_BYTES_MAX,
};
use sagacore_core::wire::{
    Flags, Header, Key, Kind, Malformed, SagaId, Section, Sections, Transaction, TransactionWriter, Transactions,
    write_encoded,
};
use wire_model::{MessageModel, TransactionModel, oracle, read, rules, section_numbers, write};

fn sagas() -> impl Strategy<Value = SagaId> {
    any::<(u16, u64, u32)>().prop_map(|(shard, sequence, nonce)| SagaId::new(shard, sequence, nonce))
}

fn keys() -> impl Strategy<Value = Key> {
    let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| kind.is_token()).collect();
    (sagas(), any::<u32>(), select(kinds), any::<u16>()).prop_map(|(saga, attempt, kind, place)| {
        let mut header = Header::new(kind);
        (header.saga, header.attempt, header.place) = (saga, attempt.into(), place.into());
        Key::of(&header)
    })
}

fn headers() -> impl Strategy<Value = Header> {
    let numbers = any::<([u64; 7], [u16; 2], u32, u16, [u8; 16])>();
    (select(Kind::ALL), sagas(), numbers).prop_map(|(kind, saga, (wide, short, attempt, flags, trace))| {
        let mut header = Header::new(kind);
        header.saga = saga;
        [header.plan, header.done, header.active, header.undo, header.age, header.deadline_ms, header.amount] =
            wide.map(Into::into);
        [header.place, header.deliveries] = short.map(Into::into);
        header.attempt = attempt.into();
        header.flags = (flags & Flags::ALL).into();
        header.trace = trace;
        header
    })
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![8 => 0..40usize, 1 => 250..260usize];
    (any::<u8>(), length).prop_map(|(byte, length)| vec![byte; length])
}

fn messages() -> impl Strategy<Value = MessageModel> {
    let some = || btree_map(0..Section::END, values(), 0..18);
    let large = (0..Section::END, some()).prop_map(|(key, mut sections)| {
        sections.insert(key, vec![key; SECTION_BYTES_MAX]);
        sections
    });
    let all = any::<u8>().prop_map(|byte| section_numbers().map(|key| (key, vec![byte; 3])).collect());
    (headers(), prop_oneof![8 => some(), 1 => large, 1 => all]).prop_map(|(header, sections)| {
        let sections: Vec<_> = sections.iter().map(|(&key, value)| (key, value.as_slice())).collect();
        MessageModel::new(header, &sections)
    })
}

fn transactions() -> impl Strategy<Value = TransactionModel> {
    (any::<u64>(), vec(keys(), 0..4), vec(messages(), 0..4)).prop_map(|(number, consumes, messages)| TransactionModel {
        number,
        consumes,
        messages,
    })
}

fn frames() -> impl Strategy<Value = Vec<TransactionModel>> {
    vec(transactions(), 1..4)
}

/// A small change of valid bytes.
#[derive(Clone, Debug)]
enum Change {
    Cut(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// Writes a number, little-endian or big-endian, anywhere.
    Write(Index, u64, usize, bool),
    /// The same within the first headers, where most rules look.
    Head(usize, u64, usize),
}

fn changes() -> impl Strategy<Value = Change> {
    const EDGES: [u64; 12] = [0, 1, 2, 8, 16, 26, 64, 0x7f, 0x80, 0xff, 0xffff, u64::MAX];
    let edge = || prop_oneof![select(&EDGES[..]), any::<u64>()];
    let width = || select(&[1_usize, 2, 4, 8][..]);
    prop_oneof![
        1 => any::<Index>().prop_map(Change::Cut),
        1 => (any::<Index>(), vec(any::<u8>(), 1..24)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (any::<Index>(), 1..24usize).prop_map(|(at, count)| Change::Remove(at, count)),
        3 => (any::<Index>(), edge(), width(), any::<bool>())
            .prop_map(|(at, value, width, is_big)| Change::Write(at, value, width, is_big)),
        3 => (0..24 + 24 + 128 + 16usize, edge(), width())
            .prop_map(|(at, value, width)| Change::Head(at, value, width)),
    ]
}

fn change(bytes: &mut Vec<u8>, change: &Change) {
    let overwrite = |bytes: &mut Vec<u8>, at: usize, with: &[u8]| {
        for (old, new) in bytes.iter_mut().skip(at).zip(with) {
            *old = *new;
        }
    };
    let place = |bytes: &Vec<u8>, at: &Index| at.index(bytes.len() + 1);
    match change {
        Change::Cut(at) => bytes.truncate(place(bytes, at)),
        Change::Insert(at, new) => {
            let at = place(bytes, at);
            bytes.splice(at..at, new.iter().copied());
        }
        Change::Remove(at, count) => {
            let at = place(bytes, at);
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Change::Write(at, value, width, true) => {
            overwrite(bytes, at.index(bytes.len() + 1), &value.to_be_bytes()[8 - width..]);
        }
        Change::Write(at, value, width, false) => {
            overwrite(bytes, at.index(bytes.len() + 1), &value.to_le_bytes()[..*width]);
        }
        Change::Head(at, value, width) => overwrite(bytes, *at, &value.to_le_bytes()[..*width]),
    }
}

/// Both readers say the same of any bytes.
fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    let (all, broken) = read(bytes);
    let name = broken.map(Malformed::name);
    prop_assert!(name.as_ref().is_none_or(|name| rules().contains(name)));
    let (expected, rule) = oracle::judge(bytes);
    prop_assert_eq!(name.as_deref(), rule);
    prop_assert_eq!(all, expected);
    Ok(())
}

/// A frame of one message with this body.
fn with_body(body: &[u8]) -> Vec<u8> {
    let (mut message, mut frame) = (Vec::new(), Vec::new());
    write_encoded(&mut message, Header::new(Kind::Run), body);
    TransactionWriter::new(&mut frame, 1).finish_with(&message, 1);
    frame
}

proptest! {
    // A case takes microseconds, and most rules need a change of few bytes among hundreds.
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_was_written_is_read_back(frame in frames()) {
        let bytes = write(&frame);
        prop_assert_eq!(read(&bytes), (frame.clone(), None));
        prop_assert_eq!(oracle::judge(&bytes), (frame, None));
    }

    #[test]
    fn every_section_is_found_and_no_other(message in messages()) {
        let bytes = write(&[TransactionModel { number: 0, consumes: Vec::new(), messages: vec![message.clone()] }]);
        let (transaction, _) = Transaction::parse(&bytes).unwrap();
        let sections = transaction.messages().next().unwrap().sections();
        for key in 0..=u8::MAX {
            let expected = message.sections.iter().find(|(at, _)| *at == key).map(|(_, value)| value.as_slice());
            prop_assert_eq!(sections.get(key), expected);
        }
    }

    #[test]
    fn a_cut_frame_gives_what_is_whole_and_the_rule(frame in frames(), at in any::<Index>()) {
        let bytes = write(&frame);
        let cut = at.index(bytes.len());
        let (whole, broken) = read(&bytes[..cut]);
        prop_assert_eq!(&whole[..], &frame[..whole.len()]);
        let expected = match write(&whole).len() {
            0 if cut == 0 => Some(Malformed::FrameLength),
            end if end == cut => None,
            _ => Some(Malformed::TransactionTruncated),
        };
        prop_assert_eq!(broken, expected);
    }

    #[test]
    fn changed_frames_are_judged_alike(frame in frames(), all in vec(changes(), 1..4)) {
        let mut bytes = write(&frame);
        for one in &all {
            change(&mut bytes, one);
        }
        agree(&bytes)?;
    }

    #[test]
    fn small_frames_with_one_change_are_judged_alike(
        key in keys(), header in headers(), value in vec(any::<u8>(), 0..20), one in changes(),
    ) {
        let message = MessageModel::new(header, &[(3, &value), (Section::INPUT, &value)]);
        let mut bytes = write(&[TransactionModel { number: 1, consumes: vec![key], messages: vec![message] }]);
        change(&mut bytes, &one);
        agree(&bytes)?;
    }

    #[test]
    fn any_bytes_are_judged_alike(bytes in vec(any::<u8>(), 0..400)) {
        agree(&bytes)?;
    }

    #[test]
    fn any_body_is_judged_alike(
        body in vec(prop_oneof![
            select(&[0x80_u8, 0x81, 0x82, 0x83, 0x8f, 0x90, 0xc0, 0xc4, 0xc5, 0xc6, 0xde, 0xdf][..]),
            select(&[0_u8, 1, 2, 3, 63, 64, 68, 69, 70, 71, 72, 127][..]),
        ], 0..24),
    ) {
        agree(&with_body(&body))?;
        let direct = Sections::parse(&body).err().map(Malformed::name);
        prop_assert_eq!(direct.as_deref(), oracle::judge(&with_body(&body)).1);
    }

    #[test]
    fn nothing_is_read_beyond_the_input(
        frame in frames(), all in vec(changes(), 0..3),
        before in vec(any::<u8>(), 0..40), after in vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = write(&frame);
        for one in &all {
            change(&mut bytes, one);
        }
        let alone = read(&bytes);
        let surrounded = [&before[..], &bytes[..], &after[..]].concat();
        let inner = &surrounded[before.len()..before.len() + bytes.len()];
        prop_assert_eq!(&read(inner), &alone, "what lies around the input makes no difference");
        let is_within = |part: &[u8]| {
            let (whole, part) = (inner.as_ptr_range(), part.as_ptr_range());
            whole.start <= part.start && part.end <= whole.end
        };
        for transaction in Transactions::parse(inner).into_iter().flatten().map_while(Result::ok) {
            prop_assert!(is_within(transaction.bytes()));
            for message in transaction.messages() {
                prop_assert!(is_within(message.body) && message.sections().all(|(_, value)| is_within(value)));
            }
        }
    }

    #[test]
    fn a_transaction_ends_where_it_says(one in transactions(), after in vec(any::<u8>(), 0..200)) {
        let bytes = write(std::slice::from_ref(&one));
        let followed = [&bytes[..], &after[..]].concat();
        let (transaction, rest) = Transaction::parse(&followed).unwrap();
        prop_assert_eq!(transaction.bytes(), &bytes[..]);
        prop_assert_eq!(rest, &after[..]);
    }
}

/// The rule that a frame breaks, as both readers see it.
fn rule(frame: &[u8]) -> Option<Malformed> {
    agree(frame).unwrap();
    read(frame).1
}

fn frame_of(consumes: usize, messages: Vec<MessageModel>) -> Vec<u8> {
    let key = Key::of(&Header::new(Kind::Done));
    write(&[TransactionModel { number: 1, consumes: vec![key; consumes], messages }])
}

fn message_of(section: u8, bytes: usize) -> MessageModel {
    MessageModel::new(Header::new(Kind::Run), &[(section, &vec![7; bytes])])
}

/// A message of so many bytes, all but one section of them.
fn message_of_bytes(bytes: usize) -> MessageModel {
    let message = message_of(Section::DATA, bytes - 128 - 1 - 4);
    assert_eq!(message.header.length.get() as usize, bytes);
    message
}

/// Adds 8 bytes to a message at the end of a frame's only transaction, and to the lengths that count it.
fn grow(frame: &mut Vec<u8>, message: usize) {
    for at in [0, message, message + 104] {
        let grown = u32::from_le_bytes(frame[at..at + 4].try_into().unwrap()) + 8;
        frame[at..at + 4].copy_from_slice(&grown.to_le_bytes());
    }
    frame.extend_from_slice(&[0; 8]);
}

#[test]
fn sections_keep_their_limit() {
    for section in section_numbers() {
        let limited = section != Section::DATA && section != Section::TEXT;
        assert_eq!(rule(&frame_of(0, vec![message_of(section, SECTION_BYTES_MAX)])), None);
        let beyond = rule(&frame_of(0, vec![message_of(section, SECTION_BYTES_MAX + 1)]));
        assert_eq!(beyond, limited.then_some(Malformed::BodySection));
    }
    assert_eq!(rule(&with_body(&[0xde, 0, 73])), Some(Malformed::BodyMap));
}

#[test]
fn transactions_keep_their_counts() {
    assert_eq!(rule(&frame_of(CONSUMES_MAX, Vec::new())), None);
    assert_eq!(rule(&frame_of(CONSUMES_MAX + 1, Vec::new())), Some(Malformed::TransactionCounts));
    let empty = MessageModel::new(Header::new(Kind::Done), &[]);
    assert_eq!(rule(&frame_of(0, vec![empty.clone(); PUBLISHES_MAX])), None);
    assert_eq!(rule(&frame_of(0, vec![empty; PUBLISHES_MAX + 1])), Some(Malformed::TransactionCounts));
}

#[test]
fn lengths_keep_their_limits() {
    let mut frame = frame_of(0, vec![message_of_bytes(MESSAGE_BYTES_MAX)]);
    assert_eq!(rule(&frame), None);
    grow(&mut frame, 24);
    assert_eq!(rule(&frame), Some(Malformed::MessageLength));

    let mut messages = vec![message_of_bytes(MESSAGE_BYTES_MAX); TRANSACTION_BYTES_MAX / MESSAGE_BYTES_MAX - 1];
    messages.push(message_of_bytes(MESSAGE_BYTES_MAX - 24));
    let mut frame = frame_of(0, messages);
    assert_eq!((rule(&frame), frame.len()), (None, TRANSACTION_BYTES_MAX));
    let mut whole = frame.repeat(FRAME_BYTES_MAX / TRANSACTION_BYTES_MAX);
    assert_eq!((rule(&whole), whole.len()), (None, FRAME_BYTES_MAX));
    whole.push(0);
    assert_eq!(rule(&whole), Some(Malformed::FrameLength));
    let last = TRANSACTION_BYTES_MAX - (MESSAGE_BYTES_MAX - 24);
    grow(&mut frame, last);
    assert_eq!(rule(&frame), Some(Malformed::TransactionLength));
}
