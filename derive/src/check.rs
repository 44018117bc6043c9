//! The rules for a type and its variants. Those for fields are in [`fields`], those for fields that were in [`old`].

mod fields;
mod old;

use std::collections::BTreeSet;

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Data, DataEnum, DeriveInput, Expr, ExprLit, Ident, Lit, Path, Result};

use crate::attrs::{Errors, Said, TypeAttrs, VariantAttrs};
use crate::model::{Body, Fields, Hooks, Place, State, Variant};

/// What the fields of a struct, or of one variant, are held to.
struct Scope<'a> {
    ident: &'a Ident,
    newest: u32,
    /// The first version that has the struct or the variant.
    since: u32,
    /// The first one of these that is still read and written.
    oldest: u32,
    /// In front of the [`key`](crate::model::Field::key)s.
    prefix: String,
    of_variant: bool,
}

/// All errors of a type at once, or what the expansion needs.
pub(crate) fn check(input: &DeriveInput) -> Result<State> {
    let mut errors = Errors::default();
    let attrs = TypeAttrs::of(&input.attrs, &mut errors);
    generics(input, &mut errors);
    let id = id(input, &attrs, &mut errors);
    let (min_version, version) = versions(input, &attrs, &mut errors);
    let name = wire_name(attrs.name.as_ref(), || snake_case(&input.ident), input.ident.span(), &mut errors);
    let scope = Scope {
        ident: &input.ident,
        newest: version,
        since: 1,
        oldest: min_version,
        prefix: String::new(),
        of_variant: false,
    };
    let body = match &input.data {
        Data::Struct(data) => structure(&data.fields, &attrs, &scope, &mut errors),
        Data::Enum(data) => enumeration(data, &attrs, &scope, &mut errors),
        Data::Union(data) => {
            errors.over(
                data.union_token,
                "nothing says which field of a union is there, so it cannot be saved; derive `State` for an enum",
            );
            Body::Enum(Vec::new())
        }
    };
    errors.finish()?;
    let TypeAttrs { ignorable, before_save, after_save, before_restore, after_restore, .. } = attrs;
    let path = |said: Option<Said<Path>>| said.map(|said| said.value);
    let hooks = Hooks {
        before_save: path(before_save),
        after_save: path(after_save),
        before_restore: path(before_restore),
        after_restore: path(after_restore),
    };
    Ok(State {
        ident: input.ident.clone(),
        id,
        version,
        min_version,
        name,
        ignorable: ignorable.is_some(),
        hooks,
        body,
    })
}

fn generics(input: &DeriveInput, errors: &mut Errors) {
    let text = "`State` is not for types with generics: one id stands for one layout, and this would have many; derive \
                it for a type that says what it holds";
    if !input.generics.params.is_empty() {
        errors.over(&input.generics, text);
    } else if let Some(clause) = &input.generics.where_clause {
        errors.over(clause, text);
    }
}

fn id(input: &DeriveInput, attrs: &TypeAttrs, errors: &mut Errors) -> u32 {
    match &attrs.id {
        Some(Said { value: 0, span }) => errors.at(*span, "0 is no id: ids begin with 1"),
        Some(said) => return said.value,
        None if attrs.broken => {}
        None => errors.at(
            input.ident.span(),
            "`#[state(id = ...)]` is missing: a number from 1, which no other type of the program has and which stays \
             with this one",
        ),
    }
    1
}

/// The oldest and the newest version; the widest range when that is not known, so that no other error comes of it.
fn versions(input: &DeriveInput, attrs: &TypeAttrs, errors: &mut Errors) -> (u32, u32) {
    let newest = match &attrs.version {
        Some(Said { value: 0, span }) => {
            errors.at(*span, "0 is no version: versions begin with 1");
            None
        }
        Some(said) => Some(said.value),
        None => {
            if !attrs.broken {
                errors.at(
                    input.ident.span(),
                    "`#[state(version = ...)]` is missing: 1, and one more with each change of the fields",
                );
            }
            None
        }
    };
    let oldest = match &attrs.min_version {
        Some(Said { value: 0, span }) => {
            errors.at(*span, "0 is no version: versions begin with 1");
            1
        }
        Some(Said { value, span }) if newest.is_some_and(|newest| *value > newest) => {
            let newest = newest.unwrap_or_default();
            errors.at(
                *span,
                format!(
                    "`min_version` is the oldest version that is understood; it cannot be above `version`, {newest}"
                ),
            );
            1
        }
        Some(said) => said.value,
        None => 1,
    };
    (oldest, newest.unwrap_or(u32::MAX))
}

