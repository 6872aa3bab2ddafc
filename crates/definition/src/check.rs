//! The rules every definition keeps, whatever the host: each refusal names the field, the value
//! found and what is allowed.

use crate::name::check_name;
use crate::network::MacAddress;
use crate::{Boot, Disk, Network, NetworkMode, Share, VmDefinition, Windows};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

/// Bounds of the fields, in one place.
pub mod limits {
    use std::ops::RangeInclusive;

    /// Guest RAM in MiB. The upper bound keeps guest-physical addresses below 2^46, which every
    /// x86-64 CPU with nested paging translates; the host's memory is the tighter bound.
    pub const MEMORY: RangeInclusive<u64> = 16..=(1 << 26);
    /// RAM of a unikernel in MiB, a multiple of 2: one piece, below what the machine keeps under 4 GiB.
    pub const HVT_MEMORY: RangeInclusive<u64> = 16..=2816;
    /// Virtual CPUs: xAPIC ids are 8 bits and 255 is the broadcast (SDM 3A 11.6.1).
    pub const CPUS: RangeInclusive<u32> = 1..=255;
    /// Characters of a name.
    pub const NAME: RangeInclusive<usize> = 1..=100;
    /// Bytes of a name in UTF-8: a file name holds 255, and `.toml` and a temporary prefix must fit.
    pub const NAME_BYTES: usize = 200;
    /// Bytes of a kernel command line: Linux keeps 2048 with the final zero on x86
    /// (`COMMAND_LINE_SIZE`).
    pub const APPEND: usize = 2047;
    /// Disks of one VM. Together with the other devices they fit the slots of one PCI bus (32).
    pub const DISKS: usize = 12;
    /// Network cards of one VM.
    pub const NETWORKS: usize = 4;
    /// Shared folders of one VM that have a device.
    pub const SHARES: usize = 6;
    /// Shared folders of one VM that have none.
    pub const LIVE_SHARES: usize = 16;
    /// Bytes of a share's tag (virtio 1.2 5.11.4 gives virtio-fs 36; 9P drivers copy 31).
    pub const TAG: RangeInclusive<usize> = 1..=31;
    /// Bytes of a network interface's name (`IFNAMSIZ` 16 with the final zero).
    pub const INTERFACE: RangeInclusive<usize> = 1..=15;
    /// Window memory in MiB: a BAR is a power of two, and two full screens want 16 MiB.
    pub const WINDOW_MEMORY: RangeInclusive<u64> = 16..=4096;
    /// Pixels of each side of a screen at first. The largest takes 256 MiB, the most a frame may.
    pub const SCREEN: RangeInclusive<u32> = 200..=8192;
    /// TOML integers are signed 64-bit numbers.
    pub const RATE: u64 = i64::MAX as u64;
}

/// One step into a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key of a table.
    Key(&'static str),
    /// An element of an array.
    Index(usize),
}

/// Where in a definition a value stands, as in `disk[0].path`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Field(pub Vec<Step>);

impl Field {
    /// A field of the definition itself.
    #[must_use]
    pub fn top(key: &'static str) -> Self {
        Self(vec![Step::Key(key)])
    }
    /// A key within a table.
    #[must_use]
    pub fn inside(table: &'static str, key: &'static str) -> Self {
        Self(vec![Step::Key(table), Step::Key(key)])
    }
    /// A key within one element of an array of tables.
    #[must_use]
    pub fn element(array: &'static str, index: usize, key: &'static str) -> Self {
        Self(vec![Step::Key(array), Step::Index(index), Step::Key(key)])
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}{}; allowed: {allowed}", .found.as_deref().map(|found| format!(" ({found})")).unwrap_or_default())]
pub struct FieldProblem {
    /// Where.
    pub field: Field,
    /// What stands there.
    pub value: String,
    /// What the host answered about it, when the value itself is well formed.
    pub found: Option<String>,
    /// What may stand there.
    pub allowed: String,
}

impl FieldProblem {
    pub(crate) fn new(field: Field, value: impl fmt::Debug, allowed: impl Into<String>) -> Self {
        Self { field, value: shorten(&format!("{value:?}")), found: None, allowed: allowed.into() }
    }

