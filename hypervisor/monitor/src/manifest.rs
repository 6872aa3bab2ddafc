//! The manifest: which guests to run, as text. Pure; its input is whatever somebody put into the boot
//! archive, so every mistake is answered with its line, what was found and what is allowed.
//!
//! ```text
//! # one guest after another
//! guest NAME
//! memory MIB [at MIB]     where in the pool; by default wherever there is room
//! vcpus N
//! kernel FILE
//! initrd FILE             module 0 of a Multiboot kernel; `module` is the same word
//! append TEXT...
//! disk FILE|machine
//! net yes|no
//! ```

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use hypervisor_abi::{MAX_PARTITIONS, MAX_RUN_PAGES, MAX_VCPUS};

/// The largest manifest that is read.
const MOST_BYTES: usize = 64 << 10;
/// Partition 0 is root.
const MOST_GUESTS: usize = MAX_PARTITIONS - 1;
/// A name fits the prefix of a console line.
const MOST_NAME: usize = 16;
/// Guest memory comes in pages of 2 MiB.
const MEMORY_GRANULE: u64 = 2;
/// More than any machine has; keeps sums inside 64 bits.
const MOST_MEMORY: u64 = 1 << 24;
/// What may begin a line.
const WORDS: &str = "guest, memory, vcpus, kernel, initrd, module, append, disk or net";

/// Where a guest's disk comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSource {
    /// A file of the boot archive, copied into memory: what the guest writes is gone at the end.
    File(String),
    /// The machine's own virtio disk.
    Machine,
}

/// One guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestDefinition {
    /// Its name, on every line of its console.
    pub name: String,
    /// Memory in MiB.
    pub memory: u64,
    /// Where in the pool, in MiB from its first guest page on, when that matters.
    pub place: Option<u64>,
    /// Virtual CPUs.
    pub vcpus: usize,
    /// Kernel: a file of the boot archive.
    pub kernel: String,
    /// Initial RAM disk or Multiboot module 0: a file of the boot archive.
    pub initrd: Option<String>,
    /// Kernel command line.
    pub append: String,
    /// Disk.
    pub disk: Option<DiskSource>,
    /// Whether it has a network card.
    pub net: bool,
}

/// What is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// It is not text.
    NotText,
    /// It is too long.
    TooLong {
        /// Its size in bytes.
        size: usize,
    },
    /// It names no guest.
    Empty,
    /// A line begins with a word that means nothing.
    UnknownWord(String),
    /// A line says nothing after its first word.
    NoValue(&'static str),
    /// A value that cannot be.
    BadValue {
        /// The word before it.
        word: &'static str,
        /// The value.
        value: String,
        /// What may stand there.
        allowed: String,
    },
    /// A line that belongs to a guest comes before the first one.
    NoGuest(String),
    /// A word a second time for one guest.
    Twice(&'static str),
    /// Two guests of one name.
    SameName(String),
    /// A guest without something it needs.
    Missing {
        /// The guest.
        guest: String,
        /// The word that is missing.
        word: &'static str,
    },
    /// More guests than the core has partitions.
    Guests,
    /// More vCPUs than the core has run pages.
    Vcpus(usize),
    /// Two guests in the same memory.
    Overlap {
        /// The guest.
        guest: String,
        /// The other.
        other: String,
    },
}

/// A mistake with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// Counted from 1; 0 for the whole.
    pub line: usize,
    /// What.
    pub mistake: Mistake,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "manifest: {}", self.mistake),
            line => write!(f, "manifest line {line}: {}", self.mistake),
        }
    }
}

