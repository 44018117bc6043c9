//! Which architecture a machine has.

use core::fmt;

/// The architecture of a machine. No kernel reads what one of another architecture handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Machine {
    /// x86 with 64 bits.
    #[cfg_attr(feature = "serde", serde(rename = "x86-64"))]
    X86,
    /// Arm with 64 bits.
    #[cfg_attr(feature = "serde", serde(rename = "arm64"))]
    Arm64,
    /// RISC-V with 64 bits.
    #[cfg_attr(feature = "serde", serde(rename = "riscv64"))]
    RiscV64,
}

impl Machine {
    /// The one that `e_machine` of a 64-bit ELF file names, if it is known here.
    #[must_use]
    pub const fn of_elf(e_machine: u16) -> Option<Self> {
        match e_machine {
            62 => Some(Machine::X86),
            183 => Some(Machine::Arm64),
            243 => Some(Machine::RiscV64),
            _ => None,
        }
    }

    /// The one that `uname -m` names, if it is known here.
    #[must_use]
    pub fn of_uname(machine: &str) -> Option<Self> {
        match machine {
            "x86_64" => Some(Machine::X86),
            "aarch64" => Some(Machine::Arm64),
            "riscv64" => Some(Machine::RiscV64),
            _ => None,
        }
    }

    /// The one that this program was compiled for.
    #[must_use]
    pub const fn here() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Machine::X86)
        } else if cfg!(target_arch = "aarch64") {
            Some(Machine::Arm64)
        } else if cfg!(target_arch = "riscv64") {
            Some(Machine::RiscV64)
        } else {
            None
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Machine::X86 => "x86-64",
            Machine::Arm64 => "arm64",
            Machine::RiscV64 => "riscv64",
        })
    }
}
