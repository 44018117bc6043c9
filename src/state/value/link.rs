//! Weak links to objects that somebody else owns.

use alloc::rc::{Rc, Weak as RcWeak};
use core::cell::RefCell;
use core::fmt;

use super::Value;
use crate::state::error::Result;
use crate::state::restore::Restorer;
use crate::state::save::Saver;
use crate::state::shape::Type;

macro_rules! links {
    ($(#[$meta:meta])* $name:ident, $pointer:ident, $weak:ident, $cell:ty, $new:expr, $read:expr, $write:expr) => {
        $(#[$meta])*
        pub struct $name<T> {
            /// Shared with who restores: the object may come later than the link.
            to: $pointer<$cell>,
        }

        impl<T> $name<T> {
            /// A link to nothing.
            #[must_use]
            pub fn new() -> Self {
                $name { to: $pointer::new($new($weak::new())) }
            }

            /// A link to that object.
            #[must_use]
            pub fn to(object: &$pointer<T>) -> Self {
                let link = Self::new();
                link.set(object);
                link
            }

            /// Links to that object from now on.
            pub fn set(&self, object: &$pointer<T>) {
                $write(&self.to, $pointer::downgrade(object));
            }

            /// The object, while somebody owns it.
            #[must_use]
            pub fn get(&self) -> Option<$pointer<T>> {
                $read(&self.to)
            }
        }

        impl<T> Default for $name<T> {
            fn default() -> Self {
                Self::new()
            }
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(if self.get().is_some() { "(link)" } else { "(link to nothing)" })
            }
        }

        impl<T: Value + 'static> Value for $name<T> {
            const TYPE: Type = Type::Link(&T::TYPE);

            fn save(&self, out: &mut Saver<'_>) -> Result<()> {
                out.link(self.get().map(|object| $pointer::as_ptr(&object).addr()));
                Ok(())
            }

            fn restore(input: &mut Restorer<'_>) -> Result<Self> {
                let link = Self::new();
                let to = $pointer::clone(&link.to);
                input.link(&T::TYPE, move |object| match object.downcast_ref::<$pointer<T>>() {
                    Some(object) => {
                        $write(&to, $pointer::downgrade(object));
                        true
                    }
                    None => false,
                })?;
                Ok(link)
            }
        }
    };
}

links! {
    /// A weak link to an object that somebody owns by an [`Rc`], such as from a child to its parent. The object may be
    /// restored later than the link; a link to an object that is not saved is an error when it is saved.
    ///
    /// ```
    /// # #[cfg(feature = "derive")] {
    /// use std::rc::Rc;
    ///
    /// use kho::state::{self, RcLink, State};
    ///
    /// #[derive(State)]
    /// #[state(id = 1, version = 1)]
    /// struct Bus {
    ///     devices: Vec<Rc<Device>>,
    /// }
    /// #[derive(State)]
    /// #[state(id = 2, version = 1)]
    /// struct Device {
    ///     irq: u32,
    ///     next: RcLink<Device>,
    /// }
    ///
    /// let devices: Vec<_> = (0..3).map(|irq| Rc::new(Device { irq, next: RcLink::new() })).collect();
    /// devices[2].next.set(&devices[0]);
    /// devices[0].next.set(&devices[2]);
    /// let bus: Bus = state::restore(&state::save(&Bus { devices })?)?;
    /// let last = bus.devices[0].next.get().unwrap();
    /// assert!(Rc::ptr_eq(&last, &bus.devices[2]) && Rc::ptr_eq(&last.next.get().unwrap(), &bus.devices[0]));
    /// # }
    /// # Ok::<(), kho::state::Error>(())
    /// ```
    RcLink, Rc, RcWeak, RefCell<RcWeak<T>>, RefCell::new, read_cell, write_cell
}

fn read_cell<T>(cell: &RefCell<RcWeak<T>>) -> Option<Rc<T>> {
    cell.try_borrow().ok()?.upgrade()
}

fn write_cell<T>(cell: &RefCell<RcWeak<T>>, to: RcWeak<T>) {
    // Nobody borrows it longer than a call of this file.
    if let Ok(mut cell) = cell.try_borrow_mut() {
        *cell = to;
    }
}

#[cfg(feature = "std")]
mod threads {
    use alloc::sync::{Arc, Weak as ArcWeak};
    use std::sync::{Mutex, PoisonError};

    use super::*;

    links! {
        /// As [`RcLink`], of objects that are owned by an [`Arc`].
        ArcLink, Arc, ArcWeak, Mutex<ArcWeak<T>>, Mutex::new, read_lock, write_lock
    }

    fn read_lock<T>(cell: &Mutex<ArcWeak<T>>) -> Option<Arc<T>> {
        cell.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn write_lock<T>(cell: &Mutex<ArcWeak<T>>, to: ArcWeak<T>) {
        *cell.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

#[cfg(feature = "std")]
pub use threads::ArcLink;
