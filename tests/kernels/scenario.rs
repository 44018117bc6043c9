//! What the guest hands over. Guest and host include this file, so that both know every byte.
#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges, not of what is in them")]

use std::ops::Range;

pub(crate) const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// As `F_GET_SEALS` has them.
pub(crate) const SEAL: u32 = 1;
pub(crate) const SHRINK: u32 = 2;
pub(crate) const GROW: u32 = 4;
pub(crate) const WRITE: u32 = 8;
pub(crate) const FUTURE_WRITE: u32 = 16;
pub(crate) const EXEC: u32 = 32;
/// What Linux makes of [`EXEC`] on a file that comes back: its mode is then 0777, and such a file must not be written.
const EXEC_AND_WHAT_IT_IMPLIES: u32 = EXEC | SHRINK | GROW | WRITE | FUTURE_WRITE;

/// The session that `kho luo` makes and takes.
pub(crate) const BY_COMMAND: &str = "by command";
/// The session that the next kernel takes and closes, so that its file is freed.
pub(crate) const CLOSED: &str = "closed";

/// The session of `kho serve-demo`, in the first kernel.
pub(crate) const SERVED: &str = "serve-demo";
/// The session that has a whole handover.
pub(crate) const HANDOVER: &str = "handover";
/// Bytes of its arena.
pub(crate) const ARENA_SIZE: u64 = MIB;
/// Bytes of an array in it.
pub(crate) const ARRAY: u64 = 10 * PAGE - 7;

#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) files: Vec<Memfd>,
}

#[derive(Clone, Debug)]
pub(crate) struct Memfd {
    pub(crate) token: u64,
    pub(crate) size: u64,
    pub(crate) pos: u64,
    pub(crate) seals: u32,
    /// Where bytes were written; the rest are holes.
    pub(crate) written: Vec<Range<u64>>,
    /// Written, positioned and sealed once it was preserved.
    pub(crate) late: bool,
}

impl Memfd {
    fn new(token: u64, size: u64) -> Memfd {
        Memfd { token, size, pos: 0, seals: 0, written: Vec::from([0..size]), late: false }
    }

    fn at(self, pos: u64) -> Memfd {
        Memfd { pos, ..self }
    }

    fn sealed(self, seals: u32) -> Memfd {
        Memfd { seals, ..self }
    }

    fn written(self, written: impl Into<Vec<Range<u64>>>) -> Memfd {
        Memfd { written: written.into(), ..self }
    }

    /// The seals that Linux hands over: those that it had when it was preserved.
    pub(crate) fn seals_preserved(&self) -> u32 {
        if self.late { 0 } else { self.seals }
    }

    /// The seals that it has once Linux has restored it.
    pub(crate) fn seals_restored(&self) -> u32 {
        if self.late {
            return 0;
        }
        if self.seals & EXEC == 0 { self.seals } else { self.seals | EXEC_AND_WHAT_IT_IMPLIES }
    }

    pub(crate) fn bytes(&self, session: &str) -> Vec<u8> {
        let mut bytes = vec![0; self.size as usize];
        for range in &self.written {
            fill(session, self.token, range.start, &mut bytes[range.start as usize..range.end as usize]);
        }
        bytes
    }
}

/// Bytes that no other place in any other file has: those at this offset of the file of this token.
fn fill(session: &str, token: u64, offset: u64, to: &mut [u8]) {
    let seed = session.bytes().fold(token, |seed, byte| mix(seed ^ u64::from(byte)));
    for (byte, at) in to.iter_mut().zip(offset..) {
        let word = mix(seed.wrapping_add(at / 8));
        *byte = word.to_le_bytes()[(at % 8) as usize];
    }
}

/// The end of splitmix64.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// What is handed over, by the word `kho_scenario` of the guest's command line.
pub(crate) fn sessions(scenario: &str) -> Vec<Session> {
    match scenario {
        "many" => many_files(),
        "huge" => Vec::from([Session { name: "huge".into(), files: huge() }]),
        _ => Vec::new(),
    }
}

