use super::*;
use crate::abi::x86_boot as abi;
use crate::mem::{Geometry, PageRange, Pfn, Ram};

const MEMORY: &str = "\
00001000-0009fbff : System RAM
0009fc00-000fffff : Reserved
00100000-07fdcfff : System RAM
";

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), size).unwrap()
}

/// A setup header with the fields that are read, and a kernel of a few bytes behind two sectors of setup.
fn kernel() -> Vec<u8> {
    let mut bytes = vec![0; 0x600];
    let mut put = |at: usize, with: &[u8]| bytes[at..at + with.len()].copy_from_slice(with);
    put(abi::SETUP_SECTS, &[1]);
    put(0x200, &[0xeb, 0x6a]);
    put(abi::MAGIC, b"HdrS");
    put(abi::VERSION, &0x020f_u16.to_le_bytes());
    put(abi::LOADFLAGS, &[abi::LOADED_HIGH]);
    put(abi::INITRD_ADDR_MAX, &0x7fff_ffff_u32.to_le_bytes());
    put(abi::KERNEL_ALIGNMENT, &0x20_0000_u32.to_le_bytes());
    put(abi::RELOCATABLE, &[1]);
    put(abi::XLOADFLAGS, &3_u16.to_le_bytes());
    put(abi::CMDLINE_SIZE, &255_u32.to_le_bytes());
    put(abi::PREF_ADDRESS, &0x100_0000_u64.to_le_bytes());
    put(abi::INIT_SIZE, &0x50_0000_u32.to_le_bytes());
    put(0x400, &[0x90; 0x200]);
    put(0x5ff, &[0xaa]);
    bytes.push(0xbb);
    bytes
}

#[test]
fn what_the_kernel_is_told() {
    let kernel = BzImage::new(kernel()).unwrap();
    let memory = MemoryMap::parse(MEMORY).unwrap();
    let boot = Boot {
        kernel: &kernel,
        initrd: b"disk",
        command_line: b"kho=on",
        memory: &memory,
        rsdp: Some(0xf_5ad0),
        handover: None,
    };
    let segments = boot.segments().unwrap();
    let places: Vec<(u64, u64, usize)> =
        segments.list().iter().map(|segment| (segment.at.get(), segment.size, segment.bytes.len())).collect();
    assert_eq!(places, [(0x10_0000, 0x1000, 4), (0x10_1000, 0x5000, 0x5000), (0x100_0000, 0x1000, 0x201)]);
    assert_eq!(segments.entry(), PhysAddr::new(0x10_1000));
    let [initrd, pages, kernel] = segments.list() else { unreachable!() };
    assert_eq!((initrd.bytes.as_slice(), kernel.bytes[0x200]), (&b"disk"[..], 0xbb));
    let params = &pages.bytes[0x1000..0x2000];
    let u64_at = |at: usize| u64::from_le_bytes(params[at..at + 8].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(params[at..at + 4].try_into().unwrap());
    assert_eq!(&params[abi::MAGIC..abi::MAGIC + 4], b"HdrS");
    assert_eq!(params[abi::TYPE_OF_LOADER], 0xff);
    assert_eq!((u32_at(abi::RAMDISK_IMAGE), u32_at(abi::RAMDISK_SIZE)), (0x10_0000, 4));
    assert_eq!((u32_at(abi::CMD_LINE_PTR), u64_at(abi::SETUP_DATA), u64_at(abi::ACPI_RSDP)), (0x10_5000, 0, 0xf_5ad0));
    assert_eq!(&pages.bytes[0x4000..0x4007], b"kho=on\0");
    assert_eq!(params[abi::E820_ENTRIES], 3);
    assert_eq!((u64_at(0x2d0), u64_at(0x2d8), u32_at(0x2e0)), (0x1000, 0x9_ec00, 1));
    assert_eq!((u64_at(0x2e4), u32_at(0x2f4)), (0x9_fc00, 2));
    assert_eq!((u64_at(0x2f8), u64_at(0x300), u32_at(0x308)), (0x10_0000, 0x7ed_d000, 1));
}

/// The bytes of the stub, checked with a disassembler when they were written.
#[test]
fn the_stub() {
    let kernel = BzImage::new(kernel()).unwrap();
    let memory = MemoryMap::parse(MEMORY).unwrap();
    let boot = Boot { kernel: &kernel, initrd: b"", command_line: b"", memory: &memory, rsdp: None, handover: None };
    let segments = boot.segments().unwrap();
    let stub = &segments.list()[0].bytes[..0xb0];
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&stub[..0x22]), "fafc48bc00101000000000000f01156d00000048b840001000000000006a105048cb");
    assert_eq!(hex(&stub[0x40..0x64]), "66b818008ed88ec08ed08ee08ee848be001010000000000048b80002000100000000ffe0");
    assert_eq!(hex(&stub[0x80..0x8a]), "1f009000100000000000");
    assert_eq!(hex(&stub[0x90..]), "00000000000000000000000000000000ffff0000009baf00ffff00000093cf00");
}

