//! `kho luo` where there is no live update: what preflight prints, and that what cannot be done is said and costs nothing.
//! With a kernel that has it: `tests/linux_kernels.rs` of the library.

mod common;

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use common::{json, run, text};
use rustix::fs::{MemfdFlags, Mode};
use serde_json::json;

fn memfd(bytes: &[u8]) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("test", flags).unwrap());
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o777)).unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A path that leads to an open file of this process.
fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// Runs with a file as descriptor 0; status, output, errors.
fn with_stdin(file: &File, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kho"))
        .args(args)
        .env("CLICOLOR", "1")
        .stdin(Stdio::from(file.try_clone().unwrap()))
        .output()
        .unwrap();
    (output.status.code().unwrap(), text(&output.stdout).into(), text(&output.stderr).into())
}

#[test]
fn preflight_of_what_is_fine() {
    let file = memfd(&[1; 8192]);
    let (code, out, err) = with_stdin(&file, &["luo", "preflight", "0x10=0"]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (
            0,
            "0x10  descriptor 0: memfd, 8 KiB, seals 0x0\n\
             1 memfd of 8 KiB: 0 B to fill holes, at most 4 pages of metadata: fine\n",
            ""
        )
    );
    let report = json(0, &["luo", "preflight", &path(&file)]);
    let name = path(&file);
    assert_eq!(
        report,
        json!({
            "verdict": "fine", "errors": 0, "warnings": 0,
            "summary": {"files": 1, "bytes": 8192, "filled": 0, "metadata_pages": 4},
            "files": [{
                "name": name, "number": 0, "token": 0, "kind": "memfd", "size": 8192, "allocated": 8192, "filled": 0,
                "seals": 0, "mode": 0o777, "pos": 0
            }],
            "findings": []
        })
    );
}

#[test]
fn preflight_of_what_linux_would_refuse() {
    let file = memfd(b"x");
    file.set_len(1 << 20).unwrap();
    let (one, two) = (format!("1={}", path(&file)), format!("0x2={}", path(&file)));
    let shown = run(1, &["luo", "preflight", &one, &two, "/dev/null"]);
    let (page, holes) = (4096, (1 << 20) - 4096);
    assert_eq!(
        shown,
        format!(
            "0x1  {name}: memfd, 1 MiB, 1020 KiB of them holes, seals 0x0\n\
             0x2  {name}: memfd, 1 MiB, 1020 KiB of them holes, seals 0x0\n\
             0x2  /dev/null: no regular file, 0 B\n\
             warning: token 0x1: holes-filled: holes at offset {page:#x}: {holes} bytes that Linux allocates and fills\n\
             error: token 0x2: file-duplicate: the file of token 0x1\n\
             error: token 0x2: token-duplicate: another file has this token\n\
             error: token 0x2: file-kind: found no regular file, expected a memfd, or another shmem file without a name\n\
             1 memfd of 1 MiB: 1020 KiB to fill holes, at most 4 pages of metadata: 3 errors, 1 warning\n",
            name = path(&file)
        )
    );
    let report = json(1, &["luo", "preflight", &one, &two]);
    let last = &report["findings"][1];
    assert_eq!(
        (&last["code"], &last["severity"], &last["node"]),
        (&json!("file-duplicate"), &json!("error"), &json!("token 0x2"))
    );
}

#[test]
fn preflight_of_what_cannot_be_opened() {
    assert_eq!(run(2, &["luo", "preflight", "/nowhere"]), "kho: /nowhere: No such file or directory (os error 2)\n");
    assert_eq!(run(2, &["luo", "preflight", "999"]), "kho: descriptor 999: Bad file descriptor (os error 9)\n");
}

const NO_DEVICE: &str = "kho: /nowhere/liveupdate: open: this kernel has no live update, or it is not switched on (ENOENT)\n\
     hint: the kernel needs CONFIG_LIVEUPDATE, and liveupdate=on and kho=on on its command line\n";

#[test]
fn without_the_device() {
    let device = ["--device", "/nowhere/liveupdate"];
    let create = [&["luo", "create", "vm-7"], &device[..], &["--", "true"]].concat();
    assert_eq!(run(2, &create), NO_DEVICE);
    let retrieve = [&["luo", "retrieve", "vm-7", "--finish"], &device[..]].concat();
    assert_eq!(run(2, &retrieve), NO_DEVICE);
    assert_eq!(
        run(2, &["luo", "create", "vm-7", "--device", "/dev/null", "--", "true"]),
        "kho: create session vm-7: not a live update device or session (ENOTTY)\n"
    );
}

