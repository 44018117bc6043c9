//! What the command and its servers say to each other: messages in a socket that every server has as its standard input.
//! When the command is gone the other end is closed, and whoever serves ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use kho::transport::{Report, Whose};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// To a server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Leave by exec, with a keeper or without, for the life of that number.
    Leave { kept: bool, life: u64 },
    /// Say that you serve.
    Who,
}

/// From a server.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// The first of them serves.
    Serving { pid: u32, port: u16, fixed: u64 },
    /// It stands still, and leaves.
    Leaving { pid: u32, life: u64 },
    /// Everything is restored, and nobody was told yet.
    Restored { pid: u32 },
    /// It serves now; as a keeper, because of that.
    TookOver { pid: u32, reason: Option<String>, measured: Measured },
    /// Another one serves.
    Left { pid: u32, measured: Measured },
    /// It still serves.
    Stayed { pid: u32, step: String, why: String },
    /// It is the one that serves.
    Here { pid: u32 },
    /// Nothing is right any more.
    Failed { pid: u32, why: String },
}

/// Where the time went: `kho::transport::Report`, as it is sent on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Measured {
    /// From the first hook that froze until the successor took over, in nanoseconds.
    pub(super) blackout: Option<u64>,
    /// Steps of both sides, in their order.
    pub(super) timings: Vec<Timing>,
    /// The same for people.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub(super) table: String,
}

/// One step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Timing {
    /// `predecessor` or `successor`
    pub(super) of: String,
    /// The step.
    pub(super) step: String,
    /// The node or the part; `/` is the whole step.
    pub(super) node: String,
    /// Nanoseconds.
    pub(super) nanos: u64,
}

impl From<&Report> for Measured {
    fn from(report: &Report) -> Self {
        let timing = |one: &kho::transport::Timing| Timing {
            of: if one.of == Whose::Predecessor { "predecessor" } else { "successor" }.into(),
            step: one.step.clone(),
            node: one.node.clone(),
            nanos: one.nanos,
        };
        let timings = report.timings.iter().map(timing).collect();
        Measured { blackout: report.blackout, timings, table: report.to_string() }
    }
}

/// A report has some dozens of lines.
const MOST: usize = 128 << 10;

/// Both ends.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

pub(super) fn say(socket: impl AsFd, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    rustix::io::retry_on_intr(|| rustix::net::send(&socket, &text, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// The next message; none when the other end is closed.
pub(super) fn hear<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<T>> {
    let mut text = vec![0; MOST];
    let (len, _) = rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut text[..], RecvFlags::empty()))?;
    Ok(if len == 0 { None } else { Some(serde_json::from_slice(&text[..len])?) })
}
