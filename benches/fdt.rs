//! Device trees: parse (all checks) and walk (every node, property, name and value), against the crate `fdt` and libfdt.
//!
//! `cargo bench -p kho-benches --bench fdt --features libfdt` (libfdt-dev); without the feature libfdt is left out.
//!
//! Rules for the unsafe code here: only the module `libfdt`, only calls into the library, each with the pointer and the
//! length of one slice that lives until the call returns; what comes back is a number or lies inside that slice.

use std::fmt::Write as _;
use std::hint::black_box;

use kho::fdt::{Builder, Event, Fdt};
use kho::report::Fault;
use kho_benches::{Contest, quick};

/// What a walk saw: compared between all readers, so that none of them gets away with less work.
#[derive(Debug, PartialEq, Eq, Default, Clone, Copy)]
struct Seen {
    nodes: usize,
    properties: usize,
    bytes: usize,
}

#[derive(Clone, Copy)]
enum Form {
    /// All nodes below the root, named in order.
    Flat,
    /// All nodes below the root, named by a hash: no order that a check for duplicates could use.
    Scattered,
    /// Groups of 16, three levels of them.
    Nested,
}

fn payload(node: &mut Builder, number: u64) -> Result<(), Fault> {
    node.strings("compatible", ["memfd-v2", "radix-v1"])?;
    node.u64_native("preserved-data", number << 12)?;
    if number.is_multiple_of(2) {
        node.u64_native("blob-size", 4096)?;
    }
    Ok(())
}

fn nested(node: &mut Builder, left: &mut u64, level: u32) -> Result<(), Fault> {
    let children = if level == 0 { u64::MAX } else { 16 };
    for child in 0..children {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let number = *left;
        node.node(&format!("node-{child}"), |node| {
            payload(node, number)?;
            if level < 3 { nested(node, left, level + 1) } else { Ok(()) }
        })?;
    }
    Ok(())
}

