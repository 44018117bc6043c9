//! The rules for fields of structs and of variants.

use std::collections::BTreeSet;

use proc_macro2::Span;
use quote::{ToTokens as _, quote};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Expr, ExprClosure, GenericArgument, Ident, Index, Member, Pat, PathArguments, ReturnType, Type};

use super::{Scope, since, wire_name, without_self};
use crate::attrs::{Errors, FieldAttrs, Given, Said};
use crate::model::{Field, Fields, How, LooksAt, Preset, Skipped, Subsection, When};

/// A field as every kind of it needs it.
struct Named {
    member: Member,
    name: String,
    key: String,
    wire: String,
    span: Span,
}

/// What is on the wire in the order of declaration, and the rest. `names` are those that are taken.
pub(super) fn check(
    fields: &syn::Fields,
    scope: &Scope<'_>,
    names: &mut BTreeSet<String>,
    errors: &mut Errors,
) -> (Vec<Field>, Fields) {
    let mut list: Vec<Field> = Vec::new();
    let mut rest = Fields::default();
    for (index, field) in (0_u32..).zip(fields) {
        let attrs = FieldAttrs::of(&field.attrs, errors);
        let named = named(index, field, &attrs, scope, errors);
        if attrs.skip.is_none() && !names.insert(named.wire.clone()) {
            let wire = &named.wire;
            errors.at(named.span, format!("another field is called `{wire}`: give this one `rename = \"...\"`"));
        }
        let ty = without_self(field.ty.to_token_stream(), scope.ident);
        if let Some(said) = &attrs.skip {
            refuse(said.span, "skip", "is not saved, so only `default` goes with it", &attrs, &["default"], errors);
            let preset = preset(&attrs, scope).unwrap_or_else(|| {
                need_default(said.span, "a field that is not saved", &attrs, errors);
                Preset::OfType
            });
            if scope.of_variant {
                errors.at(said.span, "`skip` is for fields of structs: leave the field out of the variant");
            }
            rest.skipped.push(Skipped { member: named.member, key: named.key, ty, preset });
        } else if let Some(said) = &attrs.subsection {
            let own = "has its own versions and may be missing, so only `rename` goes with it";
            refuse(said.span, "subsection", own, &attrs, &["rename"], errors);
            if scope.of_variant {
                errors.at(said.span, "`subsection` is for fields of structs: the variant can hold one that has it");
            }
            if let Some(inner) = in_option(&field.ty) {
                let inner = without_self(inner.to_token_stream(), scope.ident);
                if rest.subsections.iter().any(|other| other.inner.to_string() == inner.to_string()) {
                    errors.over(
                        &field.ty,
                        "another subsection is of this type, and they are told apart by its id: wrap it in a type of \
                         its own",
                    );
                }
                let Named { member, key, wire, .. } = named;
                rest.subsections.push(Subsection { member, key, wire, inner, required: said.value });
            } else {
                errors.over(&field.ty, "a subsection may be missing: its type is written `Option<...>`");
            }
        } else {
            let field = on_the_wire(named, ty, &attrs, scope, &mut list, fields, errors);
            list.push(field);
        }
    }
    (list, rest)
}

fn named(index: u32, field: &syn::Field, attrs: &FieldAttrs, scope: &Scope<'_>, errors: &mut Errors) -> Named {
    let own = field.ident.as_ref().map(|ident| ident.unraw().to_string());
    let span = field.ident.as_ref().map_or_else(|| field.ty.span(), Ident::span);
    let digits = index.to_string();
    let member = match &field.ident {
        Some(ident) => Member::Named(ident.clone()),
        None => Member::Unnamed(Index { index, span }),
    };
    let name = own.clone().unwrap_or_else(|| format!("_{digits}"));
    let key = format!("{}{}", scope.prefix, own.as_ref().unwrap_or(&digits));
    // What is not saved has no name on the wire, and so none that could be wrong.
    let wire = if attrs.skip.is_some() {
        name.clone()
    } else {
        wire_name(attrs.rename.as_ref(), || own.unwrap_or(digits), span, errors)
    };
    let span = attrs.rename.as_ref().map_or(span, |said| said.span);
    Named { member, name, key, wire, span }
}

fn on_the_wire(
    named: Named,
    ty: proc_macro2::TokenStream,
    attrs: &FieldAttrs,
    scope: &Scope<'_>,
    earlier: &mut [Field],
    all: &syn::Fields,
    errors: &mut Errors,
) -> Field {
    let since = since(attrs.since.as_ref(), scope, errors);
    let added = since > scope.oldest;
    let preset = preset(attrs, scope);
    if let (Some(required), None) = (&attrs.required, &attrs.since) {
        errors.at(
            required.span,
            "`required` says that older versions, which have not the field, must not lose it: it goes with `since`",
        );
    }
    if let (Some(with), Some(_)) = (&attrs.with, &attrs.plain) {
        errors.at(with.span, "`with` and `plain` are two ways to save a field; remove one of them");
    }
    if let (true, Some(said)) = (added, &attrs.since)
        && preset.is_none()
    {
        let what = format!("a field that versions before {since} have not, and {} is still read,", scope.oldest);
        need_default(said.span, &what, attrs, errors);
    }
    if let (Some(said), None) = (&attrs.when, &preset) {
        need_default(said.span, "a field that is not always there", attrs, errors);
    }
    let how = match (&attrs.with, &attrs.plain) {
        (Some(path), _) => How::With(path.value.clone()),
        (None, Some(_)) => How::Plain,
        (None, None) => How::Value,
    };
    let when = attrs.when.as_ref().and_then(|said| when(&said.value, earlier, all, scope, errors));
    let Named { member, name, key, wire, .. } = named;
    let required = attrs.required.is_some();
    Field { member, name, key, wire, ty, since, added, required, preset, when, how, looked_at: false }
}

