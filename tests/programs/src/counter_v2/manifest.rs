//! What the second version reads and writes.

use super::lists::{COUNTER_V1, COUNTER_V2, FILES, HINTS_V1};

kho::manifest! {
    pub(crate) static MANIFEST = [
        both("counter", &[COUNTER_V2, COUNTER_V1]),
        both("files", &[FILES]),
        both("hints", &[HINTS_V1]).optional(),
    ];
}
