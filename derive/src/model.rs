//! What a type says of its state, checked: all that the expansion needs, and nothing that can be wrong.

use proc_macro2::TokenStream;
use syn::{Ident, Member, Path};

pub(crate) struct State {
    pub(crate) ident: Ident,
    pub(crate) id: u32,
    pub(crate) version: u32,
    pub(crate) min_version: u32,
    pub(crate) name: String,
    pub(crate) ignorable: bool,
    pub(crate) hooks: Hooks,
    pub(crate) body: Body,
}

pub(crate) struct Hooks {
    pub(crate) before_save: Option<Path>,
    pub(crate) after_save: Option<Path>,
    pub(crate) before_restore: Option<Path>,
    pub(crate) after_restore: Option<Path>,
}

pub(crate) enum Body {
    Struct { fields: Fields, order: Vec<Place> },
    Enum(Vec<Variant>),
}

/// What stands on the wire, one after the other.
pub(crate) enum Place {
    Field(Field),
    Old(Old),
}

/// The fields of a struct or of a variant that are not in [`Place`]s.
#[derive(Default)]
pub(crate) struct Fields {
    pub(crate) subsections: Vec<Subsection>,
    pub(crate) skipped: Vec<Skipped>,
}

pub(crate) struct Field {
    pub(crate) member: Member,
    /// The name in a condition: that of the field, or `_0`.
    pub(crate) name: String,
    /// Part of the names that belong to it; no two fields of one type have the same.
    pub(crate) key: String,
    pub(crate) wire: String,
    /// Without `Self`, which means nothing where the description stands.
    pub(crate) ty: TokenStream,
    pub(crate) since: u32,
    /// There are versions that have the rest of the type and not this field.
    pub(crate) added: bool,
    pub(crate) required: bool,
    pub(crate) preset: Option<Preset>,
    pub(crate) when: Option<When>,
    pub(crate) how: How,
    /// The condition of a later field looks at it.
    pub(crate) looked_at: bool,
}

pub(crate) enum How {
    Value,
    Plain,
    With(Path),
}

/// What a field is when it was not in the input.
pub(crate) enum Preset {
    OfType,
    Expr(TokenStream),
}

pub(crate) struct When {
    pub(crate) looks_at: Vec<LooksAt>,
    pub(crate) condition: TokenStream,
}

/// An earlier field in a condition.
pub(crate) struct LooksAt {
    /// As the user wrote it.
    pub(crate) ident: Ident,
    pub(crate) key: String,
    pub(crate) ty: TokenStream,
}

pub(crate) struct Subsection {
    pub(crate) member: Member,
    pub(crate) key: String,
    pub(crate) wire: String,
    /// What is in the `Option`.
    pub(crate) inner: TokenStream,
    pub(crate) required: bool,
}

pub(crate) struct Skipped {
    pub(crate) member: Member,
    pub(crate) key: String,
    pub(crate) ty: TokenStream,
    pub(crate) preset: Preset,
}

/// A field that the type no longer has.
pub(crate) struct Old {
    pub(crate) key: String,
    pub(crate) wire: String,
    pub(crate) ty: TokenStream,
    pub(crate) since: u32,
    pub(crate) until: u32,
    pub(crate) write: Option<Path>,
    pub(crate) read: Option<Path>,
}

pub(crate) struct Variant {
    pub(crate) ident: Ident,
    pub(crate) wire: String,
    pub(crate) tag: u32,
    pub(crate) since: u32,
    pub(crate) fields: Vec<Field>,
}
