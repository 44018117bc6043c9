//! What the demo prints.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::Format;
use crate::units::{size, time};

/// One node, and whether every byte of it arrived.
#[derive(serde::Serialize)]
pub(super) struct Row {
    pub(super) node: String,
    pub(super) compatible: Vec<String>,
    pub(super) what: String,
    pub(super) bytes: u64,
    /// What differs; none when all bytes are the same.
    pub(super) wrong: Option<String>,
}

/// Nanoseconds between the stations of the handover.
#[derive(serde::Serialize)]
pub(super) struct Phases {
    pub(super) freeze_to_exec: u64,
    pub(super) exec_to_main: u64,
    pub(super) exec_to_accepted: u64,
    pub(super) accepted_to_restored: u64,
    pub(super) blackout: u64,
}

#[derive(serde::Serialize)]
pub(super) struct Report {
    pub(super) nodes: Vec<Row>,
    #[serde(rename = "phases_ns")]
    pub(super) phases: Phases,
    /// Bytes of metadata that were written, in whole pages.
    pub(super) metadata: u64,
    pub(super) kept: Option<PathBuf>,
}

impl Report {
    pub(super) fn print(&self, format: Format) -> Result<ExitCode, Box<dyn std::error::Error>> {
        let text = match format {
            Format::Json => serde_json::to_string_pretty(self)? + "\n",
            Format::Text => self.text()?,
        };
        crate::print(text.as_bytes())?;
        let wrong = self.nodes.iter().filter(|row| row.wrong.is_some()).count();
        if wrong == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        for row in &self.nodes {
            if let Some(wrong) = &row.wrong {
                eprintln!("kho: /{}: {wrong}", row.node);
            }
        }
        Ok(ExitCode::from(1))
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let head = ["node", "compatible", "what", "bytes", "verdict"].map(String::from);
        let rows = self.nodes.iter().map(|row| {
            let verdict = if row.wrong.is_none() { "same" } else { "DIFFERS" };
            [row.node.clone(), row.compatible.join(", "), row.what.clone(), size(row.bytes), verdict.into()]
        });
        let table: Vec<[String; 5]> = std::iter::once(head).chain(rows).collect();
        let mut widths = [0; 5];
        for row in &table {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.len().max(*width);
            }
        }
        let mut text = String::new();
        for [node, compatible, what, bytes, verdict] in &table {
            let [a, b, c, d, _] = widths;
            writeln!(text, "{node:a$}  {compatible:b$}  {what:c$}  {bytes:>d$}  {verdict}")?;
        }
        let phases = &self.phases;
        writeln!(text, "\nfreeze -> exec        {:>9}", time(phases.freeze_to_exec))?;
        writeln!(
            text,
            "exec -> accepted      {:>9}   ({} of it until main)",
            time(phases.exec_to_accepted),
            time(phases.exec_to_main)
        )?;
        writeln!(text, "accepted -> restored  {:>9}", time(phases.accepted_to_restored))?;
        writeln!(
            text,
            "blackout              {:>9}   (last instruction of the predecessor to everything restored)",
            time(phases.blackout)
        )?;
        writeln!(text, "metadata written      {:>9}", size(self.metadata))?;
        if let Some(dir) = &self.kept {
            writeln!(text, "kept in {}: handover.dtb, handover.dts, arena.img, memfd.img, files/", dir.display())?;
        }
        Ok(text)
    }
}
