//! An image of states, opened: the header, the tables and the checksum are right. Nothing of the contents is read.

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use zerocopy::{FromBytes, Immutable, IntoBytes as _, KnownLayout};

use super::description::Description;
use super::kind::Kind;
use super::limits;
use super::number;
use crate::abi::state::{BULK_CRC, COMPAT, Header, Instance, MAGIC, Resource, Use};
use crate::num::{index_of, u64_of, usize_of};
use crate::report::{Code, Fault};

/// The metadata of an image, of which header, tables and checksum are right.
///
/// ```
/// # #[cfg(feature = "derive")] {
/// use kho::state::{self, Image, State};
///
/// #[derive(State)]
/// #[state(id = 7, version = 2)]
/// struct Timer {
///     deadline: u64,
/// }
///
/// // Who has never seen the type reads what there is, in which version, before anything else.
/// let bytes = state::save(&Timer { deadline: 5 })?;
/// let image = Image::open(&bytes)?;
/// let (description, version) = image.description(7)?.unwrap();
/// assert_eq!((description.name.as_str(), version), ("timer", 2));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Image<'a> {
    meta: Cow<'a, [u8]>,
    header: Header,
    /// Versions, and where the bytes of shapes are.
    shapes: BTreeMap<u32, (u32, Range<usize>)>,
    instances: Vec<Instance>,
    resources: Vec<Resource>,
    objects: Vec<Object>,
}

/// Reads bytes at an offset.
pub(crate) type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), Fault> + 'a;

/// An object: where it is, and what.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) ty: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

fn truncated(item: &'static str, offset: usize) -> Fault {
    Fault::new(Code::Truncated).item(item).offset(u64_of(offset))
}

/// Reads a table of so many rows.
fn rows<'a, T: FromBytes + KnownLayout + Immutable>(
    meta: &'a [u8],
    at: &mut usize,
    count: u32,
    item: &'static str,
) -> Result<&'a [T], Fault> {
    let rest = meta.get(*at..).unwrap_or_default();
    let (rows, behind) =
        <[T]>::ref_from_prefix_with_elems(rest, index_of(count)).map_err(|_| truncated(item, *at).found(count))?;
    *at = meta.len().saturating_sub(behind.len());
    Ok(rows)
}

/// Reads a number; moves behind it.
fn number_at(meta: &[u8], at: &mut usize, item: &'static str) -> Result<u64, Fault> {
    let (number, rest) = number::read(meta.get(*at..).unwrap_or_default()).map_err(|broken| match broken {
        number::Broken::Short => truncated(item, *at),
        number::Broken::Long => Fault::new(Code::StateNumber).item(item).offset(u64_of(*at)),
    })?;
    *at = meta.len().saturating_sub(rest.len());
    Ok(number)
}

/// Reads a length and so many bytes: where they are.
fn piece(meta: &[u8], at: &mut usize, item: &'static str) -> Result<(usize, usize), Fault> {
    let place = *at;
    let len = number_at(meta, at, item)?;
    let left = meta.len().saturating_sub(*at);
    let end = usize::try_from(len).ok().filter(|&len| len <= left).and_then(|len| at.checked_add(len));
    let end = end.ok_or_else(|| {
        let fault = Fault::new(Code::StateLength).item(item).offset(u64_of(place));
        fault.found(len).expected(format_args!("at most {left}, the bytes that are left"))
    })?;
    let start = core::mem::replace(at, end);
    Ok((start, end))
}

