//! The command `kho`.
fn main() {}
