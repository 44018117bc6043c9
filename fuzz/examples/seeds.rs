//! Writes inputs that the fuzzers begin with, into `corpus/TARGET`: valid handovers, trees, lists, and real data.
//!
//! `cargo run --manifest-path fuzz/Cargo.toml --no-default-features --example seeds`

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use kho::abi::luo::{File, Flb, FlbHeader, Head, Session};
use kho::abi::{kexec_metadata, memblock, memfd, x86_boot};
use kho::block::BlockSet;
use kho::compat::CompatList;
use kho::fdt::Builder;
use kho::handover::{Blob, Outgoing, Preserve, Scope};
use kho::mem::{Folio, Frame, Frames as _, Geometry, Memory as _, Order, PageRange, Pfn, PhysAddr, Ram};
use kho::memfd::ByPages;
use kho::payload::{Array, Bytes, Records};
use kho::radix::Tree;
use kho::report::Fault;
use kho::selftest::{Payload, Rule};
use kho::vmalloc::Area;
use kho_fuzz::{ARRAY, BYTES, Bus, TABLE, empty, written};
use zerocopy::little_endian::U64;
use zerocopy::{FromZeros as _, IntoBytes as _};

type Any<T> = Result<T, Box<dyn std::error::Error>>;

/// One session with a memfd and a file that nobody knows, and a global.
struct Sessions;

fn address(scope: &Scope<'_, Ram>, frame: &Frame) -> u64 {
    frame.folio().addr(scope.geometry()).get()
}

fn page(scope: &mut Scope<'_, Ram>, bytes: &[u8]) -> Result<u64, Fault> {
    let frame = scope.alloc(Order::ZERO)?;
    scope.write(&frame, 0, bytes)?;
    Ok(address(scope, &frame))
}

impl Preserve<Ram> for Sessions {
    fn compat(&self) -> CompatList<'static> {
        kho::luo::MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
        let frame = scope.alloc(Order::ZERO)?;
        let pfn = frame.folio().pfn().get();
        let folio = memfd::Folio { pfn_flags: (pfn | 3 << memfd::PFN_BITS).into(), index: 0.into() };
        let mut wire = memfd::Memfd::new_zeroed();
        (wire.size, wire.nr_folios) = (9.into(), 1.into());
        wire.folios = kho::vmalloc::store_bytes(scope, Order::ZERO, folio.as_bytes())?.descriptor;
        let mut files = [File::new_zeroed(); 2];
        files[0].compatible[..8].copy_from_slice(b"memfd-v2");
        files[0].data = page(scope, wire.as_bytes())?.into();
        files[1].compatible[..13].copy_from_slice(b"kvm_vm_luo_v1");
        files[1].token = 1.into();
        let mut session = Session::new_zeroed();
        session.name[0] = b'a';
        session.files = BlockSet::from(files.to_vec()).store(scope)?.first.get().into();
        session.count = 2.into();
        let mut flbs = FlbHeader { page_count: 1.into(), count: 1.into() }.as_bytes().to_vec();
        let mut flb = Flb::new_zeroed();
        (flb.name[0], flb.count) = (b'f', 1.into());
        flbs.extend(flb.as_bytes());
        let head = Head {
            compatible: *b"luo-v5\0\0",
            liveupdate_number: 1.into(),
            sessions: BlockSet::from(vec![session]).store(scope)?.first.get().into(),
            flbs: page(scope, &flbs)?.into(),
        };
        scope.blob(head.as_bytes())
    }
}

struct Reserved;

impl Preserve<Ram> for Reserved {
    fn compat(&self) -> CompatList<'static> {
        kho::memblock::MADE_OF
    }

    fn preserve(&self, scope: &mut Scope<'_, Ram>) -> Result<Blob, Fault> {
        let frame = scope.alloc(Order::ZERO)?;
        let mut fdt = Builder::new();
        fdt.strings("compatible", ["memblock-v1"])?;
        fdt.node("mem", |fdt| {
            fdt.strings("compatible", ["reserve-mem-v1"])?;
            fdt.u64_native(memblock::START, address(scope, &frame))?;
            fdt.u64_native(memblock::SIZE, scope.geometry().page_size())
        })?;
        scope.blob(&fdt.finish()?)
    }
}

