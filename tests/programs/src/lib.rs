//! A service that counts: commands on standard input, one line each, answers on standard output, each with a line `.`
//! behind it. Both outlive an exec, so whoever asks notices nothing of an upgrade but its answers.
//!
//! ```text
//! add N               total and what was added
//! get                 the total
//! history             what was added
//! hint TEXT           keeps a text; `hints` tells it
//! log                 a memfd that travels by descriptor: who added what
//! version             which program this is
//! forecast PATH       what that program would say to this one's handover as it is
//! upgrade PATH [HOW]  hands over; HOW is as-is (nothing is written for the successor), without-asking (nor is it asked),
//!                     only-if-told, even-if-untold, or fails (the successor accepts, and then goes back)
//! quit
//! ```

pub mod counter;
pub mod lists;

use std::error::Error;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use kho::compat::CompatList;
use kho::files::FilesNode;
use kho::handover::{Blob, Home};
use kho::handover::{Finished, Outgoing, Preserve, Registry, Scope};
use kho::manifest::Manifest;
use kho::payload::BytesNode;
use kho::report::Fault;
use kho::transport::{Arrival, Bundle, ExecError, Program, Ticket, Turn};
use rustix::fs::MemfdFlags;

use counter::Counter;

/// One program of them.
pub struct Version {
    /// Its name.
    pub name: &'static str,
    /// What it says of itself.
    pub manifest: Option<&'static Manifest>,
    /// The versions of the counter, the newest first.
    pub counter: &'static [CompatList<'static>],
    /// What hints are made of, where the program has them.
    pub hints: Option<CompatList<'static>>,
}

struct State {
    counter: Counter,
    hints: String,
    log: File,
}

/// In the environment of a successor that is to fail.
const FAILS: &str = "COUNTER_FAILS";

/// Token of the log.
const LOG: u64 = 1;

/// The hints: a successor that does not know them may leave them.
struct Hints<'a>(CompatList<'static>, &'a str);

impl<M: Home> Preserve<M> for Hints<'_> {
    fn compat(&self) -> CompatList<'static> {
        self.0
    }

    fn optional(&self) -> bool {
        true
    }

    fn preserve(&self, scope: &mut Scope<'_, M>) -> Result<Blob, Fault> {
        scope.blob(self.1.as_bytes())
    }
}

/// Serves until `quit`, the end of the input, or an upgrade.
pub fn serve(version: &Version) -> ExitCode {
    match run(version) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", version.name);
            ExitCode::FAILURE
        }
    }
}

type Anything<T> = Result<T, Box<dyn Error>>;

fn run(version: &Version) -> Anything<()> {
    let mut state = match Arrival::take()? {
        None => {
            let log = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC)?;
            answer(&format!("{} begins", version.name))?;
            State { counter: Counter::default(), hints: String::new(), log: log.into() }
        }
        Some(arrival) => take_over(version, arrival)?,
    };
    while let Some(line) = command()? {
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match word {
            "quit" => break,
            _ => match obey(version, &mut state, word, rest) {
                Ok(said) => answer(&said)?,
                Err(error) => answer(&format!("failed: {error}"))?,
            },
        }
    }
    Ok(())
}

/// A line of standard input, and not a byte more: what stands behind it may be for the successor.
fn command() -> io::Result<Option<String>> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (mut line, mut byte) = (Vec::new(), [0]);
    while input.read(&mut byte)? == 1 {
        match byte {
            [b'\n'] => return Ok(Some(String::from_utf8_lossy(&line).into_owned())),
            [byte] => line.push(byte),
        }
    }
    Ok(None)
}

fn answer(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{text}\n.")?;
    output.flush()
}

