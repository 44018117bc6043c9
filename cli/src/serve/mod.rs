//! `kho serve-demo`: a service that is upgraded while it is used.

mod control;
mod drive;
mod kill;
mod latency;
mod load;
pub(crate) mod report;
mod server;
mod session;
pub(crate) mod state;
mod store;
mod worker;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::demo::Format;
use crate::units::parse_size;

/// How the service is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) enum Transport {
    /// The process is replaced by its successor
    Exec,
    /// The same, and a process waits that goes on if the successor does not
    Keeper,
    /// To a process beside it, through a unix socket
    Unix,
    /// exec, keeper and unix, one after the other
    All,
    /// In a session of /dev/liveupdate, across a kexec: in two halves
    Session,
}

/// What part a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The first server
    First,
    /// The server that takes over, by exec or at the door
    Next,
}

const HELP: &str = "\
A key-value server with its data in an arena, its listener and its clients are
handed over to a new process, again and again, while clients in this command use
it, open and close connections, and check every answer. Requests that are lost,
answers that are wrong, connections that are closed or refused: all must be
zero. With --kill a successor is killed at a random instant before it has taken
over; the one before it, or its keeper, goes on.

Transports:
  exec      the process is replaced, and keeps its process id
  keeper    the same, with a process beside it that goes on when the successor
            dies
  unix      the successor is another process, which comes to a unix socket
  session   in a session of /dev/liveupdate, across a kexec: needs root, and a
            kernel with CONFIG_LIVEUPDATE that was booted with kho=on
            liveupdate=on

No connection and no process survives a kexec, so --transport session is run
twice. Where the previous kernel left no session of that name, it is the first
half: the service, which is in this command, is loaded for --seconds by clients
at a unix socket. When all is answered these end; data, state and what the
clients know are put into the session; and the command says \"parked\", and holds
the session until the kernel is left. Ended before that, even by SIGTERM, it
hands over nothing. In the next kernel the same command is the second half: it
takes the session, looks for every value that was answered, and loads the
service again, by clients that go on from what they know. It has the --size and
--clients of the first. Neither half heeds --upgrades and --kill.

Examples:
  kho serve-demo
  kho serve-demo --transport unix --upgrades 20 --seconds 0.2
  kho serve-demo --transport keeper --kill 50 --seed 7
  kho serve-demo --transport all --format json
  kho serve-demo --transport session &
      when it has parked: kexec -s -l bzImage --reuse-cmdline && kho kexec now;
      then, in the next kernel, the same

Exit codes: 0 nothing was lost, 1 something was lost or wrong (it is named), 2
it could not be done.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// By which way
    #[arg(long, value_enum, default_value = "all")]
    transport: Transport,
    /// Upgrades by each transport
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=10_000))]
    upgrades: u64,
    /// Clients
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=256))]
    clients: u64,
    /// Seconds at rest before each upgrade, and after the last
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    seconds: f64,
    /// Further upgrades whose successor is killed (not by exec, where nobody would be left)
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=10_000))]
    kill: u64,
    /// Bytes of the data
    #[arg(long, value_parser = parse_size, default_value = "64MiB", value_name = "SIZE")]
    size: u64,
    /// Name of the session, by --transport session
    #[arg(long, value_name = "NAME", default_value = "serve-demo")]
    session: String,
    /// Of everything that is random; without it another one each time
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,

    /// The part of a process that this command started
    #[arg(long, value_enum, hide = true, requires_all = ["door", "life", "parent"])]
    role: Option<Role>,
    #[arg(long, hide = true)]
    door: Option<PathBuf>,
    #[arg(long, hide = true)]
    life: Option<u64>,
    #[arg(long, hide = true)]
    parent: Option<u32>,
}

impl Args {
    /// How long the service is left alone.
    fn rest(&self) -> Result<Duration, String> {
        Duration::try_from_secs_f64(self.seconds).map_err(|error| format!("--seconds: {error}"))
    }

    /// Of everything that is random.
    fn random(&self) -> u64 {
        self.seed.unwrap_or_else(|| store::mix(crate::demo::now()) >> 32)
    }
}

/// What a server is told when it is started.
#[derive(Clone, Debug)]
struct Life {
    role: Role,
    /// Where successors come.
    door: PathBuf,
    size: u64,
    number: u64,
    /// The command.
    parent: u32,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    if let (Some(role), Some(door), Some(number), Some(parent)) = (args.role, &args.door, args.life, args.parent) {
        return server::live(&Life { role, door: door.clone(), size: args.size, number, parent });
    }
    let transports = match args.transport {
        Transport::All => vec![Transport::Exec, Transport::Keeper, Transport::Unix],
        Transport::Session => return session::run(args),
        one => vec![one],
    };
    crate::demo::enough_memory(args.size.saturating_mul(2))?;
    let seed = args.random();
    let stages = transports.into_iter().map(|transport| drive::run(args, transport, seed));
    report::Report::new(args.size, args.clients, seed, stages.collect::<Result<_, _>>()?).print(args.format)
}
