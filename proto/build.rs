//! Compiles `proto/**/*.proto` into Rust. protox is a compiler in Rust, so nobody installs protoc.
//!
//! `src/proto/mod.rs` includes the output, one file a package.

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = Vec::new();
    for directory in ["proto/etcd", "proto/grpc", "proto/internal"] {
        // A watched directory also notices files that are added or removed.
        println!("cargo:rerun-if-changed={directory}");
        collect(Path::new(directory), &mut files)?;
    }
    println!("cargo:rerun-if-changed=proto/build.rs");
    files.sort();

    let mut descriptors = protox::compile(&files, ["proto"])?;
    for message in descriptors.file.iter_mut().flat_map(|file| &mut file.message_type) {
        for field in &mut message.field {
            // snake_case makes `peer_ur_ls` of these. The name never travels in protobuf, so Rust
            // gets the readable one; `proto/` keeps etcd's, which JSON shows.
            let readable = match field.name() {
                "peerURLs" => "peer_urls",
                "clientURLs" => "client_urls",
                _ => continue,
            };
            field.name = Some(readable.to_owned());
        }
    }

    tonic_prost_build::configure()
        .bytes(".")
        // Maps with an order: two members encode alike.
        .btree_map(".")
        .codec_path("crate::proto::Codec")
        // There is no tonic transport in the product: channels and listeners are our own.
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}

/// Adds the directory's .proto files.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