/// What is handed over, one after the other: also each alone, so that there are small inputs.
const NODES: &[&str] = &["memfd", "kho_test", "LUO", "memblock", kexec_metadata::NODE, "bytes", "table", "array"];

fn handover(geometry: Geometry, nodes: &[&str]) -> Any<(Ram, PhysAddr, Vec<u8>)> {
    let file = fs::File::from(rustix::fs::memfd_create("seed", rustix::fs::MemfdFlags::ALLOW_SEALING)?);
    std::io::Write::write_all(&mut &file, b"some text")?;
    file.set_len(geometry.page_size() + 9)?;
    let mut metadata = [0; 73];
    (metadata[0], metadata[4]) = (1, b'7');
    let folios = vec![(Order::ZERO, b"one".as_slice()), (Order::ZERO, b"two")];
    let table: Vec<U64> = (0..20).map(U64::new).collect();

    let mut memory = empty(geometry);
    let frames = [memory.alloc(Order::ZERO)?, memory.alloc(Order::ZERO)?];
    let mut outgoing = Outgoing::new(memory);
    for &name in nodes {
        match name {
            "memfd" => outgoing.preserve(name, &ByPages { file: file.as_fd(), order: Order::ZERO }),
            "kho_test" => outgoing.preserve(name, &Payload { folios: folios.clone(), rule: Rule::Words }),
            "LUO" => outgoing.preserve(name, &Sessions),
            "memblock" => outgoing.preserve(name, &Reserved),
            kexec_metadata::NODE => {
                outgoing.preserve(name, &Bytes { made_of: kho::metadata::MADE_OF, bytes: &metadata })
            }
            "bytes" => outgoing.preserve(name, &Bytes { made_of: BYTES, bytes: b"hello" }),
            "table" => outgoing.preserve(name, &Records { made_of: TABLE, records: &table }),
            _ => outgoing.preserve(name, &Array { made_of: ARRAY, frames: &frames, bytes: 5000 }),
        }?;
    }
    let finished = outgoing.finish().map_err(|unfinished| unfinished.to_string())?;
    let fdt = finished.root_fdt()?;
    let (memory, root) = finished.into_parts();
    Ok((memory, root.start(), fdt))
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> Any<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(format!("seed-{name}")), bytes)?)
}

/// The memory of a machine, as /proc/iomem has it.
const MAP: &[u8] = b"00001000-0009fbff : System RAM\n0009fc00-000fffff : Reserved\n00100000-07fdcfff : System RAM\n";

/// The same as boot parameters.
fn params() -> Vec<u8> {
    let mut page = vec![0; 4096];
    page[x86_boot::E820_ENTRIES] = 2;
    for (number, (start, size)) in [(0x1000_u64, 0x9_e000_u64), (0x10_0000, 0x7ed_d000)].into_iter().enumerate() {
        let entry = x86_boot::E820Entry { addr: start.into(), size: size.into(), kind: x86_boot::E820_RAM.into() };
        let at = x86_boot::E820_TABLE + number * entry.as_bytes().len();
        page[at..at + entry.as_bytes().len()].copy_from_slice(entry.as_bytes());
    }
    page
}

/// A map, and the smallest kernel.
fn kexec(map: &[u8]) -> Vec<u8> {
    let mut kernel = vec![0; 0x700];
    let mut put = |at: usize, with: &[u8]| kernel[at..at + with.len()].copy_from_slice(with);
    put(x86_boot::SETUP_SECTS, &[1]);
    put(x86_boot::HEADER_LENGTH, b"\x6aHdrS");
    put(x86_boot::VERSION, &0x020f_u16.to_le_bytes());
    put(x86_boot::INITRD_ADDR_MAX, &0x7fff_ffff_u32.to_le_bytes());
    put(x86_boot::KERNEL_ALIGNMENT, &0x20_0000_u32.to_le_bytes());
    put(x86_boot::RELOCATABLE, &[1, 0, 1]);
    put(x86_boot::CMDLINE_SIZE, &0x7ff_u32.to_le_bytes());
    put(x86_boot::PREF_ADDRESS, &0x100_0000_u64.to_le_bytes());
    put(x86_boot::INIT_SIZE, &0x10_0000_u32.to_le_bytes());
    let len = u16::try_from(map.len()).unwrap_or(u16::MAX).to_le_bytes();
    [&len, map, &kernel].concat()
}

