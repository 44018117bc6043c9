//! What Linux calls the structures that the lock has, and their fields where the names differ.
//!
//! Names as of Linux 7.2. A new structure is one more line here. `liveupdate_session_get_name` is not here: what it
//! calls reserved is the descriptor of the structure that its two siblings share.

/// A structure of the kernel, and what it is here.
pub(super) struct Known {
    /// `struct NAME`.
    pub(super) linux: &'static str,
    /// The component, without its version.
    pub(super) component: &'static str,
    /// The structure in the lock.
    pub(super) here: &'static str,
    /// Fields with other names: theirs, ours.
    pub(super) fields: &'static [(&'static str, &'static str)],
}

const fn known(
    linux: &'static str,
    component: &'static str,
    here: &'static str,
    fields: &'static [(&'static str, &'static str)],
) -> Known {
    Known { linux, component, here, fields }
}

pub(super) const KNOWN: &[Known] = &[
    known("boot_e820_entry", "x86-boot", "E820Entry", &[("type", "kind")]),
    known("kho_block_header_ser", "block", "Header", &[]),
    known("kho_data", "kho-boot", "SetupData", &[]),
    known("kho_kexec_metadata", "kexec-metadata", "KexecMetadata", &[]),
    known("kho_scratch", "kho-boot", "Scratch", &[]),
    known("kho_vmalloc", "vmalloc", "Descriptor", &[]),
    known("kho_vmalloc_hdr", "vmalloc", "ChunkHeader", &[]),
    known("liveupdate_ioctl_create_session", "liveupdate-ioctl", "SessionByName", &[]),
    known("liveupdate_ioctl_retrieve_session", "liveupdate-ioctl", "SessionByName", &[]),
    known("liveupdate_session_finish", "liveupdate-ioctl", "SessionFinish", &[]),
    known("liveupdate_session_preserve_fd", "liveupdate-ioctl", "SessionFile", &[]),
    known("liveupdate_session_retrieve_fd", "liveupdate-ioctl", "SessionFile", &[]),
    known("luo_file_ser", "luo", "File", &[]),
    known("luo_flb_header_ser", "luo", "FlbHeader", &[("pgcnt", "page_count")]),
    known("luo_flb_ser", "luo", "Flb", &[]),
    known(
        "luo_ser",
        "luo",
        "Head",
        &[("liveupdate_num", "liveupdate_number"), ("sessions_pa", "sessions"), ("flbs_pa", "flbs")],
    ),
    known("luo_session_ser", "luo", "Session", &[("file_set_ser.files", "files"), ("file_set_ser.count", "count")]),
    known("memfd_luo_folio_ser", "memfd", "Folio", &[("pfn:52|flags:12", "pfn_flags")]),
    known("memfd_luo_ser", "memfd", "Memfd", &[]),
    known("setup_data", "kho-boot", "SetupHeader", &[("type", "kind")]),
];

/// Parts of structures above, and what is a kernel's own: nothing to be told about.
const PARTS: [&str; 2] = ["luo_file_set_ser", "liveupdate_session_get_name"];

/// Whether a structure that is not in the table looks like one that is handed over.
pub(super) fn looks_handed_over(name: &str) -> bool {
    let ours = ["kho_", "luo_", "liveupdate_"].iter().any(|word| name.contains(word));
    let ioctl = name.starts_with("liveupdate_ioctl_") || name.starts_with("liveupdate_session_");
    (ours && name.ends_with("_ser") || ioctl) && !PARTS.contains(&name)
}

/// Components whose strings an image has when it knows them.
pub(super) const STRINGS: [&str; 8] =
    ["kho", "luo", "memfd", "memblock", "reserve-mem", "kho-test", "radix", "vmalloc"];
