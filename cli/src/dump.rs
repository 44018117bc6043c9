//! `kho dump`: what is in it.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::ValueEnum;
use kho::inspect::{Content, Decoded, Device, GuestRegion, Memfd, Node, Range, Session, SessionFile, SourceKind};
use kho::luo::Flb;
use kho::selftest::Rule;
use kho::text::Name;

use crate::check::broken;
use crate::source::{
    BOLD, DIM, Source, clean, count, findings, head, is_handover, node_verdict, not_there, paint, print, print_json,
    verdict,
};
use crate::units::size;

/// Arguments of `kho dump`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// How it is printed
    #[arg(long, value_enum, default_value = "tree")]
    format: Format,
}

const HELP: &str = "\
Examples:
  kho dump frozen.core
      a dump of a machine that was frozen before its kexec
  kho dump --format dts frozen.core | dtc -o root.dtb
  kho dump --format json arena | jq '.preserved.entries'
  kho dump state.bin
      states that a program saved: it need not be here, they describe themselves
  kho dump --page-size 64K --fdt 0x40280000 vmcore
  kho dump --base 0x80000000 ram.bin
      raw memory

JSON has addresses and sizes as numbers, in bytes. Blocks are pairs of address and order.

Exit codes:
  0  it was shown, and is fine; warnings are shown too
  1  problems were found and are shown, with all that could be read. Of a root
     that is broken nothing but the problem is shown, as `kho check` does
  2  nothing could be shown: no such file, no handover, or cut so that nothing
     can be said";

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Tree,
    /// The root FDT as source that dtc compiles, values decoded in comments; other device trees as comments
    Dts,
    /// Everything
    Json,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let decoded = match args.source.decode() {
        Ok(decoded) => decoded,
        Err(error) => return broken(&args.source, error, matches!(args.format, Format::Json)),
    };
    match args.format {
        Format::Tree => print(&tree(&decoded, &args.source.name()))?,
        Format::Dts => print(&dts(&decoded)?)?,
        Format::Json => print_json(&decoded)?,
    }
    Ok(ExitCode::from(u8::from(decoded.errors > 0)))
}

fn dts(decoded: &Decoded) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    decoded.print_dts(&mut text)?;
    Ok(text)
}

/// So many lines are printed of one list.
const LINES: usize = 12;

fn tree(decoded: &Decoded, name: &str) -> String {
    let mut text = format!("{}\n{}", paint(BOLD, name), head(decoded));
    if !is_handover(decoded) {
        text.push_str("\nThis is not the root of a handover: its compatible has no kho-vN. As source:\n\n");
        let _ = decoded.print_dts(&mut text);
        return text;
    }
    let width = |of: fn(&Node) -> String, most: usize| {
        decoded.nodes.iter().map(|node| of(node).chars().count()).max().unwrap_or(0).clamp(1, most)
    };
    let (names, layouts) = (width(title, 31), width(layout, 60));
    text.push('\n');
    for node in &decoded.nodes {
        let title = format!("{:<names$}", title(node));
        let layout = format!("{:<layouts$}", layout(node));
        let blob =
            node.blob.as_ref().map_or("no blob".into(), |blob| format!("{:>4} B at {:#x}", blob.size, blob.address));
        if decoded.source.kind == SourceKind::States {
            let _ = write!(text, "{}  {layout}  {}", paint(BOLD, title), verdict(decoded.errors, decoded.warnings));
        } else {
            let _ = write!(text, "{}  {layout}  {}  {blob}", paint(BOLD, title), node_verdict(node));
        }
        if let Some(owned) = node.owned.filter(|owned| *owned > 0) {
            let _ = write!(text, ", owns {}", size(owned));
        }
        if node.optional {
            text.push_str(", optional");
        }
        text.push('\n');
        content(&mut text, node);
    }
    if decoded.nodes.is_empty() {
        text.push_str("no nodes\n");
    }
    ranges(&mut text, decoded);
    text.push('\n');
    text.push_str(not_there(decoded));
    text.push_str(&findings(decoded));
    let far = if not_there(decoded).is_empty() { "" } else { ", as far as the root FDT goes" };
    let _ = writeln!(text, "{}{far}", verdict(decoded.errors, decoded.warnings));
    text
}

fn title(node: &Node) -> String {
    clean(&node.name)
}

