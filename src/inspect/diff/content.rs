//! What nodes hold, side by side.

use super::super::body::Body;
use super::super::content::{Content, Device, GuestRegion, Memfd, Session, SessionFile};
use super::super::view::Node;
use super::{Pair, Walk, by_order, number, pairs};
use crate::luo::Flb;
use crate::mem::{PhysAddr, PhysRange};
use crate::num::u64_of;
use crate::selftest::Rule;

impl<'a> Walk<'a> {
    pub(super) fn content(
        &mut self,
        path: &str,
        (node, a): (&'a Node, &'a Content),
        (other, b): (&'a Node, &'a Content),
    ) {
        match (a, b) {
            (Content::Files { files }, Content::Files { files: others }) => {
                for ((token, nth), pair) in pairs(files, others, |file| file.token) {
                    self.device(&format!("{path} files[{token:#x}]{}", number(nth)), pair);
                }
                if !files.is_empty() && !others.is_empty() {
                    let why = || Some("its files travel beside the memory, and are not in it".into());
                    self.not_compared(format!("{path} files"), why(), why());
                }
            }
            (Content::GuestMemory { regions }, Content::GuestMemory { regions: others }) => {
                for ((guest, nth), pair) in pairs(regions, others, |region| region.guest) {
                    self.region(&format!("{path} regions[{guest:#x}]{}", number(nth)), pair);
                }
            }
            (Content::Memfd(a), Content::Memfd(b)) => self.memfd(&format!("{path} "), a, b),
            (
                Content::Luo { number: ours, sessions, flbs },
                Content::Luo { number: theirs, sessions: others, flbs: globals },
            ) => {
                self.value(&format!("{path} number"), Some(ours), Some(theirs));
                for ((name, nth), pair) in pairs(sessions, others, |session| &session.name) {
                    self.session(&format!("{path} sessions[{name}]{}", number(nth)), pair);
                }
                for ((name, nth), pair) in pairs(flbs, globals, |flb| &flb.name) {
                    self.flb(&format!("{path} flbs[{name}]{}", number(nth)), pair);
                }
            }
            (
                Content::Luo { number, .. } | Content::LuoHead { number, .. },
                Content::Luo { number: other, .. } | Content::LuoHead { number: other, .. },
            ) => self.value(&format!("{path} number"), Some(number), Some(other)),
            (Content::Memblock { ranges }, Content::Memblock { ranges: others }) => {
                for ((name, nth), pair) in pairs(ranges, others, |range| &range.name) {
                    let path = format!("{path} ranges[{name}]{}", number(nth));
                    let (Some(a), Some(b)) = pair else {
                        self.value(&path, pair.0.map(|range| range.size), pair.1.map(|range| range.size));
                        continue;
                    };
                    self.value(&format!("{path}.size"), Some(a.size), Some(b.size));
                    if self.addresses {
                        self.address(&format!("{path}.address"), Some(a.address), Some(b.address));
                    }
                    if let (Some(a), Some(b)) = (self.a.reserved(a), self.b.reserved(b)) {
                        self.bytes(format!("{path}.content"), a, b);
                    }
                }
            }
            (Content::KexecMetadata(a), Content::KexecMetadata(b)) => {
                let (release, other) = (&a.previous_release, &b.previous_release);
                self.value(&format!("{path} previous_release"), Some(release), Some(other));
                self.value(&format!("{path} kexec_count"), Some(a.kexec_count), Some(b.kexec_count));
            }
            (
                Content::KhoTest { csum, rule, bytes, folios },
                Content::KhoTest { csum: sum, rule: other, bytes: size, folios: others },
            ) => {
                self.checksum(path, *csum, *sum);
                let name = |rule: &Rule| match rule {
                    Rule::Words => "words",
                    Rule::Folded => "folded",
                };
                self.value(&format!("{path} rule"), Some(name(rule)), Some(name(other)));
                self.blocks(path, "folios", (folios, *bytes), (others, *size));
            }
            (
                Content::KhoTest { .. } | Content::KhoTestHead { .. },
                Content::KhoTest { .. } | Content::KhoTestHead { .. },
            ) => {
                if let (Some(a), Some(b)) = (test_head(a), test_head(b)) {
                    self.checksum(path, a.0, b.0);
                    self.value(&format!("{path} folios"), Some(a.1), Some(b.1));
                }
            }
            (
                Content::Records { count, record_size, blocks, .. },
                Content::Records { count: number, record_size: size, blocks: others, .. },
            ) => {
                self.value(&format!("{path} count"), Some(count), Some(number));
                self.value(&format!("{path} record_size"), Some(record_size), Some(size));
                self.places(&format!("{path} blocks"), blocks, others, |block| *block);
                let (ours, theirs) =
                    (Body::Records(blocks, *record_size, *count), Body::Records(others, *size, *number));
                self.bytes(format!("{path} content"), ours, theirs);
            }
            (Content::Array { bytes, blocks }, Content::Array { bytes: size, blocks: others }) => {
                self.blocks(path, "blocks", (blocks, *bytes), (others, *size));
            }
            (Content::States(a), Content::States(b)) => self.states(path, a, b),
            (Content::Bytes { first_bytes }, Content::Bytes { first_bytes: others }) => {
                let bytes = |node: &Node| {
                    let blob = node.blob?;
                    PhysRange::new(PhysAddr::new(blob.address), blob.size).map(Body::Bytes)
                };
                match (bytes(node), bytes(other)) {
                    (Some(a), Some(b)) if self.has_memory() => {
                        self.bytes(format!("{path} content"), a, b);
                        self.behind(path, node, other);
                    }
                    _ => self.value(&format!("{path} first_bytes"), Some(first_bytes), Some(others)),
                }
            }
            // Of a copy of debugfs, what the kernel has given back can be anything.
            (Content::Bytes { .. }, _) | (_, Content::Bytes { .. }) if !self.has_memory() => {
                let why = |content| matches!(content, &Content::Bytes { .. }).then(|| "it cannot be read there".into());
                self.not_compared(format!("{path} content"), why(a), why(b));
            }
            (a, b) => self.value(&format!("{path} kind"), Some(kind(a)), Some(kind(b))),
        }
    }

