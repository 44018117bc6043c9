//! Every rule, by what its error says and where it points to.

use proc_macro2::TokenStream;
use quote::quote;

/// The errors: the line and the text that each is about, and what it says.
fn errors(input: &str) -> Vec<(String, String)> {
    let parsed: syn::DeriveInput = syn::parse_str(input).unwrap();
    let Err(error) = crate::expanded(&parsed) else { return Vec::new() };
    let place = |error: &syn::Error| {
        let (start, end) = (error.span().start(), error.span().end());
        let line = input.lines().nth(start.line - 1).unwrap_or_default();
        let letters = line.chars().skip(start.column);
        if start.line == end.line { letters.take(end.column - start.column).collect() } else { letters.collect() }
    };
    error.into_iter().map(|error| (place(&error), error.to_string())).collect()
}

/// There is one error, at this place, and it says this.
#[track_caller]
fn refused(input: &str, at: &str, says: &str) {
    let errors = errors(input);
    let [(place, text)] = errors.as_slice() else { panic!("not one error: {errors:#?}") };
    assert_eq!(place, at, "{text}");
    assert!(text.contains(says), "{text}");
}

/// A struct in version 3 whose fields are these.
#[track_caller]
fn field_refused(fields: &str, at: &str, says: &str) {
    refused(&format!("#[state(id = 1, version = 3)] struct A {{ a: u32, {fields} }}"), at, says);
}

/// A struct in version 3 that had a field.
#[track_caller]
fn old_refused(old: &str, at: &str, says: &str) {
    refused(&format!("#[state(id = 1, version = 3, {old})] struct A {{ a: u32 }}"), at, says);
}

/// An enum in version 3.
#[track_caller]
fn variant_refused(variants: &str, at: &str, says: &str) {
    refused(&format!("#[state(id = 1, version = 3, min_version = 1)] enum A {{ {variants} }}"), at, says);
}

#[track_caller]
fn fine(input: &str) -> TokenStream {
    assert_eq!(errors(input), [], "{input}");
    crate::expanded(&syn::parse_str(input).unwrap()).unwrap()
}

#[test]
fn what_has_no_state() {
    refused("#[state(id = 1, version = 1)] union A { a: u32 }", "union", "which field of a union is there");
    refused("#[state(id = 1, version = 1)] struct A;", "A", "give it one field");
    refused("#[state(id = 1, version = 1)] struct A {}", "A", "in version 1 this struct would have no field");
    refused("#[state(id = 1, version = 1)] enum A {}", "A", "give it one variant");
    for generics in ["<T>", "<'a>", "<const N: usize>"] {
        let input = format!("#[state(id = 1, version = 1)] struct A{generics} {{ a: u32 }}");
        refused(&input, generics, "not for types with generics");
    }
    let clause = "where u32: Copy";
    refused(&format!("#[state(id = 1, version = 1)] struct A {clause} {{ a: u32 }}"), clause, "generics");
}

#[test]
fn ids_and_versions() {
    refused("#[state(version = 1)] struct A { a: u32 }", "A", "`#[state(id = ...)]` is missing");
    refused("#[state(id = 1)] struct A { a: u32 }", "A", "`#[state(version = ...)]` is missing");
    refused("#[state(id = 0, version = 1)] struct A { a: u32 }", "0", "ids begin with 1");
    refused("#[state(id = 1, version = 0)] struct A { a: u32 }", "0", "versions begin with 1");
    refused("#[state(id = 1, version = 1, min_version = 0)] struct A { a: u32 }", "0", "versions begin with 1");
    refused("#[state(id = 1, version = 1, min_version = 2)] struct A { a: u32 }", "2", "cannot be above `version`, 1");
    refused("#[state(id = 1, version = 1, name = \"a b\")] struct A { a: u32 }", "\"a b\"", "ASCII letters, digits");
    refused("#[state(id = 1, version = 1)] struct Ä { a: u32 }", "Ä", "a type: with `name`");
    assert_eq!(errors("struct A { a: u32 }").len(), 2);
}

