//! Compiles the .proto files without protoc.

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
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        // The same content is the same bytes.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
