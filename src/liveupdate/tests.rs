use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use zerocopy::IntoBytes as _;

use super::preflight::{judge, too_many};
use super::refused::meaning;
use super::sys::{Argument as _, request};
use super::{Cause, Device, FileKind, NewSession, Operation, Preflight, RetrievedSession, device, preflight, session};
use crate::abi::liveupdate as abi;
use crate::mem::Geometry;
use crate::report::Code;

#[test]
fn requests_are_io_of_type_ba() {
    let numbers = [
        (abi::CREATE_SESSION, 0xba00),
        (abi::RETRIEVE_SESSION, 0xba01),
        (abi::PRESERVE_FD, 0xba40),
        (abi::RETRIEVE_FD, 0xba41),
        (abi::FINISH, 0xba42),
        (abi::GET_NAME, 0xba43),
    ];
    for (number, expected) in numbers {
        assert_eq!(request(number), expected);
    }
}

#[test]
fn arguments_byte_for_byte() {
    let mut argument = device::by_name(b"vm-7").unwrap();
    argument.set_size(72);
    let mut bytes = vec![72, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, b'v', b'm', b'-', b'7'];
    bytes.resize(72, 0);
    assert_eq!(argument.as_bytes(), bytes);

    let mut argument = session::by_token(0x0102_0304_0506_0708, 9);
    argument.set_size(16);
    assert_eq!(argument.as_bytes(), [16, 0, 0, 0, 9, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);

    let mut argument = abi::SessionFinish { size: 0.into(), reserved: 0.into() };
    argument.set_size(8);
    assert_eq!(argument.as_bytes(), [8, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn names_that_a_session_cannot_have() {
    for name in [&b""[..], b"a\0b", b"\0", &[b'x'; 64]] {
        assert!(device::by_name(name).is_none(), "{name:?}");
    }
    assert_eq!(device::by_name(&[b'x'; 63]).unwrap().name[63], 0);
    assert!(device::by_name(b"\xff\n").is_some(), "bytes, not text");
    // The kernel is not asked: this file would answer ENOTTY.
    let refused = Device::open_at("/dev/null").unwrap().create("a\0b").unwrap_err();
    assert_eq!((refused.operation(), refused.cause()), (Operation::Create, Cause::BadName));
    assert_eq!(refused.to_string(), "create session a\\x00b: a name that no session can have (EINVAL)");
}

#[test]
fn every_row_of_the_table() {
    use Operation::{Create, Finish, Given, Open, Preserve, Retrieve, RetrieveFile};
    let rows = [
        (Open, Errno::NOENT, Cause::NoLiveUpdate),
        (Open, Errno::NODEV, Cause::NoLiveUpdate),
        (Open, Errno::NXIO, Cause::NoLiveUpdate),
        (Open, Errno::OPNOTSUPP, Cause::NoLiveUpdate),
        (Open, Errno::BUSY, Cause::OpenElsewhere),
        (Open, Errno::ACCESS, Cause::Forbidden),
        (Open, Errno::PERM, Cause::Forbidden),
        (Open, Errno::IO, Cause::IncomingBroken),
        (Open, Errno::ISDIR, Cause::WrongKind),
        (Open, Errno::DOM, Cause::Unknown),
        (Create, Errno::NOTTY, Cause::WrongKind),
        (Create, Errno::EXIST, Cause::NameTaken),
        (Create, Errno::INVAL, Cause::BadName),
        (Retrieve, Errno::NOENT, Cause::NoSuchSession),
        (Retrieve, Errno::INVAL, Cause::AlreadyRetrieved),
        (Given, Errno::NOTTY, Cause::WrongKind),
        (Given, Errno::INVAL, Cause::WrongKind),
        (Given, Errno::BADF, Cause::WrongKind),
        (Preserve, Errno::EXIST, Cause::TokenTaken),
        (Preserve, Errno::BUSY, Cause::FileTaken),
        (Preserve, Errno::NOENT, Cause::NotPreservable),
        (Preserve, Errno::OPNOTSUPP, Cause::Seals),
        (Preserve, Errno::FBIG, Cause::TooLarge),
        (Preserve, Errno::NOSPC, Cause::Full),
        (Preserve, Errno::BADF, Cause::BadDescriptor),
        (Preserve, Errno::INVAL, Cause::Unknown),
        (Preserve, Errno::NOMEM, Cause::NoMemory),
        (RetrieveFile, Errno::NOENT, Cause::NoSuchToken),
        (RetrieveFile, Errno::INVAL, Cause::RetrieveFailed),
        (RetrieveFile, Errno::IO, Cause::RetrieveFailed),
        (RetrieveFile, Errno::TOOBIG, Cause::NewerThanKernel),
        (Finish, Errno::BUSY, Cause::NotFinished),
        (Finish, Errno::INVAL, Cause::Unknown),
        (Finish, Errno::INTR, Cause::Interrupted),
        (Finish, Errno::DOM, Cause::Unknown),
    ];
    for (operation, errno, cause) in rows {
        assert_eq!(meaning(operation, errno), cause, "{operation:?} {errno:?}");
    }
}

#[test]
fn causes_are_words_and_lines() {
    let mut seen = std::collections::BTreeSet::new();
    for cause in Cause::ALL {
        let word = cause.as_str();
        assert!(seen.insert(word) && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{word}");
        assert!(!cause.about().is_empty() && !cause.about().ends_with('.') && !cause.hint().ends_with('.'), "{word}");
    }
}

#[test]
fn what_is_no_session_is_given_back() {
    let file = memfd(b"kept", MemfdFlags::empty());
    let (file, refused) = NewSession::from_fd(file).unwrap_err();
    assert_eq!(refused.to_string(), "descriptor: not a live update device or session (ENOTTY)");
    assert_eq!((refused.operation(), refused.cause()), (Operation::Given, Cause::WrongKind));
    let (file, refused) = RetrievedSession::from_fd(file).unwrap_err();
    assert_eq!((refused.errno(), refused.session_name(), refused.token_asked()), (25, None, None));
    let mut bytes = [0; 4];
    File::from(file).read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"kept");
}

#[test]
fn a_file_that_is_not_the_device_refuses_sessions() {
    let device = Device::open_at("/dev/null").unwrap();
    let refused = device.create("vm-7").unwrap_err();
    assert_eq!(refused.to_string(), "create session vm-7: not a live update device or session (ENOTTY)");
    assert_eq!(device.retrieve(b"\xff").unwrap_err().cause(), Cause::WrongKind);
}

#[test]
fn a_refusal_says_what_was_asked_and_an_unknown_errno_is_told_plainly() {
    let refused = super::Refused::new(Operation::Preserve, Errno::EXIST).session(&b"vm-7"[..].into()).token(31);
    assert_eq!(
        refused.to_string(),
        "preserve token 0x1f of session vm-7: a file of this session has that token (EEXIST)"
    );
    assert_eq!(refused.hint(), "tokens are unique in a session");
    assert_eq!(std::io::Error::from(refused).kind(), std::io::ErrorKind::AlreadyExists);
    let refused = super::Refused::new(Operation::Finish, Errno::DOM).session(&b"vm-7"[..].into());
    let text = refused.to_string();
    assert!(text.starts_with("finish session vm-7: nothing that is known to mean more than that ("), "{text}");
    assert!(text.ends_with("(os error 33))"), "{text}");
}

#[test]
fn an_inherited_number_stays_open() {
    let file = memfd(b"x", MemfdFlags::empty());
    let number = std::os::fd::AsRawFd::as_raw_fd(&file);
    drop(super::inherited(number).unwrap());
    assert!(rustix::fs::fstat(&file).is_ok());
    assert_eq!(super::inherited(-1).unwrap_err().raw_os_error(), Some(9));
}

fn memfd(bytes: &[u8], flags: MemfdFlags) -> OwnedFd {
    let file = rustix::fs::memfd_create("test", flags | MemfdFlags::CLOEXEC).unwrap();
    // Whatever vm.memfd_noexec makes of it.
    if !flags.contains(MemfdFlags::NOEXEC_SEAL) {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o777)).unwrap();
    }
    assert_eq!(rustix::io::write(&file, bytes).unwrap(), bytes.len());
    file
}

/// A file of so many bytes that has no memory.
fn hole(size: u64) -> OwnedFd {
    let file = memfd(b"", MemfdFlags::empty());
    rustix::fs::ftruncate(&file, size).unwrap();
    file
}

fn told(preflight: &Preflight) -> Vec<String> {
    preflight.findings.kept().iter().map(ToString::to_string).collect()
}

fn codes(preflight: &Preflight) -> Vec<Code> {
    preflight.findings.kept().iter().map(|finding| finding.fault.code()).collect()
}

#[test]
fn preflight_of_plain_memfds_is_silent_and_counts() {
    let page = rustix::param::page_size() as u64;
    let (small, empty) = (memfd(b"small", MemfdFlags::ALLOW_SEALING), hole(0));
    let whole = memfd(&vec![1; 257 * page as usize], MemfdFlags::ALLOW_SEALING);
    rustix::fs::seek(&whole, SeekFrom::Start(77)).unwrap();
    let preflight = preflight(&[(7, &small), (0, &empty), (u64::MAX, &whole)]);
    assert!(preflight.findings.is_empty(), "{}", preflight.findings);
    let facts = preflight.files.iter().map(|file| (file.token, file.kind, file.size, file.filled, file.pos));
    assert_eq!(
        facts.collect::<Vec<_>>(),
        [(7, FileKind::Memfd, 5, 0, 5), (0, FileKind::Memfd, 0, 0, 0), (u64::MAX, FileKind::Memfd, 257 * page, 0, 77)]
    );
    let summary = preflight.summary;
    assert_eq!((summary.files, summary.bytes, summary.filled), (3, 5 + 257 * page, 0));
    // Each has its structure; those that are not empty have an array (of two pages where a page holds 256 records) and
    // a chunk; and there is one page of file records.
    let array = (257_u64 * 16).div_ceil(page);
    assert_eq!(summary.metadata_pages, 3 + (1 + 1) + (array + 1) + 1);
}

#[test]
fn preflight_one_file_under_two_tokens() {
    let file = memfd(b"x", MemfdFlags::empty());
    let other = file.try_clone().unwrap();
    let preflight = preflight(&[(1, file), (2, other)]);
    assert_eq!(told(&preflight), ["error: token 0x2: file-duplicate: the file of token 0x1"]);
    assert_eq!((preflight.files.len(), preflight.summary.files), (2, 1));
}

#[test]
fn preflight_one_token_twice() {
    let preflight = preflight(&[(16, memfd(b"x", MemfdFlags::empty())), (16, memfd(b"y", MemfdFlags::empty()))]);
    assert_eq!(told(&preflight), ["error: token 0x10: token-duplicate: another file has this token"]);
}

#[test]
fn preflight_hugetlb() {
    let file = match rustix::fs::memfd_create("huge", MemfdFlags::HUGETLB | MemfdFlags::CLOEXEC) {
        Ok(file) => file,
        Err(error) => {
            println!("needs a kernel with hugetlbfs: memfd_create(MFD_HUGETLB): {error}");
            return;
        }
    };
    let preflight = preflight(&[(1, file)]);
    assert_eq!(preflight.files[0].kind, FileKind::Hugetlb);
    assert_eq!(
        told(&preflight),
        [
            "error: token 0x1: file-kind: found huge pages (hugetlb), expected a memfd, or another shmem file without a name"
        ]
    );
}

#[test]
fn preflight_shmem_with_a_name_and_without() {
    let path = std::path::Path::new("/dev/shm").join(format!("kho-preflight-{}", std::process::id()));
    let Ok(file) = File::options().read(true).write(true).create_new(true).open(&path) else {
        println!("needs a tmpfs at /dev/shm that can be written");
        return;
    };
    let named = preflight(&[(1, &file)]);
    std::fs::remove_file(&path).unwrap();
    let unnamed = preflight(&[(1, &file)]);
    if named.files[0].kind == FileKind::Regular {
        println!("needs a tmpfs at /dev/shm");
        return;
    }
    assert_eq!(
        told(&named),
        [
            "error: token 0x1: file-kind: found a shmem file with a name, expected a memfd, or another shmem file without a name"
        ]
    );
    // Its mode is that of any new file.
    assert_eq!((unnamed.files[0].kind, codes(&unnamed)), (FileKind::Memfd, vec![Code::MemfdMode]));
}

#[test]
fn preflight_what_is_no_shmem() {
    let (pipe, _other) = std::io::pipe().unwrap();
    let files: [(u64, OwnedFd); 3] = [
        (1, File::open("/proc/self/stat").unwrap().into()),
        (2, File::open("/dev/null").unwrap().into()),
        (3, pipe.into()),
    ];
    let preflight = preflight(&files);
    let kinds: Vec<FileKind> = preflight.files.iter().map(|file| file.kind).collect();
    assert_eq!(kinds, [FileKind::Regular, FileKind::Other, FileKind::Other]);
    assert_eq!(codes(&preflight), [Code::FileKind; 3]);
    assert_eq!(preflight.summary.files, 0);
}

#[test]
fn preflight_a_descriptor_that_is_only_a_path() {
    let path = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let preflight = preflight(&[(1, path)]);
    assert_eq!(codes(&preflight), [Code::FileKind]);
    assert!(told(&preflight)[0].contains("found a descriptor opened with O_PATH"), "{:?}", told(&preflight));
    assert!(preflight.files.is_empty());
}

#[test]
fn preflight_seals_that_no_kernel_has_yet() {
    let file = memfd(b"x", MemfdFlags::ALLOW_SEALING);
    let mut facts = preflight(&[(1, &file)]).files[0].clone();
    facts.seals = Some(0x7f);
    let faults = judge(&facts, file.as_fd(), Geometry::K4);
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["memfd-seals: seals: found 0x7f, expected seals of 0x3f"]);
}

#[test]
fn preflight_more_pages_than_linux_counts() {
    let page = rustix::param::page_size() as u64;
    let Some(size) = page.checked_mul(1 << 32).filter(|&size| i64::try_from(size).is_ok()) else { return };
    let preflight = preflight(&[(1, hole(size))]);
    assert_eq!(codes(&preflight), [Code::TooLarge, Code::HolesFilled, Code::MemoryShort]);
    let expected = format!("error: token 0x1: too-large: size: found {size}, expected at most 4294967295 pages");
    assert_eq!(told(&preflight)[0], expected);
}

#[test]
fn preflight_holes_cost_memory() {
    let page = rustix::param::page_size() as u64;
    let file = hole(16 * page + 1);
    rustix::io::pwrite(&file, &vec![1; 2 * page as usize], 0).unwrap();
    rustix::io::pwrite(&file, b"x", 9 * page).unwrap();
    rustix::fs::seek(&file, SeekFrom::Start(3)).unwrap();
    let preflight = preflight(&[(0xab, &file)]);
    let facts = &preflight.files[0];
    assert_eq!((facts.allocated, facts.filled), (3 * page, 14 * page));
    let expected = format!(
        "warning: token 0xab: holes-filled: holes at offset {:#x}: {} bytes that Linux allocates and fills",
        2 * page,
        14 * page
    );
    assert_eq!(told(&preflight), [expected]);
    assert_eq!(preflight.summary.filled, 14 * page);
    // Nothing was changed, nor the position that other holders of the file share.
    assert_eq!(rustix::fs::seek(&file, SeekFrom::Current(0)).unwrap(), 3);
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_blocks as u64, 3 * page / 512);
}