    fn checksum(&mut self, path: &str, a: u32, b: u32) {
        self.value(&format!("{path} csum"), Some(format!("{a:#010x}")), Some(format!("{b:#010x}")));
    }

    fn session(&mut self, path: &str, pair: Pair<'a, Session>) {
        let (Some(a), Some(b)) = pair else {
            let files = |session: &Session| count(u64_of(session.files.len()), "file");
            return self.value(path, pair.0.map(files), pair.1.map(files));
        };
        for ((token, nth), pair) in pairs(&a.files, &b.files, |file| file.token) {
            self.session_file(&format!("{path}.files[{token:#x}]{}", number(nth)), pair);
        }
    }

    fn session_file(&mut self, path: &str, pair: Pair<'a, SessionFile>) {
        let (Some(a), Some(b)) = pair else {
            let about = |file: &SessionFile| file.compatible.clone();
            return self.value(path, pair.0.map(about), pair.1.map(about));
        };
        self.value(&format!("{path}.compatible"), Some(&a.compatible), Some(&b.compatible));
        if self.addresses {
            self.address(&format!("{path}.data"), Some(a.data), Some(b.data));
        }
        match (&a.memfd, &b.memfd) {
            (Some(a), Some(b)) => self.memfd(&format!("{path}."), a, b),
            (None, None) => {
                let why = || Some("what its handler left is not known here, or cannot be read".into());
                self.not_compared(format!("{path}.content"), why(), why());
            }
            (a, b) => {
                let size = |file: &Memfd| format!("{} bytes", file.size);
                self.value(&format!("{path}.memfd"), a.as_ref().map(size), b.as_ref().map(size));
            }
        }
    }

