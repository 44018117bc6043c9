//! The rows of kho.

use kho::state::{self, Saved, State};

use crate::peers::{Codec, Format, Kind, Size};

/// With the checksum that is always over the metadata, and with the schema.
pub(crate) struct Ours;

impl Format for Ours {
    const NAME: &'static str = "kho::state";
    const KIND: Kind = Kind::Ours;
}

impl Size for Saved {
    fn size(&self) -> usize {
        self.meta.len() + self.bulk.len()
    }
}

/// In two pieces, as a handover has them.
impl<T: State> Codec<T> for Ours {
    type Saved = Saved;

    fn save(value: &T) -> Saved {
        Saved::of(value, None, false).unwrap()
    }

    fn restore(saved: &Saved) -> T {
        state::restore_from(&saved.meta, &saved.bulk).unwrap()
    }
}
