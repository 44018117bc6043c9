//! The frozen machine as pages that can be changed: its tree, its lists and its device trees by what they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use kho::fdt::{Builder, Fdt};
use kho::inspect::{self, Decoded, NotShown, Options};
use kho::mem::{Geometry, Image, Memory as _, PhysAddr, Source};

pub(crate) const PAGE: u64 = 4096;
/// Where `frozen.json` has them.
pub(crate) const ROOT: u64 = 0x44_8000;
pub(crate) const HEAD: u64 = 0x66_8000;
pub(crate) const FLBS: u64 = 0x66_7000;
pub(crate) const SESSIONS: u64 = 0x69_4000;
/// The structures of the memfds, by token: of 3 pages, of 49 and of none; and that of the session `second`.
pub(crate) const ABC: u64 = 0x69_6000;
pub(crate) const TWO: u64 = 0x69_a000;
pub(crate) const THREE: u64 = 0x6a_1000;
pub(crate) const SEVEN: u64 = 0x6b_4000;
pub(crate) const TEST: u64 = 0x4f_c000;
pub(crate) const MEMBLOCK: u64 = 0x65_d000;
pub(crate) const METADATA: u64 = 0x44_e000;

#[derive(Clone)]
pub(crate) struct Machine {
    pages: BTreeMap<u64, Vec<u8>>,
    /// The next page that nobody uses.
    next: u64,
}

impl Machine {
    pub(crate) fn frozen() -> Self {
        let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/linux-7.2-x86_64/frozen.core");
        let Source::Image(image) = Image::open(core).unwrap() else { panic!("a core") };
        let mut machine = Machine { pages: BTreeMap::new(), next: 0x200_0000 };
        for extent in image.extents() {
            for at in (extent.start().get()..extent.end().get()).step_by(PAGE as usize) {
                let mut page = vec![0; PAGE as usize];
                image.read(PhysAddr::new(at), &mut page).unwrap();
                machine.pages.insert(at, page);
            }
        }
        machine
    }

    pub(crate) fn get(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }

    pub(crate) fn bytes(&self, at: u64, len: usize) -> &[u8] {
        &self.pages[&(at & !(PAGE - 1))][(at % PAGE) as usize..][..len]
    }

    pub(crate) fn set(&mut self, at: u64, value: u64) {
        self.poke(at, &value.to_le_bytes());
    }