fn tree(nodes: u64, form: Form) -> Vec<u8> {
    let build = || {
        let mut root = Builder::new();
        root.strings("compatible", ["kho-v4"])?;
        root.u64_native("preserved-memory-map", 0x45_2000)?;
        let mut name = String::new();
        match form {
            Form::Nested => nested(&mut root, &mut { nodes - 1 }, 0)?,
            Form::Flat | Form::Scattered => {
                for number in 0..nodes - 1 {
                    name.clear();
                    let _ = match form {
                        Form::Scattered => write!(name, "n{:x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                        _ => write!(name, "node-{number}"),
                    };
                    root.node(&name, |node| payload(node, number))?;
                }
            }
        }
        root.finish()
    };
    build().unwrap_or_else(|fault: Fault| panic!("{fault}"))
}

fn ours(blob: &[u8]) -> Seen {
    let fdt = Fdt::parse(blob).unwrap_or_else(|fault| panic!("{fault}"));
    walk(&fdt)
}

fn walk(fdt: &Fdt<'_>) -> Seen {
    let mut seen = Seen::default();
    for event in fdt.walk() {
        match event {
            Event::Enter(node) => {
                seen.nodes += 1;
                seen.bytes += node.name().len();
            }
            Event::Property(property) => {
                seen.properties += 1;
                seen.bytes += property.name().len() + property.value().len();
            }
            Event::Leave => {}
        }
    }
    seen
}

/// The crate `fdt`, by its fastest way through a tree. Its constructor checks nothing but the magic and the size.
fn crate_fdt(blob: &[u8]) -> Seen {
    let fdt = fdt::Fdt::new(blob).unwrap_or_else(|error| panic!("{error:?}"));
    let mut seen = Seen::default();
    for node in fdt.all_nodes() {
        seen.nodes += 1;
        // It calls the root "/".
        seen.bytes += if node.name == "/" { 0 } else { node.name.len() };
        for property in node.properties() {
            seen.properties += 1;
            seen.bytes += property.name.len() + property.value.len();
        }
    }
    seen
}

#[cfg(feature = "libfdt")]
mod libfdt {
    #![allow(unsafe_code)]

    use core::ffi::{c_char, c_int, c_void};

    use super::Seen;

    #[link(name = "fdt")]
    unsafe extern "C" {
        fn fdt_check_full(fdt: *const c_void, size: usize) -> c_int;
        fn fdt_next_node(fdt: *const c_void, offset: c_int, depth: *mut c_int) -> c_int;
        fn fdt_get_name(fdt: *const c_void, offset: c_int, len: *mut c_int) -> *const c_char;
        fn fdt_first_property_offset(fdt: *const c_void, node: c_int) -> c_int;
        fn fdt_next_property_offset(fdt: *const c_void, property: c_int) -> c_int;
        fn fdt_getprop_by_offset(
            fdt: *const c_void,
            property: c_int,
            name: *mut *const c_char,
            len: *mut c_int,
        ) -> *const c_void;
    }

    pub(super) fn check_and_walk(blob: &[u8]) -> Seen {
        let fdt: *const c_void = blob.as_ptr().cast();
        // SAFETY: pointer and length of one slice; the check reads nothing outside of it.
        let error = unsafe { fdt_check_full(fdt, blob.len()) };
        assert_eq!(error, 0, "libfdt refuses the tree");
        let mut seen = Seen::default();
        let mut node: c_int = 0;
        while node >= 0 {
            let mut len: c_int = 0;
            // SAFETY: the tree was checked as a whole; `node` is 0, the root, or came from fdt_next_node.
            let name = unsafe { fdt_get_name(fdt, node, &mut len) };
            assert!(!name.is_null());
            seen.nodes += 1;
            seen.bytes += len as usize;
            // SAFETY: as above.
            let mut property = unsafe { fdt_first_property_offset(fdt, node) };
            while property >= 0 {
                let (mut name, mut len) = (core::ptr::null(), 0);
                // SAFETY: `property` came from the two functions that find properties of this checked tree.
                let value = unsafe { fdt_getprop_by_offset(fdt, property, &mut name, &mut len) };
                assert!(!value.is_null());
                // SAFETY: a property of a checked tree has a name with a NUL inside the strings block.
                let name = unsafe { core::ffi::CStr::from_ptr(name) };
                seen.properties += 1;
                seen.bytes += name.count_bytes() + len as usize;
                // SAFETY: as for fdt_getprop_by_offset.
                property = unsafe { fdt_next_property_offset(fdt, property) };
            }
            // SAFETY: as for fdt_get_name; a null depth is allowed.
            node = unsafe { fdt_next_node(fdt, node, core::ptr::null_mut()) };
        }
        seen
    }
}

fn contest(title: &str, blob: &[u8]) {
    let seen = ours(blob);
    let mut contest = Contest::new(format!("{title}, {} nodes", seen.nodes), seen.nodes as u64);
    contest.entry("kho", || assert_eq!(black_box(ours(black_box(blob))), seen));
    contest.entry("fdt 0.1.5", || assert_eq!(black_box(crate_fdt(black_box(blob))), seen));
    #[cfg(feature = "libfdt")]
    contest.entry("libfdt", || assert_eq!(black_box(libfdt::check_and_walk(black_box(blob))), seen));
    contest.run();
}

fn main() {
    if !cfg!(feature = "libfdt") {
        println!("libfdt is missing here: apt-get install libfdt-dev, then add --features libfdt");
    }
    let (some, many) = if quick() { (2_000, 20_000) } else { (20_000, 1_000_000) };
    for (title, form) in [("flat", Form::Flat), ("scattered names", Form::Scattered), ("nested", Form::Nested)] {
        contest(&format!("parse + walk: {title}"), &tree(some, form));
    }
    for (title, form) in [("flat", Form::Flat), ("scattered names", Form::Scattered), ("nested", Form::Nested)] {
        contest(&format!("parse + walk: {title}"), &tree(many, form));
    }

    let blob = tree(some, Form::Scattered);
    let fdt = Fdt::parse(&blob).unwrap_or_else(|fault| panic!("{fault}"));
    Contest::new(format!("walk alone: scattered names, {some} nodes"), some)
        .entry("kho", || {
            black_box(walk(black_box(&fdt)));
        })
        .run();

    for nodes in [some, 5 * some] {
        Contest::new(format!("write: {nodes} nodes"), nodes)
            .entry("kho over vm-fdt", || {
                black_box(tree(nodes, Form::Scattered));
            })
            .run();
    }
}
