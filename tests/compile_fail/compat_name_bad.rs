use kho::compat::Compat;

const _: Compat<'static> = Compat::new("kho-v4;radix", 1);
const _: Compat<'static> = Compat::new("", 1);

fn main() {}
