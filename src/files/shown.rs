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
            vec![format!("{}:{}", rustix::fs::major(detail), rustix::fs::minor(detail))]
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
