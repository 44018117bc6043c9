//! An initramfs, as Linux unpacks it: the format "newc" of cpio. The guest includes this file too.

/// Builds an archive in memory.
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    inode: usize,
}

impl Cpio {
    pub(crate) fn new() -> Self {
        Cpio { bytes: Vec::new(), inode: 1 }
    }

    /// A regular file, below `/`; its folders must have been added before.
    pub(crate) fn file(mut self, name: &str, mode: u32, data: &[u8]) -> Self {
        self.entry(name, 0o100_000 | mode, (0, 0), data);
        self
    }

    pub(crate) fn folder(mut self, name: &str) -> Self {
        self.entry(name, 0o040_755, (0, 0), &[]);
        self
    }

    /// A character device.
    pub(crate) fn device(mut self, name: &str, major: u32, minor: u32) -> Self {
        self.entry(name, 0o020_600, (major, minor), &[]);
        self
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), data: &[u8]) {
        let (inode, size, name_size) = (self.inode, data.len(), name.len() + 1);
        self.inode += 1;
        // Magic, inode, mode, uid, gid, links, mtime, size, device, device that it is, bytes of the name, checksum.
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{major:08x}{minor:08x}\
             {name_size:08x}{0:08x}",
            0, 1
        );
        for part in [[header.as_bytes(), name.as_bytes(), &[0]].concat().as_slice(), data] {
            self.bytes.extend_from_slice(part);
            self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        }
    }
}