fn layout(node: &Node) -> String {
    match (&node.read_as, node.compatible.is_empty()) {
        (_, false) => clean(&node.compatible.join(", ")),
        (Some(layout), true) => layout.clone(),
        (None, true) => "-".into(),
    }
}

fn content(text: &mut String, node: &Node) {
    let mut line = |line: String| {
        let _ = writeln!(text, "    {line}");
    };
    match &node.content {
        None => {}
        Some(Content::Files { files }) => {
            line(format!("{} beside the memory", count(files.len() as u64, "file")));
            lines(files, file, &mut line);
        }
        Some(Content::GuestMemory { regions }) => {
            let all = regions.iter().fold(0_u64, |sum, region| sum.saturating_add(region.size));
            line(format!("{} of guest memory in {}", size(all), count(regions.len() as u64, "region")));
            lines(regions, region, &mut line);
        }
        Some(Content::Memfd(file)) => {
            line(memfd(file));
            line(folios(file));
        }
        Some(Content::Luo { number, sessions, flbs }) => luo(*number, sessions, flbs, &mut line),
        Some(Content::Memblock { ranges }) => {
            lines(
                ranges,
                |r| format!("reserve_mem {}: {} at {:#x}", named(&r.name), size(r.size), r.address),
                &mut line,
            );
            if ranges.is_empty() {
                line("no reserve_mem".into());
            }
        }
        Some(Content::KexecMetadata(metadata)) => {
            let release = clean(&metadata.previous_release);
            let release = if release.is_empty() { "of no release" } else { &release };
            line(format!("left by Linux {release}, kexec count {}", metadata.kexec_count));
        }
        Some(Content::KhoTest { csum, rule, bytes, folios }) => {
            let rule = match rule {
                Rule::Words => "words, as x86-64",
                Rule::Folded => "folded, as arm64",
            };
            let orders = by_order(folios.iter().map(|folio| folio.1));
            line(format!("{} of {}: {orders}", count(folios.len() as u64, "folio"), size(*bytes)));
            line(format!("checksum {csum:#010x} is right ({rule})"));
        }
        Some(Content::Records { count: records, record_size, blocks, .. }) => {
            let pages = count(blocks.len() as u64, "page");
            line(format!("{} of {record_size} B in {pages}", count(*records, "record")));
        }
        Some(Content::Array { bytes, blocks }) => {
            let orders = by_order(blocks.iter().map(|block| block.1));
            line(format!("array of {} in {}: {orders}", size(*bytes), count(blocks.len() as u64, "block")));
        }
        Some(Content::States(states)) => crate::states::shown(states, &mut line),
        Some(Content::LuoHead { number, sessions, flbs }) => {
            let at = |at: &u64| if *at == 0 { "none".into() } else { format!("at {at:#x}") };
            line(format!("live update {number}: sessions {}, FLBs {}", at(sessions), at(flbs)));
            if *sessions == 0 {
                line("Linux writes its sessions when it freezes, at the end".into());
            }
        }
        Some(Content::KhoTestHead { csum, folios, first }) => {
            let folios = count(u64::from(*folios), "folio");
            line(format!("{folios}, named by an array at {first:#x}; checksum {csum:#010x}, not verified"));
        }
        Some(Content::Bytes { first_bytes }) => hex(first_bytes, &mut line),
        Some(_) => line("see --format json".into()),
    }
}

/// The first of a list, and how many there are more.
fn lines<T>(list: &[T], show: impl Fn(&T) -> String, line: &mut impl FnMut(String)) {
    list.iter().take(LINES).for_each(|item| line(show(item)));
    more(list.len(), line);
}

fn more(all: usize, line: &mut impl FnMut(String)) {
    if all > LINES {
        line(paint(DIM, format_args!("... and {} more: --format json has all", all - LINES)));
    }
}

