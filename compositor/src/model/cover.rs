//! How much of a monitor windows without a frame may cover: a guest cannot put a picture of the desktop over
//! the desktop. Qubes' rule, for all such windows of a guest together.

use super::{Model, Rect, Screen};
use window_link::limits;

/// Percent at which a window at this place is drawn: of the monitor that has most of it.
pub(super) fn scale(screens: &[Screen], rect: &Rect) -> u32 {
    screens
        .iter()
        .max_by_key(|screen| screen.rect.shared(rect))
        .map_or(100, |screen| screen.scale.clamp(50, 400))
}

impl Model {
    /// Window `id` has no frame, and with it and those that are shown more of a monitor would be covered
    /// than may be. Windows that overlap each other count twice: it is a bound, not a measure.
    pub(super) fn covers_too_much(&self, id: u32) -> bool {
        let Some(window) = self.windows.get(&id).filter(|window| window.record.popup) else {
            return false;
        };
        let others = self.windows.iter().filter(|(other, window)| {
            **other != id && window.record.popup && window.shown.is_some()
        });
        let others: Vec<Rect> = others.map(|(_, window)| window.rect).collect();
        self.screens.iter().any(|screen| {
            let own = screen.rect.shared(&window.rect);
            let all: u64 = own + others.iter().map(|rect| screen.rect.shared(rect)).sum::<u64>();
            own > 0 && all * 100 > screen.rect.area() * limits::OVERRIDE_COVER
        })
    }
}