#[test]
fn no_room_and_no_such_memory() {
    let kernel = BzImage::new(kernel()).unwrap();
    let small = MemoryMap::parse("00100000-014effff : System RAM\n").unwrap();
    let boot = Boot { kernel: &kernel, initrd: b"", command_line: b"", memory: &small, rsdp: None, handover: None };
    let fault = boot.segments().unwrap_err();
    assert_eq!(
        fault.to_string(),
        "exhausted: kernel: found no 0x500000 bytes in one piece, expected free memory in \
         0x1000000..0xffffffffffffffff, aligned to 0x200000"
    );
    let long = [b'x'; 256];
    let memory = MemoryMap::parse(MEMORY).unwrap();
    let fault = Boot { command_line: &long, memory: &memory, ..boot }.segments().unwrap_err();
    assert_eq!(
        fault.to_string(),
        "too-large: command line: found 256 bytes, expected at most 255, and no zero among them"
    );
    let many: String = (0..129).map(|n| format!("{:x}-{:x} : System RAM\n", n << 20, (n << 20) + 0xfff)).collect();
    let many = many + "10000000-1fffffff : System RAM\n";
    let memory = MemoryMap::parse(&many).unwrap();
    let fault = Boot { memory: &memory, ..boot }.segments().unwrap_err();
    assert_eq!(fault.to_string(), "too-large: memory map: found 130 ranges, expected at most 128");
}

