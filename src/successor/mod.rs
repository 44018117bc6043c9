//! What a successor understands, known before the predecessor leaves; and what would become of a handover in it.
//!
//! After kexec there is no safe way back, and a kernel that does not understand a handover says so by losing all of it,
//! by a panic, or by an error at the first use. So it is asked before: not by running it, but by reading its image.
//! [`Profile::of_image`] finds out what a kernel reads ([`Profile::running`] the one that runs now), each [`Statement`] with its source ([`By`]); [`Plan::new`] holds
//! what is [`Carried`] against it, and says for each component the [`Verdict`], the [`Consequence`] in the next kernel,
//! and what to do.
//!
//! A profile is what any successor says of itself: where it comes from is in its statements.
//!
//! | source | what it says |
//! |---|---|
//! | a pinned profile | what an operator knows |
//! | the [manifest](mod@crate::manifest) of a program | all that it reads and writes, with what it needs |
//! | ELF section `.liveupdate_versions` | every handler of files, and nothing else |
//! | the same table by its magic, in images without sections | the same |
//! | ELF section `.liveupdate_features` | shown; its format is not settled, and nothing is made of it |
//! | strings, `kho-v4` and a zero | a heuristic: [`Profile::CANNOT_KNOW`] |
//! | the header, the configuration in the image | page size, architecture; whether handover and live update are built in |
//! | what a running kernel exports | what it hands over itself: [`Profile::EXPORTS_NOT`] |

mod carried;
mod consequence;
mod image;
mod plan;
mod profile;
mod program;
mod running;
#[cfg(test)]
mod running_tests;
mod scan;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
mod unpack;

pub use carried::Carried;
pub use consequence::Consequence;
pub use image::{LIMIT, is_image};
pub use plan::{Answer, Line, Plan, Verdict};
pub use profile::{By, Profile, Setting, Statement};
