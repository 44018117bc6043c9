//! `kho kexec`: load the next kernel from user space, with a handover that a program authored.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use kho::inspect::{self, Options};
use kho::kexec::{Boot, BzImage, MemoryMap, Passing, Segments, rsdp, unload};
use kho::mem::{Geometry, Image, Memory as _, PhysAddr, Source};
use serde::Serialize;

use crate::source::{BOLD, Scratch, clean, paint, parse_scratch, print, print_json};
use crate::units::{parse_size, size};

/// Arguments of `kho kexec`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
For x86-64. A kernel that loads the next one itself (kexec -s) hands over
what it preserved; this loads a handover that a program authored, through
kexec_load(2). Only root may.

Examples:
  kho kexec load bzImage --initrd initrd.img --reuse-command-line \\
      --command-line 'kho=on liveupdate=on' \\
      --handover authored.img --base 0x40000000 --scratch 0x10000000+64MiB
  kho kexec load bzImage --command-line console=ttyS0 --dry-run
      where everything would go
  systemctl kexec
      stops the services, then starts the kernel that is loaded

Exit codes: 0 done, 1 the handover has problems (named), 2 it could not be
done.";

#[derive(Subcommand)]
enum Command {
    /// Load a kernel: the next kexec starts it
    Load(Box<Load>),
    /// Take the loaded kernel away
    Unload,
    /// Start the loaded kernel at once: no service is stopped, file systems are only synced
    Now,
}

#[derive(clap::Args)]
#[command(after_help = HELP)]
struct Load {
    /// The kernel, a bzImage
    kernel: PathBuf,
    /// The initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The command line of the next kernel
    #[arg(long, value_name = "TEXT", default_value = "")]
    command_line: String,
    /// That of the running kernel; what --command-line says is added
    #[arg(long)]
    reuse_command_line: bool,
    /// What is handed over: an ELF core, or raw memory with --base
    #[arg(long, value_name = "IMAGE", requires = "scratch")]
    handover: Option<PathBuf>,
    /// Physical address of the root FDT in it; without it, all pages are searched
    #[arg(long, value_name = "ADDR", value_parser = parse_size, requires = "handover")]
    fdt: Option<u64>,
    /// IMAGE is raw memory, and its first byte is at this physical address
    #[arg(long, value_name = "ADDR", value_parser = parse_size, requires = "handover")]
    base: Option<u64>,
    /// Where the next kernel may allocate until it has read the handover: a range, or a folder with scratch_phys and
    /// scratch_len; may be given more than once
    #[arg(long, value_name = "START+SIZE|DIR", value_parser = parse_scratch, requires = "handover")]
    scratch: Vec<Scratch>,
    /// The next kernel takes handovers without kho=on and liveupdate=on in its command line
    #[arg(long, requires = "handover")]
    on_by_default: bool,
    /// Physical address of the ACPI root pointer; without it, what the running kernel was told
    #[arg(long, value_name = "ADDR", value_parser = parse_size)]
    rsdp: Option<u64>,
    /// Only say where everything would go
    #[arg(long)]
    dry_run: bool,
    /// How that is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object: entry, segments
    Json,
}

#[derive(Serialize)]
struct Report {
    /// Where the next kernel is entered.
    entry: u64,
    segments: Vec<Segment>,
}

