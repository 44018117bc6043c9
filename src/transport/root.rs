//! The root record of a session: what it says, and the memfd that says it. Format: `kho-session-v1`.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::abi::session::{COMPAT, Head, MAGIC, MAX_FILES, RESERVED, ROOT};
use crate::compat::Compat;
use crate::num::{u64_of, usize_of};
use crate::report::{Code, Fault};

/// Nothing in it changes any more.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE);
const HEAD: u64 = 48;
const TOKEN: u64 = 8;
const _: () = assert!(size_of::<Head>() == 48 && size_of::<U64>() == 8);
/// No record is longer.
const MAX_BYTES: u64 = HEAD + TOKEN * MAX_FILES;

/// What a session has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) nonce: u64,
    /// CLOCK_REALTIME, in nanoseconds.
    pub(super) stamp: u64,
    /// The token of the arena.
    pub(super) arena: u64,
    /// The tokens of the files.
    pub(super) files: Vec<u64>,
}

impl Root {
    pub(super) fn encode(&self) -> Vec<u8> {
        let head = Head {
            magic: MAGIC,
            version: COMPAT.version().into(),
            reserved: 0.into(),
            nonce: self.nonce.into(),
            stamp: self.stamp.into(),
            arena: self.arena.into(),
            files: u64_of(self.files.len()).into(),
        };
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend(self.files.iter().flat_map(|token| token.to_le_bytes()));
        bytes
    }

    /// Reads a whole record. Of another version only magic and version are looked at.
    ///
    /// # Errors
    /// [`Code::Truncated`], [`Code::Magic`], [`Code::VersionOlder`], [`Code::VersionNewer`], [`Code::Reserved`],
    /// [`Code::TooLarge`], [`Code::ParcelCount`] for bytes behind the last token, [`Code::TokenDuplicate`] for a token that
    /// stands twice or is one of the transport's.
    pub(super) fn decode(bytes: &[u8]) -> Result<Root, Fault> {
        let (magic, rest) = <[u8; 8]>::read_from_prefix(bytes).map_err(|_| short("head", bytes.len(), HEAD))?;
        if magic != MAGIC {
            return Err(Fault::new(Code::Magic)
                .item("root.magic")
                .found(format_args!("{:#018x}", u64::from_be_bytes(magic)))
                .expected(format_args!("{:#018x}", u64::from_be_bytes(MAGIC))));
        }
        let (version, _) = U32::read_from_prefix(rest).map_err(|_| short("head", bytes.len(), HEAD))?;
        check_version(version.get())?;
        let (head, tokens) = Head::read_from_prefix(bytes).map_err(|_| short("head", bytes.len(), HEAD))?;
        if head.reserved.get() != 0 {
            let fault = Fault::new(Code::Reserved).item("root.reserved").offset(12).found(head.reserved);
            return Err(fault.expected(0));
        }
        let count = head.files.get();
        if count > MAX_FILES {
            let fault = Fault::new(Code::TooLarge).item("root.files").offset(40).found(count);
            return Err(fault.expected(format_args!("at most {MAX_FILES}")));
        }
        let expected = count.saturating_mul(TOKEN);
        if u64_of(tokens.len()) > expected {
            let fault = Fault::new(Code::ParcelCount).item("root.tokens");
            return Err(fault.found(format_args!("{} bytes", tokens.len())).expected(format_args!("{expected} bytes")));
        }
        let Ok(tokens) = <[U64]>::ref_from_bytes_with_elems(tokens, usize_of(count)) else {
            return Err(short("tokens", tokens.len(), expected));
        };
        let arena = head.arena.get();
        if arena == ROOT {
            return Err(Fault::new(Code::TokenDuplicate).item("root.arena").offset(32).found("the token of the root"));
        }
        let files: Vec<u64> = tokens.iter().map(|token| token.get()).collect();
        let mut seen = HashSet::from([arena]);
        for (number, token) in files.iter().enumerate() {
            if *token >= RESERVED || !seen.insert(*token) {
                let offset = HEAD.saturating_add(u64_of(number).saturating_mul(TOKEN));
                let fault = Fault::new(Code::TokenDuplicate).item("root.tokens").offset(offset);
                return Err(fault.found(format_args!("{token:#x}, which is taken or not for files")));
            }
        }
        Ok(Root { nonce: head.nonce.get(), stamp: head.stamp.get(), arena, files })
    }

    /// A sealed memfd of it.
    pub(super) fn memfd(&self) -> Result<OwnedFd, Fault> {
        let io = |what: &'static str| move |error: Errno| Fault::new(Code::Io).item(what).found(error);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Linux before 6.3 does not know NOEXEC_SEAL.
        let file = match memfd_create("kho-session", flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => memfd_create("kho-session", flags),
            other => other,
        };
        let mut file = File::from(file.map_err(io("memfd_create"))?);
        file.write_all(&self.encode()).map_err(|error| Fault::new(Code::Io).item("root").found(error))?;
        // FUTURE_WRITE says nothing more, but is what Linux adds to a file that is sealed against execution.
        let seals = SEALS | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).map_err(io("F_ADD_SEALS"))?;
        Ok(file.into())
    }

    /// Reads it from what came under [`ROOT`].
    pub(super) fn read(file: OwnedFd) -> Result<Root, Fault> {
        let io = |error: std::io::Error| Fault::new(Code::Io).item("root").found(error);
        let seals = fcntl_get_seals(file.as_fd())
            .map_err(|errno| Fault::new(Code::FileKind).item("root").found(errno).expected("a memfd"))?;
        if !seals.contains(SEALS) {
            let fault = Fault::new(Code::MemfdSeals).item("root.seals").found(format_args!("{:#x}", seals.bits()));
            return Err(fault.expected(format_args!("{:#x} at least", SEALS.bits())));
        }
        let file = File::from(file);
        let size = file.metadata().map_err(io)?.len();
        // A byte more than any record has, so that a longer file is not taken for one.
        let mut bytes = vec![0; usize_of(size.min(MAX_BYTES.saturating_add(1)))];
        file.read_exact_at(&mut bytes, 0).map_err(io)?;
        Root::decode(&bytes)
    }
}

fn check_version(version: u32) -> Result<(), Fault> {
    let code = match version.cmp(&COMPAT.version()) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => Code::VersionOlder,
        std::cmp::Ordering::Greater => Code::VersionNewer,
    };
    Err(Fault::new(code).item("root").found(Compat::new(COMPAT.name(), version)).expected(COMPAT))
}

fn short(item: &'static str, found: usize, expected: u64) -> Fault {
    Fault::new(Code::Truncated)
        .item(format!("root.{item}"))
        .found(format_args!("{found} bytes"))
        .expected(format_args!("{expected} bytes"))
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
