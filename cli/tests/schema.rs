//! What is printed as JSON holds against the schemas that are published.

mod common;

use common::{Handover, fixture, kho, run, text};
use serde_json::Value;

/// The JSON of a command, however it ended, held against the schema of that command.
fn holds(args: &[&str]) -> Value {
    let schema: Value = serde_json::from_str(&run(0, &["schema", args[0]])).unwrap();
    // A field without a description would be a field that nobody promised.
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let output = kho([args, &["--format", "json"]].concat());
    let shown: Value = serde_json::from_str(text(&output.stdout)).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    let errors: Vec<_> = validator.iter_errors(&shown).map(|error| error.to_string()).collect();
    assert_eq!(errors, [""; 0], "{args:?}");
    assert_eq!(unknown(&schema, &schema, &shown), [""; 0], "{args:?}: fields that the schema does not have");
    // And a schema that takes anything would prove nothing.
    let mut broken = shown.clone();
    *broken.pointer_mut("/findings").unwrap() = "none".into();
    assert!(!validator.is_valid(&broken));
    shown
}

/// Fields of a value that its schema has no word for. Alternatives have a word if one of them has.
fn unknown(root: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let schemas = flat(root, schema);
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, field)| {
                let of: Vec<_> = schemas.iter().filter_map(|schema| schema["properties"].get(name)).collect();
                match of.iter().map(|schema| unknown(root, schema, field)).min_by_key(Vec::len) {
                    Some(unknown) => unknown.into_iter().map(|inner| format!("{name}.{inner}")).collect(),
                    None => vec![name.clone()],
                }
            })
            .collect(),
        Value::Array(list) => {
            let items: Vec<_> = schemas.iter().filter_map(|schema| schema.get("items")).collect();
            let of = |item: &Value| items.iter().map(|schema| unknown(root, schema, item)).min_by_key(Vec::len);
            list.iter().filter_map(of).flatten().collect()
        }
        _ => Vec::new(),
    }
}

/// A schema and all that it refers to or offers.
fn flat<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let referred = schema["$ref"].as_str().and_then(|path| root.pointer(path.strip_prefix('#')?));
    let choices = ["oneOf", "anyOf", "allOf"].into_iter().flat_map(|key| schema[key].as_array().into_iter().flatten());
    let inner = referred.into_iter().chain(choices).flat_map(|inner| flat(root, inner));
    inner.chain([schema]).collect()
}

#[test]
fn real_machines_arenas_and_device_trees() {
    let handover = Handover::new();
    let core = fixture("frozen.core");
    let tree = fixture("debugfs/after/in/fdt");
    for path in [core.to_str().unwrap(), handover.path()] {
        for command in ["dump", "check", "map"] {
            let shown = holds(&[command, path]);
            assert_eq!(shown["errors"], 0, "{command}");
        }
    }
    for command in ["dump", "check"] {
        holds(&[command, tree.to_str().unwrap()]);
    }
    // Sessions, files and globals are in it, so that they were held against something.
    let shown = holds(&["dump", core.to_str().unwrap()]);
    assert_eq!(common::node(&shown, "LUO")["content"]["sessions"][0]["files"][0]["token"], 0xabc);
}

#[test]
fn what_is_broken() {
    let handover = Handover::new();
    let decoded = handover.decoded();
    // The list of the first node's blob is cut, and the root's tree goes nowhere.
    for address in decoded["nodes"].as_array().unwrap().iter().filter_map(|node| node["blob"]["address"].as_u64()) {
        handover.poke(address, &[0xff; 32]);
    }
    for command in ["dump", "check", "map"] {
        let shown = holds(&[command, handover.path()]);
        assert!(shown["errors"].as_u64().unwrap() >= 4, "{command}: {shown}");
    }
    handover.poke(decoded["root"]["preserved_memory_map"].as_u64().unwrap(), &[0xff; 4096]);
    for command in ["dump", "check", "map"] {
        assert_eq!(holds(&[command, handover.path()])["errors"], 1, "{command}");
    }
    // A root that cannot be read at all is a finding of `check`.
    handover.poke(decoded["root"]["address"].as_u64().unwrap() + 40, &[0xff; 64]);
    for command in ["dump", "check", "map"] {
        assert_eq!(holds(&[command, handover.path()])["checked"], "root-fdt", "{command}");
    }
}
