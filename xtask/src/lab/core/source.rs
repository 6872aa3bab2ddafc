//! Where a guest's files come from: a path, or a name for what the lab makes itself.

use crate::cpio::Archive;
use crate::failure::{Context, Failure, Result};
use crate::lab::guest;
use crate::process::{Output, Step};
use crate::{bare_metal, image, workspace};
use std::path::{Path, PathBuf};

/// A kernel: `tiny:NAME` of `tests/guests`, `hvt:NAME` of `tests/unikernels`, `hostile` of
/// `tests/hostile`, `debian`, `multiboot` for `tests/lab/multiboot.s`, or a file.
pub(super) fn kernel(name: &str) -> Result<Vec<u8>> {
    if let Some(tiny) = name.strip_prefix("tiny:") {
        return tiny_guests::find(tiny).map(|guest| guest.image.to_vec()).ok_or_else(|| {
            let names: Vec<&str> = tiny_guests::ALL
                .iter()
                .chain([
                    &tiny_guests::SMP,
                    &tiny_guests::EXITS,
                    &tiny_guests::REFUSED,
                    &tiny_guests::CONTROL_REGISTERS,
                    &tiny_guests::NMI,
                    &tiny_guests::EXITS,
                ])
                .map(|guest| guest.name)
                .collect();
            Failure::new(format!(
                "there is no tiny guest `{tiny}`; there are: {}",
                names.join(", ")
            ))
        });
    }
    if name == "hostile" {
        return read(&bare_metal::hostile_guest()?);
    }
    if let Some(wanted) = name.strip_prefix("hvt:") {
        let all = bare_metal::unikernels()?;
        let found = all.iter().find(|(name, _)| *name == wanted);
        let (_, path) = found.ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            Failure::new(format!(
                "there is no unikernel `{wanted}`; there are: {}",
                names.join(", ")
            ))
        })?;
        return read(path);
    }
    if name == "debian" {
        return read(&image::prepare()?.kernel());
    }
    if name == "multiboot" {
        return read(&multiboot()?);
    }
    read(Path::new(name))
}

/// Assembles the Multiboot 1 kernel.
fn multiboot() -> Result<PathBuf> {
    let folder = workspace::folder("lab/images")?;
    let log = folder.join("multiboot.log");
    let _ = std::fs::remove_file(&log);
    let object = folder.join("multiboot.o");
    let image = folder.join("multiboot");
    Step::new("as")
        .arguments(["--32", "-o"])
        .argument(&object)
        .argument(workspace::root().join("tests/lab/multiboot.s"))
        .run(Output::Logged(log.clone()))?;
    Step::new("ld")
        .arguments(["-m", "elf_i386", "-n", "-Ttext", "0x100000", "-o"])
        .argument(&image)
        .argument(&object)
        .run(Output::Logged(log))?;
    Ok(image)
}

/// An initial RAM disk or module: `guest` for the lab's guest (`tests/lab/guest`), `text:TEXT`, or a
/// file.
pub(super) fn initrd(name: &str) -> Result<Vec<u8>> {
    if name == "guest" {
        guest::files(&image::prepare()?)?;
        return read(&workspace::folder("lab")?.join("guest-initrd.cpio"));
    }
    if let Some(text) = name.strip_prefix("text:") {
        return Ok(text.as_bytes().to_vec());
    }
    read(Path::new(name))
}

/// The same, relative to the clone: what scenarios name.
pub(super) fn in_clone(name: &str, get: fn(&str) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let path = workspace::root().join(name);
    match path.to_str() {
        Some(path) if Path::new(path).exists() => get(path),
        _ => get(name),
    }
}

/// The lab's guest's script, as an archive to put behind its initial RAM disk.
pub(super) fn with_check(mut initrd: Vec<u8>, script: &str) -> Vec<u8> {
    let mut archive = Archive::new();
    let script = format!("#!/bin/busybox sh\n{script}\n");
    archive.file("/check", 0o755, script.as_bytes());
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(archive.finish());
    initrd
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).context(|| format!("read {}", path.display()))
}
