//! What a kernel understands, read from its image, beside unpacking the image alone.
//!
//! `cargo bench -p kho-benches --bench plan_against`, with the kernels of `$KHO_TEST_KERNELS`.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};

use kho::inspect::{self, Options};
use kho::successor::{Answer, Carried, Plan, Profile};
use kho_benches::Contest;

/// Most that the whole may take, in times of the unpacker alone.
const LIMIT: f64 = 1.3;

fn unpack(mut reader: impl Read) -> Vec<u8> {
    let mut out = Vec::new();
    reader.read_to_end(&mut out).unwrap();
    out
}

/// Each block to its place, which is the fastest.
fn unlz4(packed: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 8 << 20];
    let mut len = 0;
    let mut rest = &packed[4..];
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        let (data, after) = after.split_at(u32::from_le_bytes(*size) as usize);
        out.resize(len + (8 << 20), 0);
        len += lz4_flex::block::decompress_into(data, &mut out[len..]).unwrap();
        rest = after;
    }
    out.truncate(len);
    out
}

fn lz4(image: &[u8]) -> Vec<u8> {
    let mut lz4 = 0x184c_2102_u32.to_le_bytes().to_vec();
    for block in image.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(block);
        lz4.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        lz4.extend_from_slice(&packed);
    }
    lz4
}

fn contest(name: &str, packed: &[u8], carried: &Carried, alone: impl Fn(&[u8]) -> Vec<u8>) {
    let size = alone(packed).len() as u64;
    let mut contest = Contest::new(format!("{name}, per byte of {size}"), size);
    contest.entry("kho, profile and plan", || {
        let plan = Plan::new(carried, &Profile::of_bytes(packed).unwrap(), &[]);
        assert_eq!(plan.answer, Answer::Go);
        black_box(plan);
    });
    contest.entry("unpacking alone", || drop(black_box(alone(packed))));
    let medians = contest.run();
    let ratio = medians[0] / medians[1];
    println!("{name}: {ratio:.2} times the unpacker alone{}", if ratio > LIMIT { ", OVER THE LIMIT" } else { "" });
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = std::env::var_os("KHO_TEST_KERNELS").map_or_else(|| root.join("../shared/kernels"), PathBuf::from);
    let frozen = inspect::open(root.join("tests/data/linux-7.2-x86_64/frozen.core"), &Options::default()).unwrap();
    let carried = Carried::from(&frozen);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        if name.ends_with(".Image.gz") {
            // What was frozen was another architecture.
            let carried = Carried::written_by(&Profile::of_bytes(&bytes).unwrap());
            contest(&format!("{name}: gzip"), &bytes, &carried, |packed| unpack(flate2::read::GzDecoder::new(packed)));
            let image = unpack(flate2::read::GzDecoder::new(&bytes[..]));
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            let zstd = ruzstd::encoding::compress_to_vec(&image[..], level);
            contest(&format!("{name}: zstd"), &zstd, &carried, |packed| {
                unpack(ruzstd::decoding::StreamingDecoder::new(packed).unwrap())
            });
            contest(&format!("{name}: lz4"), &lz4(&image), &carried, unlz4);
        } else if name.ends_with(".bzImage") {
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            let start = (usize::from(bytes[0x1f1]) + 1) * 512 + word(0x248);
            if bytes[start] == 0xfd {
                let end = start + word(0x24c);
                contest(&format!("{name}: xz"), &bytes, &carried, |image| {
                    unpack(lzma_rust2::XzReader::new(&image[start..end], false))
                });
                let vmlinux = unpack(lzma_rust2::XzReader::new(&bytes[start..end], false));
                contest(&format!("{name}: lz4"), &lz4(&vmlinux), &carried, unlz4);
            }
        }
    }
}
