//! Fields, of structs and of variants alike. While saving, `__kho_field_x` is a reference to the value; while
//! restoring, it is the value.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};

use super::{at, default_of, name};
use crate::model::{Field, How, Preset};

/// The `Field` of the description.
pub(super) fn describe(field: &Field) -> TokenStream {
    let Field { wire, since, ty, .. } = field;
    let when = field.when.is_some();
    let at = at(ty);
    let of = match &field.how {
        How::Value => quote_spanned!(at=> <#ty as ::kho::state::Value>::TYPE),
        How::Plain => quote_spanned!(at=> <#ty as ::kho::state::PlainField>::TYPE),
        How::With(path) => quote!(#path::TYPE),
    };
    let here = Span::mixed_site();
    quote_spanned!(here=> ::kho::state::Field { name: #wire, since: #since, until: 0, when: #when, ty: #of })
}

/// The functions for its default and its condition.
pub(super) fn functions(field: &Field) -> TokenStream {
    let here = Span::mixed_site();
    let default = field.preset.as_ref().filter(|_| field.added || field.when.is_some());
    let default = default.map(|preset| preset_function(&field.key, &field.ty, preset));
    let condition = field.when.as_ref().map(|when| {
        let function = name("when", &field.key);
        let parameters = when.looks_at.iter().map(|at| {
            let (ident, ty) = (&at.ident, &at.ty);
            quote_spanned!(here=> #ident: &#ty)
        });
        let condition = &when.condition;
        quote_spanned!(here=> fn #function(#(#parameters),*) -> bool { #condition })
    });
    quote!(#default #condition)
}

pub(super) fn preset_function(key: &str, ty: &TokenStream, preset: &Preset) -> TokenStream {
    let here = Span::mixed_site();
    let function = name("default", key);
    let value = match preset {
        Preset::OfType => default_of(ty),
        Preset::Expr(expr) => expr.clone(),
    };
    quote_spanned!(here=> fn #function() -> #ty { #value })
}

/// The condition; `looked` is how the fields that it looks at are called.
fn condition(field: &Field, looked: impl Fn(&str) -> TokenStream) -> Option<TokenStream> {
    let when = field.when.as_ref()?;
    let function = name("when", &field.key);
    let arguments = when.looks_at.iter().map(|at| looked(&at.key));
    Some(quote!(#function(#(#arguments),*)))
}

pub(super) fn save(field: &Field) -> TokenStream {
    let here = Span::mixed_site();
    let Field { wire, ty, since, key, .. } = field;
    let (value, default) = (name("field", key), name("default", key));
    let at = at(ty);
    let mut code = match &field.how {
        How::Value => quote_spanned!(at=> __kho_out.field::<#ty>(#wire, #value)?;),
        How::Plain => quote_spanned!(at=> __kho_out.plain::<#ty>(#wire, #value)?;),
        How::With(path) => {
            quote_spanned!(here=> __kho_out.with(#wire, |__kho_out| #path::save(#value, __kho_out))?;)
        }
    };
    // What the reader sees of a field that it does not get is the default, so that is what decides for it, too.
    let of_version = field.added.then(|| quote_spanned!(here=> __kho_version >= #since));
    let condition = condition(field, |key| {
        let looked = name("seen", key);
        quote!(#looked)
    });
    let there = name("there", key);
    let is_there = match (of_version, condition) {
        (Some(version), Some(condition)) => Some(quote_spanned!(here=> #version && #condition)),
        (version, condition) => version.or(condition),
    };
    if field.when.is_some() {
        code = quote_spanned!(here=> __kho_out.present(#there); if #there { #code });
    }
    if field.added {
        let otherwise = field.required.then(|| {
            let refuse = quote_spanned!(here=> __kho_out.inexpressible(#wire, #since, __kho_version));
            quote_spanned! {at=>
                else if <#ty as ::core::cmp::PartialEq>::ne(#value, &#default()) {
                    return ::core::result::Result::Err(#refuse);
                }
            }
        });
        code = quote_spanned!(here=> if __kho_version >= #since { #code } #otherwise);
    }
    let there_is_needed = field.when.is_some() || field.looked_at;
    let bound = is_there
        .as_ref()
        .filter(|_| there_is_needed)
        .map(|is_there| quote_spanned!(here=> let #there: bool = #is_there;));
    let seen = field.looked_at.then(|| {
        let (seen, otherwise) = (name("seen", key), name("otherwise", key));
        match is_there {
            Some(_) => quote_spanned! {here=>
                let #otherwise: #ty;
                let #seen: &#ty = if #there {
                    #value
                } else {
                    #otherwise = #default();
                    &#otherwise
                };
            },
            None => quote_spanned!(here=> let #seen: &#ty = #value;),
        }
    });
    quote!(#bound #code #seen)
}

pub(super) fn restore(field: &Field) -> TokenStream {
    let here = Span::mixed_site();
    let Field { wire, ty, since, key, .. } = field;
    let (value, default) = (name("field", key), name("default", key));
    let at = at(ty);
    let mut code = match &field.how {
        How::Value => quote_spanned!(at=> __kho_in.field::<#ty>(#wire)?),
        How::Plain => quote_spanned!(at=> __kho_in.plain::<#ty>(#wire)?),
        How::With(path) => {
            quote_spanned!(here=> __kho_in.with::<#ty>(#wire, |__kho_in| #path::restore(__kho_in))?)
        }
    };
    let condition = condition(field, |key| {
        let looked = name("field", key);
        quote_spanned!(here=> &#looked)
    });
    if let Some(condition) = condition {
        code = quote_spanned!(here=> if __kho_in.present(#wire, #condition)? { #code } else { #default() });
    }
    if field.added {
        code = quote_spanned!(here=> if __kho_version >= #since { #code } else { #default() });
    }
    quote_spanned!(here=> let #value: #ty = #code;)
}

/// `x: __kho_field_x`: a pattern, and a part of a value.
pub(super) fn member(field: &Field) -> TokenStream {
    let (member, value) = (&field.member, name("field", &field.key));
    quote!(#member: #value)
}
