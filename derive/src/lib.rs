//! `#[derive(State)]`: the state of a type, as `kho::state` saves and restores it, in versions.
//!
//! The type says with which version each of its fields came, and which ones it had before. From that come its
//! description, which its lock and its reader are held to, and the code that writes any version from the oldest that is
//! supported to the newest, and reads it.
//!
//! Use it as `kho::state::State`; the code that it writes is for `kho` only.

mod attrs;
mod check;
mod expand;
mod locked;
mod model;
#[cfg(test)]
mod tests;

use proc_macro::TokenStream;

/// Implements `kho::state::Value` and `kho::state::State` for a struct with fields or an enum, without generics.
///
/// ```ignore
/// use kho::state::{Error, State};
///
/// #[derive(State)]
/// #[state(id = 7, version = 3, after_restore = Self::check)]
/// // Up to version 2, behind `apic`. Version 3 has `timers` in its place.
/// #[state(deprecated(name = "timer", ty = u64, until = 3, after = "apic", write = Self::first, read = Self::read))]
/// pub struct Vcpu {
///     apic: u32,
///     #[state(since = 3, default)]
///     timers: Vec<u64>,
///     mode: Mode,
///     // Older programs know nothing of it. One that would need it, because it is not 1, is not written for them.
///     #[state(since = 2, default = 1, required)]
///     threads: u32,
///     // There with some values of earlier fields only: not in the bytes otherwise.
///     #[state(default, when = |mode, threads| matches!(mode, Mode::Paused { .. }) && *threads > 1)]
///     waiting: Vec<u32>,
///     // Many bytes, as they are.
///     #[state(plain)]
///     registers: Vec<u64>,
///     // With versions of its own, or not there. A program that does not know it may leave it out.
///     #[state(subsection = ignorable)]
///     statistics: Option<Statistics>,
///     // Made again by the successor.
///     #[state(skip, default = Cache::with_capacity(16))]
///     cache: Cache,
/// }
///
/// #[derive(State)]
/// #[state(id = 8, version = 2)]
/// pub enum Mode {
///     #[state(tag = 1)]
///     Running,
///     #[state(tag = 2)]
///     Paused { at: u64 },
///     #[state(tag = 3, since = 2)]
///     Migrating(u32),
/// }
///
/// #[derive(State)]
/// #[state(id = 9, version = 1, ignorable)]
/// pub struct Statistics {
///     exits: u64,
/// }
///
/// impl Vcpu {
///     fn first(&self) -> u64 {
///         self.timers.first().copied().unwrap_or(0)
///     }
///
///     fn read(&mut self, timer: u64) {
///         self.timers = vec![timer];
///     }
///
///     fn check(&mut self, version: u32) -> Result<(), Error> {
///         // ...
///         Ok(())
///     }
/// }
/// ```
///
/// # The type
///
/// | `#[state(...)]` | |
/// |---|---|
/// | `id = 7` | Required. From 1; no other type of the program has it, and it stays. |
/// | `version = 2` | Required. From 1; one more with each change of the fields. |
/// | `min_version = 1` | The oldest version that is read and written; 1 without it. |
/// | `name = "vcpu"` | In errors, descriptions and the lock; without it the type's own, in `snake_case`. |
/// | `ignorable` | As a subsection, it may be left out by a program that does not know it. |
/// | `before_save = path` | `fn(&Self) -> Result<(), E>`. All `E` are what `kho::state::Error` can be made `From`. |
/// | `after_save = path` | `fn(&Self, saved: bool)`; always called when `before_save` was without an error. |
/// | `before_restore = path` | `fn(version: u32) -> Result<(), E>`; with the version that is read, before its fields. |
/// | `after_restore = path` | `fn(&mut Self, version: u32) -> Result<(), E>`; with the value, when all of it is there. |
/// | `deprecated(...)` | A field that the struct no longer has; any number of times. |
///
/// # Fields that were: `deprecated(...)`
///
/// | | |
/// |---|---|
/// | `name = "timer"` | Required: its name on the wire. |
/// | `ty = u64` | Required: its type. |
/// | `until = 3` | Required: the first version without it. |
/// | `since = 1` | The first version with it; 1 without it. |
/// | `after = "apic"` | Which field it stands behind, by the name on the wire; without it, in front of all. Another deprecated one is fine. Several behind one field stand in the order of their attributes. |
/// | `write = path` | `fn(&Self) -> T`: its value for an older version; without it, `T::default()`. |
/// | `read = path` | `fn(&mut Self, T)`: what is done with it; without it, nothing. Before `after_restore`. |
///
/// # Fields
///
/// They stand on the wire as they are declared, so a new one may stand anywhere. All of this is for fields of variants,
/// too, but `subsection` and `skip`.
///
/// | `#[state(...)]` | |
/// |---|---|
/// | `rename = "wire"` | Its name; otherwise the field's own, or its number. No two have the same, and none has that of a deprecated one. |
/// | `since = 2` | The first version with it. Above `min_version`, it needs `default`. |
/// | `default`, `default = expr` | What it is when it was not in the input. The expression sees no fields. |
/// | `required` | With `since`: what is not the default (by `PartialEq`) cannot be written in an older version, and is an error. Without it, it is dropped. |
/// | `when = \|a, b\| expr` | Whether it is there at all; needs `default`. The parameters are names of earlier fields (`_0`, `_1` in tuples), each a reference. The expression sees nothing else. |
/// | `with = module` | The module's `TYPE`, `save(&T, &mut Saver<'_>) -> Result<()>` and `restore(&mut Restorer<'_>) -> Result<T>`, for types that are not ours. |
/// | `plain` | By `PlainField`: many equal elements as bytes. |
/// | `subsection = required`, `subsection = ignorable` | An `Option<T>` of a `T: State`, behind all fields. Whoever does not know it refuses, or leaves it out. Only `rename` goes with it; each has another `T`. |
/// | `skip` | Not saved; needs `default`. |
///
/// A condition is given what a reader of the written version will have: the default of a field that is not in it.
///
/// # Variants
///
/// | `#[state(...)]` | |
/// |---|---|
/// | `tag = 3` | Required, and stays whatever the order. `= 3` of a variant without fields is one, too. |
/// | `since = 2` | The first version with it: it cannot be written in an older one. Its fields are of this version, or newer. |
/// | `rename = "wire"` | Its name; otherwise its own, in `snake_case`. |
#[proc_macro_derive(State, attributes(state))]
pub fn derive_state(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    expanded(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Tests that hold the states of a project against `state.lock` and against states that were saved: see
/// `kho::state::lock`.
///
/// ```ignore
/// kho::state_tests! {
///     folder: "tests/states",
///     Vcpu = Vcpu::sample(),
///     Timer = Timer::default() => |timer: &Timer, version: u32| assert!(version > 1 || timer.slack == 0),
/// }
/// ```
/// The folder is that of the package's root. What stands behind `=>` is called with every value that was restored, and
/// captures nothing.
#[proc_macro]
pub fn state_tests(input: TokenStream) -> TokenStream {
    let tests = syn::parse_macro_input!(input as locked::StateTests);
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map(std::path::PathBuf::from).unwrap_or_default();
    locked::expand(&tests, &root).unwrap_or_else(syn::Error::into_compile_error).into()
}

fn expanded(input: &syn::DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    check::check(input).map(|state| expand::expand(&state))
}
