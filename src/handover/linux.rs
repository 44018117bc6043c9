//! A handover for the next kernel.

use alloc::borrow::ToOwned as _;
use alloc::format;

use super::outgoing::Outgoing;
use super::scope::Home;
use crate::abi::kho::X86_LOW_LIMIT;
use crate::abi::{kexec_metadata, kho_test, luo, memblock};
use crate::compat::Compat;
use crate::linux::{check_scratch, scratch_array};
use crate::mem::{Frame, Order, PhysAddr, PhysRange};
use crate::num::u64_of;
use crate::report::{Code, Fault};

/// What the next kernel needs besides the root FDT.
pub(super) struct Linux {
    /// The page of the array of scratch areas; not preserved, as in Linux.
    pub(super) array: Frame,
    pub(super) range: PhysRange,
}

/// Refuses something else under a name of Linux's own: it takes what is there for what it knows, and panics over `LUO`.
pub(super) fn known_to_linux(name: &str, owner: Compat<'_>) -> Result<(), Fault> {
    let metadata = Compat::new(kexec_metadata::NODE, kexec_metadata::VERSION);
    let known = [
        (luo::NODE, luo::COMPAT),
        (memblock::NODE, memblock::COMPAT),
        (kexec_metadata::NODE, metadata),
        (kho_test::NODE, kho_test::COMPAT),
    ];
    match known.iter().find(|(known, _)| *known == name) {
        Some((_, expected)) if *expected != owner => {
            let fault = Fault::new(Code::Refused).item(name.to_owned()).found(owner);
            Err(fault.expected(format_args!("{expected}, as Linux has it under that name")))
        }
        _ => Ok(()),
    }
}

impl<M: Home> Outgoing<M> {
    /// A handover that an unmodified kernel restores, in memory that is loaded where it says.
    ///
    /// The components are the same. What Linux needs follows from this:
    /// - The root FDT has one page. What only this library reads is left out when the page is full, `mem` first, then
    ///   the lists: see [`Finished::warnings`](super::Finished::warnings). Without its list a node can be read back only
    ///   if its blob says what it is, as in all that Linux knows.
    /// - Nothing is in scratch, where the next kernel allocates until it has read the tree, and nothing in the first
    ///   MiB, which x86-64 does not preserve: the memory [keeps both out](Home::keep_out). What else must stay free (the
    ///   kernel, its initrd) [`Ram::keep_out`](crate::mem::Ram::keep_out) says.
    /// - Under the names that Linux knows only what it takes there is preserved: [`Code::Refused`].
    /// - The array of scratch areas is written: [`Finished::boot`](super::Finished::boot) says where.
    ///
    /// `scratch` are the areas, of which all but one may be empty: at least as much as the kernel allocates while it
    /// boots, since until the tree is read it has nothing else.
    ///
    /// ```
    /// use kho::handover::Outgoing;
    /// use kho::luo::{NewContent, NewFile, NewSession, Sessions};
    /// use kho::mem::{Geometry, Order, PageRange, Pfn, PhysAddr, PhysRange, Ram};
    /// use kho::memfd::Contents;
    ///
    /// let geometry = Geometry::K4;
    /// let window = PageRange::new(Pfn::new(0x4c000).unwrap(), 0x1000).unwrap();
    /// let scratch = PhysRange::new(PhysAddr::new(0x4400_0000), 64 << 20).unwrap();
    /// let mut outgoing = Outgoing::for_linux(Ram::new(geometry, window), &[scratch])?;
    /// let disk = NewContent::Memfd(Contents::new(geometry, b"boot sector", Order::ZERO));
    /// let vm = NewSession { name: b"vm".into(), files: vec![NewFile { token: 1, content: disk }] };
    /// outgoing.preserve("LUO", &Sessions { number: 1, sessions: vec![vm], flbs: vec![] })?;
    ///
    /// let finished = outgoing.finish()?;
    /// assert!(finished.warnings().is_empty());
    /// let boot = finished.boot().unwrap(); // For `linux::chosen` or `Boot::setup_data`.
    /// assert_eq!(boot.scratch.start().get(), 0x4c00_0000);
    /// let (ram, _) = finished.into_parts();
    /// assert_eq!(ram.segments().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Code::Unaligned`], [`Code::TooLarge`], [`Code::OwnedTwice`], [`Code::Refused`] for areas that Linux would not
    /// take (see [`check_scratch`]); [`Code::Refused`] when the memory has handed out blocks where it must not, or
    /// cannot keep them out; [`Code::Exhausted`] when it has no page for the array.
    pub fn for_linux(mut memory: M, scratch: &[PhysRange]) -> Result<Self, Fault> {
        let geometry = memory.geometry();
        check_scratch(geometry, scratch)?;
        let low = PhysRange::new(PhysAddr::new(0), X86_LOW_LIMIT);
        low.map_or(Ok(()), |low| memory.keep_out("the first MiB", low))?;
        for area in scratch.iter().filter(|area| area.size() > 0) {
            memory.keep_out(&format!("scratch {area}"), *area)?;
        }
        let bytes = scratch_array(scratch);
        let order = Order::holding(u64_of(bytes.len()), geometry);
        let order = order.ok_or_else(|| Fault::new(Code::TooLarge).item("scratch").found(scratch.len()))?;
        let array = memory.alloc(order)?;
        memory.write(&array, 0, &bytes)?;
        let range = PhysRange::new(array.folio().addr(geometry), u64_of(bytes.len()));
        let range = range.ok_or_else(|| Fault::new(Code::TooLarge).item("scratch").found(scratch.len()))?;
        let mut outgoing = Outgoing::new(memory);
        outgoing.linux = Some(Linux { array, range });
        Ok(outgoing)
    }
}
