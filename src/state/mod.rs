//! Typed state that outlives versions: declared once, saved, restored, skipped, downgraded.

mod attach;
mod bytes;
mod description;
mod error;
mod fit;
#[cfg(all(test, feature = "derive", feature = "std"))]
mod hostile;
mod image;
pub mod limits;
mod live;
mod node;
mod number;
#[cfg(feature = "write")]
mod preserve;
mod resource;
mod restore;
mod save;
mod shape;
#[cfg(all(test, feature = "derive", feature = "std"))]
mod tests;
mod value;
mod versions;
mod walk;

pub use attach::{Holder, Origin, States, Unclaimed};
pub use bytes::{Saved, restore, save, save_as};
pub(crate) use description::disagree;
pub use description::{
    Description, DescriptionBody, FieldDescription, Kind, SubsectionDescription, VariantDescription,
};
pub use error::{Error, Result};
pub use image::Image;
#[cfg(feature = "derive")]
pub use kho_derive::State;
pub use node::{LookAtStates, MADE_OF, Resources, StatesNode};
#[cfg(feature = "write")]
pub(crate) use node::{WrittenStates, written_in};
pub(crate) use node::{descriptions, negotiate, refuses};
pub use resource::Scattered;
#[cfg(feature = "std")]
pub use resource::{FileDescriptor, Memfd};
pub use restore::{Restorer, Subsection as Found};
pub use save::Saver;
pub(crate) use shape::check_closed;
pub use shape::{Body, Desc, Element, Field, Shape, Subsection, Type, Variant, shape_bytes, shape_size};
#[cfg(feature = "std")]
pub use value::ArcLink;
pub use value::{Bulk, InPlace, PlainField, RcLink, State, Value};
pub use versions::Versions;
pub use walk::{SHOWN, Shown, ShownObject, ShownState};
