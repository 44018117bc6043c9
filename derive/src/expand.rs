//! What every type gets: description, `Value`, `State`. Everything stands in one `const _`, so that nothing of it has a
//! name outside. Names inside begin with `__kho`; locals have the macro's own hygiene besides, so that no expression of
//! the user can see them, and none of them hides a name that the user means.

mod enums;
mod fields;
mod structs;

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::Path;
use syn::spanned::Spanned as _;

use crate::model::{Body, State};

/// What structs and enums make of themselves.
struct Parts {
    /// A `Body`.
    description: TokenStream,
    /// Functions for defaults and conditions: what the user wrote stands in the output once.
    functions: TokenStream,
    /// Statements, with the saver `__kho_out` and the version `__kho_version`.
    save: TokenStream,
    /// Statements, with the restorer `__kho_in` and the version `__kho_version`.
    restore: TokenStream,
    /// The value, made of what these statements bound.
    value: TokenStream,
    /// Statements with `__kho_value`, when there are some.
    after: Option<TokenStream>,
}

pub(crate) fn expand(state: &State) -> TokenStream {
    let Parts { description, functions, save, restore, value, after } = match &state.body {
        Body::Struct { fields, order } => structs::expand(fields, order),
        Body::Enum(variants) => enums::expand(variants, state.min_version),
    };
    let State { ident, id, version, min_version, name, ignorable, hooks, .. } = state;
    let here = Span::mixed_site();

    let save = quote_spanned! {here=>
        let __kho_version = __kho_out.enter(&__KHO_SHAPE)?;
        #save
        __kho_out.leave();
        ::core::result::Result::Ok(())
    };
    let before_save = hooks.before_save.as_ref().map(|path| call(path, quote_spanned!(here=> self)));
    let save = match &hooks.after_save {
        // In a closure: whatever fails in it, the hook is called.
        Some(path) => quote_spanned! {here=>
            #before_save
            let __kho_saved = (|| -> ::kho::state::Result<()> { #save })();
            let () = #path(self, __kho_saved.is_ok());
            __kho_saved
        },
        None => quote_spanned!(here=> #before_save #save),
    };

    let before_restore = hooks.before_restore.as_ref().map(|path| call(path, quote_spanned!(here=> __kho_version)));
    let after_restore =
        hooks.after_restore.as_ref().map(|path| call(path, quote_spanned!(here=> &mut __kho_value, __kho_version)));
    let finish = if after.is_some() || after_restore.is_some() {
        quote_spanned! {here=>
            let mut __kho_value = #value;
            __kho_in.leave();
            #after
            #after_restore
            ::core::result::Result::Ok(__kho_value)
        }
    } else {
        quote_spanned! {here=>
            let __kho_value = #value;
            __kho_in.leave();
            ::core::result::Result::Ok(__kho_value)
        }
    };

    quote_spanned! {here=>
        // The user's fields may be deprecated; the style of what is written here is nobody's matter.
        #[allow(clippy::all, clippy::pedantic, deprecated)]
        const _: () = {
            const __KHO_DESC: ::kho::state::Desc = ::kho::state::Desc {
                name: #name,
                id: #id,
                version: #version,
                min_version: #min_version,
                ignorable: #ignorable,
                body: #description,
            };
            static __KHO_BYTES: [u8; ::kho::state::shape_size(&__KHO_DESC)] = ::kho::state::shape_bytes(&__KHO_DESC);
            static __KHO_SHAPE: ::kho::state::Shape = ::kho::state::Shape::new(__KHO_DESC, &__KHO_BYTES);
            #functions
            #[automatically_derived]
            impl ::kho::state::Value for #ident {
                // A function, not the shape: a type may hold itself, and its shape must not be needed for its shape.
                const TYPE: ::kho::state::Type = ::kho::state::Type::State { id: #id, shape: || &__KHO_SHAPE };
                fn save(&self, __kho_out: &mut ::kho::state::Saver<'_>) -> ::kho::state::Result<()> {
                    #save
                }
                fn restore(__kho_in: &mut ::kho::state::Restorer<'_>) -> ::kho::state::Result<Self> {
                    let __kho_version = __kho_in.enter(&__KHO_SHAPE)?;
                    #before_restore
                    #restore
                    #finish
                }
            }
            #[automatically_derived]
            impl ::kho::state::State for #ident {
                const SHAPE: &'static ::kho::state::Shape = &__KHO_SHAPE;
            }
        };
    }
}

/// A hook that may fail. What is wrong with its type is told where its name stands.
fn call(path: &Path, arguments: TokenStream) -> TokenStream {
    let at = path.span().resolved_at(Span::mixed_site());
    quote_spanned!(at=> let () = #path(#arguments)?;)
}

/// A name of the expansion, that belongs to the field with this key.
fn name(what: &str, key: &str) -> Ident {
    Ident::new(&format!("__kho_{what}_{key}"), Span::mixed_site())
}

/// Where the user's type stands, for the errors about it; with the names of the expansion.
fn at(ty: &TokenStream) -> Span {
    ty.span().resolved_at(Span::mixed_site())
}

/// `T::default()`.
fn default_of(ty: &TokenStream) -> TokenStream {
    let at = at(ty);
    let trait_ = quote_spanned!(at=> ::core::default::Default);
    quote!(<#ty as #trait_>::default())
}
