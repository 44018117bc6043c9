use kho::compat::{Compat, CompatList};

const OWNER: Compat<'static> = Compat::new("kho", 4);
const LIST: CompatList<'static> =
    CompatList::new(OWNER, &[kho::abi::radix::COMPAT, kho::abi::vmalloc::COMPAT]);
static ALONE: CompatList<'static> = CompatList::new(OWNER, &[]);

trait Component {
    fn compat(&self) -> CompatList<'static>;
}

struct Root;

impl Component for Root {
    fn compat(&self) -> CompatList<'static> {
        LIST
    }
}

fn main() {
    let root: &dyn Component = &Root;
    assert_eq!(root.compat().to_string(), "kho-v4;radix-v1;vmalloc-v1");
    assert_eq!(ALONE.to_string(), "kho-v4");
    // The longest that a `char[48]` holds.
    const LONGEST: Compat<'static> = Compat::new("a-component-with-a-name-that-nobody-needs-a", 12);
    assert_eq!(LONGEST.to_string().len(), Compat::LONGEST);
}
