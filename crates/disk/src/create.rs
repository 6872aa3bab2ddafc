//! New images, and what is known about existing ones.

use crate::chain::{OpenOptions, open_unlocked};
use crate::header::Header;
use crate::layer::Layer;
use crate::lock::Access;
use crate::{BackingPolicy, DiskError, Format, SECTOR};
use imago::format::builder::FormatCreateBuilder;
use imago::qcow2::Qcow2;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The largest disk of either format: an offset in a file has 63 bits, less room for tables.
const MOST_BYTES: u64 = 1 << 60;

/// What a new image is to be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Its format.
    pub format: Format,
    /// Bytes of the disk, a multiple of 512; with a backing file, 0 takes the backing file's.
    pub size: u64,
    /// For a qcow2: what unwritten data are read from, as named in the image, and its format.
    pub backing: Option<(PathBuf, Format)>,
}

/// Makes an image at `path`, where nothing may be yet.
///
/// # Errors
/// Something is there, the size is not possible, the backing file is not usable, or the filesystem
/// fails. No half-made file stays.
pub fn create(path: &Path, options: &CreateOptions) -> Result<(), DiskError> {
    let mut size = options.size;
    if let Some((backing, format)) = &options.backing {
        if options.format == Format::Raw {
            return Err(DiskError::Backing {
                path: path.to_owned(),
                backing: backing.display().to_string(),
                fact: "a raw image has none; use qcow2".to_owned(),
            });
        }
        let named = path.parent().unwrap_or(Path::new("")).join(backing);
        let open =
            OpenOptions { format: *format, read_only: true, backing: BackingPolicy::default() };
        let below = open.open(&named)?;
        if size == 0 {
            size = below.size();
        }
    }
    if size == 0 || size > MOST_BYTES || !size.is_multiple_of(SECTOR) {
        let (format, least, most) = (options.format, SECTOR, MOST_BYTES);
        return Err(DiskError::Size { size, format, least, most });
    }
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(DiskError::io(path, "create"))?;
    let made = match options.format {
        Format::Raw => file.set_len(size).map_err(DiskError::io(path, "set the length of")),
        Format::Qcow2 => format_qcow2(file, path, size, options.backing.as_ref()),
    };
    if made.is_err() {
        // The error of making it is the one worth telling.
        let _ = std::fs::remove_file(path);
    }
    made
}

fn format_qcow2(
    file: File,
    path: &Path,
    size: u64,
    backing: Option<&(PathBuf, Format)>,
) -> Result<(), DiskError> {
    let layer = Layer::new(file, path.to_owned());
    let mut builder = Qcow2::<Layer>::create_builder(layer).size(size);
    if let Some((backing, format)) = backing {
        let name = backing.to_str().ok_or_else(|| DiskError::Backing {
            path: path.to_owned(),
            backing: backing.display().to_string(),
            fact: "its name is not UTF-8".to_owned(),
        })?;
        builder = builder.backing(name.to_owned(), format.to_string());
    }
    builder.create().map_err(DiskError::io(path, "format"))
}

/// What is known about an image without its backing files.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Information {
    /// As asked for.
    pub format: Format,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes the file takes on its filesystem.
    pub allocated: u64,
    /// Bytes per cluster, of a qcow2.
    pub cluster_size: Option<u64>,
    /// The backing file as named in the image.
    pub backing: Option<String>,
    /// The backing file's format as recorded.
    pub backing_format: Option<String>,
    /// Internal snapshots.
    pub snapshots: u32,
}

/// Looks at the image at `path`, also while a VM uses it.
///
/// # Errors
/// Missing, corrupt or not supported.
pub fn information(path: &Path, format: Format) -> Result<Information, DiskError> {
    let file = open_unlocked(path, Access::Read)?;
    let metadata = file.metadata().map_err(DiskError::io(path, "look at"))?;
    let layer = Layer::new(file, path.to_owned());
    let mut information = Information {
        format,
        size: layer.length().map_err(DiskError::io(path, "find the length of"))?,
        // st_blocks counts 512 bytes whatever the filesystem's block size (stat(2)).
        allocated: metadata.blocks() * 512,
        cluster_size: None,
        backing: None,
        backing_format: None,
        snapshots: 0,
    };
    if format == Format::Qcow2 {
        let header = Header::read(&layer, path, false)?;
        information.size = header.size;
        information.cluster_size = Some(header.cluster_size);
        information.snapshots = header.snapshots;
        let image: Qcow2<Layer> = Qcow2::open_image(layer, false).map_err(|error| {
            DiskError::Corrupt { path: path.to_owned(), fact: error.to_string() }
        })?;
        information.backing = image.implicit_backing_file().cloned();
        information.backing_format = image.implicit_backing_format().cloned();
    }
    Ok(information)
}
