//! `kho plan` and `kho understands`: what a next kernel reads, and what would become of a handover in it.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use kho::successor::{Answer, By, Carried, LIMIT, Line, Plan, Profile, Verdict, is_image};
use serde::Serialize;

use crate::source::{BOLD, DIM, GREEN, RED, Source, YELLOW, clean, count, open, paint, print, print_json};

/// Arguments of `kho plan`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// A program with a manifest; a kernel image, packed or not; a profile that `kho understands --format json` printed; or
    /// the word `running`, for the kernel that runs now
    #[arg(long, value_name = "SUCCESSOR")]
    against: PathBuf,
    /// A node or component that must not be dropped, as memblock; may be given more than once
    #[arg(long, value_name = "NAME")]
    require: Vec<String>,
    /// How the plan is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

const HELP: &str = "\
FILE is a handover, or what would write it: a program with a manifest, a kernel
image, a profile. Of each component it is said what becomes of it in the
successor, what happens there, and what to do. Nothing is run, loaded or changed.

Examples:
  kho plan out/arena.img --against target/release/next
      whether a program takes what another one has written
  kho plan /usr/bin/serviced --against build/serviced
      what that version would write for the new one; also of /proc/PID/exe
  kho plan frozen.core --against /boot/vmlinuz-7.3
      whether what a machine handed over is understood by that kernel
  kho plan /boot/vmlinuz-7.2 --against /boot/vmlinuz-7.3
      what the first would write, and the second read
  kho plan --require memblock frozen.core --against next.json
      reserved memory must not be allocated afresh; against a pinned profile
  kho plan /dev/mem --against running
      whether this machine would understand what it hands over, by what it exports
  kho plan --format json vmcore --against Image.gz | jq '.lines[] | {node, verdict, consequence}'

Exit codes:
  0  go: all is understood, or will be dropped without harm to the rest
  1  refused: what would happen is listed
  2  it cannot be told, or one of the files could not be read";

/// Arguments of `kho understands`.
#[derive(clap::Args)]
#[command(after_help = UNDERSTANDS)]
pub(crate) struct Understands {
    /// vmlinux, bzImage, Image, a zboot image or a UKI; packed by gzip, xz, zstd, lz4, bzip2, lzma, or not; a program with
    /// a manifest; or the word `running`, for the kernel that runs now
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// How it is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

const UNDERSTANDS: &str = "\
Each statement is printed with its source. That of strings is a heuristic: a
string that is in the image need not be read by it.

Examples:
  kho understands /boot/vmlinuz
      which versions that kernel reads
  kho understands running
      the same of the kernel that runs now, as far as it exports it
  kho understands --format json bzImage > next.json
      the same as a profile, to be kept, corrected, and given to kho plan --against

Exit codes: 0 printed, 2 it could not be read";

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object
    Json,
}

/// What `kho plan --format json` prints.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Report<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    /// What the successor understands.
    successor: &'a Profile,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let successor = profile(&args.against)?;
    let carried = match head_of(&args.source.file) {
        Ok(head) if !args.source.is_memory() && (is_image(&head) || is_json(&head)) => {
            Carried::written_by(&profile(&args.source.file)?)
        }
        _ => Carried::from(&args.source.decode().map_err(|error| args.source.not_shown(&error))?),
    };
    if !args.source.is_memory() && is_states(&args.source.file) {
        let why = "states that were saved alone: only of those in a handover it is known which node they are in";
        return Err(format!("{}: {why}", args.source.name()).into());
    }
    if carried.is_empty() {
        return Err(format!("{}: hands nothing over: it knows no version of the root", args.source.name()).into());
    }
    let required: Vec<&str> = args.require.iter().map(String::as_str).collect();
    let plan = Plan::new(&carried, &successor, &required);
    let unknown = required.iter().find(|name| !plan.lines.iter().any(|line| line.is_named(name)));
    if let Some(name) = unknown.filter(|_| plan.not_reached == 0) {
        return Err(format!("--require {name}: no node or component of the handover has that name").into());
    }
    match args.format {
        Format::Json => print_json(&Report { plan: &plan, successor: &successor })?,
        Format::Text => print(&text(args, &successor, &plan))?,
    }
    Ok(ExitCode::from(match plan.answer {
        Answer::Go => 0,
        Answer::Refused => 1,
        _ => 2,
    }))
}

