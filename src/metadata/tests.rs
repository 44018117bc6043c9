use super::*;
use crate::handover::testing::{planned, written};
use crate::mem::Geometry;

/// The structure of a machine that came from 7.2.13, changed, and cut or filled to that many bytes.
fn read(size: usize, change: impl Fn(&mut [u8])) -> Result<Metadata, String> {
    let incoming = written(Geometry::K4, MADE_OF, |scope| {
        let mut bytes = alloc::vec![0; size.max(73)];
        bytes[0] = 1;
        bytes[4..10].copy_from_slice(b"7.2.13");
        bytes[69] = 3;
        change(&mut bytes);
        scope.blob(&bytes[..size])
    });
    let (found, mut findings) = planned(incoming, MetadataNode);
    assert!(findings.len() <= 1, "{findings:?}");
    findings.pop().map_or_else(|| Ok(found.unwrap()), Err)
}

#[test]
fn release_and_count() {
    let expected = Metadata { previous_release: "7.2.13".into(), kexec_count: 3 };
    assert_eq!(read(73, |_| ()).unwrap(), expected);
    // Longer is another writer's matter; a release may fill all but the zero.
    assert_eq!(read(200, |_| ()).unwrap(), expected);
    assert_eq!(read(73, |bytes| bytes[4..68].fill(b'x')).unwrap().previous_release.len(), 64);
    assert_eq!(read(73, |bytes| bytes[4..69].fill(0)).unwrap().previous_release, "");
}

#[test]
fn another_version_is_not_corruption() {
    let older = "version-older: version at 0x100000: found 0, expected 1";
    assert_eq!(read(73, |bytes| bytes[0] = 0).unwrap_err(), older);
    let newer = "version-newer: version at 0x100000: found 2, expected 1";
    assert_eq!(read(73, |bytes| bytes[0] = 2).unwrap_err(), newer);
    // Also when it is shorter than ours.
    assert_eq!(read(4, |bytes| bytes[0] = 2).unwrap_err(), newer);
}

#[test]
fn short_and_without_end() {
    let short = "truncated: blob-size at 0x100000: found 72, expected at least 73 (KexecMetadata)";
    assert_eq!(read(72, |_| ()).unwrap_err(), short);
    assert_eq!(read(3, |_| ()).unwrap_err(), short.replace("72", "3"));
    let fault = read(73, |bytes| bytes[4..69].fill(b'x')).unwrap_err();
    assert!(fault.starts_with("text: previous_release at offset 0x4 at 0x100000: found \"xxx"), "{fault}");
    assert!(fault.ends_with("without a zero, expected a zero within 65 bytes"), "{fault}");
    let fault = read(73, |bytes| bytes[5] = 0xff).unwrap_err();
    assert_eq!(fault, "text: previous_release at offset 0x4 at 0x100000: found \"7\\xff2.13\", expected UTF-8");
}

#[test]
fn what_is_written_is_read_back() {
    for release in ["", "7.2.13", &"x".repeat(64)] {
        let metadata = Metadata { previous_release: release.into(), kexec_count: u32::MAX };
        let (found, findings) = planned(crate::handover::testing::sent(Geometry::K4, &metadata), MetadataNode);
        assert_eq!((found.unwrap(), findings.len()), (metadata, 0));
    }
    for release in ["a\0b", &"x".repeat(65)] {
        let mut outgoing = crate::handover::Outgoing::new(crate::handover::testing::ram(Geometry::K4));
        let metadata = Metadata { previous_release: release.into(), kexec_count: 0 };
        let fault = outgoing.preserve("kexec-metadata", &metadata).unwrap_err();
        assert_eq!((fault.code(), fault.expected_text()), (Code::Text, "at most 64 bytes without zeros"));
    }
}
