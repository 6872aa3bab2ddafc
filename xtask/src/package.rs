//! `cargo xtask package`: a Debian package with the programs, man pages, completions and the systemd
//! user unit, and one with the core and its entry in GRUB's menu.

use crate::failure::{Context, Result};
use crate::process::{Output, Step, during};
use crate::{bare_metal, binaries, guest_package, packages, workspace};
use std::path::{Path, PathBuf};

/// What the programs call; all but the compositor are static and need no library.
const DEPENDS: &str =
    "qemu-system-x86 (>= 1:9), qemu-system-modules-opengl, qemu-utils, ovmf, passt";
const RECOMMENDS: &str = "mmdebstrap, e2fsprogs, virtiofsd, libx11-6, libx11-xcb1, libxcursor1, libxi6, libxkbcommon-x11-0, \
                          libvulkan1";

/// Builds `target/package/macrohard-hypervisor_VERSION_amd64.deb`.
pub(crate) fn run() -> Result<i32> {
    packages::require(&["dpkg-dev"])?;
    let programs = binaries::product()?;
    let folder = workspace::folder("package")?;
    let tree = folder.join("tree");
    let _ = std::fs::remove_dir_all(&tree);
    for program in binaries::PROGRAMS {
        binaries::stripped(&programs.join(program), &tree.join("usr/bin").join(program))?;
    }
    let compositor = binaries::compositor()?;
    binaries::stripped(&compositor, &tree.join("usr/bin/macrohard-compositor"))?;
    put(
        &programs.join(guest_package::FILE),
        &tree.join("usr/lib/macrohard-hypervisor").join(guest_package::FILE),
    )?;
    let cli = programs.join("macrohard-hypervisor");
    let pages = tree.join("usr/share/man/man1");
    std::fs::create_dir_all(&pages).context(|| format!("make {}", pages.display()))?;
    Step::new(&cli).arguments(["man", "--output"]).argument(&pages).run(Output::Shown)?;
    for (shell, path) in [
        ("bash", "usr/share/bash-completion/completions/macrohard-hypervisor"),
        ("zsh", "usr/share/zsh/vendor-completions/_macrohard-hypervisor"),
        ("fish", "usr/share/fish/vendor_completions.d/macrohard-hypervisor.fish"),
    ] {
        let script = Step::new(&cli).arguments(["completions", shell]).text().unwrap_or_default();
        write(&tree.join(path), &script)?;
    }
    let units = workspace::root().join("packaging/systemd");
    if let Ok(entries) = std::fs::read_dir(&units) {
        for entry in entries.flatten() {
            put(&entry.path(), &tree.join("usr/lib/systemd/user").join(entry.file_name()))?;
        }
    }
    let activation = "org.macrohard.Hypervisor1.service";
    put(
        &workspace::root().join("packaging/dbus").join(activation),
        &tree.join("usr/share/dbus-1/services").join(activation),
    )?;
    licences(&tree, "macrohard-hypervisor")?;
    let version = env!("CARGO_PKG_VERSION");
    write(
        &tree.join("DEBIAN/control"),
        &format!(
            "Package: macrohard-hypervisor\nVersion: {version}\nArchitecture: amd64\nMaintainer: The macrohard-hypervisor authors <nobody@localhost>\n\
             Section: admin\nPriority: optional\nDepends: {DEPENDS}\nRecommends: {RECOMMENDS}\n\
             Description: desktop hypervisor for Linux guests\n Runs hardware-isolated guests on Linux KVM or a software CPU.\n"
        ),
    )?;
    let package = folder.join(format!("macrohard-hypervisor_{version}_amd64.deb"));
    during("packing", || {
        Step::new("dpkg-deb")
            .arguments(["--root-owner-group", "--build"])
            .argument(&tree)
            .argument(&package)
            .run(Output::Logged(folder.join("package.log")))
    })?;
    println!("{}", package.display());
    println!("{}", core_package(&folder)?.display());
    Ok(0)
}

/// Builds `target/package/macrohard-core_VERSION_amd64.deb`.
fn core_package(folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("core-tree");
    let _ = std::fs::remove_dir_all(&tree);
    guest_package::copy(&workspace::root().join("packaging/core"), &tree)?;
    put(&bare_metal::images()?.core, &tree.join("boot/macrohard-core"))?;
    licences(&tree, "macrohard-core")?;
    let version = env!("CARGO_PKG_VERSION");
    write(
        &tree.join("DEBIAN/control"),
        &format!(
            "Package: macrohard-core\nVersion: {version}\nArchitecture: amd64\nMaintainer: The macrohard-hypervisor authors <nobody@localhost>\n\
             Section: admin\nPriority: optional\nDepends: grub-pc | grub-common, adduser\nEnhances: macrohard-hypervisor\n\
             Description: privileged core of macrohard-hypervisor\n A small hypervisor that boots beneath Linux and runs guests for it.\n"
        ),
    )?;
    let package = folder.join(format!("macrohard-core_{version}_amd64.deb"));
    Step::new("dpkg-deb")
        .arguments(["--root-owner-group", "--build"])
        .argument(&tree)
        .argument(&package)
        .run(Output::Logged(folder.join("package.log")))?;
    Ok(package)
}

fn licences(tree: &Path, package: &str) -> Result {
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let to = tree.join("usr/share/doc").join(package).join(licence);
        put(&workspace::root().join(licence), &to)?;
    }
    Ok(())
}

fn put(from: &Path, to: &Path) -> Result {
    let above = to.parent().unwrap_or(to);
    std::fs::create_dir_all(above).context(|| format!("make {}", above.display()))?;
    std::fs::copy(from, to).context(|| format!("copy {}", from.display()))?;
    Ok(())
}

fn write(path: &Path, text: &str) -> Result {
    let above = path.parent().unwrap_or(path);
    std::fs::create_dir_all(above).context(|| format!("make {}", above.display()))?;
    std::fs::write(path, text).context(|| format!("write {}", path.display()))
}
