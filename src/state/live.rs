//! Descriptions as the version that was written has them. What other versions have beside it is left out once, and not
//! again at each value: a description may be as long as all values together.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::description::{Description, DescriptionBody, FieldDescription, SubsectionDescription, VariantDescription};
use super::fit::Written;

/// A description in its version.
pub(super) struct Live<'a> {
    pub(super) of: &'a Description,
    pub(super) version: u32,
    /// Of a structure.
    pub(super) fields: Vec<&'a FieldDescription>,
    /// By id.
    pub(super) parts: BTreeMap<u32, &'a SubsectionDescription>,
    /// By tag, each with its fields.
    pub(super) variants: BTreeMap<u64, (&'a VariantDescription, Vec<&'a FieldDescription>)>,
}

/// All of them, by id.
pub(super) type Lives<'a> = BTreeMap<u32, Live<'a>>;

pub(super) fn all(written: &Written) -> Lives<'_> {
    written.iter().map(|(id, (of, version))| (*id, one(of, *version))).collect()
}

fn one(of: &Description, version: u32) -> Live<'_> {
    let mut live = Live { of, version, fields: Vec::new(), parts: BTreeMap::new(), variants: BTreeMap::new() };
    match &of.body {
        DescriptionBody::Struct { fields, subsections } => {
            live.fields = there(fields, version);
            live.parts = subsections.iter().map(|part| (part.id, part)).collect();
        }
        DescriptionBody::Enum { variants } => {
            let known = variants.iter().filter(|variant| variant.since <= version);
            let known = known.map(|variant| (variant.tag.into(), (variant, there(&variant.fields, version))));
            live.variants = known.collect();
        }
    }
    live
}

fn there(fields: &[FieldDescription], version: u32) -> Vec<&FieldDescription> {
    fields.iter().filter(|field| field.is_in(version)).collect()
}
