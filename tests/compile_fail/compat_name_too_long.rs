use kho::compat::Compat;

// Printed, it has 48 bytes: no room for the zero in a `char[48]`.
const _: Compat<'static> = Compat::new("a-component-with-a-name-that-nobody-needs-at", 12);

fn main() {}
