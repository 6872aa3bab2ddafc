//! Network cards in the file and their hardware addresses.

use crate::machine::{Network, NetworkMode, VmDefinition};
use crate::name::hash;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a `[[net]]` table is written: flat, with unknown keys refused.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct NetworkTable {
    mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Passt,
    Tap,
}

impl TryFrom<NetworkTable> for Network {
    type Error = &'static str;

    fn try_from(table: NetworkTable) -> Result<Self, Self::Error> {
        let mode = match (table.mode, table.interface) {
            (Mode::Passt, None) => NetworkMode::Passt,
            (Mode::Passt, Some(_)) => return Err("mode passt takes no interface"),
            (Mode::Tap, Some(interface)) => NetworkMode::Tap { interface },
            (Mode::Tap, None) => return Err("mode tap needs interface = \"NAME\""),
        };
        Ok(Self { mode, mac: table.mac })
    }
}

impl From<Network> for NetworkTable {
    fn from(network: Network) -> Self {
        let (mode, interface) = match network.mode {
            NetworkMode::Passt => (Mode::Passt, None),
            NetworkMode::Tap { interface } => (Mode::Tap, Some(interface)),
        };
        Self { mode, interface, mac: network.mac }
    }
}

/// A hardware address of one station (IEEE 802: bit 0 of the first byte clear).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Reads `52:54:00:12:34:56`; `None` for anything else, group addresses and zero.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next()?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        let station = bytes[0] & 1 == 0 && bytes != [0; 6];
        (parts.next().is_none() && station).then_some(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl VmDefinition {
    /// The hardware address of network card `index`: the one written down, or one derived from the
    /// VM's name and the index, the same at every start. The prefix 52:54:00 is locally
    /// administered and the one virtual machines customarily use.
    #[must_use]
    pub fn mac_address(&self, index: usize) -> MacAddress {
        let written = self
            .networks
            .get(index)
            .and_then(|network| network.mac.as_deref())
            .and_then(MacAddress::parse);
        written.unwrap_or_else(|| {
            let [a, b, c, ..] = hash(format!("{}\0{index}", self.name).as_bytes()).to_le_bytes();
            MacAddress([0x52, 0x54, 0x00, a, b, c])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_station_addresses_are_read() {
        let mac = MacAddress::parse("52:54:00:AB:cd:0f").unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
        for wrong in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0f:11",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "52-54-00-ab-cd-0f",
            "+2:54:00:ab:cd:0f",
        ] {
            assert_eq!(MacAddress::parse(wrong), None, "{wrong}");
        }
    }
}
