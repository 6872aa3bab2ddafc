//! The small languages of the options: sizes, disks, shares, network cards. Each refusal says what
//! may be written instead.

use definition::{DiskFormat, NetworkMode, ShareKind};
use std::path::{Path, PathBuf};

/// `--disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskArgument {
    pub(super) path: PathBuf,
    pub(super) format: DiskFormat,
    pub(super) read_only: bool,
    /// Bytes of a new image.
    pub(super) size: Option<u64>,
}

/// `--share`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShareArgument {
    pub(super) path: PathBuf,
    pub(super) tag: Option<String>,
    pub(super) read_only: bool,
    pub(super) kind: ShareKind,
}

/// `--net`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NetArgument {
    /// No network card at all.
    None,
    /// This one.
    Card {
        /// Its other end.
        mode: NetworkMode,
        /// Its address.
        mac: Option<String>,
    },
}

/// A number of bytes with a unit.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || "give a whole number with a unit: K, M, G or T, as in 20G".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0 && *bytes <= i64::MAX as u64)
        .ok_or_else(|| "the size must lie between 1K and 8388607T".to_owned())
}

/// Memory in MiB: a plain number, or a size.
pub(super) fn memory(text: &str) -> Result<u64, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| "the number is too large".to_owned());
    }
    match size(text) {
        Ok(bytes) if bytes.is_multiple_of(1 << 20) => Ok(bytes >> 20),
        Ok(_) => Err("memory comes in whole MiB".to_owned()),
        Err(_) => Err("give a number of MiB, or a size as in 512M or 4G".to_owned()),
    }
}

/// A screen's size: WIDTHxHEIGHT.
pub(super) fn screen(text: &str) -> Result<definition::Display, String> {
    let sides = text.split_once('x').and_then(|(width, height)| {
        Some(definition::Display { width: width.parse().ok()?, height: height.parse().ok()? })
    });
    sides.ok_or_else(|| "give width and height in pixels, as in 1280x800".to_owned())
}

/// Splits at single commas; a doubled one stands for itself.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let part = match letter {
            ',' if letters.peek() != Some(&',') => {
                parts.push(String::new());
                continue;
            }
            ',' => {
                letters.next();
                parts.last_mut()
            }
            _ => parts.last_mut(),
        };
        if let Some(part) = part {
            part.push(letter);
        }
    }
    parts
}

pub(super) fn disk(text: &str) -> Result<DiskArgument, String> {
    let mut parts = split(text).into_iter();
    let path = PathBuf::from(parts.next().unwrap_or_default());
    if path.as_os_str().is_empty() {
        return Err("the path is missing".to_owned());
    }
    let mut format = None;
    let mut read_only = extension(&path) == "iso";
    let mut new = None;
    for part in parts {
        match part.split_once('=').unwrap_or((&part, "")) {
            ("format", "raw") => format = Some(DiskFormat::Raw),
            ("format", "qcow2") => format = Some(DiskFormat::Qcow2),
            ("format", other) => {
                return Err(format!("format is {other:?}; allowed: raw, qcow2"));
            }
            ("readonly" | "read-only" | "ro", "") => read_only = true,
            ("size", value) => new = Some(size(value)?),
            _ => {
                return Err(format!(
                    "unknown option {part:?}; allowed: format=raw, format=qcow2, readonly, \
                     size=SIZE (a comma in the path is written twice)"
                ));
            }
        }
    }
    let format = match format {
        Some(format) => format,
        None => format_by_name(&path).ok_or_else(|| {
            format!(
                "the format of {path:?} does not follow from its name: add ,format=raw or \
                 ,format=qcow2"
            )
        })?,
    };
    if read_only && new.is_some() {
        return Err("a new image (size=) cannot be readonly".to_owned());
    }
    Ok(DiskArgument { path, format, read_only, size: new })
}

fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// The format that a name promises. Content is never asked: a guest could write a qcow2 header into
/// its raw disk and read any file of the host through it.
fn format_by_name(path: &Path) -> Option<DiskFormat> {
    match extension(path).as_str() {
        "qcow2" | "qcow" => Some(DiskFormat::Qcow2),
        "raw" | "img" | "iso" => Some(DiskFormat::Raw),
        _ if path.starts_with("/dev") => Some(DiskFormat::Raw),
        _ => None,
    }
}

