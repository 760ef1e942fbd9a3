//! `protoc` as build scripts call it: `[--version] [--include_imports] [--include_source_info] -o FILE -I DIR… FILE…`.
//!
//! The client library compiles its .proto files with whatever program `PROTOC` names. This one is made of
//! protox, so the interop test needs no C++ compiler's protoc on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut output, mut includes, mut files) = (None, Vec::new(), Vec::new());
    let (mut imports, mut source_info) = (false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--version" => {
                println!("libprotoc 30.0");
                return Ok(());
            }
            "--include_imports" => imports = true,
            "--include_source_info" => source_info = true,
            "--experimental_allow_proto3_optional" => {}
            "-o" => output = Some(value()?),
            "-I" => includes.push(value()?),
            unknown if unknown.starts_with('-') => return Err(format!("unknown flag {unknown}").into()),
            file => files.push(file.to_owned()),
        }
    }
    let mut compiler = protox::Compiler::new(includes)?;
    compiler.include_imports(imports).include_source_info(source_info).open_files(files)?;
    std::fs::write(output.ok_or("no -o FILE")?, compiler.encode_file_descriptor_set())?;
    Ok(())
}
