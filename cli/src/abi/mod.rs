//! `kho abi`: the layouts that a kernel hands over, and whether they changed without a new version.

mod btf;
mod image;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use kho::lock::{Difference, Entry, Lock, Structure, differences};
use serde::Serialize;

use self::btf::Found;
use self::image::{Image, Kernel};
use crate::source::{BOLD, clean, paint, print, print_json};

/// Arguments of `kho abi`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A vmlinux with a section .BTF, BTF alone (/sys/kernel/btf/vmlinux), an abi.lock, or `lock`: our own layouts
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Compare FILE with what was before: one of the same
    #[arg(long, value_name = "FILE|lock")]
    against: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

const HELP: &str = "\
Examples:
  kho abi /sys/kernel/btf/vmlinux
      what the running kernel hands over, field by field
  kho abi vmlinux --against lock
      whether it lays that out as this kho understands it
  kho abi new/vmlinux --against old/vmlinux
      what changed from one kernel to the next

Where types of a kernel are found: /sys/kernel/btf/vmlinux of one that runs
(CONFIG_DEBUG_INFO_BTF, as distributions have it); vmlinux in the package of
its debug symbols, or scripts/extract-vmlinux of a vmlinuz; out of either
  objcopy --dump-section .BTF=kernel.btf vmlinux
and from DWARF alone `pahole --btf_encode_detached=kernel.btf vmlinux`.
BTF has no version strings: they are read from a vmlinux, where it is one.

Exit codes:
  0  the same, or shown
  1  different: each field is named. The same version with another layout is
     an ABI change without a version bump, and called an error
  2  it could not be read";

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object; with --against: verdict, components with their differences, missing, unknown
    Json,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let read = |path: &Path| {
        image::read(path).map_err(|why| match why.split_once("\nhint: ") {
            Some((why, hint)) => format!("{}: {}\nhint: {hint}", clean(&path.display().to_string()), clean(why)),
            None => format!("{}: {}", clean(&path.display().to_string()), clean(&why)),
        })
    };
    let file = read(&args.file)?;
    let Some(against) = &args.against else {
        show(args.format, file)?;
        return Ok(ExitCode::SUCCESS);
    };
    let report = compare(&read(against)?, &file);
    match args.format {
        Format::Json => print_json(&report)?,
        Format::Text => print(&report.text())?,
    }
    Ok(ExitCode::from(u8::from(report.verdict != "same")))
}

/// The lock of one file: of a kernel, its structures under its own names.
fn show(format: Format, image: Image) -> std::io::Result<()> {
    let (lock, unknown) = match image {
        Image::Lock(lock) => (lock, Vec::new()),
        Image::Kernel(kernel) => {
            let mut entries: BTreeMap<&str, Entry> = BTreeMap::new();
            for found in kernel.found {
                let component = found.known.component;
                let version = kernel.versions.get(component).map(|version| format!("-v{version}"));
                let entry = entries.entry(component).or_default();
                entry.key = format!("{component}{}", version.unwrap_or_default());
                entry.structures.insert(found.known.linux.into(), found.structure);
            }
            (Lock::new(entries.into_values()), kernel.unknown)
        }
    };
    match format {
        Format::Json => print_json(&Shown::of(&lock, unknown)),
        Format::Text => {
            let mut text = String::new();
            for entry in lock.entries.values() {
                // Names in BTF are whatever somebody wrote there.
                let lines: Vec<String> = entry.to_string().lines().map(clean).collect();
                let _ = writeln!(text, "{}\n", lines.join("\n"));
            }
            for name in unknown {
                let _ = writeln!(text, "struct {}: not known here", clean(&name));
            }
            print(&text)
        }
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    components: Vec<ShownComponent<'a>>,
    /// Structures that look as if they were handed over, and are not known here.
    unknown: Vec<String>,
}

#[derive(Serialize)]
struct ShownComponent<'a> {
    component: &'a str,
    fingerprint: String,
    values: &'a BTreeMap<String, String>,
    structures: BTreeMap<&'a str, ShownStructure<'a>>,
}

