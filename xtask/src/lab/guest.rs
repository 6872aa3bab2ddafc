//! The guest that scenarios boot inside a lab machine: the same Debian kernel, and an initial RAM disk
//! with busybox, the drivers of every device under test and `lab-tool`.

use crate::cpio::Archive;
use crate::failure::{Context, Failure, Result};
use crate::image::Image;
use crate::{binaries, workspace};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What a guest loads, in this order; what these need comes along.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "vmw_vsock_virtio_transport",
    "qemu_fw_cfg",
    "9p",
    "9pnet_virtio",
    "9pnet_fd",
    "virtiofs",
    "9pnet_fd",
    "overlay",
    "efivarfs",
    "button",
    "evdev",
    "virtio_input",
    "virtio_gpu",
];
/// First program of the guest, and the script busybox's DHCP client calls.
const INIT: &str = include_str!("../../../tests/lab/guest/init.sh");
const UDHCPC: &str = include_str!("../../../tests/lab/guest/udhcpc.sh");

/// Names of the variables that give tests outside the lab its kernel and its initial RAM disk.
const FOR_TESTS: [&str; 2] = ["MACROHARD_TEST_KERNEL", "MACROHARD_TEST_INITRD"];

/// What tests on this machine use of the lab's: the same guest to boot, and virtiofsd in `PATH`.
/// Variables and their values.
pub(crate) fn for_tests() -> Result<Vec<(&'static str, OsString)>> {
    let image = crate::image::prepare()?;
    let [kernel, initrd, ..] = &files(&image)?[..] else {
        return Err(Failure::new("the lab's guest has no kernel or no initial RAM disk"));
    };
    let paths = [&kernel.0, &initrd.0].map(|path| path.clone().into_os_string());
    let mut variables: Vec<_> = FOR_TESTS.into_iter().zip(paths).collect();
    let virtiofsd = binaries::virtiofsd()?;
    let search = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&search).chain(virtiofsd.parent().map(Path::to_path_buf));
    let search = std::env::join_paths(folders)
        .map_err(|error| Failure::new(format!("{}: {error}", virtiofsd.display())))?;
    variables.push(("PATH", search));
    Ok(variables)
}

/// The files of the guest and where scenarios find them in the lab machine.
pub(crate) fn files(image: &Image) -> Result<Vec<(PathBuf, String)>> {
    let folder = workspace::folder("lab")?;
    let initrd = folder.join("guest-initrd.cpio");
    let built = binaries::build(&["lab-tool", "guest-agent"])?;
    let [small, agent] = ["lab-tool", "macrohard-guest-agent"].map(|name| folder.join(name));
    for program in [&small, &agent] {
        let name = program.file_name().unwrap_or_default();
        binaries::stripped(&built.join(name), program)?;
    }
    build(image, &[&small, &agent], &initrd)?;
    Ok(vec![
        (image.kernel(), "/lab/guest/vmlinuz".to_owned()),
        (initrd, "/lab/guest/initrd".to_owned()),
        (small, "/opt/macrohard/bin/lab-tool".to_owned()),
    ])
}

fn build(image: &Image, programs: &[&Path], to: &Path) -> Result {
    let read = |path: &Path| std::fs::read(path).context(|| format!("read {}", path.display()));
    let mut archive = Archive::new();
    for folder in ["/dev", "/proc", "/sys", "/tmp", "/bin", "/mnt"] {
        archive.folder(folder);
    }
    archive.device("/dev/console", 5, 1);
    image.add_busybox(&mut archive)?;
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("/bin/{name}"), 0o755, &read(program)?);
    }
    archive.file("/bin/udhcpc-script", 0o755, UDHCPC.as_bytes());
    archive.file("/init", 0o755, INIT.as_bytes());
    image.add_modules(&mut archive, MODULES)?;
    std::fs::write(to, archive.finish()).context(|| format!("write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::FOR_TESTS;

    /// A test that found no Linux to boot would say that it was skipped, and pass.
    #[test]
    fn tests_look_for_linux_where_it_is_given() {
        let looks = include_str!("../../../crates/vmm/tests/tcg/linux.rs");
        for name in FOR_TESTS {
            assert!(looks.contains(&format!("{name:?}")), "{name}");
        }
    }
}
