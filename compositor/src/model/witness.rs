//! What any messages of a guest may lead to and what not: used by the tests here and by the fuzz target.

use super::{Act, View};
use proto::v1::from_host;
use std::collections::{BTreeMap, BTreeSet};

/// Looks at everything that is to be done, and panics at what may not be.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    memory: u64,
    open: BTreeMap<u32, View>,
    /// Presents that are to be answered.
    painting: BTreeMap<u32, u64>,
    configured: BTreeMap<u32, u64>,
}

impl Witness {
    pub(crate) fn new(memory: u64) -> Self {
        Self { memory, ..Self::default() }
    }

    /// Presents whose pixels are to be drawn.
    pub(crate) fn painting(&self) -> Vec<(u32, u64)> {
        self.painting.iter().map(|(window, sequence)| (*window, *sequence)).collect()
    }

    /// Windows that are open.
    pub(crate) fn open(&self) -> Vec<u32> {
        self.open.keys().copied().collect()
    }

    pub(crate) fn watch(&mut self, acts: &[Act]) {
        for act in acts {
            self.one(act);
        }
        assert!(self.open.len() <= window_link::limits::WINDOWS);
        self.no_circles();
    }

    fn one(&mut self, act: &Act) {
        match act {
            Act::Open(id, view) => {
                sane(view);
                assert!(self.open.insert(*id, View::clone(view)).is_none(), "{id} opened twice");
                self.configured.remove(id);
            }
            Act::Change(id, view) | Act::Reopen(id, view) => {
                sane(view);
                let before = self.open.insert(*id, View::clone(view));
                let before = before.unwrap_or_else(|| panic!("{id} is not open"));
                if matches!(act, Act::Change(..)) {
                    assert_eq!((before.popup, before.alpha), (view.popup, view.alpha));
                }
            }
            Act::Shut(id) => {
                assert!(self.open.remove(id).is_some(), "{id} is not open");
                self.painting.remove(id);
            }
            Act::Paint { window, picture, damage, sequence } => {
                assert!(self.open.contains_key(window), "{window} is not open");
                let before = self.painting.insert(*window, *sequence);
                assert_eq!(before, None, "two presents of {window} at once");
                assert!(!damage.is_empty());
                let mut work = 0;
                for area in damage {
                    assert!(area.inside(picture.width(), picture.height()));
                    work += u64::from(area.width) * u64::from(area.height);
                }
                let whole = u64::from(picture.width()) * u64::from(picture.height());
                assert!(work <= whole, "{work} pixels are copied of {whole}");
                let bytes = u64::from(picture.width()) * u64::from(picture.height()) * 4;
                assert!(bytes <= self.memory);
            }
            Act::Raise(id) | Act::Activate(id) | Act::MoveResize(id, _) => {
                assert!(self.open.contains_key(id), "{id} is not open");
            }
            Act::Icon(_, icon) => {
                assert_eq!(
                    icon.pixels.len() as u64,
                    u64::from(icon.width) * u64::from(icon.height) * 4
                );
            }
            Act::Tell(from_host::Message::Ack(ack)) => {
                if self.painting.get(&ack.window) == Some(&ack.sequence) {
                    self.painting.remove(&ack.window);
                }
            }
            Act::Tell(from_host::Message::Configure(told)) => {
                let last = self.configured.insert(told.window, told.generation);
                assert!(last.is_none_or(|last| last < told.generation), "{told:?}");
            }
            Act::Cursor(_) | Act::Bell | Act::Tell(_) => {}
        }
    }

    fn no_circles(&self) {
        for start in self.open.keys() {
            let mut seen = BTreeSet::new();
            let mut at = Some(*start);
            while let Some(id) = at {
                assert!(seen.insert(id), "{start} belongs to itself");
                at = self.open.get(&id).and_then(|view| view.transient_for);
            }
        }
    }
}

fn sane(view: &View) {
    use window_link::limits;
    let content = view.content;
    assert!((1..=limits::SIDE).contains(&content.width), "{content:?}");
    assert!((1..=limits::SIDE).contains(&content.height), "{content:?}");
    let far = 2 * limits::COORDINATE;
    assert!(content.x.abs() <= far && content.y.abs() <= far, "{content:?}");
    assert!(view.border.left > 0 && view.border.top > 0, "a window without a border");
    assert!(view.border.right > 0 && view.border.bottom > 0, "a window without a border");
    assert!(view.opacity == 0 || view.opacity >= limits::OPACITY, "a border that is not seen");
    assert!(view.title.starts_with("[vm]"), "{}", view.title);
    assert!(view.title.len() <= limits::TITLE + "[vm] ".len());
    assert!(!view.title.chars().any(char::is_control));
    assert!(view.class.starts_with("org.macrohard.vm."), "{}", view.class);
    assert!(view.instance.starts_with("org.macrohard.vm."), "{}", view.instance);
    assert!(view.instance.len() <= limits::CLASS);
    assert!(view.shape.len() <= limits::SHAPE);
    for part in &view.shape {
        assert!(part.x >= 0 && part.y >= 0);
        assert!(part.right() <= content.width.into() && part.bottom() <= content.height.into());
    }
}
