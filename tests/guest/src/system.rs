//! What an init does: mounts, the kernel's log, the next kernel.
//!
//! One system call has no safe wrapper anywhere: kexec_file_load(2). It gets descriptors that are open and a string that
//! ends with a zero byte.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

use crate::Fails;
use crate::cpio::Cpio;

/// As far as the kernel does not mount it by itself.
pub(crate) fn mounts() -> Fails {
    for (kind, path) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("debugfs", "/sys/kernel/debug"),
        ("tmpfs", "/tmp"),
    ] {
        fs::create_dir_all(path)?;
        mount(kind, path, kind, MountFlags::empty(), None).map_err(|error| format!("mount {path}: {error}"))?;
    }
    Ok(())
}

/// A line in the kernel's log: it is not mixed with others, and out before the machine leaves.
pub(crate) fn say(line: &str) {
    let written = File::options().write(true).open("/dev/kmsg").and_then(|mut log| log.write_all(line.as_bytes()));
    if let Err(error) = written {
        println!("guest: FAIL say: {error}: {line}");
    }
}

/// The value of a word of the kernel's command line.
pub(crate) fn option(name: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

/// Where the kernel has a function.
pub(crate) fn symbol(name: &str) -> Result<u64, Box<dyn std::error::Error>> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let line = symbols.lines().find(|line| line.split(' ').nth(2) == Some(name)).ok_or("no such symbol")?;
    Ok(u64::from_str_radix(line.split(' ').next().unwrap_or_default(), 16)?)
}

/// Waits for a byte on the console. Meanwhile it keeps talking: in the seldom case, a line in the kernel's log came out
/// only with the next one.
pub(crate) fn wait_for_a_byte() -> Fails {
    let stdin = io::stdin();
    let tick = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    while poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&tick))? == 0 {
        say("guest: waiting");
    }
    Ok(stdin.lock().read_exact(&mut [0])?)
}

/// Loads the same kernel with the same programs and the same command line, but for the number of the boot.
pub(crate) fn load_next(boot: u32) -> Fails {
    let mut initramfs = Cpio::new();
    for name in ["init", "kho", "kernel"] {
        initramfs = initramfs.file(name, 0o755, &fs::read(format!("/{name}"))?);
    }
    fs::write("/tmp/initramfs", initramfs.finish())?;
    let line = fs::read_to_string("/proc/cmdline")?;
    let words = line.split_whitespace().filter(|word| !word.starts_with("kho_boot="));
    let line = words.chain([&*format!("kho_boot={boot}")]).collect::<Vec<_>>().join(" ");
    let line = std::ffi::CString::new(line)?;
    let (kernel, initramfs) = (File::open("/kernel")?, File::open("/tmp/initramfs")?);
    let size = line.as_bytes_with_nul().len();
    // SAFETY: both descriptors are open during the call, and `line` has `size` bytes, of which the last is zero. The
    // kernel copies them, and changes no memory of this process.
    let result = unsafe {
        libc::syscall(libc::SYS_kexec_file_load, kernel.as_raw_fd(), initramfs.as_raw_fd(), size, line.as_ptr(), 0_u64)
    };
    if result != 0 {
        return Err(format!("kexec_file_load: {}", io::Error::last_os_error()).into());
    }
    // Its memory is wanted.
    Ok(fs::remove_file("/tmp/initramfs")?)
}

/// Leaves for the kernel that was loaded.
pub(crate) fn kexec() -> Fails {
    reboot(RebootCommand::Kexec)?;
    Err("kexec came back".into())
}

/// Ends the machine, which does not boot again.
pub(crate) fn end() -> ! {
    loop {
        if reboot(RebootCommand::Restart).is_err() {
            say("guest: FAIL end");
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