fn obey(version: &Version, state: &mut State, word: &str, rest: &str) -> Anything<String> {
    match word {
        "add" => {
            let number: u64 = rest.parse()?;
            state.counter.total = state.counter.total.checked_add(number).ok_or("beyond 64 bits")?;
            state.counter.history.push(number);
            state.log.seek(SeekFrom::End(0))?;
            writeln!(state.log, "{} added {number}", version.name)?;
            Ok(state.counter.total.to_string())
        }
        "get" => Ok(state.counter.total.to_string()),
        "history" => Ok(state.counter.history.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")),
        "hint" if version.hints.is_some() => {
            state.hints = rest.into();
            Ok("kept".into())
        }
        "hints" if version.hints.is_some() => Ok(state.hints.clone()),
        "hint" | "hints" => Ok("this version has no hints".into()),
        "log" => {
            let mut text = String::new();
            state.log.rewind()?;
            state.log.read_to_string(&mut text)?;
            Ok(text.trim_end().into())
        }
        "version" => Ok(version.name.into()),
        "forecast" => forecast(version, state, rest),
        "upgrade" => {
            let (path, how) = rest.split_once(' ').unwrap_or((rest, ""));
            Ok(upgrade(version, state, path, how).unwrap_or_else(|error| format!("stayed: {error}")))
        }
        _ => Err(format!("no command {word}").into()),
    }
}

/// The handover, for that program or as it is, and what there is to say of it.
fn finished(version: &Version, state: &State, program: Option<&Program>) -> Anything<(Finished<Bundle>, String)> {
    let bundle = Bundle::new(64 << 20)?;
    let mut outgoing = match version.manifest {
        Some(manifest) => Outgoing::of(bundle, manifest),
        None => Outgoing::new(bundle),
    };
    if let Some(program) = program {
        outgoing.write_for_program(program)?;
    }
    outgoing.preserve_file(LOG, state.log.try_clone()?.into())?;
    outgoing.preserve("counter", &counter::Writes(version.counter, &state.counter))?;
    if let Some(made_of) = version.hints {
        outgoing.preserve("hints", &Hints(made_of, &state.hints))?;
    }
    let mut said = String::from("leaving");
    if let Some(made_of) = outgoing.made_of("counter") {
        said = format!("{said} with {made_of}");
    }
    for (node, why) in outgoing.dropped() {
        let why: Vec<String> = why.iter().map(Fault::to_string).collect();
        said = format!("{said}, without {node} ({})", why.join(", "));
    }
    Ok((outgoing.finish()?, said))
}

fn forecast(version: &Version, state: &State, path: &str) -> Anything<String> {
    let Some(found) = Program::open(path)?.manifest()? else { return Ok("it does not say".into()) };
    let (finished, _) = finished(version, state, None)?;
    Ok(format!("{}:\n{}", finished.forecast(&found.reads)?.verdict(), finished.forecast(&found.reads)?))
}

/// Returns only when the program stayed: why.
fn upgrade(version: &Version, state: &State, path: &str, how: &str) -> Anything<String> {
    let mut program = Program::open(path)?;
    let write_for = match how {
        "as-is" => None,
        "without-asking" => {
            program = program.without_asking();
            None
        }
        "fails" => {
            program = program.env(FAILS, "1");
            Some(&program)
        }
        "even-if-untold" => {
            program = program.even_if_untold();
            Some(&program)
        }
        "only-if-told" => {
            program = program.only_if_told();
            Some(&program)
        }
        _ => Some(&program),
    };
    let (finished, said) = finished(version, state, write_for)?;
    // The rest of the answer is the successor's, or says why there is none.
    let mut output = io::stdout().lock();
    writeln!(output, "{said}")?;
    output.flush()?;
    drop(output);
    let stayed = finished.exec(&program, Some(&Ticket::current()?));
    Err(stayed.error.into())
}

fn take_over(version: &Version, arrival: Arrival) -> Anything<State> {
    let Arrival { incoming, turn, reason, .. } = arrival;
    let mut registry = match version.manifest {
        Some(manifest) => Registry::of(manifest),
        None => Registry::new(),
    };
    // The way back keeps the environment.
    let fails = std::env::var_os(FAILS).is_some() && reason.is_none();
    let counter = registry.add("counter", counter::Reads { versions: version.counter, fails });
    let files = registry.add("files", FilesNode);
    let hints = version.hints.map(|made_of| registry.read_optional("hints", BytesNode { made_of, limit: 4096 }));
    let plan = incoming.plan(&registry);
    let findings = plan.findings().clone();
    let go_back = |turn: Turn, incoming, why: String| match turn.refuse(incoming, &why) {
        Err((ExecError::NoTicket, _)) | Ok(()) => why,
        Err((error, _)) => error.to_string(),
    };
    let accepted = match plan.accept() {
        Ok(accepted) => accepted,
        Err(refused) => return Err(go_back(turn, refused.incoming, refused.findings.to_string()).into()),
    };
    let mut restored = match accepted.restore() {
        Ok(restored) => restored,
        Err(failed) => {
            let why = failed.to_string();
            return Err(go_back(turn, failed.incoming, why).into());
        }
    };
    let counter = restored.take(&counter).ok_or("no counter")?;
    let hints = hints.and_then(|hints| restored.take(&hints)).unwrap_or_default();
    let mut files = restored.take(&files).ok_or("no files")?;
    let log = files.take(LOG).ok_or("no log")?.into();
    turn.take()?;
    restored.finish().1?;
    let mut said = format!("{} took over", version.name);
    let mut more = |text: &dyn Display| said = format!("{said}\n{text}");
    if let Some(reason) = reason {
        more(&format_args!("back, because the successor said:\n{reason}"));
    }
    if !findings.is_empty() {
        more(&findings);
    }
    answer(&said)?;
    Ok(State { counter, hints: String::from_utf8(hints)?, log })
}