#[test]
fn what_cannot_be_read() {
    let of_type = |what: &str| format!("#[state(id = 1, version = 1, {what})] struct A {{ a: u32 }}");
    refused(&of_type("idd = 1"), "idd", "not known; for the type there are `id`, `version`");
    refused(&of_type("id = 2"), "id", "`id` stands here a second time");
    refused(&of_type("since = 2"), "since", "`since` is for a field, not for the type");
    refused(&of_type("ignorable = true"), "ignorable", "a word of its own");
    refused(&of_type("deprecated"), "deprecated", "say which field it was");
    refused(&of_type("deprecated(names = \"a\")"), "names", "for `deprecated` there are `name`, `ty`");
    for number in ["-1", "4294967296", "\"1\"", "ONE"] {
        let input = format!("#[state(id = {number}, version = 1)] struct A {{ a: u32 }}");
        let [(_, text)] = <[_; 1]>::try_from(errors(&input)).unwrap();
        assert_eq!(text, "`id` is a number, written out, from 0 to 4294967295");
    }
    field_refused("#[state(version = 2)] b: u32", "version", "`version` is for the type, not for a field");
    field_refused("#[state(deprecated(name = \"c\"))] b: u32", "deprecated", "`deprecated` is for the type");
    field_refused("#[state(subsection)] b: Option<B>", "subsection", "`subsection = ignorable` (it leaves it out)");
    field_refused("#[state(subsection = maybe)] b: Option<B>", "maybe", "`subsection = required` (it refuses)");
    variant_refused("#[state(id = 1)] B", "id", "`id` is for the type, not for a variant");
    // In one attribute and in several, it is the same.
    fine("#[state(id = 0x10)] #[state(version = 1,)] #[doc = \"\"] struct A { a: u32 }");
}

#[test]
fn versions_of_fields() {
    field_refused("#[state(since = 4, default)] b: u32", "4", "above the type's `version`, 3: raise `version`");
    field_refused("#[state(since = 0, default)] b: u32", "0", "versions begin with 1");
    field_refused(
        "#[state(since = 2)] b: u32",
        "2",
        "versions before 2 have not, and 1 is still read, needs `default`",
    );
    field_refused("#[state(default, required)] b: u32", "required", "it goes with `since`");
    // Nobody has the older versions any more.
    fine("#[state(id = 1, version = 3, min_version = 2)] struct A { a: u32, #[state(since = 2)] b: u32 }");
    let late = "struct A { #[state(since = 2, default)] a: u32 }";
    refused(&format!("#[state(id = 1, version = 3)] {late}"), "A", "in version 1 this struct would have no field");
    fine(&format!("#[state(id = 1, version = 3, deprecated(name = \"b\", ty = u8, until = 2))] {late}"));
    let gap = "deprecated(name = \"b\", ty = u8, until = 2)";
    let input = format!("#[state(id = 1, version = 3, {gap})] struct A {{ #[state(since = 3, default)] a: u32 }}");
    refused(&input, "A", "in version 2 this struct would have no field");
}

#[test]
fn names() {
    field_refused("#[state(rename = \"a\")] b: u32", "\"a\"", "another field is called `a`");
    field_refused("#[state(rename = \"\")] b: u32", "\"\"", "ASCII letters");
    field_refused("ü: u32", "ü", "give it another one with `rename`");
    field_refused(
        "#[state(subsection = required, rename = \"a\")] b: Option<B>",
        "\"a\"",
        "another field is called `a`",
    );
    let tuple = "#[state(id = 1, version = 3)] struct A(#[state(rename = \"1\")] u32, u8);";
    refused(tuple, "u8", "another field is called `1`");
    // What is not saved has no name.
    fine("#[state(id = 1, version = 1)] struct A { #[state(rename = \"b\")] a: u32, #[state(skip, default)] b: u32 }");
}

#[test]
fn what_does_not_go_together() {
    field_refused("#[state(skip)] b: u32", "skip", "a field that is not saved needs `default`");
    field_refused("#[state(skip, default, since = 2)] b: u32", "skip", "only `default` goes with it; remove `since`");
    field_refused("#[state(with = m, plain)] b: u32", "with", "two ways to save a field");
    for other in ["since = 2", "default", "when = |a| *a > 1", "plain", "with = m"] {
        let key = other.split(' ').next().unwrap();
        let field = format!("#[state(subsection = ignorable, {other})] b: Option<B>");
        field_refused(&field, "subsection", &format!("only `rename` goes with it; remove `{key}`"));
    }
    for ty in ["B", "Vec<B>", "Option"] {
        field_refused(&format!("#[state(subsection = required)] b: {ty}"), ty, "its type is written `Option<...>`");
    }
    let twice =
        "#[state(subsection = required)] b: Option<B>, #[state(subsection = required)] c: std::option::Option<B>";
    field_refused(twice, "std::option::Option<B>", "another subsection is of this type");
}

