//! The rules for `deprecated(...)`: fields that the type no longer has, and their places.

use std::collections::BTreeSet;

use quote::ToTokens as _;

use super::{Scope, wire_name, without_self};
use crate::attrs::{Errors, OldAttrs, Said};
use crate::model::{Field, Old, Place};

/// The order on the wire.
pub(super) fn check(
    fields: Vec<Field>,
    attrs: &[OldAttrs],
    scope: &Scope<'_>,
    names: &mut BTreeSet<String>,
    errors: &mut Errors,
) -> Vec<Place> {
    let mut olds = Vec::new();
    for (index, attrs) in attrs.iter().enumerate() {
        if let Some(old) = one(index, attrs, scope, names, errors) {
            olds.push((old, attrs.after.as_ref()));
        }
    }
    let mut order = Vec::new();
    behind(None, &mut olds, &mut order);
    for field in fields {
        let wire = field.wire.clone();
        order.push(Place::Field(field));
        behind(Some(&wire), &mut olds, &mut order);
    }
    // What is left stands behind nothing that was placed.
    for (old, after) in &olds {
        if let Some(Said { value, span }) = after {
            let others = olds.iter().any(|(other, _)| other.wire == *value);
            errors.at(
                *span,
                if old.wire == *value || others {
                    format!(
                        "`{}` and what it stands behind come to no field; name one that is there in `after`",
                        old.wire
                    )
                } else {
                    format!("no field on the wire is called `{value}`; `after` is the name of one, or left out")
                },
            );
        }
    }
    order
}

/// Those that stand behind this one, in the order in which they were said, each with those behind itself.
fn behind<'a>(place: Option<&str>, olds: &mut Vec<(Old, Option<&'a Said<String>>)>, order: &mut Vec<Place>) {
    let is_here = |(_, after): &(Old, Option<&'a Said<String>>)| after.map(|said| said.value.as_str()) == place;
    let here: Vec<_> = olds.extract_if(.., |entry| is_here(entry)).collect();
    for (old, _) in here {
        let wire = old.wire.clone();
        order.push(Place::Old(old));
        behind(Some(&wire), olds, order);
    }
}

fn one(
    index: usize,
    attrs: &OldAttrs,
    scope: &Scope<'_>,
    names: &mut BTreeSet<String>,
    errors: &mut Errors,
) -> Option<Old> {
    let missing = [
        (attrs.name.is_none(), "`name = \"...\"`, which it had on the wire"),
        (attrs.ty.is_none(), "`ty = ...`, which type it had"),
        (attrs.until.is_none(), "`until = ...`, the first version without it"),
    ];
    for (_, what) in missing.iter().filter(|(missing, _)| *missing) {
        errors.at(attrs.span, format!("`deprecated` needs {what}"));
    }
    let since = match &attrs.since {
        Some(Said { value: 0, span }) => {
            errors.at(*span, "0 is no version: versions begin with 1");
            1
        }
        Some(said) => said.value,
        None => 1,
    };
    let (Some(name), Some(ty), Some(until)) = (&attrs.name, &attrs.ty, &attrs.until) else { return None };
    let wire = wire_name(Some(name), String::new, name.span, errors);
    if !names.insert(wire.clone()) {
        errors
            .at(name.span, format!("another field is called `{wire}`: give the one that is there `rename = \"...\"`"));
    }
    if until.value > scope.newest {
        errors.at(
            until.span,
            format!(
                "`until` is the first version without the field, and the type's `version` is {}: raise `version`, or \
                 leave the field in",
                scope.newest
            ),
        );
    } else if since >= until.value {
        let said = attrs.since.as_ref().unwrap_or(until);
        errors.at(said.span, "`since` is below `until`: otherwise no version had the field");
    }
    let path = |said: &Option<Said<syn::Path>>| said.as_ref().map(|said| said.value.clone());
    Some(Old {
        key: index.to_string(),
        wire,
        ty: without_self(ty.value.to_token_stream(), scope.ident),
        since,
        until: until.value,
        write: path(&attrs.write),
        read: path(&attrs.read),
    })
}
