//! New pixels of windows: proven to lie in window memory, one at a time for each window.

use super::{Act, Model, Refusal, Untrusted};
use proto::v1::{self, from_host};
use window_link::limits;
use window_memory::{Area, PIXEL, Picture};

/// What a window has presented.
#[derive(Debug, Default)]
pub(super) struct Presents {
    /// Sequence of the last one.
    last: u64,
    /// Sequence of the one that is not answered.
    outstanding: Option<u64>,
    /// Size of the last one.
    size: Option<(u32, u32)>,
}

impl Presents {
    /// Bytes that the host keeps of it.
    fn bytes(&self) -> u64 {
        self.size.map_or(0, |(width, height)| bytes(width, height))
    }

    /// Something was presented.
    pub(super) fn has_any(&self) -> bool {
        self.last > 0
    }

    /// What comes next is to be drawn as a whole.
    pub(super) fn repaint(&mut self) {
        self.size = None;
    }
}

fn bytes(width: u32, height: u32) -> u64 {
    u64::from(width) * u64::from(height) * u64::from(PIXEL)
}

impl Model {
    pub(super) fn present(&mut self, told: Untrusted<v1::Present>) {
        let told = told.into_inner();
        let v1::Present { window: id, sequence, .. } = told;
        let Some(window) = self.windows.get(&id) else {
            self.refusals.count(Refusal::UnknownWindow, format_args!("window {id} presents"));
            self.ack(id, sequence);
            return;
        };
        if window.presents.outstanding.is_some() {
            self.refusals
                .count(Refusal::PresentFlood, format_args!("window {id}: present {sequence}"));
            return;
        }
        if sequence <= window.presents.last {
            self.refusals.count(Refusal::Sequence, format_args!("window {id}: present {sequence}"));
            return;
        }
        let picture = match Picture::check(self.memory, &told) {
            Ok(picture) => picture,
            Err(error) => {
                self.refusals.count(Refusal::Picture, format_args!("window {id}: {error}"));
                self.refuse_present(id, sequence);
                return;
            }
        };
        let (width, height) = (picture.width(), picture.height());
        let others: u64 = self
            .windows
            .iter()
            .filter(|(other, _)| **other != id)
            .map(|(_, window)| window.presents.bytes())
            .sum();
        // Pictures that do not overlap fit in the memory together, and so does what is kept of them.
        if others + bytes(width, height) > self.memory {
            self.refusals.count(
                Refusal::Pixels,
                format_args!("window {id}: {width}x{height} with {others} bytes of others"),
            );
            self.refuse_present(id, sequence);
            return;
        }
        let damage = self.damage(&told, &picture);
        // Size and place before the pixels.
        if self.windows.get(&id).is_some_and(|window| window.dirty) {
            self.show(id);
        }
        let Some(window) = self.windows.get_mut(&id) else { return };
        window.presents.last = sequence;
        if window.shown.is_none() {
            self.ack(id, sequence);
            return;
        }
        let whole = window.presents.size != Some((width, height));
        window.presents.size = Some((width, height));
        let damage = if whole { vec![picture.area()] } else { damage };
        if damage.is_empty() {
            self.ack(id, sequence);
            return;
        }
        window.presents.outstanding = Some(sequence);
        self.acts.push(Act::Paint { window: id, picture, damage, sequence });
    }

    /// What of the damage lies in the picture; all of it where nothing is told or too much.
    fn damage(&mut self, told: &v1::Present, picture: &Picture) -> Vec<Area> {
        let id = told.window;
        if told.damage.is_empty() {
            return vec![picture.area()];
        }
        if told.damage.len() > limits::DAMAGE {
            let count = told.damage.len();
            self.refusals
                .count(Refusal::Damage, format_args!("window {id}: {count} parts of damage"));
            return vec![picture.area()];
        }
        let mut damage = Vec::with_capacity(told.damage.len());
        for part in &told.damage {
            let area = Area::clamp(part, picture.width(), picture.height());
            let same = area.is_some_and(|area| {
                (i64::from(area.x), i64::from(area.y), area.width, area.height)
                    == (part.x.into(), part.y.into(), part.width, part.height)
            });
            if !same {
                self.refusals.count(Refusal::Damage, format_args!("window {id}: damage {part:?}"));
            }
            damage.extend(area);
        }
        super::bounded(damage, picture.area())
    }

    /// The pixels of this present are drawn, and the guest may write there again.
    pub fn painted(&mut self, id: u32, sequence: u64) {
        let Some(window) = self.windows.get_mut(&id) else { return };
        if window.presents.outstanding == Some(sequence) {
            window.presents.outstanding = None;
            self.ack(id, sequence);
        }
    }

    /// The guest may go on, though nothing was drawn.
    fn refuse_present(&mut self, id: u32, sequence: u64) {
        if let Some(window) = self.windows.get_mut(&id) {
            window.presents.last = sequence;
        }
        self.ack(id, sequence);
    }

    fn ack(&mut self, window: u32, sequence: u64) {
        self.acts.push(Act::Tell(from_host::Message::Ack(v1::PresentAck { window, sequence })));
    }
}
