//! `kho schema`: what the JSON of the other commands looks like, as JSON Schemas that are kept in `schema/`.

use std::error::Error;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::source::print;

/// Arguments of `kho schema`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Whose JSON
    of: Of,
}

const HELP: &str = "\
Examples:
  kho schema dump > dump.schema.json
      of what `kho dump --format json` prints

Draft 2020-12. New fields, kinds and codes may be added; what is there stays.";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Of {
    Dump,
    Check,
    Diff,
    Map,
    Plan,
    Understands,
    Manifest,
    ServeDemo,
}

impl Of {
    const fn text(self) -> &'static str {
        match self {
            Of::Dump => include_str!("../schema/dump.schema.json"),
            Of::Check => include_str!("../schema/check.schema.json"),
            Of::Diff => include_str!("../schema/diff.schema.json"),
            Of::Map => include_str!("../schema/map.schema.json"),
            Of::Plan => include_str!("../schema/plan.schema.json"),
            Of::Understands => include_str!("../schema/understands.schema.json"),
            Of::Manifest => include_str!("../schema/manifest.schema.json"),
            Of::ServeDemo => include_str!("../schema/serve-demo.schema.json"),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    print(args.of.text())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What could be read, or, of a root that is broken, what `kho check` says.
    #[derive(schemars::JsonSchema)]
    #[schemars(untagged)]
    #[allow(dead_code, reason = "of the type only")]
    enum Shown<T> {
        Read(T),
        Broken(crate::check::Report<'static>),
    }

    /// Links of the documentation mean nothing in a schema.
    fn plain<'a>(values: impl Iterator<Item = &'a mut serde_json::Value>) {
        for value in values {
            match value {
                serde_json::Value::String(text) => {
                    *text = text.replace("[`", "`").replace("`]", "`").replace("(super::Options)", "");
                    *text = text.replace("(super::Preserved)", "");
                }
                serde_json::Value::Array(list) => plain(list.iter_mut()),
                serde_json::Value::Object(object) => plain(object.values_mut()),
                _ => {}
            }
        }
    }

    #[test]
    fn the_schemas_are_those_of_the_values() {
        for of in Of::value_variants() {
            let mut generator = schemars::generate::SchemaSettings::draft2020_12().for_serialize().into_generator();
            let mut schema = match of {
                Of::Dump => generator.root_schema_for::<Shown<kho::inspect::Decoded>>(),
                Of::Check => generator.root_schema_for::<crate::check::Report<'_>>(),
                Of::Diff => generator.root_schema_for::<crate::diff::Report<'_>>(),
                Of::Map => generator.root_schema_for::<Shown<crate::map::Report<'_>>>(),
                Of::Plan => generator.root_schema_for::<crate::plan::Report<'_>>(),
                Of::Understands => generator.root_schema_for::<kho::successor::Profile>(),
                Of::Manifest => generator.root_schema_for::<crate::manifest::Report>(),
                Of::ServeDemo => generator.root_schema_for::<crate::serve::report::Report>(),
            };
            let name = of.to_possible_value().unwrap().get_name().to_owned();
            schema.insert("title".into(), format!("kho {name} --format json").into());
            plain(schema.as_object_mut().unwrap().values_mut());
            let made = serde_json::to_string_pretty(&schema).unwrap() + "\n";
            if std::env::var_os("KHO_BLESS").is_some() {
                let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
                std::fs::write(folder.join(format!("{name}.schema.json")), made).unwrap();
            } else {
                assert!(made == of.text(), "KHO_BLESS=1 cargo test -p kho-cli writes cli/schema/{name}.schema.json");
            }
        }
    }
}
