//! The host's scale, for toolkits: `Xft.dpi` in RESOURCE_MANAGER, and XSETTINGS.

use x11rb::NONE;
use x11rb::connection::Connection as _;
use x11rb::protocol::xproto::{
    AtomEnum, ClientMessageEvent, ConnectionExt as _, EventMask, PropMode,
};
use x11rb::wrapper::ConnectionExt as _;

use super::{Lost, X11, answer};

/// Dots per inch at 100 %.
const DPI: u32 = 96;
/// Scales that there are, percent.
const SCALES: std::ops::RangeInclusive<u32> = 50..=400;
/// Most values of RESOURCE_MANAGER that are read, of four bytes each.
const RESOURCES: u32 = 64 << 10;

/// What was said last.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// The agent gives the session's settings.
    held: bool,
    serial: u32,
    scale: u32,
}

impl X11 {
    pub(super) fn begin_settings(&mut self) -> Result<(), Lost> {
        let atom = self.atoms._XSETTINGS_S0;
        let owner = answer(self.x.get_selection_owner(atom)?.reply())?;
        if owner.is_some_and(|owner| owner.owner == NONE) {
            let time = self.time()?;
            self.x.set_selection_owner(self.own, atom, time)?;
            let data = [time, atom, self.own, 0, 0];
            let message = ClientMessageEvent::new(32, self.root, self.atoms.MANAGER, data);
            self.x.send_event(false, self.root, EventMask::STRUCTURE_NOTIFY, message)?;
            self.settings.held = true;
        } else {
            tracing::info!("the session has a program for its settings: the scale for GTK is its");
        }
        self.set_scale(100)
    }

    /// Percent.
    pub(super) fn set_scale(&mut self, scale: u32) -> Result<(), Lost> {
        let scale = scale.clamp(*SCALES.start(), *SCALES.end());
        if scale == self.settings.scale {
            return Ok(());
        }
        self.settings.scale = scale;
        if self.settings.held {
            self.settings.serial += 1;
            let bytes = encode(self.settings.serial, &values(scale));
            let atom = self.atoms._XSETTINGS_SETTINGS;
            self.x.change_property8(PropMode::REPLACE, self.own, atom, atom, &bytes)?;
        }
        let manager = AtomEnum::RESOURCE_MANAGER;
        let root = self.x.setup().roots[self.screen].root;
        let asked = self.x.get_property(false, root, manager, AtomEnum::STRING, 0, RESOURCES)?;
        let held = answer(asked.reply())?.map(|reply| reply.value).unwrap_or_default();
        let text = resources(&held, DPI * scale / 100);
        self.x.change_property8(PropMode::REPLACE, root, manager, AtomEnum::STRING, &text)?;
        Ok(())
    }
}

/// The resources with another `Xft.dpi`.
fn resources(held: &[u8], dpi: u32) -> Vec<u8> {
    let lines = held.split(|byte| *byte == b'\n');
    let others = lines.filter(|line| !line.is_empty() && !line.starts_with(b"Xft.dpi:"));
    let mut text: Vec<u8> = others.flat_map(|line| line.iter().chain(b"\n").copied()).collect();
    text.extend(format!("Xft.dpi:\t{dpi}\n").bytes());
    text
}

enum Value {
    Number(i32),
    Text(&'static str),
}

/// What toolkits are told. GTK enlarges everything by a whole number and the text by the rest.
fn values(scale: u32) -> Vec<(&'static str, Value)> {
    let number = |value: u32| Value::Number(i32::try_from(value).unwrap_or(i32::MAX));
    let whole = (scale / 100).max(1);
    let dpi = DPI * 1024 * scale / 100;
    vec![
        ("Gdk/UnscaledDPI", number(dpi / whole)),
        ("Gdk/WindowScalingFactor", number(whole)),
        ("Xft/Antialias", number(1)),
        ("Xft/DPI", number(dpi)),
        ("Xft/HintStyle", Value::Text("hintslight")),
        ("Xft/Hinting", number(1)),
        ("Xft/RGBA", Value::Text("none")),
    ]
}

/// As the XSETTINGS specification (0.5) lays it out, lowest byte first.
fn encode(serial: u32, values: &[(&str, Value)]) -> Vec<u8> {
    fn text(to: &mut Vec<u8>, bytes: &[u8]) {
        to.extend(bytes);
        to.resize(to.len().next_multiple_of(4), 0);
    }
    let mut bytes = vec![0; 4];
    bytes.extend(serial.to_le_bytes());
    bytes.extend(u32::try_from(values.len()).unwrap_or(0).to_le_bytes());
    for (name, value) in values {
        bytes.extend([u8::from(matches!(value, Value::Text(_))), 0]);
        bytes.extend(u16::try_from(name.len()).unwrap_or(0).to_le_bytes());
        text(&mut bytes, name.as_bytes());
        bytes.extend(serial.to_le_bytes());
        match value {
            Value::Number(number) => bytes.extend(number.to_le_bytes()),
            Value::Text(value) => {
                bytes.extend(u32::try_from(value.len()).unwrap_or(0).to_le_bytes());
                text(&mut bytes, value.as_bytes());
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_resources_stay() {
        let held = b"XTerm*font: 9x15\nXft.dpi:\t96\nXft.rgba: none";
        assert_eq!(resources(held, 144), b"XTerm*font: 9x15\nXft.rgba: none\nXft.dpi:\t144\n");
        assert_eq!(resources(b"", 96), b"Xft.dpi:\t96\n");
    }

    #[test]
    fn whole_and_rest_of_a_scale_make_the_scale() {
        for (scale, whole, rest) in
            [(100, 1, 98_304), (150, 1, 147_456), (200, 2, 98_304), (250, 2, 122_880)]
        {
            let told = values(scale);
            let number = |name: &str| {
                told.iter().find_map(|(told, value)| match value {
                    Value::Number(number) if *told == name => Some(*number),
                    _ => None,
                })
            };
            assert_eq!(number("Gdk/WindowScalingFactor"), Some(whole), "{scale}");
            assert_eq!(number("Gdk/UnscaledDPI"), Some(rest), "{scale}");
        }
    }

    #[test]
    fn settings_are_laid_out_as_specified() {
        let bytes = encode(7, &[("Xft/DPI", Value::Number(98_304)), ("a", Value::Text("b"))]);
        let expected: &[&[u8]] = &[
            &[0, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0],
            &[0, 0, 7, 0],
            b"Xft/DPI\0",
            &[7, 0, 0, 0, 0, 0x80, 1, 0],
            &[1, 0, 1, 0],
            b"a\0\0\0",
            &[7, 0, 0, 0, 1, 0, 0, 0],
            b"b\0\0\0",
        ];
        assert_eq!(bytes, expected.concat());
    }
}