kho::manifest! {
    /// What a program may say.
    static MANIFEST = [
        both("files", &[kho::files::MADE_OF]),
        reads("memfd", &[kho::memfd::MADE_OF]).optional(),
    ];
}

fn main() -> Any<()> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/linux-7.2-x86_64");
    for (number, name) in
        ["after/in/fdt", "after/in/sub_fdts/kho_test", "before/out/sub_fdts/memblock", "before/out/fdt"]
            .into_iter()
            .enumerate()
    {
        let file: PathBuf = data.join("debugfs").join(name);
        let tree = fs::read(file)?;
        seed("fdt", &format!("linux-{number}"), &tree)?;
        let node: &[u8] = if number == 0 { b"\x03\x04LUOname" } else { b"\x06\x0achosencompatible" };
        seed("edit", &format!("linux-{number}"), &[node, &tree].concat())?;
    }
    seed("kexec", "text", &kexec(MAP))?;
    seed("kexec", "params", &kexec(&params()))?;
    seed("image", "core", &fs::read(data.join("frozen.core"))?)?;
    for geometry in Geometry::ALL {
        let size = geometry.page_size() >> 10;
        let each = NODES.iter().map(|name| (*name, vec![*name]));
        for (name, nodes) in [("nothing", vec![]), ("all", NODES.to_vec())].into_iter().chain(each) {
            let (memory, root, fdt) = handover(geometry, &nodes)?;
            seed("plan", &format!("{size}k-{name}"), &written(&memory, root))?;
            seed("fdt", &format!("{size}k-{name}"), &fdt)?;
            if geometry == Geometry::K4 {
                let mut raw = vec![0; 64 << 12];
                memory.read(PhysAddr::new(kho_fuzz::FIRST << 12), &mut raw)?;
                seed("image", name, &raw)?;
            }
        }

        let mut memory = empty(geometry);
        let mut tree = Tree::new(geometry);
        tree.add_range(PageRange::new(Pfn::new(0x123).ok_or("pfn")?, 77).ok_or("range")?);
        tree.add(Folio::new(Pfn::new(1 << 30).ok_or("pfn")?, Order::new(18).ok_or("order")?).ok_or("folio")?);
        let root = tree.store(&mut memory)?.root;
        seed("radix", &format!("{size}k"), &written(&memory, root))?;

        let mut memory = empty(geometry);
        let mut area = Area::new(Order::ZERO, 0)?;
        let frames = [memory.alloc(Order::ZERO)?, memory.alloc(Order::ZERO)?];
        frames.iter().try_for_each(|frame| area.push(frame.folio()))?;
        let area = area.store(&mut memory)?;
        let blocks = BlockSet::from(vec![Session::new_zeroed(); 60]).store(&mut memory)?;
        let mut input = area.descriptor.as_bytes().to_vec();
        input.extend(written(&memory, blocks.first));
        seed("lists", &format!("{size}k"), &input)?;
    }
    for (number, text) in ["kho-v4", "kho-v4;radix-v1;vmalloc-v1", "kvm_vm_luo_v1", "kho-v4\0radix-v1\0vmalloc-v1\0"]
        .into_iter()
        .enumerate()
    {
        seed("compat", &number.to_string(), text.as_bytes())?;
    }
    for version in [1, 2] {
        let versions = kho::state::Versions::of::<Bus>(version)?;
        seed("state", &format!("v{version}"), &kho::state::Saved::of(&Bus::full(), Some(&versions), false)?.meta)?;
    }
    seed("state", "empty", &kho::state::Saved::of(&Bus::default(), None, false)?.meta)?;
    seed("manifest", "note", MANIFEST.note())?;
    seed("manifest", "versions", MANIFEST.versions())?;
    // A program of which a fuzzer can change a part that matters: its headers, and what they name.
    let program = fs::read("/proc/self/exe")?;
    seed("manifest", "headers", program.get(..4096).unwrap_or(&program))?;
    Ok(())
}
