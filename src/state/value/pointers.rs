//! Values behind pointers, in cells and under locks.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use core::cell::{Cell, RefCell};
use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

use super::Value;
use crate::report::{Code, Fault};
use crate::state::error::{Error, Result};
use crate::state::restore::Restorer;
use crate::state::save::Saver;
use crate::state::shape::Type;

impl<T: Value> Value for Box<T> {
    const TYPE: Type = T::TYPE;

    #[inline]
    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        (**self).save(out)
    }

    #[inline]
    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        T::restore(input).map(Box::new)
    }
}

impl<T: Value> Value for Option<T> {
    const TYPE: Type = Type::Option(&T::TYPE);

    #[inline]
    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        out.present(self.is_some());
        self.as_ref().map_or(Ok(()), |value| value.save(out))
    }

    #[inline]
    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        if bool::restore(input)? { T::restore(input).map(Some) } else { Ok(None) }
    }
}

macro_rules! shared {
    ($($pointer:ident),*) => {$(
        impl<T: Value + 'static> Value for $pointer<T> {
            const TYPE: Type = Type::Shared(&T::TYPE);

            fn save(&self, out: &mut Saver<'_>) -> Result<()> {
                out.shared(&T::TYPE, $pointer::as_ptr(self).addr(), self.clone(), |out| (**self).save(out))
            }

            fn restore(input: &mut Restorer<'_>) -> Result<Self> {
                input.shared(&T::TYPE, |input| T::restore(input).map($pointer::new))
            }
        }
    )*};
}

shared!(Rc, Arc);

#[cold]
pub(crate) fn busy(what: &'static str) -> Error {
    Fault::new(Code::StateBusy).found(what).into()
}

impl<T: Value + Copy> Value for Cell<T> {
    const TYPE: Type = T::TYPE;

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        self.get().save(out)
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        T::restore(input).map(Cell::new)
    }
}

impl<T: Value> Value for RefCell<T> {
    const TYPE: Type = T::TYPE;

    fn save(&self, out: &mut Saver<'_>) -> Result<()> {
        self.try_borrow().map_err(|_| busy("a cell that is borrowed to be changed"))?.save(out)
    }

    fn restore(input: &mut Restorer<'_>) -> Result<Self> {
        T::restore(input).map(RefCell::new)
    }
}

#[cfg(feature = "std")]
mod locks {
    use std::sync::{Mutex, RwLock};

    use super::*;

    macro_rules! locks {
        ($($lock:ident by $lock_it:ident),*) => {$(
            /// Waits for the lock.
            impl<T: Value> Value for $lock<T> {
                const TYPE: Type = T::TYPE;

                fn save(&self, out: &mut Saver<'_>) -> Result<()> {
                    self.$lock_it().map_err(|_| busy("a lock whose holder panicked"))?.save(out)
                }

                fn restore(input: &mut Restorer<'_>) -> Result<Self> {
                    T::restore(input).map($lock::new)
                }
            }
        )*};
    }

    locks!(Mutex by lock, RwLock by read);
}

macro_rules! atomics {
    ($($atomic:ident of $ty:ty),*) => {$(
        impl Value for $atomic {
            const TYPE: Type = <$ty>::TYPE;

            fn save(&self, out: &mut Saver<'_>) -> Result<()> {
                self.load(Ordering::SeqCst).save(out)
            }

            fn restore(input: &mut Restorer<'_>) -> Result<Self> {
                <$ty>::restore(input).map($atomic::new)
            }
        }
    )*};
}

atomics!(
    AtomicBool of bool, AtomicU8 of u8, AtomicU16 of u16, AtomicU32 of u32, AtomicU64 of u64, AtomicUsize of usize,
    AtomicI32 of i32, AtomicI64 of i64
);