    pub(crate) fn found(mut self, found: impl fmt::Display) -> Self {
        self.found = Some(found.to_string());
        self
    }
}

/// A value that is too long to repeat whole.
fn shorten(value: &str) -> String {
    const SHOWN: usize = 120;
    let count = value.chars().count();
    if count <= SHOWN {
        return value.to_owned();
    }
    let start: String = value.chars().take(SHOWN).collect();
    // The quotes around a text are not the person's.
    let quotes = if value.starts_with('"') { 2 } else { 0 };
    format!("{start}… ({} characters)", count - quotes)
}

impl VmDefinition {
    /// Checks every field by itself and against the others; looks at no file.
    ///
    /// # Errors
    /// The first field that is not allowed.
    pub fn check(&self) -> Result<(), FieldProblem> {
        check_name(&self.name)?;
        if !limits::MEMORY.contains(&self.memory) {
            return Err(FieldProblem::new(
                Field::top("memory"),
                self.memory,
                format!("{} to {} MiB", limits::MEMORY.start(), limits::MEMORY.end()),
            ));
        }
        if !limits::CPUS.contains(&self.cpus) {
            return Err(FieldProblem::new(
                Field::top("cpus"),
                self.cpus,
                format!("{} to {}", limits::CPUS.start(), limits::CPUS.end()),
            ));
        }
        self.boot.check()?;
        if self.boot.hvt.is_some() {
            self.check_hvt()?;
        }
        if let Some(display) = &self.display {
            for (key, side) in [("width", display.width), ("height", display.height)] {
                if !limits::SCREEN.contains(&side) {
                    let (least, most) = (limits::SCREEN.start(), limits::SCREEN.end());
                    let allowed = format!("{least} to {most} pixels");
                    return Err(FieldProblem::new(Field::inside("display", key), side, allowed));
                }
            }
        }
        check_count("disk", self.disks.len(), limits::DISKS)?;
        check_count("net", self.networks.len(), limits::NETWORKS)?;
        let devices = self.shares.iter().filter(|share| share.kind.has_device()).count();
        check_count("share", devices, limits::SHARES)?;
        check_count("share", self.shares.len() - devices, limits::LIVE_SHARES)?;
        let mut paths = BTreeSet::new();
        for (index, disk) in self.disks.iter().enumerate() {
            disk.check(index)?;
            if !paths.insert(&disk.path) {
                return Err(FieldProblem::new(
                    Field::element("disk", index, "path"),
                    &disk.path,
                    "each image once in a VM",
                ));
            }
        }
        for (index, network) in self.networks.iter().enumerate() {
            network.check(index)?;
        }
        let mut tags = BTreeSet::new();
        for (index, share) in self.shares.iter().enumerate() {
            share.check(index)?;
            if !tags.insert(&share.tag) {
                return Err(FieldProblem::new(
                    Field::element("share", index, "tag"),
                    &share.tag,
                    "a tag that no other share of the VM has",
                ));
            }
        }
        self.windows.check()
    }
}

impl VmDefinition {
    /// What a unikernel's machine cannot have.
    fn check_hvt(&self) -> Result<(), FieldProblem> {
        let refused = |key, value: &dyn fmt::Debug, allowed: &str| {
            FieldProblem::new(Field::top(key), value, format!("{allowed}, with boot.hvt"))
        };
        let memory = limits::HVT_MEMORY;
        if !memory.contains(&self.memory) || !self.memory.is_multiple_of(2) {
            let (least, most) = (memory.start(), memory.end());
            let allowed = format!("an even number from {least} to {most} MiB");
            return Err(refused("memory", &self.memory, &allowed));
        }
        if self.cpus != 1 {
            return Err(refused("cpus", &self.cpus, "1"));
        }
        if !self.shares.is_empty() {
            let tags: Vec<_> = self.shares.iter().map(|share| &share.tag).collect();
            return Err(refused("share", &tags, "none"));
        }
        if let Some(display) = &self.display {
            return Err(refused("display", display, "none"));
        }
        Ok(())
    }
}

fn check_count(array: &'static str, count: usize, limit: usize) -> Result<(), FieldProblem> {
    if count > limit {
        return Err(FieldProblem {
            field: Field::top(array),
            value: format!("given {count} times"),
            found: None,
            allowed: format!("at most {limit}"),
        });
    }
    Ok(())
}

/// Paths are absolute, because the VM process runs elsewhere than the person who wrote them, and
/// UTF-8, because TOML is.
fn check_path(field: Field, path: &Path) -> Result<(), FieldProblem> {
    let allowed = "an absolute path in UTF-8 without control characters";
    match path.to_str() {
        Some(text) if path.is_absolute() && !text.contains(char::is_control) => Ok(()),
        _ => Err(FieldProblem::new(field, path, allowed)),
    }
}

impl Windows {
    fn check(&self) -> Result<(), FieldProblem> {
        let memory = limits::WINDOW_MEMORY;
        let possible = memory.contains(&self.memory) && self.memory.is_power_of_two();
        if self.memory != 0 && !possible {
            let (least, most) = (memory.start(), memory.end());
            return Err(FieldProblem::new(
                Field::inside("windows", "memory"),
                self.memory,
                format!("0 (none) or a power of two from {least} to {most} MiB"),
            ));
        }
        Ok(())
    }
}

impl Boot {
    fn check(&self) -> Result<(), FieldProblem> {
        let paths = [
            ("kernel", &self.kernel),
            ("hvt", &self.hvt),
            ("initrd", &self.initrd),
            ("firmware", &self.firmware),
        ];
        for (key, path) in paths {
            if let Some(path) = path {
                check_path(Field::inside("boot", key), path)?;
            }
        }
        if self.kernel.is_none() {
            if let Some(initrd) = &self.initrd {
                return Err(FieldProblem::new(
                    Field::inside("boot", "initrd"),
                    initrd,
                    "only together with boot.kernel",
                ));
            }
            if let (Some(append), None) = (&self.append, &self.hvt) {
                return Err(FieldProblem::new(
                    Field::inside("boot", "append"),
                    append,
                    "only together with boot.kernel or boot.hvt",
                ));
            }
        }
        if let (Some(hvt), true) = (&self.hvt, self.kernel.is_some() || self.firmware.is_some()) {
            return Err(FieldProblem::new(
                Field::inside("boot", "hvt"),
                hvt,
                "either boot.hvt or boot.kernel or boot.firmware",
            ));
        }
        if let (Some(firmware), Some(_)) = (&self.firmware, &self.kernel) {
            return Err(FieldProblem::new(
                Field::inside("boot", "firmware"),
                firmware,
                "either boot.kernel or boot.firmware",
            ));
        }
        match &self.append {
            Some(append) if append.len() > limits::APPEND || append.contains(char::is_control) => {
                Err(FieldProblem::new(
                    Field::inside("boot", "append"),
                    append,
                    format!("at most {} bytes without control characters", limits::APPEND),
                ))
            }
            _ => Ok(()),
        }
    }
}

impl Disk {
    fn check(&self, index: usize) -> Result<(), FieldProblem> {
        check_path(Field::element("disk", index, "path"), &self.path)?;
        let Some(limit) = self.limit else {
            return Ok(());
        };
        let rates = [
            ("bytes-per-second", limit.bytes_per_second),
            ("operations-per-second", limit.operations_per_second),
        ];
        for (key, rate) in rates {
            if rate > limits::RATE {
                let mut field = Field::element("disk", index, "limit");
                field.0.push(Step::Key(key));
                return Err(FieldProblem::new(
                    field,
                    rate,
                    format!("0 (no bound) to {}", limits::RATE),
                ));
            }
        }
        Ok(())
    }
}

impl Network {
    fn check(&self, index: usize) -> Result<(), FieldProblem> {
        if let NetworkMode::Tap { interface } = &self.mode {
            // The kernel's own rule (dev_valid_name): no slash, colon or white space, not `.`/`..`.
            let valid = limits::INTERFACE.contains(&interface.len())
                && interface != "."
                && interface != ".."
                && !interface.contains(|c: char| {
                    c == '/' || c == ':' || c.is_whitespace() || c.is_control()
                });
            if !valid {
                return Err(FieldProblem::new(
                    Field::element("net", index, "interface"),
                    interface,
                    "1 to 15 bytes without slash, colon or white space",
                ));
            }
        }
        if let Some(mac) = &self.mac
            && MacAddress::parse(mac).is_none()
        {
            return Err(FieldProblem::new(
                Field::element("net", index, "mac"),
                mac,
                "six hexadecimal bytes like 52:54:00:12:34:56 with the first byte even and not all \
                 zero",
            ));
        }
        Ok(())
    }
}

impl Share {
    fn check(&self, index: usize) -> Result<(), FieldProblem> {
        check_path(Field::element("share", index, "path"), &self.path)?;
        // What the guest's agent mounts by itself has the tag for a folder.
        let hidden = !self.kind.has_device() && self.tag.starts_with('.');
        let valid = limits::TAG.contains(&self.tag.len())
            && !hidden
            && self.tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if valid {
            Ok(())
        } else {
            Err(FieldProblem::new(
                Field::element("share", index, "tag"),
                &self.tag,
                "1 to 31 letters, digits and -_.",
            ))
        }
    }
}