impl core::error::Error for ManifestError {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotText => write!(f, "it is not UTF-8 text"),
            Self::TooLong { size } => write!(f, "{size} bytes; at most {MOST_BYTES} are read"),
            Self::Empty => write!(f, "no guest; begin with a line `guest NAME`"),
            Self::UnknownWord(word) => {
                write!(f, "unknown word {word:?}; a line begins with {WORDS}")
            }
            Self::NoValue(word) => write!(f, "nothing follows {word:?}"),
            Self::BadValue { word, value, allowed } => {
                write!(f, "{word} {value:?}; allowed is {allowed}")
            }
            Self::NoGuest(word) => write!(f, "{word:?} before the first line `guest NAME`"),
            Self::Twice(word) => write!(f, "{word:?} a second time for this guest"),
            Self::SameName(name) => write!(f, "a second guest {name:?}"),
            Self::Missing { guest, word } => {
                write!(f, "guest {guest:?} has no line {word:?}")
            }
            Self::Guests => write!(f, "more than {MOST_GUESTS} guests"),
            Self::Vcpus(count) => {
                write!(f, "{count} vcpus in all guests; at most {MAX_RUN_PAGES}")
            }
            Self::Overlap { guest, other } => {
                write!(f, "the memory of guest {guest:?} overlaps that of {other:?}")
            }
        }
    }
}

/// A guest while its lines are read.
struct Draft {
    line: usize,
    name: String,
    memory: Option<(u64, Option<u64>)>,
    vcpus: Option<usize>,
    kernel: Option<String>,
    initrd: Option<String>,
    append: Option<String>,
    disk: Option<DiskSource>,
    net: Option<bool>,
}

/// Reads a manifest.
///
/// # Errors
/// The first mistake in it.
pub fn parse(bytes: &[u8]) -> Result<Vec<GuestDefinition>, ManifestError> {
    let whole = |mistake| ManifestError { line: 0, mistake };
    if bytes.len() > MOST_BYTES {
        let size = bytes.len();
        return Err(whole(Mistake::TooLong { size }));
    }
    let text = core::str::from_utf8(bytes).map_err(|_| whole(Mistake::NotText))?;
    let mut drafts: Vec<Draft> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let at = |mistake| ManifestError { line: index + 1, mistake };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        read_line(&mut drafts, index + 1, word, value.trim()).map_err(at)?;
    }
    if drafts.is_empty() {
        return Err(whole(Mistake::Empty));
    }
    let guests: Vec<_> = drafts
        .into_iter()
        .map(|draft| {
            let line = draft.line;
            finish(draft).map_err(|mistake| ManifestError { line, mistake })
        })
        .collect::<Result<_, _>>()?;
    check_together(&guests).map_err(whole)?;
    Ok(guests)
}

fn read_line(drafts: &mut Vec<Draft>, line: usize, word: &str, value: &str) -> Result<(), Mistake> {
    if word == "guest" {
        let draft = Draft {
            line,
            name: name(value)?,
            memory: None,
            vcpus: None,
            kernel: None,
            initrd: None,
            append: None,
            disk: None,
            net: None,
        };
        if drafts.iter().any(|other| other.name == draft.name) {
            return Err(Mistake::SameName(draft.name));
        }
        if drafts.len() >= MOST_GUESTS {
            return Err(Mistake::Guests);
        }
        drafts.push(draft);
        return Ok(());
    }
    const KNOWN: [&str; 8] =
        ["memory", "vcpus", "kernel", "initrd", "module", "append", "disk", "net"];
    if !KNOWN.contains(&word) {
        return Err(Mistake::UnknownWord(shortened(word)));
    }
    let Some(draft) = drafts.last_mut() else {
        return Err(Mistake::NoGuest(word.to_owned()));
    };
    match word {
        "memory" => set(&mut draft.memory, "memory", memory(value)?),
        "vcpus" => {
            let most = MAX_VCPUS as u64;
            let count = number("vcpus", value, 1, most, 1)?;
            set(&mut draft.vcpus, "vcpus", count as usize)
        }
        "kernel" => set(&mut draft.kernel, "kernel", given("kernel", value)?),
        "initrd" => set(&mut draft.initrd, "initrd", given("initrd", value)?),
        "module" => set(&mut draft.initrd, "module", given("module", value)?),
        "append" => set(&mut draft.append, "append", value.to_owned()),
        "disk" => {
            let disk = match given("disk", value)?.as_str() {
                "machine" => DiskSource::Machine,
                file => DiskSource::File(file.to_owned()),
            };
            set(&mut draft.disk, "disk", disk)
        }
        _ => {
            let net = match value {
                "yes" => true,
                "no" => false,
                _ => return Err(bad("net", value, "yes or no")),
            };
            set(&mut draft.net, "net", net)
        }
    }
}

