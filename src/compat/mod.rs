//! Who understands what.

use core::fmt;

/// A component and the version of its layout: `radix-v1`.
///
/// ```
/// use kho::compat::Compat;
/// const RADIX: Compat<'static> = Compat::new("radix", 1);
/// assert_eq!(RADIX.to_string(), "radix-v1");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Compat<'a> {
    name: &'a str,
    version: u32,
}

impl<'a> Compat<'a> {
    /// A component of that name in that version.
    #[must_use]
    pub const fn new(name: &'a str, version: u32) -> Self {
        Compat { name, version }
    }

    /// The name, without the version.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// The number of the version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }
}

impl fmt::Display for Compat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-v{}", self.name, self.version)
    }
}