#[derive(Serialize)]
struct ShownStructure<'a> {
    size: u64,
    fields: Vec<ShownField<'a>>,
}

#[derive(Serialize)]
struct ShownField<'a> {
    name: &'a str,
    offset: u64,
    size: u64,
    #[serde(rename = "type")]
    ty: &'a str,
}

impl<'a> Shown<'a> {
    fn of(lock: &'a Lock, unknown: Vec<String>) -> Shown<'a> {
        let structure = |structure: &'a Structure| ShownStructure {
            size: structure.size,
            fields: structure
                .fields
                .iter()
                .map(|f| ShownField { name: &f.name, offset: f.offset, size: f.size, ty: &f.ty })
                .collect(),
        };
        let components = lock.entries.values().map(|entry| ShownComponent {
            component: &entry.key,
            fingerprint: format!("{:016x}", entry.fingerprint()),
            values: &entry.values,
            structures: entry.structures.iter().map(|(name, s)| (name.as_str(), structure(s))).collect(),
        });
        Shown { components: components.collect(), unknown }
    }
}

/// What a comparison says.
#[derive(Debug, Serialize)]
struct Report {
    /// `same` or `different`.
    verdict: &'static str,
    /// Components that differ.
    components: Vec<Compared>,
    /// Structures that only one side has, so that they could not be compared: not a difference.
    missing: Vec<String>,
    /// Structures that look as if they were handed over, and are not known here.
    unknown: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Compared {
    component: String,
    /// What it was, where that is known.
    old_version: Option<u32>,
    /// What it is, where that is known.
    new_version: Option<u32>,
    /// `unbumped`: another layout under the same version, an error; `bumped`; `unknown`: the versions are not there.
    version: &'static str,
    differences: Vec<Changed>,
}

#[derive(Debug, Serialize)]
struct Changed {
    item: String,
    how: &'static str,
    old: String,
    new: String,
    #[serde(skip)]
    text: String,
}

/// One side of one component, with the names of the other side where they are known.
#[derive(Default)]
struct Side {
    version: Option<u32>,
    entry: Entry,
}

fn compare(old: &Image, new: &Image) -> Report {
    let mut report = Report { verdict: "same", components: Vec::new(), missing: Vec::new(), unknown: Vec::new() };
    for image in [old, new] {
        if let Image::Kernel(kernel) = image {
            let more = kernel.unknown.iter().filter(|name| !report.unknown.contains(name)).cloned().collect::<Vec<_>>();
            report.unknown.extend(more);
        }
    }
    let pairs = match (old, new) {
        (Image::Lock(old), Image::Lock(new)) => locks(old, new),
        (Image::Kernel(old), Image::Kernel(new)) => kernels(old, new),
        (Image::Lock(lock), Image::Kernel(kernel)) => with_lock(lock, kernel, &mut report.missing),
        (Image::Kernel(kernel), Image::Lock(lock)) => {
            let pairs = with_lock(lock, kernel, &mut report.missing);
            pairs.into_iter().map(|(component, lock, kernel)| (component, kernel, lock)).collect()
        }
    };
    for (component, old, new) in pairs {
        let list = differences(&old.entry, &new.entry);
        let raised = old.version.zip(new.version).is_some_and(|(old, new)| old != new);
        if list.is_empty() && !raised {
            continue;
        }
        report.verdict = "different";
        let version = match (old.version, new.version) {
            (Some(old), Some(new)) if old == new => "unbumped",
            (Some(_), Some(_)) => "bumped",
            // Boot protocols and ioctls have no version that could be raised.
            _ if component.contains("boot") || component.contains("ioctl") => "unbumped",
            _ => "unknown",
        };
        let differences = list.into_iter().map(Changed::from).collect();
        let (old_version, new_version) = (old.version, new.version);
        report.components.push(Compared { component, old_version, new_version, version, differences });
    }
    report
}

impl From<Difference> for Changed {
    fn from(difference: Difference) -> Changed {
        let text = difference.to_string();
        let Difference { item, how, old, new } = difference;
        Changed { item, how, old, new, text }
    }
}

type Pairs = Vec<(String, Side, Side)>;

/// Component by component and version by version: what both have.
fn locks(old: &Lock, new: &Lock) -> Pairs {
    let keys: std::collections::BTreeSet<&String> = old.entries.keys().chain(new.entries.keys()).collect();
    let side = |lock: &Lock, key: &str| {
        let entry = lock.entries.get(key).cloned().unwrap_or_default();
        let version = Entry { key: key.to_owned(), ..Entry::default() }.compat().map(|compat| compat.version());
        Side { version, entry }
    };
    keys.into_iter().map(|key| (key.clone(), side(old, key), side(new, key))).collect()
}

fn kernels(old: &Kernel, new: &Kernel) -> Pairs {
    let mut pairs: BTreeMap<&str, (Side, Side)> = BTreeMap::new();
    for (kernel, is_new) in [(old, false), (new, true)] {
        for Found { known, structure } in &kernel.found {
            let (before, after) = pairs.entry(known.component).or_default();
            let side = if is_new { after } else { before };
            side.version = kernel.versions.get(known.component).copied();
            side.entry.structures.insert(known.linux.into(), structure.clone());
        }
    }
    pairs.into_iter().map(|(component, (old, new))| (component.into(), old, new)).collect()
}

/// Each structure of the kernel, with our names for its fields, and its like in the lock under the kernel's name.
fn with_lock(lock: &Lock, kernel: &Kernel, missing: &mut Vec<String>) -> Pairs {
    let mut pairs: BTreeMap<&str, (Side, Side)> = BTreeMap::new();
    for Found { known, structure } in &kernel.found {
        let version = kernel.versions.get(known.component).copied();
        let entry = lock.find(known.component, version).or_else(|| lock.find(known.component, None));
        let Some(like) = entry.and_then(|entry| entry.structures.get(known.here)) else {
            missing.push(format!("struct {}: the lock has no {} of {}", known.linux, known.here, known.component));
            continue;
        };
        let mut renamed = structure.clone();
        for field in &mut renamed.fields {
            if let Some((_, ours)) = known.fields.iter().find(|(theirs, _)| *theirs == field.name) {
                field.name = (*ours).into();
            }
        }
        let (ours, theirs) = pairs.entry(known.component).or_default();
        ours.version = entry.and_then(|entry| entry.compat().map(|compat| compat.version()));
        theirs.version = version;
        ours.entry.structures.insert(known.linux.into(), like.clone());
        theirs.entry.structures.insert(known.linux.into(), renamed);
    }
    for known in names::KNOWN {
        if !kernel.found.iter().any(|found| found.known.linux == known.linux) {
            missing.push(format!("struct {}: the kernel does not have it", known.linux));
        }
    }
    pairs.into_iter().map(|(component, (ours, theirs))| (component.into(), ours, theirs)).collect()
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        for compared in &self.components {
            let name = paint(BOLD, &compared.component);
            let versions = match (compared.old_version, compared.new_version) {
                (Some(old), Some(new)) if old == new => format!("v{old}"),
                (Some(old), Some(new)) => format!("v{old} -> v{new}"),
                (Some(old), None) => format!("v{old}, and the new one does not say"),
                (None, Some(new)) => format!("v{new}, and the old one did not say"),
                (None, None) => "versions not known".into(),
            };
            let verdict = match compared.version {
                "unbumped" => "error: an ABI change without a new version",
                "bumped" => "a new version",
                _ => "changed; an error, unless its version was raised",
            };
            let _ = writeln!(text, "{name} ({versions}): {verdict}");
            for changed in &compared.differences {
                let _ = writeln!(text, "  {}", clean(&changed.text));
            }
        }
        for line in &self.missing {
            let _ = writeln!(text, "{}", clean(line));
        }
        for name in &self.unknown {
            let _ = writeln!(text, "struct {}: not known here", clean(name));
        }
        let partly = if self.verdict == "same" && !self.missing.is_empty() { ", of what both have" } else { "" };
        let _ = writeln!(text, "{}{partly}", self.verdict);
        text
    }
}
