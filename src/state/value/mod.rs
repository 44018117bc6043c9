//! What a state can have as a field.

mod collections;
mod link;
mod plain;
mod pointers;
mod scalars;

use alloc::vec::Vec;

use super::error::Result;
use super::restore::Restorer;
use super::save::Saver;
use super::shape::{Shape, Type};

#[cfg(feature = "std")]
pub use link::ArcLink;
pub use link::RcLink;
pub(crate) use plain::copied;
pub use plain::{Bulk, InPlace, PlainField};
pub(crate) use pointers::busy;

/// A value that a state can have as a field.
///
/// Numbers, `bool`, `char`, `String`, arrays, tuples, vectors, maps and sets, `Option`, `Box`, `Rc`, `Arc`, cells and
/// locks, [`Duration`](core::time::Duration), [`Frame`](crate::mem::Frame) and the other
/// [resources](crate::state#resources) are values, and every type with `#[derive(State)]`. To save a type of somebody
/// else's in a way of one's own, see `with` of the derive.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of a state",
    label = "not a state's value",
    note = "derive `kho::state::State` for it, or say `#[state(with = module)]`, `#[state(plain)]` or `#[state(skip, default)]`"
)]
pub trait Value: Sized {
    /// Its type on the wire.
    const TYPE: Type;

    /// Writes it.
    ///
    /// # Errors
    /// What makes it impossible; nothing of the state is saved then.
    fn save(&self, out: &mut Saver<'_>) -> Result<()>;

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    fn restore(input: &mut Restorer<'_>) -> Result<Self>;

    /// Writes several, without their number.
    #[doc(hidden)]
    #[inline]
    fn save_all(values: &[Self], out: &mut Saver<'_>) -> Result<()> {
        let since = out.written();
        for (index, value) in values.iter().enumerate() {
            out.foresee(since, index, values.len());
            value.save(out).map_err(|error| error.index(index))?;
        }
        Ok(())
    }

    /// Reads so many, which the bytes that are left may be.
    #[doc(hidden)]
    #[inline]
    fn restore_all(count: usize, input: &mut Restorer<'_>) -> Result<Vec<Self>> {
        let mut values = Vec::with_capacity(room::<Self>(count));
        for index in 0..count {
            values.push(Self::restore(input).map_err(|error| error.index(index))?);
        }
        Ok(values)
    }

    /// Reads an array.
    #[doc(hidden)]
    #[inline]
    fn restore_array<const N: usize>(input: &mut Restorer<'_>) -> Result<[Self; N]> {
        let mut failed = None;
        let values: [Option<Self>; N] = core::array::from_fn(|index| {
            if failed.is_some() {
                return None;
            }
            Self::restore(input).map_err(|error| failed = Some(error.index(index))).ok()
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let mut all = Vec::with_capacity(N);
        all.extend(values.into_iter().flatten());
        all.try_into().map_err(|_| input.fault(crate::report::Code::Truncated).into())
    }
}

/// Room for so many values: what the input justifies, whatever their size. A count is at most the bytes that are left,
/// and a value may take one byte there and a kilobyte here.
pub(crate) const fn room<T>(count: usize) -> usize {
    const MOST: usize = 1 << 16;
    let most = match MOST.checked_div(size_of::<T>()) {
        Some(most) if most > 16 => most,
        Some(_) => 16,
        None => MOST,
    };
    if count < most { count } else { most }
}

/// A value with a description of its own: its versions and fields. `#[derive(State)]` makes it.
pub trait State: Value {
    /// The description.
    const SHAPE: &'static Shape;
}
