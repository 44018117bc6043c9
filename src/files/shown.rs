//! What a record says of its own kind, in words.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use super::identity::{high, low};
use super::kind::Kind;
use crate::abi::files::{EVENTFD_ID, EVENTFD_SEMAPHORE, Record};

/// The name of a number, or the number.
fn named(number: u64, names: &[(u64, &str)], what: &str) -> String {
    let name = names.iter().find(|(one, _)| *one == number);
    name.map_or_else(|| format!("{what} {number}"), |(_, name)| (*name).into())
}

/// What only this kind has. A record that lies is shown as it is.
pub(crate) fn details(record: &Record) -> Vec<String> {
    const DOMAINS: [(u64, &str); 5] = [(1, "unix"), (2, "inet"), (10, "inet6"), (16, "netlink"), (40, "vsock")];
    const TYPES: [(u64, &str); 4] = [(1, "stream"), (2, "datagram"), (3, "raw"), (5, "seqpacket")];
    const CLOCKS: [(u64, &str); 5] =
        [(0, "realtime"), (1, "monotonic"), (7, "boottime"), (8, "realtime-alarm"), (9, "boottime-alarm")];
    let (detail, more) = (record.detail.get(), record.more.get());
    let Some(kind) = Kind::of_number(record.kind.get()) else {
        return if detail | more == 0 { Vec::new() } else { vec![format!("{detail:#x}"), format!("{more:#x}")] };
    };
    match kind {
        Kind::Memfd | Kind::Regular => Vec::new(),
        Kind::Hugetlb => vec![format!("pages of {detail} bytes")],
        Kind::Pipe => {
            let end = match record.status.get() & 0b11 {
                0 => "reading end",
                1 => "writing end",
                _ => "both ends",
            };
            vec![end.into(), format!("capacity {detail}")]
        }
        Kind::Socket => {
            let mut all = vec![named(low(detail), &DOMAINS, "domain"), named(high(detail), &TYPES, "type")];
            if low(more) != 0 {
                all.push(format!("protocol {}", low(more)));
            }
            if high(more) != 0 {
                all.push("listening".into());
            }
            all
        }
        Kind::CharDevice | Kind::BlockDevice => {
            let number = format!("{}:{}", rustix::fs::major(detail), rustix::fs::minor(detail));
            let terminal = more.checked_sub(1).map(|terminal| format!("terminal {terminal}"));
            core::iter::once(number).chain(terminal).collect()
        }
        Kind::Eventfd => {
            let id = (more & EVENTFD_ID != 0).then(|| format!("id {detail}"));
            id.into_iter().chain((more & EVENTFD_SEMAPHORE != 0).then(|| "semaphore".into())).collect()
        }
        Kind::Epoll => vec![format!("watches {detail}")],
        Kind::Timerfd => {
            let clock = named(detail, &CLOCKS, "clock");
            vec![clock, if more == 0 { "without interval".into() } else { format!("every {more} ns") }]
        }
        Kind::Signalfd => {
            let set = (1..=64_u32).filter(|signal| detail & 1_u64.wrapping_shl(signal.saturating_sub(1)) != 0);
            let signals: Vec<String> = set.map(|signal| signal.to_string()).collect();
            vec![format!("signals {}", if signals.is_empty() { "none".into() } else { signals.join(" ") })]
        }
        Kind::Pidfd => vec![match detail {
            0 => "process of another namespace".into(),
            u64::MAX => "process that is gone".into(),
            number => format!("process {number}"),
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    fn shown(kind: u32, status: u32, detail: u64, more: u64) -> String {
        let mut record = Record::new_zeroed();
        (record.kind, record.status) = (kind.into(), status.into());
        (record.detail, record.more) = (detail.into(), more.into());
        details(&record).join(", ")
    }

    #[test]
    fn details_in_words() {
        let max = u64::MAX;
        let of = |kind: Kind, detail: u64, more: u64| shown(kind.number(), 0, detail, more);
        assert_eq!(of(Kind::Memfd, 0, 0), "");
        assert_eq!(of(Kind::Hugetlb, 2 << 20, 0), "pages of 2097152 bytes");
        assert_eq!(of(Kind::Pipe, 65536, 0), "reading end, capacity 65536");
        assert_eq!(shown(Kind::Pipe.number(), 0o4001, 4096, 0), "writing end, capacity 4096");
        assert_eq!(shown(Kind::Pipe.number(), 2, 4096, 0), "both ends, capacity 4096");
        assert_eq!(of(Kind::Socket, 1 << 32 | 2, 1 << 32 | 6), "inet, stream, protocol 6, listening");
        assert_eq!(of(Kind::Socket, 1 << 32 | 99, 0), "domain 99, stream");
        assert_eq!(of(Kind::CharDevice, 259, 0), "1:3");
        assert_eq!(of(Kind::CharDevice, 5 << 8 | 2, 4), "5:2, terminal 3");
        assert_eq!(of(Kind::Eventfd, 7, 1), "id 7");
        assert_eq!(of(Kind::Eventfd, 0, 2), "semaphore");
        assert_eq!(of(Kind::Epoll, 3, 0), "watches 3");
        assert_eq!(of(Kind::Timerfd, 7, 0), "boottime, without interval");
        assert_eq!(of(Kind::Timerfd, 1, 500), "monotonic, every 500 ns");
        assert_eq!(of(Kind::Signalfd, 1 << 63 | 1 << 9, 0), "signals 10 64");
        assert_eq!(of(Kind::Signalfd, 0, 0), "signals none");
        assert_eq!(
            [0, 42, max].map(|process| of(Kind::Pidfd, process, 1)),
            ["process of another namespace", "process 42", "process that is gone"]
        );
        // What lies is shown as it is.
        assert_eq!((shown(99, 0, 0, 0), shown(99, 0, 1, max)), (String::new(), "0x1, 0xffffffffffffffff".into()));
        assert_eq!(of(Kind::Socket, max, max), "domain 4294967295, type 4294967295, protocol 4294967295, listening");
    }
}
