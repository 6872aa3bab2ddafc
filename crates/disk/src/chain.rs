//! Opening an image and the chain of backing files below it, each within the policy.

use crate::header::Header;
use crate::image::Image;
use crate::layer::Layer;
use crate::lock::{Access, lock};
use crate::{DiskError, Format};
use imago::FormatAccess;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// More backing files than anybody has, and few enough that a loop ends.
const MOST_LAYERS: usize = 64;

/// Which backing files an image may name: those in its own folder or below, and those allowed
/// here. An image from elsewhere could otherwise name any file of the user and let the guest read
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackingPolicy {
    /// Files, or folders with everything below, that backing files may be.
    pub allow: Vec<PathBuf>,
}

/// How to open an image.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Its format; never guessed.
    pub format: Format,
    /// Nobody writes through this [`Image`].
    pub read_only: bool,
    /// Which backing files it may have.
    pub backing: BackingPolicy,
}

impl OpenOptions {
    /// For reading and writing, backing files in the image's own folder.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, read_only: false, backing: BackingPolicy::default() }
    }

    /// Opens the image at `path` and locks every file of its chain.
    ///
    /// # Errors
    /// Missing, locked, corrupt, not supported, or against the policy.
    pub fn open(&self, path: &Path) -> Result<Image, DiskError> {
        let access = if self.read_only { Access::Read } else { Access::Write };
        let layer = open_file(path, access)?;
        match self.format {
            Format::Raw => Image::raw(layer, path, self.read_only),
            Format::Qcow2 => {
                let folder = folder_of(path)?;
                let mut files = vec![path.to_owned()];
                let (access, header) = open_qcow2(layer, path, &folder, self, access, &mut files)?;
                Ok(Image::qcow2(access, path, self.read_only, header, files))
            }
        }
    }
}

/// The real folder an image lies in.
fn folder_of(path: &Path) -> Result<PathBuf, DiskError> {
    let real = path.canonicalize().map_err(DiskError::io(path, "find"))?;
    Ok(real.parent().unwrap_or(Path::new("/")).to_owned())
}

/// Opens and locks one file.
fn open_file(path: &Path, access: Access) -> Result<Layer, DiskError> {
    let file = open_unlocked(path, access)?;
    lock(&file, path, access)?;
    Ok(Layer::new(file, path.to_owned()))
}

/// Opens one file, whoever else uses it.
pub(crate) fn open_unlocked(path: &Path, access: Access) -> Result<File, DiskError> {
    let flags = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::RDWR,
    };
    // Without NONBLOCK, opening a FIFO would wait for its other end.
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tried = match access {
        Access::Read => "open for reading",
        Access::Write => "open for writing",
    };
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(io::Error::from)
        .map_err(DiskError::io(path, tried))?;
    let file = File::from(file);
    let kind = file.metadata().map_err(DiskError::io(path, "look at"))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let kind = if kind.is_dir() { "a folder" } else { "something else" };
        return Err(DiskError::Kind { path: path.to_owned(), kind });
    }
    rustix::fs::fcntl_setfl(&file, OFlags::empty())
        .map_err(io::Error::from)
        .map_err(DiskError::io(path, "set up"))?;
    Ok(file)
}

/// Opens a qcow2 and what lies below; `files` gets the path of each backing file.
fn open_qcow2(
    layer: Layer,
    path: &Path,
    folder: &Path,
    options: &OpenOptions,
    access: Access,
    files: &mut Vec<PathBuf>,
) -> Result<(FormatAccess<Layer>, Header), DiskError> {
    let write = access == Access::Write;
    let header = Header::read(&layer, path, write)?;
    let corrupt =
        |error: io::Error| DiskError::Corrupt { path: path.to_owned(), fact: error.to_string() };
    let mut image: Qcow2<Layer> = Qcow2::open_image(layer, write).map_err(corrupt)?;
    image.set_data_file(None);
    let backing = match image.implicit_backing_file().cloned() {
        None => None,
        Some(name) => {
            let format = image.implicit_backing_format().cloned();
            Some(open_backing(path, &name, format.as_deref(), folder, options, files)?)
        }
    };
    image.set_backing(backing);
    Ok((FormatAccess::new(image), header))
}

fn open_backing(
    image: &Path,
    name: &str,
    format: Option<&str>,
    folder: &Path,
    options: &OpenOptions,
    files: &mut Vec<PathBuf>,
) -> Result<FormatAccess<Layer>, DiskError> {
    let refused = |fact: String| DiskError::Backing {
        path: image.to_owned(),
        backing: name.to_owned(),
        fact,
    };
    if files.len() >= MOST_LAYERS {
        return Err(refused(format!("more than {MOST_LAYERS} layers; does the chain loop?")));
    }
    let format = match format {
        Some("raw" | "file") => Format::Raw,
        Some("qcow2") => Format::Qcow2,
        Some(other) => {
            return Err(refused(format!("format {other:?}; raw and qcow2 are known")));
        }
        None => {
            return Err(refused(format!(
                "the image does not say its format; `qemu-img rebase -u -F FORMAT -b {name} {}` records it",
                image.display()
            )));
        }
    };
    // A relative name is relative to the image that has it.
    let named = image.parent().unwrap_or(Path::new("")).join(name);
    let path = named
        .canonicalize()
        .map_err(|error| refused(format!("looked for {}: {error}", named.display())))?;
    let allowed = |place: &Path| place.canonicalize().is_ok_and(|place| path.starts_with(place));
    if !path.starts_with(folder) && !options.backing.allow.iter().any(|place| allowed(place)) {
        return Err(DiskError::BackingOutside {
            path: image.to_owned(),
            backing: path,
            folder: folder.to_owned(),
        });
    }
    let layer = open_file(&path, Access::Read)?;
    files.push(path.clone());
    match format {
        Format::Qcow2 => Ok(open_qcow2(layer, &path, folder, options, Access::Read, files)?.0),
        Format::Raw => {
            let raw = Raw::open_image(layer, false).map_err(DiskError::io(&path, "open"))?;
            Ok(FormatAccess::new(raw))
        }
    }
}
