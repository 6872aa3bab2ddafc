//! A window that is open on the desktop: what it shows, and when its present is answered.

use crate::model::{Insets, View, bounded};
use crate::paint::{Colour, Content, Decoration, Drawn, Frame, PaintError, Surface, Target};
use std::time::Instant;
use window_memory::Area;

/// More parts of a window than this are drawn as one.
const PARTS: usize = 128;

/// See the module.
pub(super) struct Open {
    pub(super) target: Target,
    pub(super) surface: Box<dyn Surface>,
    /// Of the desktop's window.
    pub(super) size: [u32; 2],
    pub(super) decoration: Decoration,
    pub(super) shadow: Insets,
    pub(super) alpha: bool,
    pub(super) content: Option<Content>,
    fresh: Vec<Area>,
    whole: bool,
    /// Draws whose pixels the X server has not read yet.
    copying: u32,
    /// Sequence of the present that is not answered.
    answer: Option<u64>,
    /// Not before.
    due: Instant,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open")
            .field("size", &self.size)
            .field("whole", &self.whole)
            .field("fresh", &self.fresh.len())
            .field("copying", &self.copying)
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}

impl Open {
    pub(super) fn new(
        target: Target,
        surface: Box<dyn Surface>,
        view: &View,
        vm: &str,
        colour: Colour,
    ) -> Self {
        let native = view.native();
        Self {
            target,
            surface,
            size: [native.width, native.height],
            decoration: decoration(view, vm, colour),
            shadow: view.shadow,
            alpha: view.alpha,
            content: None,
            fresh: Vec::new(),
            whole: true,
            copying: 0,
            answer: None,
            due: Instant::now(),
        }
    }

    /// Looks as `view` says from now on.
    pub(super) fn change(&mut self, view: &View, vm: &str, colour: Colour) {
        self.shadow = view.shadow;
        let decoration = decoration(view, vm, colour);
        if decoration != self.decoration {
            self.decoration = decoration;
            self.whole = true;
        }
    }

    /// Everything has to be drawn again.
    pub(super) fn expose(&mut self) {
        self.whole = true;
    }

    /// These parts of the content are new, by present `sequence`.
    pub(super) fn present(&mut self, areas: Vec<Area>, sequence: u64) {
        self.answer = Some(sequence);
        self.refresh(areas);
    }

    /// These parts of the content are new, and nobody waits for an answer.
    pub(super) fn refresh(&mut self, areas: Vec<Area>) {
        self.fresh.extend(areas);
        let Some(content) = &self.content else { return };
        let fresh = std::mem::take(&mut self.fresh);
        self.fresh =
            if fresh.len() > PARTS { vec![content.area()] } else { bounded(fresh, content.area()) };
    }

    /// The X server has read what was drawn.
    pub(super) fn copied(&mut self) {
        self.copying = self.copying.saturating_sub(1);
    }

    /// In another window of the desktop from now on.
    pub(super) fn reopen(self, new: Self) -> Self {
        let mut content = self.content;
        if let Some(content) = content.as_mut().filter(|_| new.alpha) {
            content.limit(&content.area());
        }
        Self { content, answer: self.answer, due: self.due, ..new }
    }

    /// By another painter from now on.
    pub(super) fn repaint(&mut self, surface: Box<dyn Surface>) {
        self.surface = surface;
        self.copying = 0;
        self.whole = true;
    }

    /// Draws what has changed, if anything has.
    pub(super) fn draw(&mut self) -> Result<(), PaintError> {
        if !self.whole && self.fresh.is_empty() {
            return Ok(());
        }
        let [width, height] = self.size;
        let frame = Frame {
            width,
            height,
            content: self.content.as_ref(),
            fresh: &self.fresh,
            whole: self.whole,
            decoration: &self.decoration,
            alpha: self.alpha,
        };
        let drawn = self.surface.draw(&frame)?;
        self.copying += u32::from(drawn == Drawn::Copying);
        self.fresh.clear();
        self.whole = false;
        Ok(())
    }

    /// What it shows, for a screenshot.
    pub(super) fn frame(&self) -> Frame<'_> {
        let [width, height] = self.size;
        Frame {
            width,
            height,
            content: self.content.as_ref(),
            fresh: &[],
            whole: true,
            decoration: &self.decoration,
            alpha: self.alpha,
        }
    }

    /// Sequence of a present that is to be answered now.
    pub(super) fn answer(&mut self, now: Instant, interval: std::time::Duration) -> Option<u64> {
        if self.copying > 0 || self.due > now || !self.fresh.is_empty() {
            return None;
        }
        let answer = self.answer.take()?;
        // The rhythm is kept while the guest keeps up with it.
        let next = self.due + interval;
        self.due = if next > now { next } else { now + interval };
        Some(answer)
    }

    /// The present that will not be drawn any more, for who closes the window.
    pub(super) fn drop_answer(&mut self) -> Option<u64> {
        self.answer.take()
    }

    /// When an answer is due that only waits for its time.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.answer.is_some() && self.copying == 0).then_some(self.due)
    }
}

fn decoration(view: &View, vm: &str, colour: Colour) -> Decoration {
    Decoration::new(view.border, colour, view.label.then_some(vm), view.scale)
}
