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
    let cases: [(Change<'_>, &str); 7] = [
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
            &|bytes| bytes.truncate(0x500),
            "truncated: kernel at offset 0x400: found 256 bytes behind 1 sectors of setup, expected some, and at most the \
             5242880 of init_size",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(told(change), expected);
    }
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

#[cfg(feature = "write")]
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
}