#[test]
fn preflight_holes_that_no_memory_is_there_for() {
    let preflight = preflight(&[(1, hole(8 << 40))]);
    assert_eq!(codes(&preflight), [Code::HolesFilled, Code::MemoryShort]);
    let text = &told(&preflight)[1];
    assert!(text.starts_with("error: session: memory-short: memory: found "), "{text}");
}

#[test]
fn preflight_noexec_memfd_comes_back_without_write() {
    let Ok(_) = rustix::fs::memfd_create("probe", MemfdFlags::NOEXEC_SEAL | MemfdFlags::CLOEXEC) else {
        println!("needs Linux 6.3: memfd_create(MFD_NOEXEC_SEAL)");
        return;
    };
    let preflight = preflight(&[(1, memfd(b"x", MemfdFlags::NOEXEC_SEAL))]);
    assert_eq!(
        told(&preflight),
        [
            "warning: token 0x1: memfd-unwritable: seals: 0x20, which comes back as 0x3e: it cannot be written then",
            "warning: token 0x1: memfd-mode: mode: 0o666, which comes back as 0o777"
        ]
    );
}

#[test]
fn preflight_a_mode_that_is_lost() {
    let file = memfd(b"x", MemfdFlags::ALLOW_SEALING);
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600)).unwrap();
    let told = told(&preflight(&[(1, file)]));
    assert_eq!(told, ["warning: token 0x1: memfd-mode: mode: 0o600, which comes back as 0o777"]);
}

#[test]
fn preflight_more_files_than_a_session_takes() {
    assert_eq!(too_many(630_000, Geometry::K4), None);
    let fault = too_many(630_001, Geometry::K4).unwrap();
    assert_eq!(fault.to_string(), "list-long: files: found 630001, expected at most 630000");
}