fn structure(fields: &syn::Fields, attrs: &TypeAttrs, scope: &Scope<'_>, errors: &mut Errors) -> Body {
    if matches!(fields, syn::Fields::Unit) {
        errors.at(scope.ident.span(), "a struct without fields has nothing to save: give it one field");
        return Body::Struct { fields: Fields::default(), order: Vec::new() };
    }
    let mut names = BTreeSet::new();
    let (list, rest) = fields::check(fields, scope, &mut names, errors);
    let order = old::check(list, &attrs.deprecated, scope, &mut names, errors);
    if rest.subsections.is_empty() && !attrs.broken {
        never_empty(&order, scope, errors);
    }
    Body::Struct { fields: rest, order }
}

/// No version may be without a field: of what takes no bytes, a list could claim any number. (Subsections are counted
/// on the wire, and so there always is something.)
fn never_empty(order: &[Place], scope: &Scope<'_>, errors: &mut Errors) {
    let there = |version: u32| {
        order.iter().any(|place| match place {
            Place::Field(field) => field.since <= version,
            Place::Old(old) => old.since <= version && version < old.until,
        })
    };
    // Fields become fewer only where an old one ends.
    let ends = order.iter().filter_map(|place| match place {
        Place::Old(old) => Some(old.until),
        Place::Field(_) => None,
    });
    let ends = ends.filter(|end| (scope.oldest..=scope.newest).contains(end));
    let empty = std::iter::once(scope.oldest).chain(ends).filter(|version| !there(*version)).min();
    if let Some(version) = empty {
        errors.at(
            scope.ident.span(),
            format!(
                "in version {version} this struct would have no field: give it one that version {version} has, or \
                 raise `min_version`"
            ),
        );
    }
}