#[test]
fn what_is_no_kernel() {
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let good = kernel();
    let told = |change: Change<'_>| {
        let mut bytes = good.clone();
        change(&mut bytes);
        BzImage::new(bytes).unwrap_err().to_string()
    };
    let cases: [(Change<'_>, &str); 8] = [
        (&|bytes| bytes.truncate(0x100), "truncated: header at offset 0x202: found 256 bytes, expected a bzImage"),
        (&|bytes| bytes.truncate(0x210), "truncated: xloadflags at offset 0x236: found 528 bytes, expected a bzImage"),
        (&|bytes| bytes[0x202] = b'h', "magic: header at offset 0x202: found \"hdrS\", expected \"HdrS\", a bzImage"),
        (&|bytes| bytes[0x206] = 0x0b, "version-older: version at offset 0x206: found 2.11, expected at least 2.12"),
        (
            &|bytes| bytes[0x236] = 0,
            "file-kind: xloadflags at offset 0x236: found a kernel without a 64-bit entry, expected a kernel for x86-64",
        ),
        (
            &|bytes| bytes[0x258] = 1,
            "unaligned: pref_address at offset 0x258: found 0x1000001, expected a multiple of 0x200000",
        ),
        (
            &|bytes| bytes[0x201] = 0x61,
            "truncated: jump at offset 0x201: found a header that ends at 0x263, expected at least 0x264, behind init_size",
        ),
        (
            &|bytes| bytes.truncate(0x500),
            "truncated: kernel at offset 0x400: found 256 bytes behind 1 sectors of setup, expected some, and at most the \
             5242880 of init_size",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(told(change), expected);
    }
}

/// A header of 255 bytes would lie in the memory map.
#[test]
fn a_header_longer_than_its_room() {
    let mut bytes = kernel();
    bytes[0x201] = 0xff;
    bytes[0x280..0x301].fill(0xee);
    let kernel = BzImage::new(bytes).unwrap();
    let memory = MemoryMap::parse(MEMORY).unwrap();
    let boot = Boot { kernel: &kernel, initrd: b"", command_line: b"", memory: &memory, rsdp: None, handover: None };
    let segments = boot.segments().unwrap();
    let params = &segments.list()[0].bytes[0x1000..0x2000];
    assert_eq!(params[0x280..0x2d0], [[0xee; 16], [0; 16], [0; 16], [0; 16], [0; 16]].concat());
    assert_eq!(params[0x30c..], [0; 0xcf4], "nothing behind the three ranges of memory");
}

#[test]
fn errors_of_the_kernel() {
    let refused = refused(&std::io::Error::from_raw_os_error(1));
    assert_eq!(
        refused.to_string(),
        "kexec_load: Operation not permitted (os error 1): it needs CAP_SYS_BOOT, and is refused where \
         kernel.kexec_load_disabled is 1 or the kernel is locked down"
    );
}

mod handed_over {
    use super::*;
    use crate::handover::Outgoing;
    use crate::mem::Order;
    use crate::selftest::{Payload, Rule};

    fn handover() -> (Ram, PhysAddr) {
        let window = PageRange::new(Pfn::new(0x6000).unwrap(), 0x400).unwrap();
        let mut outgoing = Outgoing::new(Ram::new(Geometry::K4, window));
        let payload = Payload { folios: vec![(Order::ZERO, &b"payload"[..])], rule: Rule::Words };
        outgoing.preserve("kho_test", &payload).unwrap();
        let (ram, root) = outgoing.finish().unwrap().into_parts();
        (ram, root.start())
    }

    #[test]
    fn a_handover_and_how_the_kernel_is_told_of_it() {
        let (ram, root) = handover();
        let passing = Passing::new(&ram, root, &[range(0x200_0000, 0x200_0000)]).unwrap();
        let kernel = BzImage::new(kernel()).unwrap();
        let memory = MemoryMap::parse(MEMORY).unwrap();
        let boot = Boot {
            kernel: &kernel,
            initrd: b"disk",
            command_line: b"kho=on",
            memory: &memory,
            rsdp: None,
            handover: Some(&passing),
        };
        let segments = boot.segments().unwrap();
        let (own, rest): (Vec<_>, Vec<_>) = segments.list().iter().partition(|segment| segment.at.get() >= 0x600_0000);
        let [kernel, initrd, pages] = rest.as_slice() else { panic!("{rest:?}") };
        assert_eq!(
            (kernel.at.get(), initrd.at.get(), pages.at.get()),
            (0x200_0000, 0x200_1000 + 0x4f_f000, 0x250_1000),
            "in the scratch area, with room for the kernel to unpack"
        );
        let data = &pages.bytes[0x2000..0x2030];
        let word = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
        assert_eq!((word(0), word(8)), (0, 32 << 32 | 10), "the last entry, of the handover's type, 32 bytes");
        assert_eq!((word(0x10), word(0x20), word(0x28)), (root.get(), 0x250_4000, 16));
        assert_eq!(pages.bytes[0x3000..0x3010], [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
        // What is there is what was authored.
        for segment in own {
            let mut bytes = vec![0; segment.bytes.len()];
            crate::mem::Memory::read(&ram, segment.at, &mut bytes).unwrap();
            assert_eq!(bytes, segment.bytes);
        }
    }

    #[test]
    fn scratch_where_something_is_preserved() {
        let (ram, root) = handover();
        let fault = Passing::new(&ram, root, &[range(0x500_0000, 0x200_0000)]).unwrap_err();
        assert_eq!((fault.code(), fault.at().address), (Code::OwnedTwice, Some(0x500_0000)), "{fault}");
        let fault = Passing::new(&ram, root, &[range(0x200_0000, 0x800)]).unwrap_err();
        assert_eq!((fault.code(), fault.found_text()), (Code::Unaligned, "0x2000000..0x2000800"));
        assert_eq!(Passing::new(&ram, root, &[]).unwrap_err().code(), Code::Refused);
    }

    #[test]
    fn a_handover_outside_the_machine() {
        let (ram, root) = handover();
        let passing = Passing::new(&ram, root, &[range(0x200_0000, 0x200_0000)]).unwrap();
        let kernel = BzImage::new(kernel()).unwrap();
        let memory = MemoryMap::parse("00100000-05ffffff : System RAM\n").unwrap();
        let boot = Boot {
            kernel: &kernel,
            initrd: b"",
            command_line: b"",
            memory: &memory,
            rsdp: None,
            handover: Some(&passing),
        };
        let fault = boot.segments().unwrap_err();
        assert_eq!((fault.code(), fault.at().address), (Code::Outside, Some(0x600_0000)), "{fault}");
    }

    /// As the array of a real machine has it, for memory that is not there.
    #[test]
    fn an_empty_scratch_area_is_nowhere() {
        let (ram, root) = handover();
        // One where nothing can be, one in the middle of the handover.
        let empty = [range(0, 0), range(0x600_0800, 0)];
        let passing = Passing::new(&ram, root, &[empty[0], range(0x200_0000, 0x200_0000), empty[1]]).unwrap();
        let kernel = BzImage::new(kernel()).unwrap();
        let memory = MemoryMap::parse(MEMORY).unwrap();
        let boot = Boot {
            kernel: &kernel,
            initrd: b"",
            command_line: b"",
            memory: &memory,
            rsdp: None,
            handover: Some(&passing),
        };
        let segments = boot.segments().unwrap();
        let pages = segments.list().iter().find(|segment| segment.at == segments.entry()).unwrap();
        assert_eq!(pages.bytes[0x2028..0x2030], 48_u64.to_le_bytes(), "the array has all three");
    }

    /// A tree of six pages that says that half of all memory is preserved.
    #[test]
    fn more_than_this_machine_can_hold() {
        let mut ram = Ram::new(Geometry::K4, PageRange::new(Pfn::new(0x6000).unwrap(), 0x400).unwrap());
        let mut tree = crate::radix::Tree::new(Geometry::K4);
        tree.add(crate::mem::Folio::new(Pfn::new(1 << 46).unwrap(), Order::MAX).unwrap());
        let stored = tree.store(&mut ram).unwrap();
        let mut fdt = crate::fdt::Builder::new();
        fdt.strings("compatible", ["kho-v4"]).unwrap();
        fdt.u64_native("preserved-memory-map", stored.root.get()).unwrap();
        let root = PhysAddr::new(0x630_0000);
        ram.poke(root, &fdt.finish().unwrap()).unwrap();
        let fault = Passing::new(&ram, root, &[range(1 << 59, 0x40_0000)]).unwrap_err();
        assert_eq!(fault.code(), Code::TooLarge, "scratch behind all pages: {fault}");
        let fault = Passing::new(&ram, root, &[range(0x4000_0000, 0x40_0000)]).unwrap_err();
        assert_eq!(fault.code(), Code::Exhausted, "{fault}");
    }

    /// What the kernel is told of must be there, also when nobody preserved it.
    #[test]
    fn a_root_that_is_not_preserved() {
        let (mut ram, root) = handover();
        let mut bytes = vec![0; 0x1000];
        crate::mem::Memory::read(&ram, root, &mut bytes).unwrap();
        let elsewhere = PhysAddr::new(0x630_0000);
        ram.poke(elsewhere, &bytes).unwrap();
        let passing = Passing::new(&ram, elsewhere, &[range(0x200_0000, 0x200_0000)]).unwrap();
        assert!(passing.segments.iter().any(|segment| segment.at == elsewhere && segment.bytes == bytes));
    }

    proptest::proptest! {
        #![proptest_config(crate::testing::cases(64))]

        /// Wherever memory, scratch and handover are: nothing lies on anything else, and nothing where there is no
        /// memory.
        #[test]
        fn nothing_overlaps(
            folios in proptest::collection::vec((0_u32..7, 0_u32..4), 1..40),
            holes in proptest::collection::vec((0_u64..0x8000, 1_u64..0x800), 0..6),
            areas in proptest::collection::btree_set(0_u64..31, 1..5),
            (pref, align, init) in (0_u64..64, 12_u32..25, 0x201_u32..0x100_0000),
            (relocatable, below, line, disk) in (proptest::bool::ANY, 20_u32..31, 0_usize..255, 0_usize..0x4_0000),
        ) {
            // 128 MiB in all, the handover somewhere above 96.
            let window = PageRange::new(Pfn::new(0x6000).unwrap(), 0x2000).unwrap();
            let mut outgoing = Outgoing::new(Ram::new(Geometry::K4, window));
            // Blocks of different orders, others between them: up to 40 ranges, of which a dozen segments are made.
            for (number, &(gap, order)) in folios.iter().enumerate() {
                let _between = crate::mem::Frames::alloc(&mut outgoing, Order::new(gap).unwrap()).unwrap();
                let folios = vec![(Order::new(order).unwrap(), &b"folio"[..])];
                outgoing.preserve(&format!("n{number}"), &Payload { folios, rule: Rule::Words }).unwrap();
            }
            let (ram, root) = outgoing.finish().unwrap().into_parts();
            let scratch: Vec<_> = areas.iter().map(|&area| range(area << 22, 4 << 20)).filter(|area| area.start().get() > 0).collect();
            let Ok(passing) = Passing::new(&ram, root.start(), &scratch) else { return Ok(()) };

            let mut bytes = kernel();
            bytes[abi::KERNEL_ALIGNMENT..][..4].copy_from_slice(&(1_u32 << align).to_le_bytes());
            bytes[abi::PREF_ADDRESS..][..8].copy_from_slice(&((pref << 20) >> align << align).to_le_bytes());
            bytes[abi::INIT_SIZE..][..4].copy_from_slice(&init.to_le_bytes());
            bytes[abi::RELOCATABLE] = relocatable.into();
            bytes[abi::INITRD_ADDR_MAX..][..4].copy_from_slice(&((1_u32 << below) - 1).to_le_bytes());
            let kernel = BzImage::new(bytes).unwrap();
            // Memory with holes, not all of them of whole pages.
            let mut map = String::new();
            let mut at = 0x1000_u64;
            let mut holes = holes.clone();
            holes.sort_unstable();
            for (start, pages) in holes.into_iter().chain([(0x8000, 0)]) {
                let start = (start << 12) | (pages & 0xfff);
                if start <= at {
                    continue;
                }
                map += &format!("{at:x}-{:x} : System RAM\n", start - 1);
                at = start + (pages << 12);
                map += &format!("{start:x}-{at:x} : Reserved\n");
                at += 1;
            }
            let Ok(memory) = MemoryMap::parse(&map) else { return Ok(()) };
            let (initrd, command_line) = (vec![0xdd; disk], vec![b'c'; line]);
            let boot = Boot {
                kernel: &kernel,
                initrd: &initrd,
                command_line: &command_line,
                memory: &memory,
                rsdp: None,
                handover: Some(&passing),
            };
            let Ok(segments) = boot.segments() else { return Ok(()) };

            let mut taken: Vec<PhysRange> = Vec::new();
            for segment in segments.list() {
                proptest::prop_assert!(segment.bytes.len() as u64 <= segment.size && segment.size % 4096 == 0);
                proptest::prop_assert_eq!(segment.at.get() % 4096, 0);
                // Of the kernel all that it needs to unpack.
                let is_kernel = segment.bytes == kernel.kernel();
                let size = if is_kernel { kernel.init_size } else { segment.size };
                if is_kernel {
                    proptest::prop_assert!(segment.at.get() % kernel.alignment == 0 && segment.at.get() >= kernel.pref_address);
                    proptest::prop_assert!(relocatable || segment.at.get() == kernel.pref_address);
                }
                taken.push(range(segment.at.get(), size));
            }
            for area in &taken {
                proptest::prop_assert!(area.start().get() >= 0x10_0000);
                proptest::prop_assert!(memory.ram().any(|ram| ram.contains(area.start(), area.size())), "{area} of {map}");
            }
            taken.sort_unstable();
            for pair in taken.windows(2) {
                proptest::prop_assert!(pair[0].end() <= pair[1].start(), "{} and {}", pair[0], pair[1]);
            }
            // All that was authored is there.
            for (at, bytes) in ram.segments() {
                for (page, bytes) in (0..).zip(bytes.chunks(4096)).filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0)) {
                    let at = at.get() + page * 4096;
                    let found = segments.list().iter().any(|segment| {
                        let place = range(segment.at.get(), segment.bytes.len() as u64);
                        place.contains(PhysAddr::new(at), 4096)
                            && segment.bytes[(at - segment.at.get()) as usize..][..4096] == *bytes
                    });
                    proptest::prop_assert!(found, "page {at:#x}");
                }
            }
        }
    }
}
