//! A disc that boots on a BIOS machine: GRUB with its configuration inside, the image, the modules.

use super::Machine;
use crate::failure::{Context, Failure, Result};
use crate::process::{Output, Step};
use std::path::{Path, PathBuf};

/// GRUB's modules that the configuration needs; the rest they bring along.
const MODULES: &[&str] = &["biosdisk", "iso9660", "multiboot2"];

/// Makes the disc in `folder`.
pub(super) fn make(machine: &Machine, folder: &Path) -> Result<PathBuf> {
    let log = || Output::Logged(folder.join("disc.log"));
    let configuration = folder.join("grub.cfg");
    let mut text = format!("multiboot2 /boot/core-image {}\n", words(&machine.command_line)?);
    for (number, module) in machine.modules.iter().enumerate() {
        let words = words(&module.command_line)?;
        text.push_str(&format!("module2 /boot/module{number} {words}\n"));
    }
    text.push_str("boot\n");
    std::fs::write(&configuration, text)
        .context(|| format!("write {}", configuration.display()))?;
    let loader = folder.join("loader");
    Step::new("grub-mkimage")
        .arguments(["-O", "i386-pc-eltorito", "-p", "/boot", "-c"])
        .argument(&configuration)
        .argument("-o")
        .argument(&loader)
        .arguments(MODULES)
        .run(log())?;
    let disc = folder.join("disc.iso");
    let mut step = Step::new("xorriso")
        .arguments([
            "-as",
            "mkisofs",
            "-quiet",
            "-R",
            "-b",
            "boot/loader",
            "-no-emul-boot",
            "-boot-load-size",
            "4",
            "-boot-info-table",
            "-graft-points",
            "-o",
        ])
        .argument(&disc);
    for (name, path) in [("loader", &loader), ("core-image", &machine.image)] {
        step = step.argument(format!("boot/{name}={}", path.display()));
    }
    for (number, module) in machine.modules.iter().enumerate() {
        step = step.argument(format!("boot/module{number}={}", module.path.display()));
    }
    step.run(log())?;
    Ok(disc)
}

/// The command line as words of GRUB's script language, each quoted.
fn words(command_line: &str) -> Result<String> {
    if command_line.contains(['\'', '\n']) {
        return Err(Failure::new(format!(
            "`{command_line}` cannot be a command line on a disc: no quotes and line ends there"
        )));
    }
    let quoted: Vec<String> =
        command_line.split_whitespace().map(|word| format!("'{word}'")).collect();
    Ok(quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_reach_the_image_as_they_are() {
        assert_eq!(words("a  b=$c;d").expect("fine"), "'a' 'b=$c;d'");
        assert_eq!(words("").expect("fine"), "");
        assert!(words("it's").is_err());
    }
}
