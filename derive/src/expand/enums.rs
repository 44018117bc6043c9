//! Enums: a tag, then the fields of its variant.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};

use super::{Parts, fields};
use crate::model::Variant;

pub(super) fn expand(variants: &[Variant], min_version: u32) -> Parts {
    let here = Span::mixed_site();
    let described = variants.iter().map(|variant| {
        let Variant { wire, tag, since, .. } = variant;
        let fields = variant.fields.iter().map(fields::describe);
        quote_spanned! {here=>
            ::kho::state::Variant { name: #wire, tag: #tag, since: #since, fields: &[#(#fields),*] }
        }
    });
    let description = quote_spanned!(here=> ::kho::state::Body::Enum { variants: &[#(#described),*] });
    let functions = variants.iter().flat_map(|variant| &variant.fields).map(fields::functions).collect();
    let saved = variants.iter().map(|variant| save(variant, min_version));
    let save = quote_spanned!(here=> match self { #(#saved)* });
    let restored = variants.iter().map(|variant| restore(variant, min_version));
    let restore = quote_spanned! {here=>
        let __kho_made = match __kho_in.tag()? {
            #(#restored)*
            __kho_tag => return ::core::result::Result::Err(__kho_in.unknown_tag(__kho_tag, &__KHO_SHAPE)),
        };
    };
    Parts { description, functions, save, restore, value: quote_spanned!(here=> __kho_made), after: None }
}

fn save(variant: &Variant, min_version: u32) -> TokenStream {
    let here = Span::mixed_site();
    let Variant { ident, wire, tag, since, .. } = variant;
    let members = variant.fields.iter().map(fields::member);
    let refused = (*since > min_version).then(|| {
        quote_spanned! {here=>
            if __kho_version < #since {
                return ::core::result::Result::Err(__kho_out.inexpressible(#wire, #since, __kho_version));
            }
        }
    });
    let mut code: TokenStream = variant.fields.iter().map(fields::save).collect();
    if !code.is_empty() {
        code = in_variant(wire, quote_spanned!(here=> ()), quote_spanned!(here=> #code ::core::result::Result::Ok(())));
    }
    quote_spanned! {here=>
        Self::#ident { #(#members),* } => {
            #refused
            __kho_out.tag(#tag);
            #code
        }
    }
}

fn restore(variant: &Variant, min_version: u32) -> TokenStream {
    let here = Span::mixed_site();
    let Variant { ident, wire, tag, since, .. } = variant;
    let known = (*since > min_version).then(|| quote_spanned!(here=> if __kho_version >= #since));
    let code: TokenStream = variant.fields.iter().map(fields::restore).collect();
    let members = variant.fields.iter().map(fields::member);
    let value = quote!(Self::#ident { #(#members),* });
    let value = if code.is_empty() {
        value
    } else {
        in_variant(wire, quote!(Self), quote_spanned!(here=> #code ::core::result::Result::Ok(#value)))
    };
    quote_spanned!(here=> #tag #known => { #value })
}

/// The code as a closure of its own, so that each of its errors gets the variant's name in front.
fn in_variant(wire: &str, gives: TokenStream, code: TokenStream) -> TokenStream {
    let here = Span::mixed_site();
    quote_spanned! {here=>
        (|| -> ::kho::state::Result<#gives> { #code })().map_err(|__kho_error| __kho_error.field(#wire))?
    }
}
