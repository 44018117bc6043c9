//! `kho-upgrade-v1` and `kho-parcel-v1` by hand, as an adversary speaks them: raw bytes, no types of the library.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

pub(crate) const FILES: u32 = 3;
pub(crate) const END: u32 = 4;
pub(crate) const MORE: u32 = 16;
pub(crate) const HELLO: u32 = 17;
pub(crate) const PREPARE: u32 = 18;
pub(crate) const PREPARED: u32 = 19;
pub(crate) const ACCEPTED: u32 = 20;
pub(crate) const COMMIT: u32 = 21;
pub(crate) const COMMITTED: u32 = 22;
pub(crate) const ABORT: u32 = 23;
pub(crate) const REFUSED: u32 = 24;
pub(crate) const KEEP: u32 = 25;
pub(crate) const PROCESS: u32 = 27;
/// Of a parcel's head.
pub(crate) const HAS_BATON: u32 = 4;

pub(crate) struct Raw(pub(crate) OwnedFd);

pub(crate) fn socket() -> OwnedFd {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

pub(crate) fn prefixed(kind: u32, count: usize, text: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &u32::try_from(count).unwrap().to_le_bytes(), text].concat()
}

pub(crate) fn hello(version: u32, note: &[u8]) -> Vec<u8> {
    [b"\x7fKHOUP\0\n".as_slice(), &version.to_le_bytes(), &[0; 4], note].concat()
}

/// The first message of a parcel.
pub(crate) fn head(version: u32, flags: u32, nonce: u64, files: u64) -> Vec<u8> {
    let words = [&version.to_le_bytes()[..], &flags.to_le_bytes(), &nonce.to_le_bytes(), &files.to_le_bytes()];
    [b"\x7fKHOPCL\n".as_slice(), &words.concat()].concat()
}

pub(crate) fn end() -> Vec<u8> {
    [&END.to_le_bytes()[..], &[0; 12]].concat()
}

pub(crate) fn tokens(tokens: &[u64]) -> Vec<u8> {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    prefixed(FILES, tokens.len(), &bytes)
}

pub(crate) fn own_pidfd() -> OwnedFd {
    let flags = rustix::process::PidfdFlags::empty();
    rustix::process::pidfd_open(rustix::process::getpid(), flags).unwrap()
}

impl Raw {
    pub(crate) fn connect(path: &Path) -> Raw {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let socket = socket();
            match rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()) {
                Ok(()) => return Raw(socket),
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Listens there, and takes the first who comes.
    pub(crate) fn accept(path: &Path) -> Raw {
        let socket = socket();
        rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&socket, 4).unwrap();
        Raw(rustix::net::accept_with(&socket, SocketFlags::CLOEXEC).unwrap())
    }

    pub(crate) fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    /// Nothing comes of it when nobody listens any more.
    pub(crate) fn say(&self, kind: u32, text: &[u8]) {
        let _ = self.send(&prefixed(kind, text.len(), text), &[]);
    }

    /// Its own pidfd, or what it gives out for it.
    pub(crate) fn pass(&self, process: impl AsFd) {
        let _ = self.send(&prefixed(PROCESS, 0, b""), &[process.as_fd()]);
    }

    /// The next message; none at the end, or when there is none for a long time.
    pub(crate) fn hear(&self) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let long = Timespec { tv_sec: 20, tv_nsec: 0 };
        let mut wanted = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        if rustix::event::poll(&mut wanted, Some(&long)).unwrap() == 0 {
            return None;
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = vec![0; 1 << 18];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).ok()?;
        bytes.truncate(got.bytes);
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        (!bytes.is_empty()).then_some((bytes, files))
    }

    /// The text of the next message, which is of that kind.
    #[track_caller]
    pub(crate) fn hears(&self, kind: u32) -> String {
        let (bytes, _) = self.hear().unwrap_or_else(|| panic!("the end, and not {kind}"));
        assert_eq!(bytes[..4], kind.to_le_bytes(), "{:?}", String::from_utf8_lossy(&bytes));
        String::from_utf8_lossy(&bytes[8..]).into_owned()
    }

    /// All that is still to be heard.
    pub(crate) fn rest(&self) -> Vec<(u32, String)> {
        let all = std::iter::from_fn(|| self.hear());
        let told = |(bytes, _): (Vec<u8>, _)| {
            let kind = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            (kind, String::from_utf8_lossy(bytes.get(8..).unwrap_or_default()).into_owned())
        };
        all.map(told).collect()
    }
}

/// What a successor has received.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) baton: Option<OwnedFd>,
    pub(crate) files: Vec<OwnedFd>,
}

/// How far a successor goes, as one should, before it does something else.
pub(crate) const STATES: [&str; 10] = [
    "before hello",
    "after hello",
    "after process",
    "after hello was heard",
    "during files",
    "after prepared",
    "after half a parcel",
    "after the whole parcel",
    "after accepted",
    "after commit was said",
];

pub(crate) fn come_to(raw: &Raw, state: usize, note: &[u8]) -> Held {
    let mut held = Held::default();
    for now in 1..=state {
        match now {
            1 => raw.say(HELLO, &hello(1, note)),
            2 => raw.pass(own_pidfd()),
            3 => drop(raw.hears(HELLO)),
            4 => held.files.extend(raw.hear().unwrap().1),
            5 => {
                raw.hears(PREPARE);
                raw.say(PREPARED, b"");
            }
            6 => {
                let (_, mut files) = raw.hear().unwrap();
                held.baton = Some(files.remove(1));
                held.files.extend(files);
            }
            7 => loop {
                let (bytes, files) = raw.hear().unwrap();
                held.files.extend(files);
                if bytes[..4] == END.to_le_bytes() {
                    break;
                }
            },
            8 => raw.say(ACCEPTED, b""),
            _ => drop(raw.hears(COMMIT)),
        }
    }
    held
}

/// What is in a baton, without waiting.
pub(crate) fn value(baton: &OwnedFd) -> u64 {
    let mut value = [0; 8];
    rustix::io::read(baton, &mut value[..]).map_or(0, |_| u64::from_ne_bytes(value))
}
