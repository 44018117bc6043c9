//! The kernel that runs now, by what it exports: what it hands over it reads.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::carried::{Carried, Item, Role};
use super::image;
use super::profile::{By, Profile, Statement};
use super::scan;
use crate::inspect::{self, Options};
use crate::mem::Machine;
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// Where it exports its handover, below its root.
const EXPORTED: &str = "sys/kernel/debug/kho";
/// Larger files are none of those that are read here, in bytes.
const LIMIT: u64 = 1 << 20;
/// Bytes of a line.
const LINE: u64 = 256;

impl Profile {
    /// Reads what the kernel that runs now understands, as a successor of itself: when it is booted again, or as long
    /// as the next one is the same.
    ///
    /// ```no_run
    /// use kho::successor::Profile;
    /// let same_again = Profile::running()?;
    /// println!("{}", same_again.banner.unwrap_or_default());
    /// # Ok::<(), kho::report::Fault>(())
    /// ```
    ///
    /// # Errors
    /// As [`Profile::running_at`].
    pub fn running() -> Result<Profile, Fault> {
        let mut profile = Profile::running_at(Path::new("/"))?;
        profile.page_size = Some(u64_of(rustix::param::page_size()));
        profile.page_size_by = Some(By::Exported);
        if let (None, Some(machine)) = (profile.machine, Machine::here()) {
            (profile.machine, profile.machine_by) = (Some(machine), Some(By::Exported));
        }
        Ok(profile)
    }

    /// As [`Profile::running`], of the files below a folder that is the root of a machine, or has copies of them:
    /// `proc/version`, `proc/sys/kernel/arch`, `proc/config.gz` (feature `images`), and `sys/kernel/debug/kho`. What of
    /// these is not there is not known; [`Profile::EXPORTS_NOT`] says what is never there.
    ///
    /// # Errors
    /// [`Code::SuccessorSilent`] when nothing of a handover is exported and no configuration says that there is none;
    /// [`Code::Io`] when it is there and cannot be read.
    pub fn running_at(root: &Path) -> Result<Profile, Fault> {
        let mut profile = Profile { profile: Profile::VERSION, ..Profile::default() };
        profile.layers.push("running kernel".into());
        let line = |path: &str| {
            let bytes = some(&root.join(path), LINE)?;
            let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
            Some(String::from_utf8_lossy(line).into_owned())
        };
        profile.banner = line("proc/version").filter(|line| line.starts_with("Linux version "));
        profile.machine = line("proc/sys/kernel/arch").and_then(|name| Machine::of_uname(&name));
        profile.machine_by = profile.machine.map(|_| By::Exported);
        if profile.machine == Some(Machine::X86) {
            (profile.page_size, profile.page_size_by) = (Some(4 << 10), Some(By::Exported));
        }
        if let Some(packed) = some(&root.join("proc/config.gz"), LIMIT) {
            image::packed_configuration(&packed, &mut profile);
        }
        exported(&root.join(EXPORTED), &mut profile)?;
        scan::imply(&mut profile);
        Ok(profile)
    }

    /// What a running kernel does not export.
    pub const EXPORTS_NOT: &'static str = "a kernel exports what it hands over itself: no handler of files is among \
                                           that, nor is memblock without memory that is reserved by name; its image \
                                           says more";

    /// Whether it is known by what a running kernel exports.
    pub(super) fn is_exported(&self) -> bool {
        self.understands.iter().any(|statement| statement.by == By::Exported)
    }
}

/// What is in debugfs.
fn exported(folder: &Path, profile: &mut Profile) -> Result<(), Fault> {
    let out = folder.join("out");
    match out.metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A kernel that cannot hand over says so in its configuration.
            if profile.built_in("CONFIG_KEXEC_HANDOVER") == Some(false) {
                return Ok(());
            }
            let fault = Fault::new(Code::SuccessorSilent).item(EXPORTED).found("no out/");
            return Err(fault.expected("what a kernel exports that was booted with kho=on, where debugfs is mounted"));
        }
        Err(error) => return Err(Fault::new(Code::Io).item(EXPORTED).found(error)),
    }
    let decoded = inspect::open(&out, &Options::default()).map_err(|error| error.fault)?;
    let mut items = Carried::from(&decoded).items;
    let is_root = |item: &Item| item.role == Role::Root && !item.components.is_empty();
    if !items.iter().any(is_root) {
        // After a kexec it does not export its own root; but it read the one that is there.
        let taken = inspect::open(folder.join("in/fdt"), &Options::default());
        items
            .extend(taken.map_or_else(|_| Vec::new(), |taken| Carried::from(&taken).items).into_iter().filter(is_root));
    }
    let known = |item: &Item| !item.implied && !matches!(item.role, Role::Handler | Role::Other);
    for component in items.into_iter().filter(known).flat_map(|item| item.components) {
        profile.understands.push(Statement { component, oldest: None, by: By::Exported, offset: None });
    }
    if profile.is_exported() {
        return Ok(());
    }
    let found = decoded.findings.first().map_or("nothing that can be read", |problem| &*problem.text);
    Err(Fault::new(Code::SuccessorSilent).item(EXPORTED).found(found).expected("a root, or blobs that Linux writes"))
}

/// So many bytes of a file at most; none where it cannot be read.
fn some(path: &Path, most: u64) -> Option<Vec<u8>> {
    // What is no file is not waited for.
    path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mut bytes = Vec::with_capacity(usize_of(LINE));
    File::open(path).ok()?.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
