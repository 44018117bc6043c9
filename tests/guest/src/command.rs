//! The command `kho` in the guest: what it shows of the machine, and a session by `kho luo`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use kho::liveupdate::inherited;
use rustix::io::FdFlags;

use crate::Fails;
use crate::scenario::{self, BY_COMMAND, SERVED, Session};
use crate::sessions::{create, same};
use crate::system::say;

/// Runs it, and returns what it prints.
pub(crate) fn kho(args: &[&str]) -> Fails<String> {
    let output = Command::new("/kho").args(args).stdin(Stdio::null()).output()?;
    let (out, errors) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    if !output.status.success() || !errors.is_empty() {
        return Err(format!("kho {args:?}: {}: {errors}{out}", output.status).into());
    }
    Ok(out)
}

/// It must refuse, in words that have these.
pub(crate) fn refuses(args: &[&str], words: &str) -> Fails {
    let output = Command::new("/kho").args(args).stdin(Stdio::null()).output()?;
    let errors = String::from_utf8(output.stderr)?;
    if output.status.code() != Some(2) || !output.stdout.is_empty() || !errors.contains(words) {
        return Err(format!("kho {args:?}: {}: {errors}", output.status).into());
    }
    Ok(())
}

/// What is shown must have these, however wide its columns are.
pub(crate) fn shows(args: &[&str], expected: &[&str]) -> Fails {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let out = flat(&shown(args)?);
    match expected.iter().find(|words| !out.contains(&flat(words))) {
        Some(words) => Err(format!("kho {args:?} does not show {words:?}").into()),
        None => Ok(()),
    }
}

/// What `kho plan` says, whatever that is, and how it ends.
pub(crate) fn planned(args: &[&str]) -> Fails {
    let output = Command::new("/kho").arg("plan").args(args).stdin(Stdio::null()).output()?;
    let (out, errors) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    out.lines().chain(errors.lines()).for_each(|line| say(&format!("kho| {line}")));
    say(&format!("guest: plan exits {:?}", output.status.code()));
    Ok(())
}

/// As [`kho`], each line also in the kernel's log.
pub(crate) fn shown(args: &[&str]) -> Fails<String> {
    let out = kho(args)?;
    say(&format!("kho {}", args.join(" ")));
    out.lines().filter(|line| !line.trim().is_empty()).for_each(|line| say(&format!("kho| {line}")));
    Ok(out)
}

/// Makes the session: one file as a descriptor that `kho` inherits, one by its bytes.
pub(crate) fn make(wanted: &Session) -> Fails<Child> {
    let [given, copied] = &wanted.files[..] else { return Err("two files".into()) };
    let file = create(BY_COMMAND, given)?;
    rustix::io::fcntl_setfd(&file, FdFlags::empty())?;
    fs::write("/tmp/copied", copied.bytes(BY_COMMAND))?;
    let mut command = Command::new("/kho");
    command.args(["luo", "create", BY_COMMAND, "--preserve", &format!("{:#x}={}", given.token, file.as_raw_fd())]);
    held(command.args(["--copy", &format!("{}=/tmp/copied", copied.token), "--", "/init", "hold"]))
}

/// Takes the session, and makes it again of the files that came: two processes hold it, one after the other.
pub(crate) fn pass_on(wanted: &Session) -> Fails<Child> {
    let tokens = wanted.files.iter().map(|file| file.token.to_string());
    let mut command = Command::new("/kho");
    held(command.args(["luo", "retrieve", BY_COMMAND]).args(tokens).args(["--", "/init", "pass-on"]))
}

/// Takes the session for good: the bytes of its files.
pub(crate) fn take(wanted: &Session) -> Fails {
    let [given, copied] = &wanted.files[..] else { return Err("two files".into()) };
    let [one, two] = [given, copied].map(|file| format!("{}=/tmp/{0}", file.token));
    let out = shown(&["luo", "retrieve", BY_COMMAND, &one, &two, "--finish", "--format", "json"])?;
    for file in [given, copied] {
        let (token, size) = (file.token, file.size);
        let (pos, seals) = (file.pos, file.seals_restored());
        let told = format!(r#"{{"token":{token},"path":"/tmp/{token}","size":{size},"pos":{pos},"seals":{seals}}}"#);
        if !out.contains(&told) {
            return Err(format!("{told} is not in {out}").into());
        }
        if fs::read(format!("/tmp/{token}"))? != file.bytes(BY_COMMAND) {
            return Err(format!("other bytes of token {token}").into());
        }
    }
    Ok(())
}

/// The service that is used until the kernel is left, and again in the next one. Small: it is emulated.
fn serve_demo() -> Command {
    let mut command = Command::new("/kho");
    command.args(["serve-demo", "--transport", "session", "--session", SERVED, "--size", "1MiB", "--clients", "2"]);
    command.args(["--seconds", "0.3", "--seed", "7"]).stdin(Stdio::null());
    command
}

/// Its first half, which stays and holds the session.
pub(crate) fn serves() -> Fails<Child> {
    let mut child = serve_demo().stdout(Stdio::piped()).spawn()?;
    for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
        let line = line?;
        say(&format!("guest| {line}"));
        if line.starts_with("parked: process ") {
            return Ok(child);
        }
    }
    Err(format!("it does not stay: {}", child.wait()?).into())
}

/// Its second half.
pub(crate) fn serves_on() -> Fails {
    let output = serve_demo().output()?;
    String::from_utf8_lossy(&output.stdout).lines().for_each(|line| say(&format!("guest| {line}")));
    if !output.status.success() || !output.stderr.is_empty() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

/// Runs a command that ends as `/init hold`.
fn held(command: &mut Command) -> Fails<Child> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    if line == "holding\n" { Ok(child) } else { Err(format!("{command:?}: {line:?}, {:?}", child.try_wait()).into()) }
}

/// What runs in the place of `kho`, and holds what that passed on.
pub(crate) fn role(name: &str) -> Fails {
    match name {
        "hold" => hold(),
        "pass-on" => pass(),
        _ => Err("no such role".into()),
    }
}

fn hold() -> Fails {
    let session = std::env::var("KHO_LUO_SESSION")?;
    if kho(&["luo", "name", "--session", &session])? != format!("{BY_COMMAND}\n") {
        return Err("another session".into());
    }
    println!("holding");
    loop {
        std::thread::park();
    }
}

fn pass() -> Fails {
    let wanted = scenario::sessions("many").pop().ok_or("no session")?;
    let mut create = Command::new("/kho");
    create.args(["luo", "create", BY_COMMAND]);
    for file in &wanted.files {
        let fd = std::env::var(format!("KHO_LUO_FD_{}", file.token))?;
        // A second descriptor of the same open file.
        drop(same(BY_COMMAND, file, inherited(fd.parse()?)?)?);
        create.args(["--preserve", &format!("{}={fd}", file.token)]);
    }
    kho(&["luo", "finish", "--session", &std::env::var("KHO_LUO_SESSION")?])?;
    Err(create.args(["--", "/init", "hold"]).exec().into())
}
