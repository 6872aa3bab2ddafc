//! Who draws the windows, and what happens when that one fails: the next one draws all of them again.

use super::{App, AppError};
use crate::paint::{self, PaintError, Painter, Preference, Surface, Target};
use winit::event_loop::ActiveEventLoop;

/// Losses of the GPU after which it is left alone.
const LOSSES: u32 = 2;

impl App {
    /// To draw into a window, by another painter where this one cannot.
    pub(super) fn surface(
        &mut self,
        event_loop: &ActiveEventLoop,
        target: &Target,
    ) -> Result<Box<dyn Surface>, AppError> {
        loop {
            match self.painter(event_loop)?.open(target) {
                Ok(surface) => return Ok(surface),
                Err(error) => self.lose(event_loop, error)?,
            }
        }
    }

    pub(super) fn painter(
        &mut self,
        event_loop: &ActiveEventLoop,
    ) -> Result<&mut dyn Painter, AppError> {
        if self.painter.is_none() {
            let display = event_loop.owned_display_handle();
            let connection = self.windowing.connection();
            let painter = paint::choose(self.settings.painter, display, connection)?;
            tracing::info!("windows are drawn by {}", painter.name());
            self.painter = Some(painter);
        }
        match &mut self.painter {
            Some(painter) => Ok(painter.as_mut()),
            None => Err(PaintError::Missing("painter").into()),
        }
    }

    /// The painter has failed: the next one draws all windows again.
    fn lose(&mut self, event_loop: &ActiveEventLoop, error: PaintError) -> Result<(), AppError> {
        self.losses += 1;
        if self.settings.painter == Preference::Software && self.losses > LOSSES {
            return Err(error.into());
        }
        tracing::warn!("{error}");
        if self.losses >= LOSSES || matches!(error, PaintError::Unsupported { .. }) {
            self.settings.painter = Preference::Software;
        }
        let before = self.painter.take();
        // A driver that is gone is no reason to end, also where a GPU was asked for.
        if let Err(error) = self.painter(event_loop) {
            if self.settings.painter == Preference::Software {
                return Err(error);
            }
            tracing::warn!("{error}");
            self.settings.painter = Preference::Software;
        }
        let mut surfaces = Vec::new();
        let targets: Vec<(u32, Target)> =
            self.windows.iter().map(|(id, window)| (*id, window.target.clone())).collect();
        for (id, target) in targets {
            match self.painter(event_loop)?.open(&target) {
                Ok(surface) => surfaces.push((id, surface)),
                Err(error) => return self.lose(event_loop, error),
            }
        }
        for (id, surface) in surfaces {
            if let Some(window) = self.windows.get_mut(&id) {
                window.repaint(surface);
            }
        }
        drop(before);
        Ok(())
    }

    pub(super) fn draw(&mut self, event_loop: &ActiveEventLoop) -> Result<(), AppError> {
        loop {
            let failed = self.windows.values_mut().find_map(|window| window.draw().err());
            match failed {
                None => return Ok(()),
                Some(error) => self.lose(event_loop, error)?,
            }
        }
    }
}
