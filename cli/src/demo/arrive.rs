//! The successor.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;

use blake3::Hasher;
use kho::abi::{files, kho_test};
use kho::transport::Arrival;
use rustix::fs::SeekFrom;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::parts::{self, Ledger};
use super::report::{Phases, Report, Row as Line};
use super::{Args, Progress, keep, now};

/// The predecessor counts its metadata when everything is written: it travels in the environment.
pub(super) const METADATA: &str = "KHO_DEMO_METADATA";

/// Plans, accepts, restores, and only then hashes.
pub(super) fn arrive(args: &Args, arrival: Arrival) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let started = now();
    if let Some(reason) = arrival.reason {
        return Err(format!("the successor went back: {reason}").into());
    }
    let (registry, came) = crate::program::registry();
    let plan = arrival.incoming.plan(&registry);
    let nodes = plan.nodes().to_vec();
    let accepted = match plan.accept() {
        Ok(accepted) => accepted,
        Err(refused) => {
            eprintln!("kho: {refused}");
            return Ok(ExitCode::from(1));
        }
    };
    let accepted_at = now();
    let mut restored = accepted.restore()?;
    let restored_at = now();

    let missing = "a handover of something else: a component was restored without a result";
    let ledger = restored.take(&came.ledger).ok_or(missing)?;
    let ledger = Ledger::read_from_bytes(&ledger).map_err(|_| "a ledger of another size")?;
    let files = restored.take(&came.files).ok_or(missing)?;
    let memfd = restored.take(&came.memfd).ok_or(missing)?;
    let test = restored.take(&came.test).ok_or(missing)?;
    let table = restored.take(&came.table).ok_or(missing)?;
    let array = restored.take(&came.array).ok_or(missing)?;
    let arena = restored.memory().arena();

    let mut lines = Vec::new();
    let mut line = |node: &str, what: String, bytes: u64, wrong: Option<String>| {
        let compatible = nodes.iter().find(|other| other.name == node).map(|node| node.compatible.clone());
        lines.push(Line { node: node.into(), compatible: compatible.unwrap_or_default(), what, bytes, wrong });
    };
    let ram = files.get(parts::RAM).ok_or("the memfd that travels by descriptor is not there")?;
    line(files::NODE, "memfd, by descriptor".into(), size(ram)?, same(hash_file(ram)?, ledger.ram));
    let wrong = same(hash_file(&memfd)?, ledger.memfd).or(attributes(&memfd)?);
    line(parts::MEMFD, "memfd, by pages".into(), size(&memfd)?, wrong);
    let (mut hasher, mut bytes) = (Hasher::new(), 0);
    for frame in &test {
        let folio = arena.bytes(frame)?;
        hasher.update(folio);
        bytes += u64::try_from(folio.len())?;
    }
    let what = format!("{} folios of mixed orders", test.len());
    line(kho_test::NODE, what, bytes, same(hasher.finalize().into(), ledger.test));
    let bytes = table.as_slice().as_bytes();
    let wrong = same(blake3::hash(bytes).into(), ledger.table);
    line(parts::TABLE, format!("{} records", table.len()), u64::try_from(bytes.len())?, wrong);
    let how = if array.is_copy() { "copied" } else { "one mapping" };
    let what = format!("{} scattered blocks, {how}", parts::ARRAY_SIZE / parts::BLOCK);
    line(parts::ARRAY, what, u64::try_from(array.len())?, same(blake3::hash(&array).into(), ledger.array));
    line(parts::LEDGER, "hashes and a time".into(), u64::try_from(size_of::<Ledger>())?, None);

    if let Some(dir) = &args.keep {
        keep::keep(dir, arena, &files, &memfd)?;
    }
    let left_at = arrival.left_at;
    let report = Report {
        nodes: lines,
        phases: Phases {
            freeze_to_exec: left_at.saturating_sub(ledger.frozen_at.get()),
            exec_to_main: started.saturating_sub(left_at),
            exec_to_accepted: accepted_at.saturating_sub(left_at),
            accepted_to_restored: restored_at.saturating_sub(accepted_at),
            blackout: restored_at.saturating_sub(left_at),
        },
        metadata: std::env::var(METADATA).ok().and_then(|bytes| bytes.parse().ok()).unwrap_or(0),
        kept: args.keep.clone(),
    };
    let (_, released) = restored.finish();
    released?;
    report.print(args.format)
}

fn same(found: [u8; 32], expected: [u8; 32]) -> Option<String> {
    let hex = |hash: [u8; 32]| blake3::Hash::from_bytes(hash).to_hex();
    (found != expected).then(|| format!("hash: found {}, expected {}", hex(found), hex(expected)))
}

fn attributes(file: &OwnedFd) -> Result<Option<String>, Box<dyn std::error::Error>> {
    let (seals, pos) = (rustix::fs::fcntl_get_seals(file)?.bits(), rustix::fs::seek(file, SeekFrom::Current(0))?);
    let expected = (0x7, parts::MEMFD_POS);
    Ok(((seals, pos) != expected)
        .then(|| format!("seals and position: found {:#x?}, expected {expected:#x?}", (seals, pos))))
}

fn size(file: impl AsFd) -> Result<u64, Box<dyn std::error::Error>> {
    Ok(u64::try_from(rustix::fs::fstat(file)?.st_size)?)
}

fn hash_file(file: impl AsFd) -> Result<[u8; 32], Box<dyn std::error::Error>> {
    let total = size(&file)?;
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    let (mut hasher, mut progress) = (Hasher::new(), Progress::new("verifying", total));
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match file.read_at(&mut piece, at)? {
            0 => break Ok(hasher.finalize().into()),
            len => {
                hasher.update(&piece[..len]);
                at += u64::try_from(len)?;
                progress.add(u64::try_from(len)?);
            }
        }
    }
}
