//! How the windows of a VM stand on the desktop.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Windows on the host's desktop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Windows {
    /// Each application's window is one of the host's; else there is one window with the guest's screen.
    pub seamless: bool,
    /// MiB of the memory in which the guest draws its windows, 0 for none. It takes memory of the host only as
    /// far as the guest uses it.
    pub memory: u64,
    /// Colour of the windows' border; derived from the VM's name when absent ([`Colour::of`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub colour: Option<Colour>,
}

impl Default for Windows {
    fn default() -> Self {
        Self { seamless: true, memory: 256, colour: None }
    }
}

/// A colour as `#rrggbb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Colour {
    /// Red, 0 to 255.
    pub red: u8,
    /// Green, 0 to 255.
    pub green: u8,
    /// Blue, 0 to 255.
    pub blue: u8,
}

/// A text that is no colour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no colour; allowed: \"#rrggbb\" with hexadecimal digits")]
pub struct NoColour(String);

/// Colours that are told apart beside each other, also by most who see fewer colours (after Okabe and Ito,
/// "Color Universal Design", 2008), dark enough for white letters.
const TOLD_APART: [Colour; 8] = [
    Colour::new(0x00, 0x72, 0xb2),
    Colour::new(0xd5, 0x5e, 0x00),
    Colour::new(0x00, 0x8a, 0x66),
    Colour::new(0xb0, 0x4f, 0x86),
    Colour::new(0xa0, 0x76, 0x00),
    Colour::new(0x2b, 0x83, 0xba),
    Colour::new(0x7b, 0x52, 0xab),
    Colour::new(0x5f, 0x6b, 0x6d),
];

impl Colour {
    const fn new(red: u8, green: u8, blue: u8) -> Self {
        Self { red, green, blue }
    }

    /// That of a VM of this name that was given none: the same at each start.
    #[must_use]
    pub fn of(name: &str) -> Self {
        // FNV-1a, 32 bits (RFC 9923).
        let hash = name
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        // Folded, for the low bits of a short name's hash vary little.
        TOLD_APART[(hash ^ (hash >> 13) ^ (hash >> 22)) as usize % TOLD_APART.len()]
    }
}

impl FromStr for Colour {
    type Err = NoColour;

    fn from_str(text: &str) -> Result<Self, NoColour> {
        let wrong = || NoColour(text.chars().take(20).collect());
        let digits = text.strip_prefix('#').ok_or_else(wrong)?;
        // The standard library would take a sign, too.
        if digits.len() != 6 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let [_, red, green, blue] =
            u32::from_str_radix(digits, 16).map_err(|_| wrong())?.to_be_bytes();
        Ok(Self { red, green, blue })
    }
}

impl TryFrom<String> for Colour {
    type Error = NoColour;

    fn try_from(text: String) -> Result<Self, NoColour> {
        text.parse()
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.red, self.green, self.blue)
    }
}

impl From<Colour> for String {
    fn from(colour: Colour) -> Self {
        colour.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{Colour, TOLD_APART};

    #[test]
    fn a_colour_reads_back_as_it_was_written() {
        for text in ["#000000", "#ffffff", "#0a1b2c"] {
            assert_eq!(text.parse::<Colour>().unwrap().to_string(), text);
        }
        assert_eq!("#FFAA00".parse(), Ok(Colour { red: 255, green: 0xaa, blue: 0 }));
    }

    #[test]
    fn what_is_no_colour_is_refused() {
        for text in
            ["", "#", "red", "ffffff", "#fffff", "#fffffff", "#+fffff", "#ffff\u{e9}", "# fffff"]
        {
            assert!(text.parse::<Colour>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_keeps_its_colour_and_names_differ() {
        assert_eq!(Colour::of("web"), Colour::of("web"));
        let colours: std::collections::HashSet<Colour> =
            (0..100).map(|number| Colour::of(&format!("vm{number}"))).collect();
        assert_eq!(colours.len(), TOLD_APART.len());
    }
}