impl<'a> Image<'a> {
    /// The header, which says by itself what stands behind it: `bytes` may be the start of more.
    ///
    /// # Errors
    /// [`Code::Truncated`], [`Code::Magic`]; [`Code::VersionNewer`] or [`Code::VersionOlder`] for another version.
    pub fn header(bytes: &[u8]) -> Result<Header, Fault> {
        // What it is comes first, of however many bytes: any other file is told as such.
        let magic = bytes.first_chunk().copied().map_or(MAGIC, u64::from_le_bytes);
        if magic != MAGIC {
            let fault = Fault::new(Code::Magic).item("magic").offset(0).found(format_args!("{magic:#x}"));
            return Err(fault.expected(format_args!("{MAGIC:#x}")));
        }
        let (header, _) = Header::read_from_prefix(bytes).map_err(|_| {
            let fault = truncated("header", 0).found(bytes.len());
            fault.expected(format_args!("at least {} bytes", size_of::<Header>()))
        })?;
        if header.version != COMPAT.version() {
            let newer = header.version.get() > COMPAT.version();
            let fault = Fault::new(if newer { Code::VersionNewer } else { Code::VersionOlder }).item("version");
            return Err(fault.offset(8).found(format_args!("{}-v{}", COMPAT.name(), header.version)).expected(COMPAT));
        }
        Ok(header)
    }

    /// Opens the metadata of an image: exactly these bytes, or the start of an image whose bulk data follow.
    ///
    /// # Errors
    /// Those of [`Image::header`], [`Code::Checksum`], and what is wrong in the tables.
    pub fn open(bytes: &'a [u8]) -> Result<Image<'a>, Fault> {
        Image::open_as(Cow::Borrowed(bytes))
    }

    /// As [`Image::open`], and keeps the bytes.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn keep(bytes: Vec<u8>) -> Result<Image<'static>, Fault> {
        Image::open_as(Cow::Owned(bytes))
    }

    fn open_as(bytes: Cow<'_, [u8]>) -> Result<Image<'_>, Fault> {
        let header = Image::header(&bytes)?;
        let size = header.meta.get();
        let meta = usize::try_from(size).ok().and_then(|size| bytes.get(..size));
        let meta = meta.filter(|meta| meta.len() >= size_of::<Header>()).ok_or_else(|| {
            truncated("meta", 16).found(format_args!("{} bytes", bytes.len())).expected(format_args!("{size}"))
        })?;
        let end = meta.len();
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(Header { crc: 0.into(), ..header }.as_bytes());
        hasher.update(meta.get(size_of::<Header>()..).unwrap_or_default());
        let crc = hasher.finalize();
        if header.crc != crc {
            let fault = Fault::new(Code::Checksum).item("crc").offset(12).found(format_args!("{crc:#010x}"));
            return Err(fault.expected(format_args!("{:#010x}", header.crc)));
        }
        if header.reserved != 0 || header.flags.get() & !BULK_CRC != 0 {
            let fault = Fault::new(Code::Reserved).item("flags").offset(32);
            return Err(fault.found(format_args!("{:#x} and {:#x}", header.flags, header.reserved)));
        }
        if header.flags.get() & BULK_CRC == 0 && header.bulk_crc != 0 {
            let fault = Fault::new(Code::Reserved).item("bulk_crc").offset(36);
            return Err(fault.found(format_args!("{:#010x}", header.bulk_crc)).expected("0 without the flag"));
        }
        let mut at = size_of::<Header>();
        let uses: &[Use] = rows(meta, &mut at, header.uses.get(), "uses")?;
        let instances: &[Instance] = rows(meta, &mut at, header.instances.get(), "instances")?;
        let resources: &[Resource] = rows(meta, &mut at, header.resources.get(), "resources")?;
        if let Some(row) = resources.iter().position(|resource| resource.reserved != 0) {
            return Err(Fault::new(Code::Reserved).item(format!("resources[{row}]")));
        }
        if uses.len() > limits::SHAPES {
            let fault = Fault::new(Code::TooLarge).item("uses").found(uses.len());
            return Err(fault.expected(format_args!("at most {}", limits::SHAPES)));
        }
        let mut shapes = BTreeMap::new();
        for row in uses {
            let (start, end) = piece(meta, &mut at, "shapes")?;
            if shapes.last_key_value().is_some_and(|(last, _)| *last >= row.id.get()) {
                let fault = Fault::new(Code::StateId).item("uses").found(format_args!("id {}", row.id));
                return Err(fault.expected("ids that ascend"));
            }
            shapes.insert(row.id.get(), (row.version.get(), start..end));
        }
        let (instances, resources) = (instances.to_vec(), resources.to_vec());
        let mut objects = Vec::new();
        for number in 0..header.objects.get() {
            let item = |fault: Fault| fault.within(&format!("objects[{number}]"));
            let (ty, len) = Kind::parse_prefix(meta.get(at..).unwrap_or_default())
                .map_err(|fault| item(fault.moved(u64_of(at))))?;
            at = at.saturating_add(len);
            let (start, end) = piece(meta, &mut at, "length").map_err(item)?;
            objects.push(Object { ty, start, end });
        }
        if at != meta.len() {
            let fault = Fault::new(Code::StateLength).item("meta").offset(u64_of(at));
            return Err(fault.found(format_args!("{} bytes behind the objects", meta.len().saturating_sub(at))));
        }
        let meta = match bytes {
            Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(..end).unwrap_or_default()),
            Cow::Owned(mut bytes) => {
                bytes.truncate(end);
                Cow::Owned(bytes)
            }
        };
        let image = Image { meta, header, shapes, instances, resources, objects };
        image.check_instances()?;
        Ok(image)
    }

