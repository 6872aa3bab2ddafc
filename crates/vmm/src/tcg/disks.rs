//! The files of each disk, checked by our own rules before QEMU opens them.

use super::arguments::Layer;
use crate::MachineError;
use definition::{Disk, DiskFormat};
use disk::{DiskError, Format, OpenOptions};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// The image of `disk` and its backing files. Opened once the way engine `kvm` would, so that a
/// missing, locked, corrupt or reaching-out image is refused with the same words; QEMU then takes
/// its own locks on the same bytes.
pub(super) fn layers(index: usize, disk: &Disk) -> Result<Vec<Layer>, MachineError> {
    let refused = |error: DiskError| crate::disks::refused(index, &disk.path, &error);
    let options =
        OpenOptions { read_only: disk.read_only, ..OpenOptions::new(to_format(disk.format)) };
    let files = options.open(&disk.path).map_err(refused)?.files();
    let mut layers = Vec::with_capacity(files.len());
    let mut format = Some(disk.format);
    for path in files {
        // The check above refuses a backing file without a format.
        let Some(known) = format else { break };
        let below = disk::information(&path, to_format(known)).map_err(refused)?;
        format = below.backing_format.as_deref().and_then(from_name);
        layers.push(Layer { device: is_device(&path)?, path, format: known });
    }
    Ok(layers)
}

fn is_device(path: &Path) -> Result<bool, MachineError> {
    path.metadata()
        .map(|metadata| metadata.file_type().is_block_device())
        .map_err(|e| MachineError::file("cannot look at disk", path, e))
}

fn to_format(format: DiskFormat) -> Format {
    match format {
        DiskFormat::Raw => Format::Raw,
        DiskFormat::Qcow2 => Format::Qcow2,
    }
}

fn from_name(name: &str) -> Option<DiskFormat> {
    match name {
        "raw" => Some(DiskFormat::Raw),
        "qcow2" => Some(DiskFormat::Qcow2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::CreateOptions;

    fn image(path: &Path, backing: Option<(&Path, Format)>) {
        let options = CreateOptions {
            format: Format::Qcow2,
            size: 1 << 20,
            backing: backing.map(|(path, format)| (path.to_owned(), format)),
        };
        disk::create(path, &options).unwrap();
    }

    fn qcow2(path: &Path) -> Disk {
        Disk { path: path.to_owned(), format: DiskFormat::Qcow2, read_only: false, limit: None }
    }

    #[test]
    fn a_chain_is_followed_with_the_formats_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let [base, middle, top] =
            ["base.img", "middle.qcow2", "top.qcow2"].map(|name| folder.path().join(name));
        std::fs::write(&base, vec![0; 1 << 20]).unwrap();
        image(&middle, Some((&base, Format::Raw)));
        image(&top, Some((&middle, Format::Qcow2)));
        let layers = layers(0, &qcow2(&top)).unwrap();
        let formats: Vec<_> = layers.iter().map(|layer| layer.format).collect();
        assert_eq!(formats, [DiskFormat::Qcow2, DiskFormat::Qcow2, DiskFormat::Raw]);
        assert!(layers[2].path.ends_with("base.img"));
    }

    #[test]
    fn an_image_that_reaches_outside_its_folder_is_refused() {
        let outside = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        std::fs::write(&secret, vec![0; 1 << 20]).unwrap();
        let top = folder.path().join("top.qcow2");
        image(&top, Some((&secret, Format::Raw)));
        let message = layers(0, &qcow2(&top)).unwrap_err().to_string();
        assert!(message.contains("secret"), "{message}");
    }

    #[test]
    fn a_missing_image_is_named() {
        let missing = qcow2(Path::new("/no/such/image"));
        let message = layers(1, &missing).unwrap_err().to_string();
        assert!(message.starts_with("disk[1].path = "), "{message}");
        assert!(message.contains("/no/such/image"), "{message}");
    }
}