    pub(crate) fn poke(&mut self, at: u64, bytes: &[u8]) {
        let page = self.pages.get_mut(&(at & !(PAGE - 1))).unwrap_or_else(|| panic!("{at:#x} is not in the dump"));
        page[(at % PAGE) as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// A new page of zeros, not preserved.
    pub(crate) fn page(&mut self) -> u64 {
        let at = self.next;
        self.next += PAGE;
        self.pages.insert(at, vec![0; PAGE as usize]);
        at
    }

    /// The same, preserved.
    pub(crate) fn kept(&mut self) -> u64 {
        let at = self.page();
        self.preserve(at, 0);
        at
    }

    /// Takes a page out of the dump.
    pub(crate) fn lose(&mut self, at: u64) {
        self.pages.remove(&at).unwrap();
    }

    pub(crate) fn tree(&self) -> u64 {
        self.get(self.property(ROOT, "/", "preserved-memory-map"))
    }

    /// Addresses of the nodes of the tree on the way to a key, the root first.
    pub(crate) fn way(&mut self, key: u64) -> Vec<u64> {
        let mut way = vec![self.tree()];
        for level in (1..6).rev() {
            let entry = way.last().unwrap() + (key >> (15 + (level - 1) * 9) & 511) * 8;
            let mut child = self.get(entry);
            if child == 0 {
                child = self.page();
                self.set(entry, child);
            }
            way.push(child);
        }
        way
    }

    /// Sets or clears the bit of a key.
    pub(crate) fn key(&mut self, key: u64, set: bool) {
        let leaf = self.way(key)[5];
        let at = leaf + (key & 0x7fff) / 64 * 8;
        let word = self.get(at) & !(1 << (key & 63)) | u64::from(set) << (key & 63);
        self.set(at, word);
    }

    pub(crate) fn preserve(&mut self, at: u64, order: u32) {
        self.key(key(at, order), true);
    }

    pub(crate) fn unpreserve(&mut self, at: u64, order: u32) {
        assert!(
            self.get(self.clone().way(key(at, order))[5] + (key(at, order) & 0x7fff) / 64 * 8) >> (key(at, order) & 63)
                & 1
                == 1
        );
        self.key(key(at, order), false);
    }

    /// The address of a property's value in the device tree that is at `blob`.
    pub(crate) fn property(&self, blob: u64, path: &str, name: &str) -> u64 {
        let bytes = self.bytes(blob, (PAGE - blob % PAGE) as usize);
        let fdt = Fdt::parse(bytes).unwrap();
        let node = match path {
            "/" => fdt.root(),
            name => fdt.root().child(name).unwrap(),
        };
        let value = node.required(name).unwrap().value();
        blob + (value.as_ptr() as usize - bytes.as_ptr() as usize) as u64
    }

    /// Writes the root anew: the nodes as they were, by what `name` makes of their names, and those that it adds.
    pub(crate) fn root(&mut self, map: u64, name: impl Fn(&str) -> Vec<String>) {
        let old = self.bytes(ROOT, PAGE as usize).to_vec();
        let mut fdt = Builder::new();
        fdt.strings("compatible", ["kho-v4"]).unwrap();
        fdt.u64_native("preserved-memory-map", map).unwrap();
        for node in Fdt::parse(&old).unwrap().root().children() {
            for name in name(std::str::from_utf8(node.name()).unwrap()) {
                fdt.node(&name, |fdt| {
                    node.properties().try_for_each(|p| fdt.bytes(std::str::from_utf8(p.name()).unwrap(), p.value()))
                })
                .unwrap();
            }
        }
        let new = fdt.finish().unwrap();
        self.poke(ROOT, &vec![0; PAGE as usize]);
        self.poke(ROOT, &new);
    }

    /// The address of a record of a session, counted from 0.
    pub(crate) fn session(&self, number: u64) -> u64 {
        self.get(HEAD + 16) + 16 + 80 * number
    }

    /// The address of a record of a file.
    pub(crate) fn file(&self, session: u64, number: u64) -> u64 {
        self.get(self.session(session) + 64) + 16 + 64 * number
    }

    /// The address of a folio record of a memfd.
    pub(crate) fn folio(&self, memfd: u64, number: u64) -> u64 {
        self.get(self.get(memfd + 32) + 8) + 16 * number
    }

    /// As an ELF core.
    pub(crate) fn decode(&self, options: &Options) -> Result<Decoded, NotShown> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for &at in self.pages.keys() {
            match runs.last_mut() {
                Some((start, size)) if *start + *size == at => *size += PAGE,
                _ => runs.push((at, PAGE)),
            }
        }
        let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
        [0_u64, 64, 0].iter().for_each(|word| head.extend(word.to_le_bytes()));
        head.extend(0_u32.to_le_bytes());
        [64, 56, runs.len() as u16, 0, 0, 0].iter().for_each(|half| head.extend(half.to_le_bytes()));
        let mut offset = (64 + 56 * runs.len() as u64).next_multiple_of(PAGE);
        let mut file = tempfile::tempfile().unwrap();
        for &(start, size) in &runs {
            head.extend([1, 0, 0, 0, 6, 0, 0, 0]);
            [offset, 0, start, size, size, PAGE].iter().for_each(|word| head.extend(word.to_le_bytes()));
            offset += size;
        }
        file.write_all(&head).unwrap();
        file.seek(SeekFrom::Start((64 + 56 * runs.len() as u64).next_multiple_of(PAGE))).unwrap();
        file.write_all(&self.pages.values().flatten().copied().collect::<Vec<_>>()).unwrap();
        let Source::Image(image) = open(file) else { panic!("a core") };
        inspect::memory(image, options)
    }
}

fn open(file: File) -> Source {
    use std::os::fd::AsRawFd as _;
    Image::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

/// The key of a block of 4 KiB pages.
pub(crate) const fn key(at: u64, order: u32) -> u64 {
    1 << (52 - order) | at >> (12 + order)
}

pub(crate) fn options() -> Options {
    Options { fdt: Some(PhysAddr::new(ROOT)), geometry: Some(Geometry::K4), ..Options::default() }
}