/// Sessions with their files, and globals.
fn luo(number: u64, sessions: &[Session], flbs: &[Flb], line: &mut impl FnMut(String)) {
    let files = sessions.iter().map(|session| session.files.len() as u64).sum();
    let counts = [(sessions.len() as u64, "session"), (files, "file"), (flbs.len() as u64, "FLB")];
    let counts = counts.map(|(number, what)| count(number, what)).join(", ");
    line(format!("live update {number}: {counts}{}", if flbs.is_empty() { "" } else { " (globals that files use)" }));
    if sessions.is_empty() {
        line("Linux writes its sessions when it freezes, at the end".into());
    }
    for session in sessions.iter().take(LINES) {
        line(format!("session {}: {}", named(&session.name), count(session.files.len() as u64, "file")));
        lines(&session.files, session_file, &mut |text| line(format!("    {text}")));
    }
    more(sessions.len(), line);
    let flb =
        |flb: &Flb| format!("FLB {}: used by {}, data {:#x}", named(&flb.name), count(flb.count, "file"), flb.data);
    lines(flbs, flb, line);
}

fn session_file(file: &SessionFile) -> String {
    let token = file.token;
    match &file.memfd {
        Some(pages) => format!("token {token:#x}: {}; {}", memfd(pages), folios(pages)),
        None => format!("token {token:#x}: {}, not looked into: data {:#x}", clean(&file.compatible), file.data),
    }
}

fn memfd(file: &Memfd) -> String {
    format!("memfd of {}, {}, position {}", size(file.size), sealed(&file.seals), file.pos)
}

fn folios(file: &Memfd) -> String {
    let orders = by_order(file.folios.iter().map(|folio| folio.1));
    format!("folios: {orders}")
}

/// A name that the machine chose.
fn named(name: &Name) -> String {
    clean(&name.to_string())
}

fn file(file: &Device) -> String {
    let mut all = vec![format!("token {:#x}: {}", file.token, file.kind)];
    // The others have no size or position, and only memfds have seals.
    let memfd = ["memfd", "hugetlb memfd"].contains(&file.kind.as_str());
    if file.size != 0 || memfd || file.kind == "regular file" {
        all[0] = format!("{} of {}", all[0], size(file.size));
    }
    all.extend(file.detail.iter().cloned());
    if memfd || !file.seals.is_empty() {
        all.push(sealed(&file.seals));
    }
    if file.pos != 0 || memfd || file.kind == "regular file" {
        all.push(format!("position {}", file.pos));
    }
    all.push(format!("inode {} on device {:#x}", file.inode, file.device));
    all.join(", ")
}

fn region(region: &GuestRegion) -> String {
    let write = if region.prot & kho::abi::guest::PROT_WRITE == 0 { "read only" } else { "read and write" };
    format!("{:#x}: {}, {write}, at {:#x} of token {:#x}", region.guest, size(region.size), region.offset, region.token)
}

fn sealed(seals: &[String]) -> String {
    if seals.is_empty() { "no seals".into() } else { format!("sealed {}", seals.join(" ")) }
}

/// `3 of order 0, 1 of order 5`.
fn by_order(orders: impl Iterator<Item = u32>) -> String {
    let mut counts = std::collections::BTreeMap::<u32, u64>::new();
    orders.for_each(|order| *counts.entry(order).or_default() += 1);
    let counts: Vec<_> = counts.into_iter().map(|(order, blocks)| format!("{blocks} of order {order}")).collect();
    if counts.is_empty() { "none".into() } else { counts.join(", ") }
}

/// The first bytes of what nobody understands, 16 on a line, with the characters that they are.
fn hex(digits: &str, line: &mut impl FnMut(String)) {
    let bytes: Vec<u8> = digits
        .as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    for (index, row) in bytes.chunks(16).enumerate() {
        let hex: Vec<_> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String = row.iter().map(|b| if (b' '..=b'~').contains(b) { char::from(*b) } else { '.' }).collect();
        line(paint(DIM, format_args!("{:02x}  {:<47}  {text}", index * 16, hex.join(" "))));
    }
}

fn ranges(text: &mut String, decoded: &Decoded) {
    let Some(preserved) = &decoded.preserved else { return };
    text.push_str("\npreserved ranges\n");
    let show = |range: &Range| {
        format!("{:#014x}..{:#014x}  {}", range.address, range.address.saturating_add(range.size), size(range.size))
    };
    lines(&preserved.ranges, show, &mut |line| {
        let _ = writeln!(text, "    {line}");
    });
    let missing = preserved.range_count.saturating_sub(preserved.ranges.len() as u64);
    if missing > 0 {
        let _ = writeln!(text, "    ... and {missing} that were counted only");
    }
}