fn enumeration(data: &DataEnum, attrs: &TypeAttrs, scope: &Scope<'_>, errors: &mut Errors) -> Body {
    for old in &attrs.deprecated {
        errors.at(
            old.span,
            "`deprecated` is for structs: leave the old field in its variant, or give the new form a variant and a tag \
             of its own",
        );
    }
    if data.variants.is_empty() {
        errors.at(scope.ident.span(), "an enum without variants has no value that could be saved: give it one variant");
    }
    let (mut tags, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut variants = Vec::new();
    for variant in &data.variants {
        let attrs = VariantAttrs::of(&variant.attrs, errors);
        let tag = tag(variant, &attrs, errors);
        if let Some(tag) = &tag
            && !tags.insert(tag.value)
        {
            errors.at(tag.span, format!("another variant has the tag {}: give each a tag of its own", tag.value));
        }
        let wire = wire_name(attrs.rename.as_ref(), || snake_case(&variant.ident), variant.ident.span(), errors);
        if !names.insert(wire.clone()) {
            let span = attrs.rename.as_ref().map_or(variant.ident.span(), |said| said.span);
            errors.at(span, format!("another variant is called `{wire}`: give this one `rename = \"...\"`"));
        }
        let since = since(attrs.since.as_ref(), scope, errors);
        let scope = Scope {
            ident: scope.ident,
            newest: scope.newest,
            since,
            oldest: scope.oldest.max(since),
            prefix: format!("{}_", variant.ident.unraw()),
            of_variant: true,
        };
        let (fields, _) = fields::check(&variant.fields, &scope, &mut BTreeSet::new(), errors);
        let tag = tag.map_or(0, |tag| tag.value);
        variants.push(Variant { ident: variant.ident.clone(), wire, tag, since, fields });
    }
    Body::Enum(variants)
}

fn tag(variant: &syn::Variant, attrs: &VariantAttrs, errors: &mut Errors) -> Option<Said<u32>> {
    if attrs.tag.is_some() || attrs.broken {
        return attrs.tag.clone();
    }
    let Some((_, discriminant)) = &variant.discriminant else {
        errors.at(
            variant.ident.span(),
            "this variant has no tag: give it `#[state(tag = ...)]`, a number that stays with it whatever the order \
             (of a variant without fields, `= ...` is one too)",
        );
        return None;
    };
    let span = discriminant.span();
    let number = match discriminant {
        Expr::Lit(ExprLit { lit: Lit::Int(literal), .. }) => literal.base10_parse().ok(),
        _ => None,
    };
    match number {
        Some(value) if matches!(variant.fields, syn::Fields::Unit) => return Some(Said { value, span }),
        Some(_) => errors.at(variant.ident.span(), "a variant with fields has its tag as `#[state(tag = ...)]`"),
        None => errors.over(
            discriminant,
            format!(
                "only a number from 0 to {}, written out, is a tag: give the variant `#[state(tag = ...)]`",
                u32::MAX
            ),
        ),
    }
    None
}

/// `since`, or the version that the rest came with.
fn since(said: Option<&Said<u32>>, scope: &Scope<'_>, errors: &mut Errors) -> u32 {
    let Some(Said { value, span }) = said else { return scope.since };
    if *value == 0 {
        errors.at(*span, "0 is no version: versions begin with 1");
    } else if *value > scope.newest {
        errors.at(*span, format!("`since` is above the type's `version`, {}: raise `version`", scope.newest));
    } else if *value < scope.since {
        errors.at(*span, format!("the variant is there since version {}: a field of it cannot be older", scope.since));
    } else {
        return *value;
    }
    scope.since
}

/// The name on the wire: in errors, in descriptions and in the lock.
fn wire_name(said: Option<&Said<String>>, own: impl FnOnce() -> String, at: Span, errors: &mut Errors) -> String {
    let (name, span) = said.map_or_else(|| (own(), at), |said| (said.value.clone(), said.span));
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || !name.bytes().all(fine) {
        let how = if said.is_some() { "" } else { "; give it another one with `rename` (a type: with `name`)" };
        errors.at(span, format!("a name is of ASCII letters, digits and `_-.`{how}"));
    }
    name
}

fn snake_case(ident: &Ident) -> String {
    let name = ident.unraw().to_string();
    let mut out = String::with_capacity(name.len());
    let mut before = None::<char>;
    let mut rest = name.chars().peekable();
    while let Some(letter) = rest.next() {
        let begins = before.is_some_and(|before| {
            let inside = before.is_uppercase() && rest.peek().is_some_and(|next| next.is_lowercase());
            before != '_' && (!before.is_uppercase() || inside)
        });
        if letter.is_uppercase() && begins {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
        before = Some(letter);
    }
    out
}

/// `Self` as the type's own name: descriptions and conditions stand outside of the `impl`.
fn without_self(tokens: TokenStream, ident: &Ident) -> TokenStream {
    let replace = |tree| match tree {
        TokenTree::Ident(word) if word == "Self" => {
            let mut name = ident.clone();
            name.set_span(word.span());
            name.into_token_stream()
        }
        TokenTree::Group(group) => {
            let mut inner = Group::new(group.delimiter(), without_self(group.stream(), ident));
            inner.set_span(group.span());
            inner.into_token_stream()
        }
        other => other.into_token_stream(),
    };
    tokens.into_iter().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use proc_macro2::Span;
    use syn::Ident;

    #[test]
    fn snake_case() {
        let cases = [
            ("Vm", "vm"),
            ("VmState", "vm_state"),
            ("VCPU", "vcpu"),
            ("HTTPServer", "http_server"),
            ("A2B", "a2_b"),
            ("A_B", "a_b"),
        ];
        for (ident, name) in cases {
            assert_eq!(super::snake_case(&Ident::new(ident, Span::call_site())), name);
        }
    }
}
