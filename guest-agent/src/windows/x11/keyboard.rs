//! The keyboard's layout and locks are the host's; repeating keys, too, in seamless mode.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proto::v1::Keyboard;
use x11rb::protocol::xkb::{ConnectionExt as _, EventType, Group, ID, MapPart, SelectEventsAux};
use x11rb::protocol::xproto::{
    AutoRepeatMode, ChangeKeyboardControlAux, ConnectionExt as _, ModMask,
};

use super::{Lost, X11};

/// Most bytes of a name.
const LONGEST: usize = 64;
/// How long setxkbmap may take: keys wait for it.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);

impl X11 {
    pub(super) fn begin_keyboard(&mut self) -> Result<(), Lost> {
        let device: u16 = ID::USE_CORE_KBD.into();
        let (bell, none) = (EventType::BELL_NOTIFY, EventType::from(0_u16));
        let details = SelectEventsAux::new();
        self.x.xkb_select_events(
            device,
            none,
            bell,
            MapPart::from(0_u16),
            MapPart::from(0_u16),
            &details,
        )?;
        self.set_repeat()
    }

    /// Keys repeat where no host does it: in desktop mode they are those of the machine's keyboard.
    pub(super) fn set_repeat(&self) -> Result<(), Lost> {
        let mode = if self.desktop.is_on() { AutoRepeatMode::ON } else { AutoRepeatMode::OFF };
        let aux = ChangeKeyboardControlAux::new().auto_repeat_mode(mode);
        self.x.change_keyboard_control(&aux)?;
        Ok(())
    }

    /// Sets the layout and the locks. Keys that come after it mean what they mean on the host.
    pub(super) fn keyboard(&mut self, keyboard: &Keyboard) -> Result<(), Lost> {
        match arguments(keyboard) {
            Some(arguments) if !arguments.is_empty() => {
                self.release_keys()?;
                // It connects by itself, and what was asked before it comes first.
                x11rb::connection::Connection::flush(&self.x)?;
                if let Err(problem) = self.set_layout(&arguments) {
                    tracing::warn!(problem, ?arguments, "the keyboard's layout is not the host's");
                }
                self.set_repeat()?;
            }
            Some(_) => {}
            None => tracing::warn!(?keyboard, "the host's keyboard has names that are none"),
        }
        let mut locked = ModMask::from(0_u16);
        if keyboard.caps_lock {
            locked |= ModMask::LOCK;
        }
        if keyboard.num_lock {
            locked |= ModMask::M2;
        }
        let device: u16 = ID::USE_CORE_KBD.into();
        let none = ModMask::from(0_u16);
        let affected = ModMask::LOCK | ModMask::M2;
        let group = Group::M1;
        self.x.xkb_latch_lock_state(device, affected, locked, false, group, none, false, 0)?;
        Ok(())
    }

    fn set_layout(&self, arguments: &[String]) -> Result<(), String> {
        let mut command = Command::new("setxkbmap");
        command.args(["-display", &self.display]).args(arguments);
        if let Some(file) = &self.authority {
            command.env("XAUTHORITY", file);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child =
            command.spawn().map_err(|error| format!("cannot run setxkbmap: {error}"))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match child.try_wait() {
                Ok(Some(ended)) if ended.success() => return Ok(()),
                Ok(Some(ended)) => return Err(format!("setxkbmap: {ended}")),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                Ok(None) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err("setxkbmap does not end".to_owned());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// For setxkbmap; none when a name could be something else than a name. Nothing when nothing is said.
fn arguments(keyboard: &Keyboard) -> Option<Vec<String>> {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "_-+,:().".contains(character);
    let fields = [
        ("-rules", &keyboard.rules),
        ("-model", &keyboard.model),
        ("-layout", &keyboard.layout),
        ("-variant", &keyboard.variant),
    ];
    let all = fields.iter().map(|(_, value)| *value).chain([&keyboard.options]);
    for value in all.clone() {
        if value.len() > LONGEST || !value.chars().all(plain) || value.starts_with('-') {
            return None;
        }
    }
    if all.clone().all(String::is_empty) {
        return Some(Vec::new());
    }
    let mut arguments = Vec::new();
    for (flag, value) in fields {
        // An empty variant is one: it takes back that of the layout before.
        if !value.is_empty() || (flag == "-variant" && !keyboard.layout.is_empty()) {
            arguments.extend([flag.to_owned(), value.clone()]);
        }
    }
    // The first empty one takes back all that were set before (setxkbmap(1)).
    arguments.extend(["-option".to_owned(), String::new()]);
    if !keyboard.options.is_empty() {
        arguments.extend(["-option".to_owned(), keyboard.options.clone()]);
    }
    Some(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_arguments_and_nothing_else_does() {
        let keyboard = Keyboard {
            rules: "evdev".into(),
            layout: "de,us".into(),
            options: "grp:alt_shift_toggle,caps:none".into(),
            ..Keyboard::default()
        };
        let expected =
            "-rules evdev -layout de,us -variant  -option  -option grp:alt_shift_toggle,caps:none";
        assert_eq!(arguments(&keyboard).unwrap().join(" "), expected);
        assert_eq!(arguments(&Keyboard::default()), Some(Vec::new()));
        for wrong in ["-display", "a b", "$(x)", "../x", &"x".repeat(65)] {
            let keyboard = Keyboard { layout: wrong.into(), ..Keyboard::default() };
            assert_eq!(arguments(&keyboard), None, "{wrong}");
        }
    }
}