    fn check_instances(&self) -> Result<(), Fault> {
        let mut last = None;
        let mut taken = alloc::vec![false; self.objects.len()];
        for (row, instance) in self.instances.iter().enumerate() {
            let place = (instance.id.get(), instance.number.get());
            let fault = || Fault::new(Code::StateId).item(format!("instances[{row}]"));
            if last.replace(place).is_some_and(|last| last >= place) {
                let fault = fault().found(format_args!("id {}, number {}", instance.id, instance.number));
                return Err(fault.expected("rows that ascend"));
            }
            let number = index_of(instance.object.get());
            match self.objects.get(number) {
                Some(Object { ty: Kind::State(id), .. }) if instance.id == *id => {}
                Some(other) => {
                    return Err(fault().found(&other.ty).expected(format_args!("state {}", instance.id)));
                }
                None => {
                    return Err(fault()
                        .found(format_args!("object {}", instance.object))
                        .expected("one that is there"));
                }
            }
            if !self.shapes.contains_key(&instance.id.get()) {
                return Err(fault().found(format_args!("no description of id {}", instance.id)));
            }
            if taken.get_mut(number).is_none_or(|taken| core::mem::replace(taken, true)) {
                let fault = fault().found(format_args!("object {number}"));
                return Err(fault.expected("one that no row before it has"));
            }
        }
        Ok(())
    }

    /// All of the metadata.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// Bytes of bulk data that belong to it.
    #[must_use]
    pub fn bulk_len(&self) -> u64 {
        self.header.bulk.get()
    }

    /// Whether the bulk data have a checksum.
    pub(crate) fn has_bulk_crc(&self) -> bool {
        self.header.flags.get() & BULK_CRC != 0
    }

    /// Holds the bulk data against their checksum, where there is one.
    ///
    /// # Errors
    /// [`Code::Checksum`], and [`Code::Truncated`] for fewer bytes than the header says.
    pub fn check_bulk(&self, bulk: &[u8]) -> Result<(), Fault> {
        let size = self.header.bulk.get();
        let bulk = usize::try_from(size).ok().and_then(|size| bulk.get(..size)).ok_or_else(|| {
            truncated("bulk", 24).found(format_args!("{} bytes", bulk.len())).expected(format_args!("{size}"))
        })?;
        if self.has_bulk_crc() { self.bulk_is(crc32fast::hash(bulk)) } else { Ok(()) }
    }

