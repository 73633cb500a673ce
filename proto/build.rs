//! Compiles the .proto files without protoc.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "weft/discovery/v1/discovery.proto",
        "weft/identity/v1/identity.proto",
        "weft/federation/v1/federation.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    // Of each message which of its fields are messages, and which these are: what is counted before it is decoded (src/parts.rs). An
    // entry of a map is no message in memory.
    let (mut shapes, mut entries) = (BTreeMap::new(), BTreeSet::new());
    for file in &descriptors.file {
        let mut messages: Vec<_> = file
            .message_type
            .iter()
            .map(|message| (format!(".{}.{}", file.package(), message.name()), message))
            .collect();
        while let Some((name, message)) = messages.pop() {
            let nested = message.nested_type.iter();
            messages.extend(nested.map(|inner| (format!("{name}.{}", inner.name()), inner)));
            let is_entry = message.options.as_ref().is_some_and(|options| options.map_entry());
            let of_messages = message.field.iter().filter(|field| field.type_name().starts_with('.'));
            let fields = of_messages.map(|field| (field.number(), field.type_name().to_owned()));
            if is_entry {
                entries.insert(name);
            } else {
                shapes.insert(name, fields.collect::<Vec<_>>());
            }
        }
    }
    fs::write(
        Path::new(&env::var("OUT_DIR")?).join("shapes.rs"),
        written(&shapes, &entries)?,
    )?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        // The same content is the same bytes.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}

/// A table in Rust, in order of name. A field of an enum has a type that is not in it.
fn written(
    shapes: &BTreeMap<String, Vec<(i32, String)>>,
    entries: &BTreeSet<String>,
) -> Result<String, std::fmt::Error> {
    let mut text = String::from("[\n");
    for (name, fields) in shapes {
        let name = name.trim_start_matches('.');
        write!(text, "    ({name:?}, &[")?;
        for (number, of) in fields {
            if entries.contains(of) {
                write!(text, "({number}, Inner::Entries), ")?;
            } else if let Some(at) = shapes.keys().position(|name| name == of) {
                write!(text, "({number}, Inner::Message({at})), ")?;
            }
        }
        text.push_str("]),\n");
    }
    text.push(']');
    Ok(text)
}