fn preset(attrs: &FieldAttrs, scope: &Scope<'_>) -> Option<Preset> {
    attrs.default.as_ref().map(|said| match &said.value {
        Given::OfType => Preset::OfType,
        Given::Expr(expr) => Preset::Expr(without_self(expr.to_token_stream(), scope.ident)),
    })
}

fn need_default(span: Span, what: &str, attrs: &FieldAttrs, errors: &mut Errors) {
    if !attrs.broken {
        errors.at(span, format!("{what} needs `default` or `default = ...`: the value that it has then"));
    }
}

/// All attributes but the one that has the word, and those that go with it.
fn refuse(at: Span, word: &str, why: &str, attrs: &FieldAttrs, fine: &[&str], errors: &mut Errors) {
    fn at_of<T>(said: &Option<Said<T>>) -> Option<Span> {
        said.as_ref().map(|said| said.span)
    }
    let all = [
        ("rename", at_of(&attrs.rename)),
        ("since", at_of(&attrs.since)),
        ("default", at_of(&attrs.default)),
        ("required", at_of(&attrs.required)),
        ("when", at_of(&attrs.when)),
        ("with", at_of(&attrs.with)),
        ("plain", at_of(&attrs.plain)),
        ("subsection", at_of(&attrs.subsection)),
    ];
    let other = |(key, span): (&'static str, Option<Span>)| span.is_some() && key != word && !fine.contains(&key);
    for (key, _) in all.into_iter().filter(|entry| other(*entry)) {
        errors.at(at, format!("a field with `{word}` {why}; remove `{key}`"));
    }
}

/// `T`, of what is written `Option<T>`.
fn in_option(ty: &Type) -> Option<&Type> {
    match ty {
        Type::Group(group) => in_option(&group.elem),
        Type::Paren(paren) => in_option(&paren.elem),
        Type::Path(path) if path.qself.is_none() => {
            let last = path.path.segments.last().filter(|last| last.ident == "Option")?;
            let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
            let mut arguments = arguments.args.iter();
            match (arguments.next(), arguments.next()) {
                (Some(GenericArgument::Type(inner)), None) => Some(inner),
                _ => None,
            }
        }
        _ => None,
    }
}

fn when(said: &Expr, earlier: &mut [Field], all: &syn::Fields, scope: &Scope<'_>, errors: &mut Errors) -> Option<When> {
    const FORM: &str = "a condition is written `when = |earlier| ...`, with the names of fields before this one";
    let Expr::Closure(closure) = said else {
        errors.over(said, FORM);
        return None;
    };
    let ExprClosure { lifetimes, constness, asyncness, capture, inputs, output, body, .. } = closure;
    if !matches!(output, ReturnType::Default) {
        errors.over(output, "a condition gives a `bool` anyway; leave the type out");
        return None;
    }
    if lifetimes.is_some() || constness.is_some() || asyncness.is_some() || capture.is_some() {
        errors.over(quote!(#lifetimes #constness #asyncness #capture), FORM);
        return None;
    }
    if inputs.is_empty() {
        errors.over(closure, "this condition looks at nothing; name the fields that decide: `when = |earlier| ...`");
        return None;
    }
    let mut looks_at = Vec::new();
    for input in inputs {
        let ident = match input {
            Pat::Ident(name) if name.by_ref.is_none() && name.mutability.is_none() && name.subpat.is_none() => {
                &name.ident
            }
            Pat::Type(typed) => {
                errors.over(&typed.ty, "leave the type out: the condition is given a reference to the field");
                continue;
            }
            _ => {
                errors.over(input, FORM);
                continue;
            }
        };
        let name = ident.unraw().to_string();
        if let Some(field) = earlier.iter_mut().find(|field| field.name == name) {
            field.looked_at = true;
            looks_at.push(LooksAt { ident: ident.clone(), key: field.key.clone(), ty: field.ty.clone() });
        } else {
            errors.at(ident.span(), not_earlier(&name, all));
        }
    }
    Some(When { looks_at, condition: without_self(body.to_token_stream(), scope.ident) })
}

/// Why a condition cannot look at the field.
fn not_earlier(name: &str, all: &syn::Fields) -> String {
    let there = (0_u32..).zip(all).find(|(index, field)| match &field.ident {
        Some(ident) => ident.unraw() == name,
        None => format!("_{index}") == name,
    });
    match there {
        Some((_, field)) => {
            let attrs = FieldAttrs::of(&field.attrs, &mut Errors::default());
            if attrs.skip.is_some() {
                format!("`{name}` is not saved, so that nothing can depend on it; name a field that is")
            } else if attrs.subsection.is_some() {
                format!("`{name}` is a subsection, which stands behind all fields; name a field before this one")
            } else {
                format!("`{name}` does not stand before this field; a condition sees only what was read already")
            }
        }
        None if matches!(all, syn::Fields::Unnamed(_)) => {
            format!("there is no field `{name}`; fields without names are `_0`, `_1` and so on in a condition")
        }
        None => format!("there is no field `{name}`; a condition sees the fields before this one, by their names"),
    }
}
