//! Unpacking, bounded: how much comes out, and how much memory an unpacker takes for its window.

#[cfg(feature = "images")]
use std::io::Read;

#[cfg(feature = "images")]
use crate::num::{index_of, u64_of};
use crate::report::{Code, Fault};

/// How something is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Xz,
    Zstd,
    Lz4,
    Bzip2,
    Lzma,
    Lzo,
}

impl Packing {
    pub(super) fn of(bytes: &[u8]) -> Option<Packing> {
        Some(match bytes {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            [0x02, 0x21, 0x4c, 0x18, ..] => Packing::Lz4,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Packing::Bzip2,
            [0x5d, 0, 0, ..] => Packing::Lzma,
            [0x89, b'L', b'Z', b'O', 0, ..] => Packing::Lzo,
            _ => return None,
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Xz => "xz",
            Packing::Zstd => "zstd",
            Packing::Lz4 => "lz4",
            Packing::Bzip2 => "bzip2",
            Packing::Lzma => "lzma",
            Packing::Lzo => "lzo",
        }
    }
}

/// Unpacks at most `limit` bytes. `look` sees all that has come out so far, each time that more has.
///
/// What follows the packed data is not looked at: kernels append sizes.
#[cfg(feature = "images")]
pub(super) fn unpack(
    packing: Packing,
    packed: &[u8],
    limit: u64,
    look: &mut dyn FnMut(&[u8], bool),
) -> Result<Vec<u8>, Fault> {
    /// KiB that a window of xz or lzma may have: kernels have 128 MiB at most.
    const WINDOW: u32 = 256 << 10;
    let mut reader: Box<dyn Read + '_> = match packing {
        Packing::Gzip => Box::new(flate2::read::GzDecoder::new(packed)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(packed, false, WINDOW)),
        Packing::Lzma => {
            let reader = lzma_rust2::LzmaReader::new_mem_limit(packed, WINDOW, None);
            Box::new(reader.map_err(|error| refused(packing, 0, &error))?)
        }
        Packing::Zstd => {
            let reader = ruzstd::decoding::StreamingDecoder::new(packed);
            Box::new(reader.map_err(|error| refused(packing, 0, &error))?)
        }
        Packing::Bzip2 => Box::new(bzip2::read::BzDecoder::new(packed)),
        Packing::Lz4 => return lz4(packed, limit, look),
        Packing::Lzo => {
            return Err(Fault::new(Code::ImagePacking).found("lzo").expected("gzip, xz, zstd, lz4, bzip2 or lzma"));
        }
    };
    let mut out = Vec::new();
    loop {
        let before = u64_of(out.len());
        // One byte more than may come tells whether it ends there.
        let room = limit.saturating_sub(before).saturating_add(1).min(1 << 20);
        let read = reader.by_ref().take(room).read_to_end(&mut out);
        if u64_of(out.len()) > limit {
            return Err(too_much(packing, limit));
        }
        match read {
            Ok(0) => break,
            Ok(_) => look(&out, false),
            Err(error) => return Err(refused(packing, u64_of(out.len()), &error)),
        }
    }
    look(&out, true);
    Ok(out)
}

#[cfg(not(feature = "images"))]
pub(super) fn unpack(packing: Packing, _: &[u8], _: u64, _: &mut dyn FnMut(&[u8], bool)) -> Result<Vec<u8>, Fault> {
    let fault = Fault::new(Code::ImagePacking).found(packing.name());
    Err(fault.expected("an image that is not packed: kho was built without its feature `images`"))
}

#[cfg(feature = "images")]
fn refused(packing: Packing, at: u64, error: &dyn core::fmt::Display) -> Fault {
    let fault = Fault::new(Code::ImagePacked).item(packing.name()).found(error);
    fault.expected(format_args!("packed data; {at} bytes came out before"))
}

/// Legacy frames, which kernels have: blocks of at most 8 MiB behind a size each, without checksums. Each is unpacked to
/// where it is wanted: to copy 8 MiB costs as much as to unpack them.
#[cfg(feature = "images")]
fn lz4(packed: &[u8], limit: u64, look: &mut dyn FnMut(&[u8], bool)) -> Result<Vec<u8>, Fault> {
    const BLOCK: usize = 8 << 20;
    // Asked for as zeros, pages that are never unpacked to are never touched.
    let mut out = vec![0; BLOCK];
    let mut len = 0_usize;
    let mut rest = packed;
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size);
        // Frames may follow each other; and a kernel's own size stands at the very end.
        if size == 0x184c_2102 {
            rest = after;
            continue;
        }
        if after.is_empty() || size == 0 {
            break;
        }
        let bad = |what: &dyn core::fmt::Display| refused(Packing::Lz4, u64_of(len), what);
        let (data, after) =
            after.split_at_checked(index_of(size)).ok_or_else(|| bad(&"a block that ends too early"))?;
        // By as much as the last block filled, so that many small ones cost no more than a large one.
        let end = len.saturating_add(BLOCK);
        out.resize(end, 0);
        let to = out.get_mut(len..).unwrap_or_default();
        let count =
            lz4_flex::block::decompress_into(data, to).map_err(|error| bad(&format_args!("a block: {error}")))?;
        len = len.saturating_add(count);
        if u64_of(len) > limit {
            return Err(too_much(Packing::Lz4, limit));
        }
        look(out.get(..len).unwrap_or_default(), false);
        rest = after;
    }
    out.truncate(len);
    look(&out, true);
    Ok(out)
}

#[cfg(feature = "images")]
fn too_much(packing: Packing, limit: u64) -> Fault {
    let fault = Fault::new(Code::ImageLimit).item(packing.name()).found("more");
    fault.expected(format_args!("at most {limit} bytes"))
}
