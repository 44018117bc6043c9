//! A successor that is killed, at any instant: the service goes on all the same.
//!
//! What is killed after it took over is the service itself, and that would be no upgrade that failed. Whether it has is known
//! to the kernel only, and to the two sides: so the successor is stopped first, at that instant; while it stands still one can
//! look whether it has reached for the baton, and only then it is killed, or goes on.

use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitOptions, kill_process, waitpid};

use super::control::{Order, Said};
use super::drive::{Failed, Servers, unexpected};
use super::report::{Kill, PREDECESSOR, SUCCESSOR};
use super::{Role, Transport, server};

const PATIENCE: Duration = Duration::from_secs(20);

/// What was heard meanwhile.
#[derive(Default)]
struct Heard {
    restored: bool,
    /// Who took over, and why it is a keeper.
    took_over: Option<(u32, Option<String>)>,
    left: bool,
    /// The one that serves answered.
    here: Option<u32>,
    stayed: Option<String>,
}

impl Heard {
    fn note(&mut self, said: Said, successor: u32) -> Result<(), Failed> {
        match said {
            Said::Leaving { .. } => {}
            Said::Restored { pid } => self.restored |= pid == successor,
            Said::TookOver { pid, reason, .. } => self.took_over = Some((pid, reason)),
            Said::Left { .. } => self.left = true,
            Said::Here { pid } => self.here = Some(pid),
            Said::Stayed { step, why, .. } => self.stayed = Some(format!("{step}: {why}")),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    /// Everything that is said until then.
    fn listen(&mut self, servers: &mut Servers, successor: u32, until: Instant) -> Result<(), Failed> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match servers.hears(left)? {
                Some(said) => self.note(said, successor)?,
                None => return Ok(()),
            }
        }
    }

    /// What is said until that is so.
    fn until(&mut self, servers: &mut Servers, successor: u32, done: fn(&Heard) -> bool) -> Result<(), Failed> {
        while !done(self) {
            let said = servers.hear(PATIENCE)?;
            self.note(said, successor)?;
        }
        Ok(())
    }
}

/// Starts an upgrade, and kills the successor so many nanoseconds after it was started.
pub(super) fn kill(servers: &mut Servers, number: u64, after_ns: u64) -> Result<Kill, Failed> {
    let mut heard = Heard::default();
    let keeper = servers.transport == Transport::Keeper;
    let successor = if keeper {
        servers.lives += 1;
        servers.say(&Order::Leave { kept: true, life: servers.lives })?;
        match servers.hear(PATIENCE)? {
            Said::Leaving { pid, .. } => pid,
            other => return Err(unexpected(&other)),
        }
    } else {
        servers.start(Role::Next)?
    };
    let pid = server::process(successor).ok_or("a process without a number")?;
    heard.listen(servers, successor, Instant::now() + Duration::from_nanos(after_ns))?;
    let end = Instant::now() + PATIENCE;
    let killed = loop {
        if heard.took_over.is_some() {
            break false;
        }
        kill_process(pid, Signal::STOP)?;
        stands_still(successor)?;
        // Before the exec it is the predecessor, and the instant one before the first of its successor.
        if keeper && !lives(successor, servers.lives) {
            kill_process(pid, Signal::CONT)?;
            if Instant::now() > end {
                return Err(format!("process {successor} does not leave").into());
            }
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        heard.listen(servers, successor, Instant::now())?;
        let reached = heard.took_over.is_some() || (heard.restored && !has_free_baton(successor));
        kill_process(pid, if reached { Signal::CONT } else { Signal::KILL })?;
        break !reached;
    };
    if killed && !keeper {
        servers.say(&Order::Who)?;
        heard.until(servers, successor, |heard| heard.here.is_some() || heard.took_over.is_some())?;
    } else {
        heard.until(servers, successor, |heard| heard.took_over.is_some())?;
        if !keeper {
            heard.until(servers, successor, |heard| heard.left)?;
        }
    }
    if killed {
        // It may be ours, or that of a process of which it was a keeper.
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
    servers.reap();

    // Who serves, by its own word, and not by what was done.
    let serves = heard.took_over.as_ref().map(|(pid, _)| *pid).or(heard.here).ok_or("nobody serves")?;
    let (verdict, why) = match heard.took_over {
        Some((pid, None)) if pid == successor => (SUCCESSOR, None),
        Some((_, reason)) => (PREDECESSOR, reason),
        None => (PREDECESSOR, Some(heard.stayed.unwrap_or_else(|| "it had not come to the door".into()))),
    };
    servers.pid = serves;
    Ok(Kill { number, after_ns, killed, verdict: verdict.into(), why, serves })
}

/// Waits until a process that was told to stop does.
fn stands_still(pid: u32) -> Result<(), Failed> {
    let end = Instant::now() + PATIENCE;
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may have any character.
        match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
            Some('T' | 'Z' | 'X') => return Ok(()),
            _ if Instant::now() > end => return Err(format!("process {pid} does not stop").into()),
            _ => std::thread::yield_now(),
        }
    }
}

/// Whether that process is in its life of that number, by its arguments.
fn lives(pid: u32, life: u64) -> bool {
    let args = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let args: Vec<&[u8]> = args.split(|byte| *byte == 0).collect();
    args.windows(2).any(|pair| pair[0] == b"--life" && pair[1] == life.to_string().as_bytes())
}

/// Whether it has a baton that nobody has reached for: an eventfd with one unit. It has no other eventfd before it serves.
fn has_free_baton(pid: u32) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    let texts = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
    texts.into_iter().any(|text| {
        let count = text.lines().find_map(|line| line.strip_prefix("eventfd-count:"));
        count.is_some_and(|count| u64::from_str_radix(count.trim(), 16) == Ok(1))
    })
}