#[derive(Serialize)]
struct Segment {
    address: u64,
    size: u64,
    /// Bytes that are not zero because they end.
    bytes: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    match &args.command {
        Command::Load(args) => load(args),
        Command::Unload => {
            unload()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Now => {
            rustix::fs::sync();
            rustix::system::reboot(rustix::system::RebootCommand::Kexec)
                .map_err(|errno| format!("kexec: {errno}: is a kernel loaded, and are you root?"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn load(args: &Load) -> Result<ExitCode, Box<dyn Error>> {
    let kernel = BzImage::new(bytes(&args.kernel)?).map_err(|fault| told(&args.kernel, &fault))?;
    let initrd = args.initrd.as_deref().map(bytes).transpose()?.unwrap_or_default();
    let command_line = command_line(args)?;
    let handover = match &args.handover {
        None => None,
        Some(path) => match passing(args, path, &command_line)? {
            Ok(handover) => Some(handover),
            Err(problems) => {
                let _ = std::io::Write::write_all(&mut std::io::stderr(), problems.as_bytes());
                return Ok(ExitCode::from(1));
            }
        },
    };
    let memory = MemoryMap::of_this_machine().map_err(|fault| format!("{fault}; are you root?"))?;
    let boot = Boot {
        kernel: &kernel,
        initrd: &initrd,
        command_line: command_line.as_bytes(),
        memory: &memory,
        rsdp: args.rsdp.or_else(rsdp),
        handover: handover.as_ref(),
    };
    let segments = boot.segments()?;
    if !args.dry_run {
        segments.load()?;
    }
    report(args, &segments)?;
    Ok(ExitCode::SUCCESS)
}

/// No kernel and no initial RAM disk is larger: both are loaded below 4 GiB, or with sizes of 32 bits.
const LIMIT: u64 = 4 << 30;

fn bytes(path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let read = || {
        let file = std::fs::File::open(path)?;
        let found = file.metadata()?;
        let kind = found.file_type();
        let other = |what: &str| Err(std::io::Error::other(what));
        if kind.is_char_device() || kind.is_block_device() {
            return other("a device, not a file");
        }
        if found.len() > LIMIT {
            return other("larger than 4 GiB");
        }
        let mut bytes = Vec::new();
        file.take(LIMIT + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: std::io::Error| told(path, &error))
}

fn told(path: &Path, error: &impl std::fmt::Display) -> Box<dyn Error> {
    format!("{}: {error}", clean(&path.display().to_string())).into()
}

fn command_line(args: &Load) -> Result<String, Box<dyn Error>> {
    if !args.reuse_command_line {
        return Ok(args.command_line.clone());
    }
    let path = Path::new("/proc/cmdline");
    let running = std::fs::read_to_string(path).map_err(|error| told(path, &error))?;
    Ok([running.trim(), args.command_line.as_str()].join(" ").trim().into())
}

/// A kernel that is not told to take handovers boots as if there was none, and says nothing.
fn switched_on(command_line: &str, sessions: bool) -> Result<(), String> {
    let needed = ["kho", "liveupdate"].into_iter().take(if sessions { 2 } else { 1 });
    let is_on = |name: &str| {
        // Of several, the last one counts.
        let last = command_line.split_whitespace().rev().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        last.is_some_and(|value| ["on", "1", "y", "Y", "yes", "true"].contains(&value))
    };
    match needed.into_iter().find(|name| !is_on(name)) {
        None => Ok(()),
        Some(name) => Err(format!(
            "the command line has no {name}=on, without which the next kernel loses the handover without a word: add it \
             with --command-line, or say --on-by-default if that kernel needs none"
        )),
    }
}

/// The handover, if a kernel would take it; else what is wrong with it.
fn passing(args: &Load, path: &Path, command_line: &str) -> Result<Result<Passing, String>, Box<dyn Error>> {
    let (base, fdt) = (args.base.map(PhysAddr::new), args.fdt.map(PhysAddr::new));
    let scratch = args.scratch.concat();
    let options = Options { fdt, geometry: Some(Geometry::K4), base, scratch: scratch.clone(), ..Options::default() };
    let decoded = inspect::open(path, &options).map_err(|error| {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        told(path, &format!("{error}{hint}"))
    })?;
    if decoded.errors > 0 {
        return Ok(Err(crate::source::findings(&decoded)));
    }
    if !args.on_by_default {
        let sessions = decoded.nodes.iter().any(|node| node.name == "LUO");
        switched_on(command_line, sessions)?;
    }
    let root =
        decoded.root.address.map(PhysAddr::new).ok_or_else(|| told(path, &"a device tree alone is no memory"))?;
    let file = std::fs::File::open(path).map_err(|error| told(path, &error))?;
    let image = match base {
        Some(base) => Image::raw(file, base, Geometry::K4)?,
        None => match Image::from_file(file)? {
            Source::Image(image) => image,
            _ => return Err(told(path, &"a device tree alone is no memory")),
        },
    };
    if image.geometry() != Geometry::K4 {
        return Err(told(path, &"pages of another size than x86-64 has"));
    }
    Ok(Ok(Passing::new(&image, root, &scratch).map_err(|fault| told(path, &fault))?))
}

fn report(args: &Load, segments: &Segments) -> Result<(), Box<dyn Error>> {
    let list = segments.list().iter();
    let list = list.map(|segment| Segment {
        address: segment.at.get(),
        size: segment.size,
        bytes: segment.bytes.len() as u64,
    });
    let report = Report { entry: segments.entry().get(), segments: list.collect() };
    match args.format {
        Format::Json => print_json(&report)?,
        Format::Text => {
            let mut text = String::new();
            for segment in &report.segments {
                let end = segment.address.saturating_add(segment.size);
                let _ = writeln!(text, "{:#012x}..{end:#012x}  {}", segment.address, size(segment.bytes));
            }
            let verb = if args.dry_run { "would be entered" } else { "loaded; entered" };
            let _ = writeln!(text, "{}", paint(BOLD, format_args!("{verb} at {:#x}", report.entry)));
            print(&text)?;
        }
    }
    Ok(())
}