pub(super) fn share(text: &str) -> Result<ShareArgument, String> {
    let mut rest = text;
    let mut share =
        ShareArgument { path: PathBuf::new(), tag: None, read_only: false, kind: ShareKind::Plan9 };
    while let Some((before, word)) = rest.rsplit_once(':') {
        match word {
            "ro" => share.read_only = true,
            "9p" => share.kind = ShareKind::Plan9,
            "virtio-fs" | "virtiofs" => share.kind = ShareKind::VirtioFs,
            // A slash belongs to a path; an empty word ends a path that has colons.
            _ if word.contains('/') => break,
            "" => {
                rest = before;
                break;
            }
            tag if share.tag.is_none() => share.tag = Some(tag.to_owned()),
            _ => break,
        }
        rest = before;
        if share.tag.is_some() {
            break;
        }
    }
    if rest.is_empty() {
        return Err("the folder is missing; allowed: PATH[:TAG][:ro][:9p|:virtio-fs]".to_owned());
    }
    share.path = PathBuf::from(rest);
    Ok(share)
}

pub(super) fn net(text: &str) -> Result<NetArgument, String> {
    let allowed = "allowed: passt, tap=INTERFACE, none, each but none with ,mac=ADDRESS";
    let mut parts = text.split(',');
    let mode = match parts.next().unwrap_or_default() {
        "passt" => NetworkMode::Passt,
        "none" if text == "none" => return Ok(NetArgument::None),
        other => match other.split_once('=') {
            Some(("tap", interface)) => NetworkMode::Tap { interface: interface.to_owned() },
            _ => return Err(format!("{text:?} is no network card; {allowed}")),
        },
    };
    let mut mac = None;
    for part in parts {
        match part.split_once('=') {
            Some(("mac", address)) => mac = Some(address.to_owned()),
            _ => return Err(format!("unknown option {part:?}; {allowed}")),
        }
    }
    Ok(NetArgument::Card { mode, mac })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_memory_is_mib_without() {
        assert_eq!(size("20G"), Ok(20 << 30));
        assert_eq!(size("1k"), Ok(1 << 10));
        assert_eq!(memory("4096"), Ok(4096));
        assert_eq!(memory("4G"), Ok(4096));
        assert_eq!(memory("0"), Ok(0));
        for wrong in ["", "20", "G", "-1G", "1.5G", "9999999999T", "20X", "０G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "lots", "1K", "99999999999999999999"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_disk_format_follows_the_name_or_must_be_given() {
        let qcow2 = disk("a.qcow2").unwrap();
        assert_eq!((qcow2.format, qcow2.read_only), (DiskFormat::Qcow2, false));
        assert_eq!(disk("a.IMG").unwrap().format, DiskFormat::Raw);
        assert!(disk("debian.iso").unwrap().read_only);
        assert_eq!(disk("/dev/sdb").unwrap().format, DiskFormat::Raw);
        assert!(disk("a.vmdk").unwrap_err().contains("format=raw"));
        assert_eq!(disk("a.vmdk,format=raw").unwrap().format, DiskFormat::Raw);
        let new = disk("a,,b.qcow2,size=1G,format=qcow2").unwrap();
        assert_eq!(new.path, Path::new("a,b.qcow2"));
        assert_eq!(new.size, Some(1 << 30));
        assert!(disk("a.img,ro").unwrap().read_only);
        for wrong in ["", "a.img,fromat=raw", "a.img,format=vmdk", "a.img,ro,size=1G", "a.img,"] {
            assert!(disk(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_is_a_path_and_words() {
        let plain = share("/home/me").unwrap();
        assert_eq!((plain.tag, plain.read_only), (None, false));
        let full = share("/srv/data:stuff:ro").unwrap();
        assert_eq!(full.path, Path::new("/srv/data"));
        assert_eq!(full.tag.as_deref(), Some("stuff"));
        assert!(full.read_only);
        assert_eq!(share("/a:virtio-fs").unwrap().kind, ShareKind::VirtioFs);
        assert_eq!(share("/a:b/c").unwrap().path, Path::new("/a:b/c"));
        assert_eq!(share("/a:b:").unwrap().path, Path::new("/a:b"));
        assert!(share("").is_err());
        assert!(share(":ro").is_err());
    }

    #[test]
    fn a_network_card_is_one_of_three() {
        assert_eq!(net("none"), Ok(NetArgument::None));
        assert_eq!(
            net("tap=tap0,mac=52:54:00:00:00:01"),
            Ok(NetArgument::Card {
                mode: NetworkMode::Tap { interface: "tap0".into() },
                mac: Some("52:54:00:00:00:01".into())
            })
        );
        for wrong in ["", "bridge", "tap", "none,mac=1", "passt,speed=1"] {
            assert!(net(wrong).is_err(), "{wrong}");
        }
    }
}
