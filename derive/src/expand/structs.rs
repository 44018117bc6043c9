//! Structs: fields and fields that were, in their order, then subsections.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned as _;

use super::{Parts, at, default_of, fields, name};
use crate::model::{Fields, Old, Place, Subsection};

pub(super) fn expand(rest: &Fields, order: &[Place]) -> Parts {
    let here = Span::mixed_site();
    let Fields { subsections, skipped } = rest;
    let (mut described, mut functions, mut save, mut restore) =
        (Vec::new(), TokenStream::new(), TokenStream::new(), TokenStream::new());
    let (mut members, mut after) = (Vec::new(), TokenStream::new());
    for place in order {
        match place {
            Place::Field(field) => {
                described.push(fields::describe(field));
                functions.extend(fields::functions(field));
                save.extend(fields::save(field));
                restore.extend(fields::restore(field));
                members.push(fields::member(field));
            }
            Place::Old(old) => {
                described.push(describe_old(old));
                save.extend(save_old(old));
                restore.extend(restore_old(old));
                after.extend(read_old(old));
            }
        }
    }
    for subsection in subsections {
        let (member, value) = (&subsection.member, name("field", &subsection.key));
        members.push(quote!(#member: #value));
    }
    let described_subsections = subsections.iter().map(describe_subsection);
    let description = quote_spanned! {here=>
        ::kho::state::Body::Struct { fields: &[#(#described),*], subsections: &[#(#described_subsections),*] }
    };
    let mut values = members.clone();
    for field in skipped {
        let (member, default) = (&field.member, name("default", &field.key));
        functions.extend(fields::preset_function(&field.key, &field.ty, &field.preset));
        values.push(quote!(#member: #default()));
    }
    if subsections.is_empty() {
        // Another release may have some, in the same version.
        restore.extend(quote_spanned!(here=> __kho_in.no_subsections(&__KHO_SHAPE)?;));
    } else {
        save.extend(save_subsections(subsections));
        restore.extend(restore_subsections(subsections));
    }
    let save = quote_spanned!(here=> let Self { #(#members,)* .. } = self; #save);
    let value = quote_spanned!(here=> Self { #(#values),* });
    Parts { description, functions, save, restore, value, after: (!after.is_empty()).then_some(after) }
}

fn describe_old(old: &Old) -> TokenStream {
    let Old { wire, since, until, ty, .. } = old;
    let at = at(ty);
    let of = quote_spanned!(at=> <#ty as ::kho::state::Value>::TYPE);
    let here = Span::mixed_site();
    quote_spanned!(here=> ::kho::state::Field { name: #wire, since: #since, until: #until, when: false, ty: #of })
}

/// Whether the version has it. A check that always holds is for the compiler to leave out.
fn has(old: &Old) -> TokenStream {
    let here = Span::mixed_site();
    let Old { since, until, .. } = old;
    quote_spanned!(here=> (#since..#until).contains(&__kho_version))
}

fn save_old(old: &Old) -> TokenStream {
    let here = Span::mixed_site();
    let Old { wire, ty, key, .. } = old;
    let (has, value, at) = (has(old), name("old", key), at(ty));
    let made = match &old.write {
        Some(path) => quote_spanned!(here=> #path(self)),
        None => default_of(ty),
    };
    let save = quote_spanned!(at=> __kho_out.field::<#ty>(#wire, &#value)?;);
    quote_spanned!(here=> if #has { let #value: #ty = #made; #save })
}

fn restore_old(old: &Old) -> TokenStream {
    let here = Span::mixed_site();
    let Old { wire, ty, key, .. } = old;
    let (has, value, at) = (has(old), name("old", key), at(ty));
    let restore = quote_spanned!(at=> __kho_in.field::<#ty>(#wire)?);
    if old.read.is_none() {
        return quote_spanned!(here=> if #has { let _: #ty = #restore; });
    }
    quote_spanned! {here=>
        let #value: ::core::option::Option<#ty> =
            if #has { ::core::option::Option::Some(#restore) } else { ::core::option::Option::None };
    }
}

fn read_old(old: &Old) -> Option<TokenStream> {
    let here = Span::mixed_site();
    let (path, value) = (old.read.as_ref()?, name("old", &old.key));
    Some(quote_spanned! {here=>
        if let ::core::option::Option::Some(#value) = #value {
            let () = #path(&mut __kho_value, #value);
        }
    })
}

fn describe_subsection(subsection: &Subsection) -> TokenStream {
    let Subsection { wire, inner, required, .. } = subsection;
    let at = at(inner);
    let shape = quote_spanned!(at=> <#inner as ::kho::state::State>::SHAPE);
    let here = Span::mixed_site();
    quote_spanned! {here=>
        ::kho::state::Subsection { name: #wire, id: #shape.id(), shape: || #shape, required: #required }
    }
}

/// How many there are, then each.
fn save_subsections(subsections: &[Subsection]) -> TokenStream {
    let here = Span::mixed_site();
    let counted = subsections.iter().map(|subsection| {
        let value = name("field", &subsection.key);
        quote_spanned!(here=> .saturating_add(::core::convert::From::from(#value.is_some())))
    });
    let saved = subsections.iter().map(|subsection| {
        let Subsection { wire, inner, key, .. } = subsection;
        let (value, at) = (name("field", key), at(inner));
        let save = quote_spanned!(at=> __kho_out.subsection::<#inner>(#wire, #value)?;);
        quote_spanned!(here=> if let ::core::option::Option::Some(#value) = #value { #save })
    });
    quote_spanned! {here=>
        __kho_out.subsections(0_u32 #(#counted)*);
        #(#saved)*
    }
}

/// Those that are there, in any order. `take` knows whose it is; what nobody takes is skipped or refused.
fn restore_subsections(subsections: &[Subsection]) -> TokenStream {
    let here = Span::mixed_site();
    let bound = subsections.iter().map(|subsection| {
        let (inner, value) = (&subsection.inner, name("field", &subsection.key));
        quote_spanned!(here=> let mut #value: ::core::option::Option<#inner> = ::core::option::Option::None;)
    });
    let taken = subsections.iter().map(|subsection| {
        let Subsection { wire, inner, key, .. } = subsection;
        let (value, at) = (name("field", key), inner.span().resolved_at(here));
        quote_spanned!(at=> __kho_in.take::<#inner>(#wire, &__kho_found, &mut #value)?)
    });
    quote_spanned! {here=>
        #(#bound)*
        for _ in 0..__kho_in.subsections(&__KHO_SHAPE)? {
            let __kho_found = __kho_in.subsection()?;
            let __kho_taken = #(#taken)||*;
            if !__kho_taken {
                __kho_in.skip(__kho_found, &__KHO_SHAPE)?;
            }
        }
    }
}
