//! One machine at a time: QEMU without acceleration, its serial line as text, its sockets in a folder of its own.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::gdb::Gdb;
use super::qmp::Qmp;
use super::{Arch, Kernel};

/// A test that takes longer hangs. Without acceleration a boot takes seconds; on a loaded machine some times that.
const LIMIT: Duration = Duration::from_secs(120);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn program(arch: Arch) -> &'static str {
    match arch {
        Arch::X86 => "qemu-system-x86_64",
        Arch::Arm64 => "qemu-system-aarch64",
    }
}

pub(crate) fn package(arch: Arch) -> &'static str {
    match arch {
        Arch::X86 => "qemu-system-x86",
        Arch::Arm64 => "qemu-system-arm",
    }
}

pub(crate) fn is_there(arch: Arch) -> bool {
    Command::new(program(arch)).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Output of a run of QEMU that only prints or writes something, as `-M virt,dumpdtb=FILE`.
#[track_caller]
pub(crate) fn run(arch: Arch, args: impl IntoIterator<Item = impl AsRef<OsStr>>) {
    let output = Command::new(program(arch)).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}: {}", program(arch), String::from_utf8_lossy(&output.stderr));
}

/// A machine to be started.
pub(crate) struct Machine {
    command: Command,
    append: String,
    dir: tempfile::TempDir,
    limit: Duration,
}

impl Machine {
    /// One processor, so many MiB of memory, this kernel and this initramfs.
    pub(crate) fn new(kernel: &Kernel, memory: u32, initramfs: &[u8]) -> Machine {
        assert!(memory <= 512, "guests are small");
        let dir = tempfile::Builder::new().prefix("kho-").tempdir().unwrap();
        let (image, initrd) = (dir.path().join("kernel"), dir.path().join("initramfs"));
        std::fs::write(&image, kernel.bytes()).unwrap();
        std::fs::write(&initrd, initramfs).unwrap();
        let (board, console) = match kernel.arch {
            Arch::X86 => ("q35", "ttyS0"),
            Arch::Arm64 => ("virt", "ttyAMA0"),
        };
        let mut command = Command::new(program(kernel.arch));
        command
            .args(["-M", board, "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m"])
            .arg(format!("{memory}M"))
            .args(["-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio"])
            .args([OsStr::new("-kernel"), image.as_ref(), OsStr::new("-initrd"), initrd.as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Its own time stamps, and an end instead of a wait when it panics.
        Machine { command, append: format!("console={console} panic=-1"), dir, limit: LIMIT }
    }

    /// More for the command line of the kernel.
    pub(crate) fn append(mut self, words: &str) -> Machine {
        self.append.push(' ');
        self.append.push_str(words);
        self
    }

    /// More for the command line of QEMU.
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Machine {
        self.command.args(args);
        self
    }

    /// The folder of this machine, for files that its arguments name.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A socket for [`Qemu::gdb`].
    pub(crate) fn with_gdb(mut self) -> Machine {
        let path = self.dir.path().join("gdb");
        let chardev = format!("socket,id=gdb,path={},server=on,wait=off", path.display());
        self.command.args(["-chardev", &chardev, "-gdb", "chardev:gdb"]);
        self
    }

    /// A socket for [`Qemu::qmp`].
    pub(crate) fn with_qmp(mut self) -> Machine {
        let path = self.dir.path().join("qmp");
        self.command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", path.display()));
        self
    }

    /// Starts it, when no other machine runs.
    pub(crate) fn start(mut self) -> Qemu {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        self.command.arg("-append").arg(&self.append);
        let mut child = self.command.spawn().unwrap();
        let log = Arc::new(Log::default());
        for source in [Some(Pipe::Out(child.stdout.take().unwrap())), child.stderr.take().map(Pipe::Err)] {
            let log = Arc::clone(&log);
            std::thread::spawn(move || source.into_iter().for_each(|source| log.follow(source)));
        }
        Qemu { child, log, dir: self.dir, end: Instant::now() + self.limit, _turn: turn }
    }
}

enum Pipe {
    Out(std::process::ChildStdout),
    Err(std::process::ChildStderr),
}

/// What the machine and QEMU itself have said so far.
#[derive(Default)]
struct Log {
    text: Mutex<(Vec<u8>, u32)>,
    more: Condvar,
}

impl Log {
    fn follow(&self, mut pipe: Pipe) {
        let mut piece = [0; 4096];
        loop {
            let read = match &mut pipe {
                Pipe::Out(pipe) => pipe.read(&mut piece),
                Pipe::Err(pipe) => pipe.read(&mut piece),
            };
            let mut text = self.text.lock().unwrap();
            match read {
                Ok(0) | Err(_) => {
                    text.1 += 1;
                    self.more.notify_all();
                    return;
                }
                Ok(count) => text.0.extend_from_slice(&piece[..count]),
            }
            self.more.notify_all();
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap().0).replace('\r', "")
    }

    /// Waits until the text has something, or both pipes are closed, or the time is over: whether it has.
    fn wait(&self, end: Instant, mut enough: impl FnMut(&[u8], bool) -> bool) -> bool {
        let mut text = self.text.lock().unwrap();
        loop {
            let closed = text.1 == 2;
            if enough(&text.0, closed) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if closed || left.is_zero() {
                return false;
            }
            text = self.more.wait_timeout(text, left).unwrap().0;
        }
    }
}

/// A machine that runs. Dropped, it is gone.
pub(crate) struct Qemu {
    child: Child,
    log: Arc<Log>,
    dir: tempfile::TempDir,
    end: Instant,
    _turn: MutexGuard<'static, ()>,
}

impl Qemu {
    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().into()
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until it says something, and returns the rest of that line.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) -> String {
        let rest = |text: &[u8]| {
            let text = String::from_utf8_lossy(text);
            let (_, rest) = text.split_once(words)?;
            rest.split_once('\n').map(|(line, _)| line.trim_end().to_owned())
        };
        let mut line = None;
        let said = self.log.wait(self.end, |text, _| {
            line = rest(text);
            line.is_some()
        });
        assert!(said, "it never said {words:?}\n{}", self.log());
        line.unwrap()
    }

    /// Types on its serial line.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(bytes).unwrap();
        stdin.flush().unwrap();
    }

    /// Connects to the debugger's stub, which stops the machine.
    #[track_caller]
    pub(crate) fn gdb(&self) -> Gdb {
        Gdb::new(self.connect("gdb"))
    }

    /// Connects to the machine's monitor.
    #[track_caller]
    pub(crate) fn qmp(&self) -> Qmp {
        Qmp::new(self.connect("qmp"))
    }

    #[track_caller]
    fn connect(&self, name: &str) -> UnixStream {
        let path = self.dir.path().join(name);
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                // QEMU has only just started.
                Err(error) if Instant::now() > self.end => panic!("{name}: {error}\n{}", self.log()),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Waits until the machine has gone by itself, and returns all that it said.
    #[track_caller]
    pub(crate) fn finish(mut self) -> String {
        let gone = self.log.wait(self.end, |_, closed| closed);
        assert!(gone, "it does not end\n{}", self.log());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
        self.log()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
