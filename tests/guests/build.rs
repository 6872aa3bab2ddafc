//! Assembles each program into a flat image with GNU as, ld and objcopy.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// Where an image is put and starts.
const LOAD_ADDRESS: &str = "0x7c00";

fn main() {
    println!("cargo::rerun-if-changed=programs");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut sources: Vec<PathBuf> = fs::read_dir("programs")
        .expect("tests/guests/programs is part of the source tree")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "s"))
        .collect();
    sources.sort();
    for source in sources {
        assemble(&source, &out);
    }
}

fn assemble(source: &Path, out: &Path) {
    let name = source.file_stem().expect("a program has a name");
    let file = |extension| out.join(name).with_extension(extension);
    let (object, linked, image) = (file("o"), file("elf"), file("bin"));
    run("as", |command| {
        command.args(["--64", "-I", "programs", "-o"]).arg(&object).arg(source);
    });
    run("ld", |command| {
        command.args(["-m", "elf_x86_64", "--build-id=none", "-Ttext", LOAD_ADDRESS, "-o"]);
        command.arg(&linked).arg(&object);
    });
    run("objcopy", |command| {
        command.args(["-O", "binary", "-j", ".text"]).arg(&linked).arg(&image);
    });
}

/// Runs a tool of the binutils: the one for x86-64 where the machine is another, else the plain one.
fn run(tool: &str, arguments: impl Fn(&mut Command)) {
    for program in [format!("x86_64-linux-gnu-{tool}"), tool.to_owned()] {
        let mut command = Command::new(&program);
        arguments(&mut command);
        match command.status() {
            Ok(status) if status.success() => return,
            Ok(status) => panic!("{program} ended with {status}: {command:?}"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => panic!("{program} cannot be run: {error}"),
        }
    }
    panic!(
        "the tiny guests need GNU {tool}, which is not installed: install the package `binutils` \
         (on Debian: apt-get install binutils; on a machine that is not x86-64: \
         apt-get install binutils-x86-64-linux-gnu)"
    );
}
