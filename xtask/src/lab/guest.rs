//! The guest that scenarios boot inside a lab machine: the same Debian kernel, and an initial RAM disk
//! with busybox, the drivers of every device under test and `lab-tool`.

use crate::cpio::Archive;
use crate::failure::{Context, Result};
use crate::image::Image;
use crate::process::Step;
use crate::{binaries, workspace};
use std::path::{Path, PathBuf};

/// What a guest loads, in this order; what these need comes along.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "vmw_vsock_virtio_transport",
    "9p",
    "9pnet_virtio",
    "virtiofs",
    "efivarfs",
    "button",
    "evdev",
];
/// First program of the guest, and the script busybox's DHCP client calls.
const INIT: &str = include_str!("../../../tests/lab/guest/init.sh");
const UDHCPC: &str = include_str!("../../../tests/lab/guest/udhcpc.sh");

/// The files of the guest and where scenarios find them in the lab machine.
pub(crate) fn files(image: &Image) -> Result<Vec<(PathBuf, String)>> {
    let tool = binaries::build(&["lab-tool"])?.join("lab-tool");
    let initrd = workspace::folder("lab")?.join("guest-initrd.cpio");
    let small = workspace::folder("lab")?.join("lab-tool");
    binaries::stripped(&tool, &small)?;
    build(image, &small, &initrd)?;
    Ok(vec![
        (image.kernel(), "/lab/guest/vmlinuz".to_owned()),
        (initrd, "/lab/guest/initrd".to_owned()),
        (small, "/opt/macrohard/bin/lab-tool".to_owned()),
    ])
}

fn build(image: &Image, tool: &Path, to: &Path) -> Result {
    let read = |path: &Path| std::fs::read(path).context(|| format!("read {}", path.display()));
    let mut archive = Archive::new();
    for folder in ["/dev", "/proc", "/sys", "/tmp", "/bin", "/mnt"] {
        archive.folder(folder);
    }
    archive.device("/dev/console", 5, 1);
    archive.file("/bin/busybox", 0o755, &read(&image.busybox())?);
    let applets = Step::new(image.busybox())
        .argument("--list")
        .text()
        .unwrap_or_default();
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        archive.link(&format!("/bin/{applet}"), "busybox");
    }
    archive.file("/bin/lab-tool", 0o755, &read(tool)?);
    archive.file("/bin/udhcpc-script", 0o755, UDHCPC.as_bytes());
    archive.file("/init", 0o755, INIT.as_bytes());
    image.add_modules(&mut archive, MODULES)?;
    std::fs::write(to, archive.finish()).context(|| format!("write {}", to.display()))
}