pub(crate) fn understands(args: &Understands) -> Result<ExitCode, Box<dyn Error>> {
    let profile = profile(&args.image)?;
    match args.format {
        Format::Json => print_json(&profile)?,
        Format::Text => print(&shown(&args.image, &profile))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn name(path: &Path) -> String {
    clean(&path.display().to_string())
}

fn head_of(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    open(path)?.take(1024).read_to_end(&mut head)?;
    Ok(head)
}

fn is_states(path: &Path) -> bool {
    head_of(path).is_ok_and(|head| head.starts_with(&kho::abi::state::MAGIC.to_le_bytes()))
}

/// A profile begins as any object does.
fn is_json(head: &[u8]) -> bool {
    head.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// A pinned profile, or that of an image, or of the kernel that runs; a file of that name is `./running`.
fn profile(path: &Path) -> Result<Profile, Box<dyn Error>> {
    let fails = |error: &dyn std::fmt::Display| format!("{}: {}", name(path), clean(&error.to_string()));
    if path == Path::new("running") {
        return Ok(Profile::running().map_err(|fault| fails(&fault))?);
    }
    let head = head_of(path).map_err(|error| fails(&error))?;
    if is_json(&head) {
        let file = open(path).map_err(|error| fails(&error))?;
        let profile: Profile = serde_json::from_reader(std::io::BufReader::new(file.take(LIMIT >> 4)))
            .map_err(|error| fails(&format_args!("not a profile: {error}")))?;
        return Ok(profile.pinned().map_err(|fault| fails(&fault))?);
    }
    Ok(Profile::of_image(path).map_err(|fault| fails(&fault))?)
}

/// What it is, and where that is known from.
fn shown(path: &Path, profile: &Profile) -> String {
    let mut text = format!("{}\n", paint(BOLD, name(path)));
    if let Some(program) = &profile.program {
        text.push_str(&crate::manifest::reads(program));
        return text;
    }
    let mut row = |title: &str, value: &str| {
        let _ = writeln!(text, "{title:<10} {}", clean(value));
    };
    row("image", &profile.layers.join(" > "));
    row("kernel", profile.banner.as_deref().unwrap_or("its banner was not found"));
    match (profile.page_size, profile.page_size_by) {
        (Some(bytes), Some(by)) => row("page size", &format!("{} ({by})", crate::units::size(bytes))),
        (Some(bytes), None) => row("page size", &crate::units::size(bytes)),
        (None, _) => row("page size", "not known"),
    }
    match (profile.machine, profile.machine_by) {
        (Some(machine), Some(by)) => row("machine", &format!("{machine} ({by})")),
        (Some(machine), None) => row("machine", &machine.to_string()),
        (None, _) => row("machine", "not known"),
    }
    for setting in &profile.config {
        row("config", &format!("{}={}", setting.name, setting.value));
    }
    for statement in &profile.understands {
        let versions = statement.reads().map_or_else(|_| statement.component.clone(), |reads| reads.to_string());
        row("reads", &format!("{versions:<20} {}", statement.by));
    }
    if profile.understands.is_empty() {
        row("reads", "nothing of a handover");
    }
    if !profile.unsettled.is_empty() {
        row("unsettled", &format!(".liveupdate_features: {}", profile.unsettled.join(", ")));
    }
    if !profile.strings.is_empty() {
        let few: Vec<&str> = profile.strings.iter().take(8).map(String::as_str).collect();
        let more = profile.strings.len().saturating_sub(few.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        row("unknown", &format!("{}{more}: strings of that shape", few.join(", ")));
    }
    if profile.understands.iter().any(|statement| statement.by == By::Exported) {
        row("running", Profile::EXPORTS_NOT);
    }
    if profile.is_heuristic() {
        row("heuristic", Profile::CANNOT_KNOW);
    }
    text
}

fn text(args: &Args, successor: &Profile, plan: &Plan) -> String {
    let mut text = String::new();
    let what = match &successor.program {
        Some(program) => {
            let nodes = u64::try_from(program.reads.names().count()).unwrap_or(u64::MAX);
            format!("a program, by its manifest: reads {}", count(nodes, "node"))
        }
        None => {
            let banner = successor.banner.as_deref().unwrap_or("no banner");
            let short = banner.split(" (").next().unwrap_or(banner);
            format!("{}, {}", clean(&successor.layers.join(" > ")), clean(short))
        }
    };
    let _ = writeln!(text, "{:<10} {}: {what}", "successor", name(&args.against));
    let wide = |of: fn(&Line) -> &String, least: usize| {
        let longest = plan.lines.iter().map(|line| of(line).chars().count()).max().unwrap_or(0);
        longest.clamp(least, 48)
    };
    let (nodes, components) = (wide(|line| &line.node, 12), wide(|line| &line.component, 12));
    for line in &plan.lines {
        row(&mut text, line, nodes, components);
    }
    if plan.not_reached > 0 {
        let _ = writeln!(text, "not reached: {}, because of the above", count(plan.not_reached, "component"));
    }
    for note in &plan.notes {
        let _ = writeln!(text, "{}", paint(DIM, clean(note)));
    }
    let answer = match plan.answer {
        Answer::Go => match plan.count(Verdict::Dropped) {
            0 => paint(GREEN, "go"),
            dropped => format!("{}, {}", paint(GREEN, "go"), paint(YELLOW, format!("{dropped} will be dropped"))),
        },
        Answer::Refused => paint(RED, "refused"),
        _ => paint(YELLOW, "cannot be told"),
    };
    let _ = writeln!(text, "{} against {}: {answer}", paint(BOLD, args.source.name()), name(&args.against));
    text
}

fn row(text: &mut String, line: &Line, nodes: usize, components: usize) {
    let style = match line.verdict {
        Verdict::Fine => GREEN,
        Verdict::Refused => RED,
        _ => YELLOW,
    };
    let component = if line.component.is_empty() { "-" } else { &line.component };
    let files = match (line.count, line.component.is_empty()) {
        (1, true) => String::new(),
        (times, true) => format!(", {times} times"),
        (files, false) if line.node == "/LUO" => format!(", {}", count(files, "file")),
        _ => String::new(),
    };
    let _ = write!(
        text,
        "{} {:<nodes$} {:<components$}",
        paint(style, format!("{:<15}", line.verdict)),
        clean(&line.node),
        clean(component)
    );
    let by = line.by.filter(|by| *by != By::Manifest).map(|by| format!(" ({by})")).unwrap_or_default();
    let _ = match line.reads.is_empty() {
        true => writeln!(text, " {by}{files}"),
        false => writeln!(text, " reads {}{by}{files}", clean(&line.reads.join(", "))),
    };
    if line.verdict != Verdict::Fine {
        let _ = writeln!(text, "    why   {}", clean(&line.why));
        let _ = writeln!(text, "    then  {}", line.then);
        let _ = writeln!(text, "    do    {}", line.advice);
    } else if !line.why.is_empty() {
        let _ = writeln!(text, "    note  {}", clean(&line.why));
    }
}
