//! `state_tests!`: a test for the lock of a project's states, and one for each saved state in its folder.

use std::collections::BTreeSet;
use std::path::Path;

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::parse::{Parse, ParseStream};
use syn::{Expr, Ident, LitStr, Result, Token, Type};

/// A type, a value of it, and what every restored value is given to.
struct Case {
    ty: Type,
    sample: Expr,
    check: Option<Expr>,
}

pub(crate) struct StateTests {
    folder: LitStr,
    cases: Vec<Case>,
}

impl Parse for StateTests {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let word: Ident = input.parse()?;
        if word != "folder" {
            return Err(syn::Error::new(
                word.span(),
                "first comes `folder: \"tests/states\"`, from the package's root",
            ));
        }
        input.parse::<Token![:]>()?;
        let folder: LitStr = input.parse()?;
        let mut cases = Vec::new();
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let ty = input.parse()?;
            input.parse::<Token![=]>()?;
            let sample = input.parse()?;
            let check = if input.parse::<Option<Token![=>]>>()?.is_some() { Some(input.parse()?) } else { None };
            cases.push(Case { ty, sample, check });
        }
        if cases.is_empty() {
            return Err(input.error("at least one type and a value of it: `Vcpu = Vcpu::sample()`"));
        }
        Ok(StateTests { folder, cases })
    }
}

pub(crate) fn expand(tests: &StateTests, root: &Path) -> Result<TokenStream> {
    let said = tests.folder.value();
    let fail = |text: String| syn::Error::new(tests.folder.span(), text);
    let folder = root.join(&said);
    if !folder.join("state.lock").is_file() {
        return Err(fail(format!(
            "`{said}/state.lock` is not there: a project begins with an empty one: mkdir -p {said} && touch \
             {said}/state.lock"
        )));
    }
    let entries = std::fs::read_dir(&folder).map_err(|error| fail(format!("`{said}`: {error}")))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let files: BTreeSet<String> = names.filter(|name| name.ends_with(".state")).collect();

    let mut seen = BTreeSet::new();
    let blobs = files.iter().map(|file| {
        let stem = file.trim_end_matches(".state");
        let mut name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if name.starts_with(|c: char| !c.is_ascii_alphabetic()) {
            name.insert(0, '_');
        }
        // `a-b` and `a_b` are two files.
        while !seen.insert(name.clone()) {
            name.push('_');
        }
        let test = format_ident!("{}_is_restored", name);
        let path = format!("/{said}/{file}");
        quote! {
            #[test]
            fn #test() {
                const BYTES: &[u8] =
                    ::core::include_bytes!(::core::concat!(::core::env!("CARGO_MANIFEST_DIR"), #path));
                if let ::core::result::Result::Err(text) = __kho_states().check_blob(__KHO_STATE_LOCK, #file, BYTES) {
                    ::core::panic!("{text}");
                }
            }
        }
    });
    let cases = tests.cases.iter().map(|Case { ty, sample, check }| {
        let check = check.as_ref().map_or_else(|| quote!(|_, _| ()), |check| quote!(#check));
        quote!(::kho::state::lock::Case::new::<#ty>(|| #sample, #check))
    });
    // The lock names every file, so that a new one changes it: cargo builds the test again, and the folder is read.
    let lock = format!("/{said}/state.lock");
    Ok(quote! {
        const __KHO_STATE_LOCK: &str =
            ::core::include_str!(::core::concat!(::core::env!("CARGO_MANIFEST_DIR"), #lock));

        fn __kho_states() -> ::kho::state::lock::Suite {
            ::kho::state::lock::Suite::new(
                ::std::path::Path::new(::core::env!("CARGO_MANIFEST_DIR")).join(#said),
                ::std::vec![#(#cases),*],
            )
        }

        #[test]
        fn the_states_are_what_the_lock_says() {
            if let ::core::result::Result::Err(text) = __kho_states().check_lock() {
                ::core::panic!("{text}");
            }
        }

        #(#blobs)*
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::{StateTests, expand};

    fn folder(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("kho-derive-{}-{name}", std::process::id()));
        fs::create_dir_all(root.join("states")).unwrap();
        root
    }

    fn error(text: &str, root: &std::path::Path) -> String {
        let parsed = syn::parse_str::<StateTests>(text).and_then(|tests| expand(&tests, root));
        parsed.map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn each_file_is_a_test() {
        let root = folder("tests");
        fs::write(root.join("states/state.lock"), "").unwrap();
        for file in ["a-b-v1.state", "a_b-v1.state", "7-v1.state", "README"] {
            fs::write(root.join("states").join(file), "").unwrap();
        }
        let tests: StateTests =
            syn::parse_str("folder: \"states\", A = A::new() => |a, _| a.check(), B<'static> = B { b: 5 },").unwrap();
        let file: syn::File = syn::parse2(expand(&tests, &root).unwrap()).unwrap();
        let names = file.items.iter().filter_map(|item| match item {
            syn::Item::Fn(function) => Some(function.sig.ident.to_string()),
            _ => None,
        });
        let expected = [
            "__kho_states",
            "the_states_are_what_the_lock_says",
            "_7_v1_is_restored",
            "a_b_v1_is_restored",
            "a_b_v1__is_restored",
        ];
        assert_eq!(names.collect::<Vec<_>>(), expected);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_is_missing_is_said() {
        let root = folder("missing");
        let says = "`states/state.lock` is not there: a project begins with an empty one: mkdir -p states && touch \
                    states/state.lock";
        assert_eq!(error("folder: \"states\", A = A::new()", &root), says);
        assert!(error("path: \"states\"", &root).starts_with("first comes `folder: "));
        assert!(error("folder: \"states\",", &root).contains("at least one type and a value of it"));
        fs::remove_dir_all(root).unwrap();
    }
}