/// The files of [`HANDOVER`] but for the arena and the root: the user's, and that of a state.
pub(crate) fn handover() -> Session {
    let files = Vec::from([
        Memfd::new(1, 100_000).at(77),
        Memfd::new(2, PAGE + 1).sealed(SEAL | SHRINK | GROW | WRITE),
        Memfd::new(3, 0).at(5),
        Memfd::new(1 << 63, MIB / 2 + 3).at(MIB).sealed(SHRINK),
    ]);
    Session { name: HANDOVER.into(), files }
}

/// Bytes of that handover that are in no file.
pub(crate) fn noise(token: u64, size: u64) -> Vec<u8> {
    Memfd::new(token, size).bytes(HANDOVER)
}

/// A page of records holds 51 sessions or 63 files: there are two pages of the one, three of the other.
fn many_files() -> Vec<Session> {
    let mut sessions = Vec::from([
        Session { name: "many".into(), files: (0..140).map(many).collect() },
        Session { name: "sizes".into(), files: sizes() },
        Session { name: "seals".into(), files: seals() },
        // The longest name, and bytes that a file name could not have.
        Session { name: format!("/a name: of {}", "63 bytes, ".repeat(6))[..63].into(), files: Vec::from([many(1)]) },
        Session { name: "nothing".into(), files: Vec::new() },
        Session { name: CLOSED.into(), files: Vec::from([many(2)]) },
        Session { name: "late".into(), files: late() },
    ]);
    sessions.extend((0..50).map(|number| Session {
        name: format!("one of many {number}"),
        files: Vec::from([Memfd::new(u64::from(number == 0), 3 + number).at(number)]),
    }));
    // In the order in which the command takes them, and the last, so that the guest has closed the device.
    let copied = Memfd::new(1, 2 * PAGE + 9).written([PAGE..2 * PAGE + 9]);
    let files = Vec::from([Memfd::new(2, 3 * PAGE + 1).at(77).sealed(SHRINK), copied]);
    sessions.push(Session { name: BY_COMMAND.into(), files });
    sessions
}

fn late() -> Vec<Memfd> {
    let late = |token| Memfd { late: true, ..Memfd::new(token, 3 * PAGE) };
    Vec::from([late(1), late(2).at(500), late(3).sealed(SHRINK)])
}

/// Tokens in no order, sizes around pages, positions inside, at the end and behind it.
fn many(number: u64) -> Memfd {
    let size = [0, 1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE, 12_345][number as usize % 7];
    let pos = [0, size / 2, size, size + 9][number as usize % 4];
    Memfd::new(mix(number), size).at(pos)
}

fn sizes() -> Vec<Memfd> {
    let large = 5 * MIB + 123;
    Vec::from([
        Memfd::new(0, 0),
        Memfd::new(1, 1).at(1),
        Memfd::new(2, PAGE),
        Memfd::new(u64::MAX, MIB).at(u64::from(u32::MAX) + 1),
        Memfd::new(1 << 63, large).at(large - 1),
        // Only holes, a hole in front, one at the end, and data at both ends of one.
        Memfd::new(10, 10 * PAGE).written([]),
        Memfd::new(11, 10 * PAGE + 5).written(Vec::from([9 * PAGE + 7..10 * PAGE + 5])),
        Memfd::new(12, 10 * PAGE).written(Vec::from([0..PAGE / 2])),
        Memfd::new(13, 3 * MIB).written([0..1, 3 * MIB - 1..3 * MIB]).at(PAGE),
    ])
}

/// With huge pages, even one byte has one.
fn huge() -> Vec<Memfd> {
    Vec::from([
        Memfd::new(1, 8 * MIB),
        Memfd::new(2, 5 * MIB + 123).at(4 * MIB).sealed(SEAL | SHRINK | GROW | WRITE),
        Memfd::new(3, 1),
        Memfd::new(4, 6 * MIB).written([2 * MIB + 5..2 * MIB + 6]),
        Memfd::new(5, 0),
    ])
}

fn seals() -> Vec<Memfd> {
    let sets = [SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE, EXEC, SHRINK | GROW, SEAL | SHRINK | GROW | WRITE, 0x1f, 0x3f];
    let files = sets.into_iter().zip(1..).map(|(seals, number)| Memfd::new(number, 2 * PAGE + number).sealed(seals));
    files.collect()
}
