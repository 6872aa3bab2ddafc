//! What device and driver say about the port on the control queues (virtio 1.2, 5.3.6.2).
//!
//! Nothing is queued: what is still to be said follows from what was heard, so a driver that asks and asks and takes
//! no answer has nothing kept for it.

/// Our port's number.
pub(super) const PORT: u32 = 1;
/// A message without its text: port, event, value.
pub(super) const MESSAGE: usize = 8;

const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Conversation {
    /// The driver is to be told that there is the port.
    add: bool,
    /// The driver is to be told the port's name.
    name: bool,
    /// The driver has the port.
    ready: bool,
    /// A program of the guest has opened it.
    opened: bool,
    /// What the driver was told last of the host's end.
    told_open: bool,
}

/// A message that the device does not know, or of a port that it does not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown;

impl Conversation {
    /// What the driver says.
    pub(super) fn hear(&mut self, message: [u8; MESSAGE]) -> Result<(), Unknown> {
        let [a, b, c, d, e, f, g, h] = message;
        let (port, event) = (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]));
        let yes = u16::from_le_bytes([g, h]) != 0;
        match (port, event) {
            // Of the whole device. No: it could not set itself up.
            (_, DEVICE_READY) => *self = Self { add: yes, ..Self::default() },
            (PORT, PORT_READY) => {
                *self = Self { name: yes, ready: yes, ..Self::default() };
            }
            (PORT, PORT_OPEN) if self.ready => self.opened = yes,
            _ => return Err(Unknown),
        }
        Ok(())
    }

    /// Somebody in the guest reads.
    pub(super) fn is_opened(&self) -> bool {
        self.opened
    }

    /// The next thing to say, where somebody is at the host's end or not; [`Self::said`] follows when it has been said.
    pub(super) fn next(&self, name: &str, connected: bool) -> Option<Vec<u8>> {
        let message = |event: u16, yes: bool| {
            let mut message = PORT.to_le_bytes().to_vec();
            message.extend(event.to_le_bytes());
            message.extend(u16::from(yes).to_le_bytes());
            message
        };
        if self.add {
            Some(message(DEVICE_ADD, true))
        } else if self.name {
            let mut named = message(PORT_NAME, true);
            named.extend(name.as_bytes());
            Some(named)
        } else if self.ready && self.told_open != connected {
            Some(message(PORT_OPEN, connected))
        } else {
            None
        }
    }

    /// What [`Self::next`] gave has been said.
    pub(super) fn said(&mut self, connected: bool) {
        if self.add {
            self.add = false;
        } else if self.name {
            self.name = false;
        } else {
            self.told_open = connected;
        }
    }

    pub(super) fn save(self) -> serde_json::Value {
        let Self { add, name, ready, opened, told_open } = self;
        serde_json::json!({
            "add": add, "name": name, "ready": ready, "opened": opened, "told-open": told_open,
        })
    }

    pub(super) fn restore(state: &serde_json::Value) -> Option<Self> {
        Some(Self {
            add: state["add"].as_bool()?,
            name: state["name"].as_bool()?,
            ready: state["ready"].as_bool()?,
            opened: state["opened"].as_bool()?,
            told_open: state["told-open"].as_bool()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(port: u32, event: u16, value: u16) -> [u8; MESSAGE] {
        let mut bytes = [0; MESSAGE];
        bytes[..4].copy_from_slice(&port.to_le_bytes());
        bytes[4..6].copy_from_slice(&event.to_le_bytes());
        bytes[6..].copy_from_slice(&value.to_le_bytes());
        bytes
    }

    /// All that is to be said now.
    fn say(conversation: &mut Conversation, connected: bool) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        while let Some(message) = conversation.next("p", connected) {
            conversation.said(connected);
            said.push(message);
            assert!(said.len() < 10);
        }
        said
    }

    #[test]
    fn the_port_is_named_before_it_is_open_and_each_change_is_told_once() {
        let mut talk = Conversation::default();
        assert!(say(&mut talk, true).is_empty());
        for _ in 0..3 {
            talk.hear(message(u32::MAX, DEVICE_READY, 1)).unwrap();
        }
        assert_eq!(say(&mut talk, true), [message(1, DEVICE_ADD, 1).to_vec()]);
        talk.hear(message(1, PORT_READY, 1)).unwrap();
        let named = [&message(1, PORT_NAME, 1)[..], b"p"].concat();
        assert_eq!(say(&mut talk, true), [named, message(1, PORT_OPEN, 1).to_vec()]);
        assert!(say(&mut talk, true).is_empty());
        assert_eq!(say(&mut talk, false), [message(1, PORT_OPEN, 0).to_vec()]);
        talk.hear(message(1, PORT_OPEN, 1)).unwrap();
        assert!(talk.is_opened());
        assert_eq!(Conversation::restore(&talk.save()), Some(talk));
        talk.hear(message(0, DEVICE_READY, 0)).unwrap();
        assert_eq!((talk, say(&mut talk.clone(), true)), (Conversation::default(), vec![]));
    }

    #[test]
    fn what_makes_no_sense_changes_nothing() {
        let mut talk = Conversation::default();
        for (port, event) in [(1, PORT_OPEN), (0, PORT_READY), (2, PORT_OPEN), (1, 1), (1, 99)] {
            assert_eq!(talk.hear(message(port, event, 1)), Err(Unknown));
        }
        assert_eq!(talk, Conversation::default());
        assert_eq!(Conversation::restore(&serde_json::json!({ "add": true })), None);
    }
}
