//! Why a state could not be saved or restored.

use alloc::boxed::Box;
use alloc::format;
use core::fmt;

use crate::report::{Code, Fault};

/// Why a state could not be saved or restored: a [`Fault`] whose item is the path of the value, as
/// `vmm.vcpus[3].lapic.timer`, and whose offset is that in the metadata of the image.
///
/// One word, so that what succeeds costs nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Fault>);

/// What saving and restoring give.
pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    /// An error of that kind, with nothing else known yet; for what is saved by hand.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Fault::new(code).into()
    }

    /// Of the user's own making: a value that was read and makes no sense to its owner.
    #[must_use]
    pub fn refused(found: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Fault::new(Code::Refused).found(found).expected(expected).into()
    }

    /// The same, in that field.
    #[must_use]
    #[cold]
    pub fn field(self, name: &str) -> Self {
        self.0.within(name).into()
    }

    /// The same, in that element.
    #[must_use]
    #[cold]
    pub fn index(self, index: impl fmt::Display) -> Self {
        self.0.within(&format!("[{index}]")).into()
    }

    /// What is wrong.
    pub const fn fault(&self) -> &Fault {
        &self.0
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for Error {}

impl From<Fault> for Error {
    #[cold]
    fn from(fault: Fault) -> Self {
        Error(Box::new(fault))
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        *error.0
    }
}

impl From<crate::mem::MemError> for Error {
    fn from(error: crate::mem::MemError) -> Self {
        Fault::from(error).into()
    }
}