#[test]
fn conditions() {
    let when = |condition: &str| format!("#[state(default, when = {condition})] b: u32, c: u32");
    field_refused("#[state(when = |a| *a > 1)] b: u32", "when", "not always there needs `default`");
    field_refused(&when("|c| *c > 1"), "c", "`c` does not stand before this field");
    field_refused(&when("|b| *b > 1"), "b", "`b` does not stand before this field");
    field_refused(&when("|d| *d > 1"), "d", "there is no field `d`");
    field_refused(&when("true"), "true", "written `when = |earlier| ...`");
    field_refused(&when("|&a| a > 1"), "&a", "written `when = |earlier| ...`");
    field_refused(&when("move |a| a > 1"), "move", "written `when = |earlier| ...`");
    field_refused(&when("|a: &u32| *a > 1"), "&u32", "leave the type out");
    field_refused(&when("|a| -> bool { *a > 1 }"), "-> bool", "leave the type out");
    field_refused(&when("|| true"), "|| true", "looks at nothing");
    let none = "#[state(skip, default)] s: u32, #[state(subsection = required)] t: Option<T>, ";
    field_refused(&format!("{none} {}", when("|s| *s > 1")), "s", "`s` is not saved");
    field_refused(&format!("{none} {}", when("|t| t.is_some()")), "t", "`t` is a subsection");
    let tuple = "#[state(id = 1, version = 1)] struct A(u32, #[state(default, when = |x| *x > 1)] u32);";
    refused(tuple, "x", "`_0`, `_1` and so on");
    fine(&tuple.replace('x', "_0"));
}