fn set<T>(slot: &mut Option<T>, word: &'static str, value: T) -> Result<(), Mistake> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Mistake::Twice(word)),
    }
}

/// The beginning of a word that may be anything.
fn shortened(word: &str) -> String {
    word.chars().take(40).collect()
}

fn bad(word: &'static str, value: &str, allowed: impl Into<String>) -> Mistake {
    Mistake::BadValue { word, value: shortened(value), allowed: allowed.into() }
}

fn given(word: &'static str, value: &str) -> Result<String, Mistake> {
    if value.is_empty() {
        return Err(Mistake::NoValue(word));
    }
    Ok(value.to_owned())
}

fn name(value: &str) -> Result<String, Mistake> {
    let name = given("guest", value)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    // The monitor's and the core's own lines begin with these.
    let taken = ["monitor", "core"].contains(&name.as_str());
    if name.len() > MOST_NAME || !name.chars().all(fits) || taken {
        let allowed = alloc::format!(
            "1 to {MOST_NAME} letters, digits, '-', '_' and '.', other than monitor and core"
        );
        return Err(bad("guest", value, allowed));
    }
    Ok(name)
}

fn number(
    word: &'static str,
    value: &str,
    least: u64,
    most: u64,
    multiple: u64,
) -> Result<u64, Mistake> {
    if value.is_empty() {
        return Err(Mistake::NoValue(word));
    }
    value
        .parse()
        .ok()
        .filter(|number| (least..=most).contains(number) && number.is_multiple_of(multiple))
        .ok_or_else(|| {
            let even = if multiple > 1 {
                alloc::format!(", a multiple of {multiple}")
            } else {
                String::new()
            };
            bad(word, value, alloc::format!("{least} to {most}{even}"))
        })
}

fn memory(value: &str) -> Result<(u64, Option<u64>), Mistake> {
    let (size, place) = match value.split_once(" at ") {
        Some((size, place)) => (size.trim(), Some(place.trim())),
        None => (value, None),
    };
    let size = number("memory", size, MEMORY_GRANULE, MOST_MEMORY, MEMORY_GRANULE)?;
    let place = place
        .map(|place| number("memory ... at", place, 0, MOST_MEMORY, MEMORY_GRANULE))
        .transpose()?;
    Ok((size, place))
}

fn finish(draft: Draft) -> Result<GuestDefinition, Mistake> {
    let missing = |word| Mistake::Missing { guest: draft.name.clone(), word };
    let (memory, place) = draft.memory.ok_or_else(|| missing("memory"))?;
    let kernel = draft.kernel.clone().ok_or_else(|| missing("kernel"))?;
    Ok(GuestDefinition {
        memory,
        place,
        vcpus: draft.vcpus.unwrap_or(1),
        kernel,
        initrd: draft.initrd,
        append: draft.append.unwrap_or_default(),
        disk: draft.disk,
        net: draft.net.unwrap_or(false),
        name: draft.name,
    })
}

fn check_together(guests: &[GuestDefinition]) -> Result<(), Mistake> {
    let vcpus = guests.iter().map(|guest| guest.vcpus).sum();
    if vcpus > MAX_RUN_PAGES {
        return Err(Mistake::Vcpus(vcpus));
    }
    let placed = |guest: &GuestDefinition| guest.place.map(|at| (at, at + guest.memory));
    for (index, guest) in guests.iter().enumerate() {
        let Some((start, end)) = placed(guest) else {
            continue;
        };
        let meets = |other: &&GuestDefinition| {
            placed(other).is_some_and(|(from, to)| from < end && start < to)
        };
        if let Some(other) = guests[..index].iter().find(meets) {
            return Err(Mistake::Overlap { guest: guest.name.clone(), other: other.name.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