    /// As [`Image::check_bulk`], of bulk data that are read piece by piece: at an offset, so many.
    ///
    /// # Errors
    /// As there, and those of reading.
    pub(crate) fn check_bulk_by(&self, read: &mut ReadAt<'_>) -> Result<(), Fault> {
        const PIECE: u64 = 1 << 18;
        if !self.has_bulk_crc() {
            return Ok(());
        }
        let (size, mut at, mut hasher) = (self.header.bulk.get(), 0_u64, crc32fast::Hasher::new());
        let mut buffer = alloc::vec![0; usize_of(size.min(PIECE))];
        while at < size {
            let now = size.saturating_sub(at).min(PIECE);
            let piece = buffer.get_mut(..usize_of(now)).unwrap_or_default();
            read(at, piece)?;
            hasher.update(piece);
            at = at.saturating_add(now);
        }
        self.bulk_is(hasher.finalize())
    }

    fn bulk_is(&self, found: u32) -> Result<(), Fault> {
        let expected = self.header.bulk_crc.get();
        if found == expected {
            return Ok(());
        }
        let fault = Fault::new(Code::Checksum).item("bulk_crc").offset(36).found(format_args!("{found:#010x}"));
        Err(fault.expected(format_args!("{expected:#010x}")))
    }

    /// The objects that can be asked for: id of the description, and number.
    pub fn instances(&self) -> impl ExactSizeIterator<Item = (u32, u64)> + '_ {
        self.instances.iter().map(|instance| (instance.id.get(), instance.number.get()))
    }

    /// Which object that is.
    pub(crate) fn instance(&self, id: u32, number: u64) -> Option<u32> {
        let row = self.instances.binary_search_by_key(&(id, number), |row| (row.id.get(), row.number.get())).ok()?;
        self.instances.get(row).map(|row| row.object.get())
    }

    pub(crate) fn instance_rows(&self) -> &[Instance] {
        &self.instances
    }

    pub(crate) fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// What travels beside the bytes.
    #[must_use]
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The ids of all descriptions, each with the version that was written.
    pub fn versions(&self) -> impl ExactSizeIterator<Item = (u32, u32)> + '_ {
        self.shapes.iter().map(|(id, (version, _))| (*id, *version))
    }

    /// The version that was written, and the bytes of the description.
    pub(crate) fn shape(&self, id: u32) -> Option<(u32, &[u8])> {
        let (version, place) = self.shapes.get(&id)?;
        Some((*version, self.meta.get(place.clone())?))
    }

    /// A description and the version that was written.
    ///
    /// # Errors
    /// As [`Description::parse`], and [`Code::StateSchema`] for a version that the description does not have.
    pub fn description(&self, id: u32) -> Result<Option<(Description, u32)>, Fault> {
        let Some((version, place)) = self.shapes.get(&id) else { return Ok(None) };
        let bytes = self.meta.get(place.clone()).unwrap_or_default();
        let start = place.start;
        let within = |fault: Fault| fault.within(&format!("shapes[{id}]"));
        let parsed = Description::parse(bytes).map_err(|fault| within(fault.moved(u64_of(start))))?;
        let fault = |item: &'static str| Fault::new(Code::StateSchema).item(item).offset(u64_of(start));
        if parsed.id != id {
            return Err(within(fault("id").found(parsed.id).expected(id)));
        }
        if !(parsed.min_version..=parsed.version).contains(version) {
            let fault = fault("version").found(version);
            return Err(within(fault.expected(format_args!("{} to {}", parsed.min_version, parsed.version))));
        }
        if !parsed.takes_bytes(*version) {
            return Err(within(fault("fields").found("none").expected(format_args!("a field in version {version}"))));
        }
        Ok(Some((parsed, *version)))
    }

    /// Every description, with the version that was written.
    ///
    /// # Errors
    /// As [`Image::description`], for the first that is wrong.
    pub fn descriptions(&self) -> Result<Vec<(Description, u32)>, Fault> {
        let all = self.shapes.keys().filter_map(|id| self.description(*id).transpose());
        all.collect()
    }

    /// Where the bulk data begin in a file that has both.
    #[must_use]
    pub const fn bulk_at(meta: u64) -> u64 {
        let rest = crate::abi::state::BULK_ALIGN.saturating_sub(1);
        meta.saturating_add(rest) & !rest
    }
}
