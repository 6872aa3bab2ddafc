//! Where and how large a guest may make its windows by itself. What the user or the window manager does with
//! them is theirs.

use super::record::Kind;
use super::{Model, Record, Rect, border, cover};

/// Screens full of pixels that all windows of a guest may have together.
const SCREENFULS: u64 = 64;

impl Record {
    /// The window manager draws no title bar that would say whose it is.
    pub(super) fn is_frameless(&self) -> bool {
        self.undecorated || matches!(self.kind, Kind::Utility | Kind::Splash)
    }
}

impl Model {
    /// The place that a guest tells of a window, brought within bounds. What has no title bar lies on one monitor
    /// with all of its border; nothing is larger than twice the desktop. `new` windows at 0,0 are placed by the
    /// window manager.
    pub(super) fn place(&self, record: &Record, new: bool) -> Rect {
        let Some(desktop) = self.desktop() else { return record.rect };
        let rect = Rect {
            width: record.rect.width.min(desktop.width.saturating_mul(2)),
            height: record.rect.height.min(desktop.height.saturating_mul(2)),
            ..record.rect
        };
        let most = self.screens.iter().max_by_key(|screen| screen.rect.shared(&rect));
        let Some(screen) = most.filter(|_| record.is_frameless() && !record.popup) else {
            return rect;
        };
        let room = screen.rect.without(&border(true, cover::scale(&self.screens, &rect)));
        let content = rect.without(&record.shadow);
        let (width, height) = (content.width.min(room.width), content.height.min(room.height));
        let within =
            |at: i32, from: i32, more: u32| at.clamp(from, from.saturating_add_unsigned(more));
        let content = if new && (rect.x, rect.y) == (0, 0) {
            Rect { width, height, ..content }
        } else {
            Rect {
                x: within(content.x, room.x, room.width - width),
                y: within(content.y, room.y, room.height - height),
                width,
                height,
            }
        };
        content.with(&record.shadow)
    }

    /// With a window `id` of this size the guest's windows would be more than the desktop has to bear.
    pub(super) fn is_too_much(&self, id: u32, rect: &Rect) -> bool {
        let Some(desktop) = self.desktop() else { return false };
        let others =
            self.windows.iter().filter(|(other, window)| **other != id && window.shown.is_some());
        let others: u64 = others.map(|(_, window)| window.rect.area()).sum();
        others + rect.area() > desktop.area() * SCREENFULS
    }

    /// What all monitors lie in.
    fn desktop(&self) -> Option<Rect> {
        let x = self.screens.iter().map(|screen| screen.rect.x).min()?;
        let y = self.screens.iter().map(|screen| screen.rect.y).min()?;
        let right = self.screens.iter().map(|screen| screen.rect.right()).max()?;
        let bottom = self.screens.iter().map(|screen| screen.rect.bottom()).max()?;
        let width = u32::try_from(right - i64::from(x)).ok()?;
        let height = u32::try_from(bottom - i64::from(y)).ok()?;
        Some(Rect { x, y, width, height })
    }
}
