//! What a successor says that it understands, each statement with its source.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::compat::{Compat, Reads};
use crate::manifest::Found;
use crate::mem::Machine;
use crate::report::{Code, Fault};

/// What a successor understands, and who says so.
///
/// As JSON it can be kept, and pinned: `kho understands IMAGE --format json` prints one, and `kho plan --against` takes
/// it. Fields that this version does not know are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Profile {
    /// Version of this format: [`Profile::VERSION`].
    pub profile: u32,
    /// What the image is, from the outside in: `bzImage`, `xz`, `elf`.
    pub layers: Vec<String>,
    /// `Linux version ...`, as the kernel prints it first.
    pub banner: Option<String>,
    /// Bytes of a page.
    pub page_size: Option<u64>,
    /// Who says that page size.
    pub page_size_by: Option<By>,
    /// Its architecture.
    pub machine: Option<Machine>,
    /// Who says that architecture.
    pub machine_by: Option<By>,
    /// What the configuration in the image says, where it has one.
    pub config: Vec<Setting>,
    /// What it reads.
    pub understands: Vec<Statement>,
    /// What the manifest says, of a program that has one: it reads and writes this and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<Found>,
    /// Whether [`Profile::understands`] names every handler of files that it has.
    pub handlers_complete: bool,
    /// Names in `.liveupdate_features`, whose format is not settled: shown, and nothing is made of them.
    pub unsettled: Vec<String>,
    /// Other strings of the image that look like NAME-vNUMBER: handlers that nobody here knows may be among them.
    pub strings: Vec<String>,
}

/// One component that a successor reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Statement {
    /// The newest version that it reads: `memfd-v2`.
    pub component: String,
    /// The oldest, if it reads a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<u32>,
    /// Who says so.
    pub by: By,
    /// Where in the unpacked image, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// Who says what a successor understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum By {
    /// An operator, in a profile that was pinned.
    Operator,
    /// The manifest of a program.
    Manifest,
    /// The ELF section `.liveupdate_versions`.
    LiveupdateVersions,
    /// The same table, found by its magic in an image that has no sections.
    VersionTable,
    /// The header of the image.
    Header,
    /// The configuration in the image.
    Config,
    /// A heuristic: the string is in the image. That it is there does not say that it is read.
    Strings,
    /// The kernel that runs now, which hands over itself in that version.
    Exported,
    /// What kernels with that root are known to use, without saying it.
    Implied,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Operator => "pinned",
            By::Manifest => "manifest",
            By::LiveupdateVersions => ".liveupdate_versions",
            By::VersionTable => "table of versions",
            By::Header => "header",
            By::Config => "configuration",
            By::Strings => "a string, heuristic",
            By::Exported => "exported by the running kernel",
            By::Implied => "implied",
        })
    }
}

/// A line of the configuration: `CONFIG_KEXEC_HANDOVER` and `y`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Setting {
    /// Its name, with `CONFIG_`.
    pub name: String,
    /// `y`, `m`, `n` or what stands there.
    pub value: String,
}

impl Statement {
    /// What an operator knows: this version and no other.
    #[must_use]
    pub fn pinned(component: &str) -> Self {
        Statement { component: component.into(), oldest: None, by: By::Operator, offset: None }
    }

    /// The versions that it reads.
    ///
    /// # Errors
    /// [`Code::CompatSyntax`] when the component is not NAME-vNUMBER, as a pinned profile may have it.
    pub fn reads(&self) -> Result<Reads<'_>, Fault> {
        let newest = Compat::parse(&self.component)?;
        Ok(Reads::since(self.oldest.unwrap_or(newest.version()), newest))
    }
}

impl Profile {
    /// The version of the format that this library writes.
    pub const VERSION: u32 = 1;

    /// So many statements a pinned profile has at most: each is held against each part of a handover.
    pub const MOST: usize = 8192;

    /// What heuristics cannot know.
    pub const CANNOT_KNOW: &'static str = "a string that is in the image need not be read by it; nor do strings say \
                                           whether handover is switched on (kho=, liveupdate=)";

    /// A profile that was pinned, from JSON that was decoded: whether it can be used.
    ///
    /// # Errors
    /// [`Code::VersionNewer`] or [`Code::VersionOlder`] for another format, [`Code::TooLarge`] for more than
    /// [`Profile::MOST`] statements, or a program with more than [`Terms::MOST`](crate::compat::Terms::MOST) ranges of
    /// versions of one node, and those of [`Statement::reads`].
    pub fn pinned(mut self) -> Result<Profile, Fault> {
        if self.profile != Self::VERSION {
            let code = if self.profile > Self::VERSION { Code::VersionNewer } else { Code::VersionOlder };
            return Err(Fault::new(code).item("profile").found(self.profile).expected(Self::VERSION));
        }
        if let Some(program) = &self.program {
            program.few().map_err(|fault| fault.within("program"))?;
        }
        if self.understands.len() > Self::MOST {
            let fault = Fault::new(Code::TooLarge).item("understands").found(self.understands.len());
            return Err(fault.expected(format_args!("at most {} statements", Self::MOST)));
        }
        for (number, statement) in self.understands.iter().enumerate() {
            let checked = statement.reads();
            checked.map_err(|fault| fault.item("component").within(&format!("understands[{number}]")))?;
        }
        if self.layers.is_empty() {
            self.layers.push("profile".into());
        }
        Ok(self)
    }

    /// All that it reads of one component, with who says so.
    pub(super) fn reads_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (Reads<'a>, By)> {
        let parsed = self.understands.iter().filter_map(|statement| Some((statement.reads().ok()?, statement.by)));
        parsed.filter(move |(reads, _)| reads.newest().name() == name)
    }

    /// What the configuration says, where it is known: whether that is built in.
    pub(super) fn built_in(&self, name: &str) -> Option<bool> {
        let setting = self.config.iter().find(|setting| setting.name == name)?;
        Some(matches!(setting.value.as_str(), "y" | "m"))
    }

    /// Whether this is anything that could be a next kernel: it has a banner, or somebody says what it reads.
    #[must_use]
    pub fn is_kernel(&self) -> bool {
        let said = [By::Operator, By::LiveupdateVersions, By::VersionTable];
        self.banner.is_some() || self.understands.iter().any(|statement| said.contains(&statement.by))
    }

    /// A program by what its manifest says.
    #[must_use]
    pub fn of_program(found: Found) -> Profile {
        Profile { profile: Self::VERSION, layers: vec!["program".into()], program: Some(found), ..Profile::default() }
    }

    /// Whether anything of it is known by strings alone.
    #[must_use]
    pub fn is_heuristic(&self) -> bool {
        self.understands.iter().any(|statement| statement.by == By::Strings)
    }
}