#[test]
fn what_is_no_session() {
    let file = memfd(b"");
    let expected = "kho: descriptor 0: not a live update device or session (ENOTTY)\n";
    for args in [
        &["luo", "name", "--session", "0"][..],
        &["luo", "finish", "--session", "0"],
        &["luo", "preserve", "--session", "0", "1=0"],
        &["luo", "retrieve", "--session", "0"],
    ] {
        assert_eq!(with_stdin(&file, args), (2, String::new(), expected.into()), "{args:?}");
    }
    let expected = "kho: descriptor 999: Bad file descriptor (os error 9)\n";
    assert_eq!(run(2, &["luo", "name", "--session", "999"]), expected);
    // A descriptor that is none for any request.
    let path = rustix::fs::open("/", rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    let expected = "kho: descriptor 0: not a live update device or session (EBADF)\n";
    assert_eq!(with_stdin(&File::from(path), &["luo", "name", "--session", "0"]), (2, String::new(), expected.into()));
    assert_eq!(
        run(2, &["luo", "create", "vm-7", "--device", "/", "--", "true"]),
        "kho: /: open: not a live update device or session (EISDIR)\n"
    );
}

/// A session can be retrieved once: nobody comes to the device who would lose it.
#[test]
fn what_would_lose_a_session_is_refused_before_it_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let retrieve =
        |args: &[&str]| run(2, &[&["luo", "retrieve", "--device", "/nowhere/liveupdate", "vm-7"], args].concat());
    assert_eq!(
        retrieve(&[]),
        "kho: retrieve: the session would end with this command, and what was not retrieved would be freed\n\
         hint: --finish if that is what you want, or a COMMAND that holds it\n"
    );
    assert_eq!(
        retrieve(&["0x10", "--finish"]),
        "kho: 0x10: where to? 0x10=PATH, or a COMMAND that gets its descriptor\n"
    );
    assert_eq!(
        retrieve(&["1f=x", "--finish"]),
        "kho: 1f=x: not TOKEN or TOKEN=PATH, a token decimal or 0x.. with at most 64 bits\n"
    );
    let absent = dir.path().join("absent/file");
    let shown = absent.to_str().unwrap();
    assert_eq!(
        retrieve(&[&format!("1={shown}"), "--finish"]),
        format!("kho: {shown}: No such file or directory (os error 2)\n")
    );
    assert_eq!(retrieve(&["1=/dev/null", "--finish"]), "kho: /dev/null: not a regular file\n");
    assert_eq!(retrieve(&["--", "no-such-command"]), "kho: no-such-command: no such command\n");
    assert_eq!(retrieve(&["--", "./absent/command"]), "kho: ./absent/command: no such command\n");
    // The device is asked last, and what was there before is as it was.
    let old = dir.path().join("old");
    std::fs::write(&old, "old").unwrap();
    assert_eq!(retrieve(&[&format!("1={}", old.display()), "--finish"]), NO_DEVICE);
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "old");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// To be put in the place of a link would be to take it away: of /dev/stdout, for root.
#[test]
fn what_is_written_goes_where_a_link_leads() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(at("far")).unwrap();
    std::fs::write(at("far/file"), "old").unwrap();
    symlink(at("far/file"), at("link")).unwrap();
    symlink(at("absent"), at("nowhere")).unwrap();
    symlink("/dev/null", at("device")).unwrap();
    let retrieve = |path: &str| {
        run(2, &["luo", "retrieve", "--device", "/nowhere/liveupdate", "vm-7", &format!("1={path}"), "--finish"])
    };
    // The new file would stand beside the old one, so that it can take its place: there it cannot.
    assert_eq!(retrieve(&at("link")), NO_DEVICE);
    assert!(std::fs::symlink_metadata(at("link")).unwrap().is_symlink());
    assert_eq!(
        retrieve(&at("nowhere")),
        format!("kho: {}: where it leads: No such file or directory (os error 2)\n", at("nowhere"))
    );
    assert_eq!(retrieve(&at("device")), format!("kho: {}: not a regular file\n", at("device")));
    assert_eq!(retrieve(&at("new/")), format!("kho: {}: not a file\n", at("new/")));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
}

#[test]
fn paths_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff\x1b[31m"));
    std::fs::write(&path, "state").unwrap();
    let mut item = std::ffi::OsString::from("1=");
    item.push(&path);
    for how in ["--copy", "--preserve"] {
        let args = ["luo", "create", "vm-7", "--device", "/nowhere/liveupdate", how].map(std::ffi::OsString::from);
        let end = ["--", "true"].map(std::ffi::OsString::from);
        let output = common::kho(args.into_iter().chain([item.clone()]).chain(end));
        let told = text(&output.stderr).to_owned();
        match how {
            "--copy" => assert_eq!((output.status.code(), told.as_str()), (Some(2), NO_DEVICE)),
            _ => assert_eq!(output.status.code(), Some(1), "{told}"),
        }
    }
    let shown = run(1, &["luo", "preflight", "/dev/null"]);
    assert!(shown.starts_with("0x0  /dev/null: no regular file, 0 B\n"), "{shown}");
}

#[test]
fn preflight_stops_what_linux_would_refuse() {
    let create = |args: &[&str], code: i32| {
        let args = [&["luo", "create", "vm-7", "--device", "/nowhere/liveupdate"], args, &["--", "true"]].concat();
        let output = common::kho(args);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), ""));
        text(&output.stderr).to_owned()
    };
    let refused =
        "error: token 0x1: file-kind: found no regular file, expected a memfd, or another shmem file without a name\n";
    assert_eq!(create(&["--preserve", "1=/dev/null"], 1), refused);
    assert_eq!(create(&["--preserve", "1=/dev/null", "--force"], 2), format!("{refused}{NO_DEVICE}"));
    // A copy of a file is a memfd.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "state").unwrap();
    let copy = format!("1={}", file.path().display());
    assert_eq!(create(&["--copy", &copy], 2), NO_DEVICE);
    assert_eq!(
        create(&["--copy", "1=/dev/null"], 2),
        "kho: /dev/null: not a regular file, so its bytes cannot be copied\n"
    );
    let shown = run_usage(&["luo", "create", "vm-7", "--preserve", "x=0", "--", "true"]);
    assert!(shown.contains("not TOKEN=WHAT with a token of at most 64 bits, decimal or 0x.."), "{shown}");
}

fn run_usage(args: &[&str]) -> String {
    let output = common::kho(args);
    assert_eq!(output.status.code(), Some(2));
    text(&output.stderr).into()
}

#[test]
fn help_has_examples_and_exit_codes() {
    for command in ["preflight", "create", "preserve", "retrieve"] {
        let help = run(0, &["luo", command, "--help"]);
        assert!(help.contains("Example") && help.contains("Exit codes:"), "{help}");
    }
    let help = run(0, &["luo", "--help"]);
    assert!(help.contains("kho luo create state --copy 1=/run/state.json -- kexec -e\n"), "{help}");
}
