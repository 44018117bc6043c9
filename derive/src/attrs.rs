//! What stands in `#[state(...)]`, as it was written. What of it makes sense is for [`check`](crate::check).

use proc_macro2::Span;
use quote::ToTokens;
use syn::meta::ParseNestedMeta;
use syn::spanned::Spanned as _;
use syn::{Attribute, Expr, Ident, LitInt, LitStr, Path, Result, Token, Type};

/// Errors, as many as there are: one build shows all of them.
#[derive(Default)]
pub(crate) struct Errors(Option<syn::Error>);

impl Errors {
    pub(crate) fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            None => self.0 = Some(error),
        }
    }

    pub(crate) fn at(&mut self, span: Span, text: impl std::fmt::Display) {
        self.push(syn::Error::new(span, text));
    }

    /// As [`Errors::at`], from the first token to the last.
    pub(crate) fn over(&mut self, tokens: impl ToTokens, text: impl std::fmt::Display) {
        self.push(syn::Error::new_spanned(tokens, text));
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// A value, and where an error about it belongs.
#[derive(Clone)]
pub(crate) struct Said<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// `default` has two forms.
#[derive(Clone)]
pub(crate) enum Given {
    OfType,
    Expr(Box<Expr>),
}

#[derive(Default)]
pub(crate) struct TypeAttrs {
    pub(crate) id: Option<Said<u32>>,
    pub(crate) version: Option<Said<u32>>,
    pub(crate) min_version: Option<Said<u32>>,
    pub(crate) name: Option<Said<String>>,
    pub(crate) ignorable: Option<Said<()>>,
    pub(crate) before_save: Option<Said<Path>>,
    pub(crate) after_save: Option<Said<Path>>,
    pub(crate) before_restore: Option<Said<Path>>,
    pub(crate) after_restore: Option<Said<Path>>,
    pub(crate) deprecated: Vec<OldAttrs>,
    /// Something could not be read: what is missing may be behind it.
    pub(crate) broken: bool,
}

/// `deprecated(...)`.
pub(crate) struct OldAttrs {
    /// Of the word `deprecated`.
    pub(crate) span: Span,
    pub(crate) name: Option<Said<String>>,
    pub(crate) ty: Option<Said<Type>>,
    pub(crate) since: Option<Said<u32>>,
    pub(crate) until: Option<Said<u32>>,
    pub(crate) after: Option<Said<String>>,
    pub(crate) write: Option<Said<Path>>,
    pub(crate) read: Option<Said<Path>>,
}

#[derive(Default)]
pub(crate) struct FieldAttrs {
    pub(crate) rename: Option<Said<String>>,
    pub(crate) since: Option<Said<u32>>,
    pub(crate) default: Option<Said<Given>>,
    pub(crate) required: Option<Said<()>>,
    pub(crate) when: Option<Said<Expr>>,
    pub(crate) with: Option<Said<Path>>,
    pub(crate) plain: Option<Said<()>>,
    /// Whether it is a required one.
    pub(crate) subsection: Option<Said<bool>>,
    pub(crate) skip: Option<Said<()>>,
    pub(crate) broken: bool,
}

#[derive(Default)]
pub(crate) struct VariantAttrs {
    pub(crate) tag: Option<Said<u32>>,
    pub(crate) since: Option<Said<u32>>,
    pub(crate) rename: Option<Said<String>>,
    pub(crate) broken: bool,
}

const OF_TYPE: &[&str] = &[
    "id",
    "version",
    "min_version",
    "name",
    "ignorable",
    "before_save",
    "after_save",
    "before_restore",
    "after_restore",
    "deprecated",
];
const OF_FIELD: &[&str] = &["rename", "since", "default", "required", "when", "with", "plain", "subsection", "skip"];
const OF_VARIANT: &[&str] = &["tag", "since", "rename"];
const OF_OLD: &[&str] = &["name", "ty", "since", "until", "after", "write", "read"];

impl TypeAttrs {
    pub(crate) fn of(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut all = Self::default();
        let broken = each(attrs, errors, |key, meta| match key {
            "id" => once(&mut all.id, meta, number),
            "version" => once(&mut all.version, meta, number),
            "min_version" => once(&mut all.min_version, meta, number),
            "name" => once(&mut all.name, meta, text),
            "ignorable" => once(&mut all.ignorable, meta, flag),
            "before_save" => once(&mut all.before_save, meta, path),
            "after_save" => once(&mut all.after_save, meta, path),
            "before_restore" => once(&mut all.before_restore, meta, path),
            "after_restore" => once(&mut all.after_restore, meta, path),
            "deprecated" => {
                all.deprecated.push(OldAttrs::parse(meta)?);
                Ok(())
            }
            _ => Err(unknown(meta, "the type", OF_TYPE)),
        });
        all.broken = broken;
        all
    }
}

impl OldAttrs {
    fn parse(meta: &ParseNestedMeta<'_>) -> Result<Self> {
        let span = meta.path.span();
        let mut old =
            Self { span, name: None, ty: None, since: None, until: None, after: None, write: None, read: None };
        if !meta.input.peek(syn::token::Paren) {
            return Err(meta.error("say which field it was: `deprecated(name = \"...\", ty = ..., until = ...)`"));
        }
        meta.parse_nested_meta(|meta| match key(&meta).as_str() {
            "name" => once(&mut old.name, &meta, text),
            "ty" => once(&mut old.ty, &meta, ty),
            "since" => once(&mut old.since, &meta, number),
            "until" => once(&mut old.until, &meta, number),
            "after" => once(&mut old.after, &meta, text),
            "write" => once(&mut old.write, &meta, path),
            "read" => once(&mut old.read, &meta, path),
            _ => Err(unknown(&meta, "`deprecated`", OF_OLD)),
        })?;
        Ok(old)
    }
}

impl FieldAttrs {
    pub(crate) fn of(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut all = Self::default();
        let broken = each(attrs, errors, |key, meta| match key {
            "rename" => once(&mut all.rename, meta, text),
            "since" => once(&mut all.since, meta, number),
            "default" => once(&mut all.default, meta, default),
            "required" => once(&mut all.required, meta, flag),
            "when" => once(&mut all.when, meta, expr),
            "with" => once(&mut all.with, meta, path),
            "plain" => once(&mut all.plain, meta, flag),
            "subsection" => once(&mut all.subsection, meta, subsection),
            "skip" => once(&mut all.skip, meta, flag),
            _ => Err(unknown(meta, "a field", OF_FIELD)),
        });
        all.broken = broken;
        all
    }
}

impl VariantAttrs {
    pub(crate) fn of(attrs: &[Attribute], errors: &mut Errors) -> Self {
        let mut all = Self::default();
        let broken = each(attrs, errors, |key, meta| match key {
            "tag" => once(&mut all.tag, meta, number),
            "since" => once(&mut all.since, meta, number),
            "rename" => once(&mut all.rename, meta, text),
            _ => Err(unknown(meta, "a variant", OF_VARIANT)),
        });
        all.broken = broken;
        all
    }
}

/// Every key of every `#[state(...)]`; true when one of them could not be read.
fn each(
    attrs: &[Attribute],
    errors: &mut Errors,
    mut take: impl FnMut(&str, &ParseNestedMeta<'_>) -> Result<()>,
) -> bool {
    let mut broken = false;
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("state")) {
        if let Err(error) = attr.parse_nested_meta(|meta| take(&key(&meta), &meta)) {
            errors.push(error);
            broken = true;
        }
    }
    broken
}

fn key(meta: &ParseNestedMeta<'_>) -> String {
    meta.path.get_ident().map(Ident::to_string).unwrap_or_default()
}

fn once<T>(
    place: &mut Option<Said<T>>,
    meta: &ParseNestedMeta<'_>,
    parse: fn(&ParseNestedMeta<'_>) -> Result<Said<T>>,
) -> Result<()> {
    if place.is_some() {
        return Err(meta.error(format!("`{}` stands here a second time; remove one of them", key(meta))));
    }
    *place = Some(parse(meta)?);
    Ok(())
}

/// A key that is not known here; when it is known elsewhere, the error says where.
fn unknown(meta: &ParseNestedMeta<'_>, here: &str, known: &[&str]) -> syn::Error {
    let key = key(meta);
    let elsewhere = [
        (OF_TYPE, "the type"),
        (OF_FIELD, "a field"),
        (OF_VARIANT, "a variant of an enum"),
        (OF_OLD, "a field that is `deprecated(...)` on the type"),
    ];
    let place = elsewhere.iter().find(|(keys, _)| keys.contains(&key.as_str()));
    let known = known.join("`, `");
    meta.error(match place {
        Some((_, place)) => format!("`{key}` is for {place}, not for {here}; here there are `{known}`"),
        None => format!("not known; for {here} there are `{known}`"),
    })
}

fn number(meta: &ParseNestedMeta<'_>) -> Result<Said<u32>> {
    let input = meta.value()?;
    let span = input.span();
    let value = input.parse::<LitInt>().and_then(|literal| literal.base10_parse());
    let value = value.map_err(|_| {
        syn::Error::new(span, format!("`{}` is a number, written out, from 0 to {}", key(meta), u32::MAX))
    })?;
    Ok(Said { value, span })
}

fn text(meta: &ParseNestedMeta<'_>) -> Result<Said<String>> {
    let literal: LitStr = meta.value()?.parse()?;
    Ok(Said { value: literal.value(), span: literal.span() })
}

fn path(meta: &ParseNestedMeta<'_>) -> Result<Said<Path>> {
    Ok(Said { value: meta.value()?.parse()?, span: meta.path.span() })
}

fn ty(meta: &ParseNestedMeta<'_>) -> Result<Said<Type>> {
    Ok(Said { value: meta.value()?.parse()?, span: meta.path.span() })
}

fn expr(meta: &ParseNestedMeta<'_>) -> Result<Said<Expr>> {
    Ok(Said { value: meta.value()?.parse()?, span: meta.path.span() })
}

fn flag(meta: &ParseNestedMeta<'_>) -> Result<Said<()>> {
    if meta.input.peek(Token![=]) || meta.input.peek(syn::token::Paren) {
        return Err(meta.error(format!("`{}` is a word of its own: nothing stands behind it", key(meta))));
    }
    Ok(Said { value: (), span: meta.path.span() })
}

fn default(meta: &ParseNestedMeta<'_>) -> Result<Said<Given>> {
    let value = if meta.input.peek(Token![=]) { Given::Expr(Box::new(meta.value()?.parse()?)) } else { Given::OfType };
    Ok(Said { value, span: meta.path.span() })
}

fn subsection(meta: &ParseNestedMeta<'_>) -> Result<Said<bool>> {
    const HOW: &str = "say what a program does that does not know it: `subsection = required` (it refuses) or \
                       `subsection = ignorable` (it leaves it out)";
    if !meta.input.peek(Token![=]) {
        return Err(meta.error(HOW));
    }
    let word: Ident = meta.value()?.parse().map_err(|error| syn::Error::new(error.span(), HOW))?;
    let value = match word.to_string().as_str() {
        "required" => true,
        "ignorable" => false,
        _ => return Err(syn::Error::new(word.span(), HOW)),
    };
    Ok(Said { value, span: meta.path.span() })
}