#[test]
fn fields_that_were() {
    old_refused("deprecated(ty = u8, until = 2)", "deprecated", "needs `name = \"...\"`");
    old_refused("deprecated(name = \"b\", until = 2)", "deprecated", "needs `ty = ...`");
    old_refused("deprecated(name = \"b\", ty = u8)", "deprecated", "needs `until = ...`");
    old_refused("deprecated(name = \"b\", ty = u8, until = 4)", "4", "the type's `version` is 3");
    old_refused("deprecated(name = \"b\", ty = u8, since = 2, until = 2)", "2", "`since` is below `until`");
    old_refused("deprecated(name = \"b\", ty = u8, until = 1)", "1", "`since` is below `until`");
    old_refused("deprecated(name = \"b\", ty = u8, since = 0, until = 2)", "0", "versions begin with 1");
    old_refused("deprecated(name = \"a\", ty = u8, until = 2)", "\"a\"", "another field is called `a`");
    old_refused("deprecated(name = \"b\", ty = u8, until = 2, after = \"c\")", "\"c\"", "no field on the wire");
    old_refused("deprecated(name = \"b\", ty = u8, until = 2, after = \"b\")", "\"b\"", "come to no field");
    let circle = "#[state(id = 1, version = 3, deprecated(name = \"b\", ty = u8, until = 2, after = \"c\"),
        deprecated(name = \"c\", ty = u8, until = 2, after = \"b\"))] struct A { a: u32 }";
    assert_eq!(errors(circle).len(), 2);
    let of_enum = "#[state(id = 1, version = 3, deprecated(name = \"b\", ty = u8, until = 2))] enum A { B = 1 }";
    refused(of_enum, "deprecated", "`deprecated` is for structs");
    // Not saved, so nothing stands behind it.
    let skipped = "#[state(id = 1, version = 3, deprecated(name = \"b\", ty = u8, until = 2, after = \"s\"))]
        struct A { a: u32, #[state(skip, default)] s: u32 }";
    refused(skipped, "\"s\"", "no field on the wire");
}

#[test]
fn fields_that_were_stand_in_their_places() {
    let input = "#[state(id = 1, version = 9)]
        #[state(deprecated(name = \"b2\", ty = u8, until = 2, after = \"b1\"))]
        #[state(deprecated(name = \"b1\", ty = u8, until = 2, after = \"b\"))]
        #[state(deprecated(name = \"first\", ty = u8, until = 2))]
        #[state(deprecated(name = \"b3\", ty = u8, until = 2, after = \"b\"))]
        #[state(deprecated(name = \"second\", ty = u8, until = 2))]
        struct A { a: u32, b: u32, c: u32 }";
    let state = crate::check::check(&syn::parse_str(input).unwrap()).unwrap();
    let crate::model::Body::Struct { order, .. } = state.body else { panic!("no struct") };
    let names = order.iter().map(|place| match place {
        crate::model::Place::Field(field) => field.wire.as_str(),
        crate::model::Place::Old(old) => old.wire.as_str(),
    });
    assert_eq!(names.collect::<Vec<_>>(), ["first", "second", "a", "b", "b1", "b2", "b3", "c"]);
}

#[test]
fn variants() {
    variant_refused("B", "B", "this variant has no tag");
    variant_refused("B(u8)", "B", "give it `#[state(tag = ...)]`");
    variant_refused("B = 1, #[state(tag = 1)] C", "1", "another variant has the tag 1");
    variant_refused("B = -1", "-1", "only a number from 0 to 4294967295");
    variant_refused("B = ONE", "ONE", "only a number from 0 to 4294967295");
    variant_refused("B(u8) = 1", "B", "has its tag as `#[state(tag = ...)]`");
    variant_refused("B = 1, #[state(rename = \"b\", tag = 2)] C", "\"b\"", "another variant is called `b`");
    variant_refused("B = 1, #[state(tag = 2, since = 4)] C", "4", "raise `version`");
    let field = |field: &str| format!("#[state(tag = 1, since = 2)] B {{ {field} }}");
    variant_refused(&field("#[state(since = 1)] c: u8"), "1", "the variant is there since version 2");
    variant_refused(&field("#[state(since = 3)] c: u8"), "3", "versions before 3 have not, and 2 is still read,");
    variant_refused(&field("#[state(skip, default)] c: u8"), "skip", "`skip` is for fields of structs");
    variant_refused(&field("#[state(subsection = required)] c: Option<C>"), "subsection", "for fields of structs");
    variant_refused(&field("c: u8, #[state(rename = \"c\")] d: u8"), "\"c\"", "another field is called `c`");
    // It came with its variant, and a name is its variant's.
    fine(
        "#[state(id = 1, version = 3)] enum A { #[state(tag = 1)] B { c: u8 },
        #[state(tag = 2, since = 2)] C { #[state(since = 2)] c: u8 } }",
    );
}

#[test]
fn all_errors_at_once() {
    let input = "#[state(id = 0, version = 2, deprecated(name = \"o\", ty = u8, until = 3))]
        struct A<T> { #[state(since = 9)] a: u32, #[state(nothing)] b: u32, #[state(skip)] c: T }";
    let places: Vec<String> = errors(input).into_iter().map(|(place, _)| place).collect();
    assert_eq!(places, ["<T>", "0", "9", "nothing", "skip", "3"]);
}

#[test]
fn the_user_s_types_keep_their_places() {
    let input = "#[state(id = 1, version = 1)] struct A { a: Special, b: Vec<Self> }";
    let column = input.find("Special").unwrap();
    let mut found = 0;
    let mut open = vec![fine(input)];
    while let Some(tokens) = open.pop() {
        for tree in tokens {
            match tree {
                proc_macro2::TokenTree::Group(group) => open.push(group.stream()),
                proc_macro2::TokenTree::Ident(ident) if ident == "Special" => {
                    assert_eq!(ident.span().start().column, column);
                    found += 1;
                }
                _ => {}
            }
        }
    }
    assert!(found >= 3, "description, save and restore name it");
}

#[test]
fn the_shape_is_not_in_the_type() {
    let expanded = fine("#[state(id = 7, version = 1)] struct A { a: Option<Box<A>> }").to_string();
    let of_type = quote!(
        const TYPE: ::kho::state::Type = ::kho::state::Type::State { id: 7u32, shape: || &__KHO_SHAPE };
    );
    assert!(expanded.contains(&of_type.to_string()), "{expanded}");
}