    fn memfd(&mut self, path: &str, a: &'a Memfd, b: &'a Memfd) {
        self.value(&format!("{path}size"), Some(a.size), Some(b.size));
        self.value(&format!("{path}pos"), Some(a.pos), Some(b.pos));
        self.words(&format!("{path}seals"), &a.seals, &b.seals);
        let of = |file: &Memfd| by_order(file.folios.iter().map(|folio| folio.1));
        self.layout(&format!("{path}folios"), &of(a), &of(b));
        self.places(&format!("{path}folios"), &a.folios, &b.folios, |folio| folio.0);
        self.bytes(format!("{path}content"), Body::Memfd(a), Body::Memfd(b));
    }

    fn flb(&mut self, path: &str, pair: Pair<'a, Flb>) {
        let (Some(a), Some(b)) = pair else {
            let about = |flb: &Flb| format!("used by {}", count(flb.count, "file"));
            return self.value(path, pair.0.map(about), pair.1.map(about));
        };
        self.value(&format!("{path}.count"), Some(a.count), Some(b.count));
        if self.addresses {
            self.address(&format!("{path}.data"), Some(a.data), Some(b.data));
        }
    }

    /// A token says nothing of the memory: as an address, it may be another one for the same.
    fn region(&mut self, path: &str, pair: Pair<'a, GuestRegion>) {
        let (Some(a), Some(b)) = pair else {
            let about = |region: &GuestRegion| format!("{} bytes", region.size);
            return self.value(path, pair.0.map(about), pair.1.map(about));
        };
        self.value(&format!("{path}.size"), Some(a.size), Some(b.size));
        self.value(&format!("{path}.offset"), Some(a.offset), Some(b.offset));
        self.value(&format!("{path}.prot"), Some(a.prot), Some(b.prot));
        self.value(&format!("{path}.flags"), Some(format!("{:#x}", a.flags)), Some(format!("{:#x}", b.flags)));
        if self.addresses {
            self.address(&format!("{path}.token"), Some(a.token), Some(b.token));
        }
    }

    fn device(&mut self, path: &str, pair: Pair<'a, Device>) {
        let (Some(a), Some(b)) = pair else {
            let about = |file: &Device| format!("{} of {} bytes", file.kind, file.size);
            return self.value(path, pair.0.map(about), pair.1.map(about));
        };
        self.value(&format!("{path}.kind"), Some(&a.kind), Some(&b.kind));
        self.words(&format!("{path}.detail"), &a.detail, &b.detail);
        self.value(&format!("{path}.size"), Some(a.size), Some(b.size));
        self.value(&format!("{path}.pos"), Some(a.pos), Some(b.pos));
        self.words(&format!("{path}.seals"), &a.seals, &b.seals);
        self.value(&format!("{path}.status"), Some(format!("{:#o}", a.status)), Some(format!("{:#o}", b.status)));
        self.value(&format!("{path}.mode"), Some(format!("{:#o}", a.mode)), Some(format!("{:#o}", b.mode)));
        if self.addresses {
            self.address(&format!("{path}.device"), Some(a.device), Some(b.device));
            self.value(&format!("{path}.inode"), Some(a.inode), Some(b.inode));
        }
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Checksum and number of folios.
fn test_head(content: &Content) -> Option<(u32, u64)> {
    match content {
        Content::KhoTest { csum, folios, .. } => Some((*csum, u64_of(folios.len()))),
        Content::KhoTestHead { csum, folios, .. } => Some((*csum, u64::from(*folios))),
        _ => None,
    }
}

/// As JSON has it.
pub(super) const fn kind(content: &Content) -> &'static str {
    match content {
        Content::Files { .. } => "files",
        Content::GuestMemory { .. } => "guest-memory",
        Content::Memfd(_) => "memfd",
        Content::Luo { .. } => "luo",
        Content::Memblock { .. } => "memblock",
        Content::KexecMetadata(_) => "kexec-metadata",
        Content::KhoTest { .. } => "kho-test",
        Content::Records { .. } => "records",
        Content::Array { .. } => "array",
        Content::LuoHead { .. } => "luo-head",
        Content::KhoTestHead { .. } => "kho-test-head",
        Content::States(_) => "states",
        Content::Bytes { .. } => "bytes",
    }
}
