//! The screen of the machine that the X server is on: off in seamless mode, where the host shows windows by
//! themselves, and in desktop mode of the size that the machine's display asks for.

use x11rb::protocol::randr::{
    Connection, ConnectionExt as _, Crtc, GetScreenResourcesCurrentReply, Mode, NotifyMask, Output,
    Rotation,
};
use x11rb::{CURRENT_TIME, NONE};

use super::{Lost, X11, answer, monitors::millimetres};

/// An output as it wants to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    output: Output,
    width: u16,
    height: u16,
}

/// What is to be set.
struct Plan {
    wanted: Wanted,
    crtc: Crtc,
    mode: Mode,
    x: i16,
}

impl X11 {
    /// Hears of outputs that want another size.
    pub(super) fn begin_outputs(&self) -> Result<(), Lost> {
        let events = NotifyMask::SCREEN_CHANGE | NotifyMask::OUTPUT_CHANGE;
        self.x.randr_select_input(self.root, events)?;
        Ok(())
    }

    /// Nothing is shown on any output. A screen that shows something is not free to have any size, either.
    pub(super) fn dark(&mut self) -> Result<(), Lost> {
        self.desktop.shown.clear();
        let Some(resources) =
            answer(self.x.randr_get_screen_resources_current(self.root)?.reply())?
        else {
            return Ok(());
        };
        for crtc in &resources.crtcs {
            self.turn_off(*crtc, resources.config_timestamp)?;
        }
        Ok(())
    }

    fn turn_off(&self, crtc: Crtc, time: u32) -> Result<(), Lost> {
        let info = answer(self.x.randr_get_crtc_info(crtc, time)?.reply())?;
        if info.is_some_and(|info| info.mode == NONE) {
            return Ok(());
        }
        let rotation = Rotation::ROTATE0;
        let off =
            self.x.randr_set_crtc_config(crtc, CURRENT_TIME, time, 0, 0, NONE, rotation, &[])?;
        answer(off.reply())?;
        Ok(())
    }

    /// Shows the screen on the outputs that there are, beside each other, each in the size that it prefers. What the
    /// user has set since stays until an output prefers something else. On an X server without a real output, as
    /// Xvfb, nothing changes.
    pub(super) fn light(&mut self) -> Result<(), Lost> {
        let Some(resources) =
            answer(self.x.randr_get_screen_resources_current(self.root)?.reply())?
        else {
            return Ok(());
        };
        let plans = self.plan(&resources)?;
        let wanted: Vec<Wanted> = plans.iter().map(|plan| plan.wanted).collect();
        if wanted.is_empty() || wanted == self.desktop.shown {
            return Ok(());
        }
        let width = plans.iter().map(|plan| u32::from(plan.wanted.width)).sum::<u32>();
        let width = u16::try_from(width).unwrap_or(u16::MAX).min(self.most.0);
        let height = plans.iter().map(|plan| plan.wanted.height).max().unwrap_or(1);
        let height = height.min(self.most.1);
        tracing::info!(width, height, "the desktop's screen");
        // What an output shows must be on the screen, before and after.
        self.set_size((width.max(self.size.0), height.max(self.size.1)))?;
        let used = |crtc: &Crtc| plans.iter().any(|plan| plan.crtc == *crtc);
        for crtc in resources.crtcs.iter().filter(|crtc| !used(crtc)) {
            self.turn_off(*crtc, resources.config_timestamp)?;
        }
        for plan in &plans {
            let (time, outputs) = (resources.config_timestamp, [plan.wanted.output]);
            let rotation = Rotation::ROTATE0;
            let set = self.x.randr_set_crtc_config(
                plan.crtc,
                CURRENT_TIME,
                time,
                plan.x,
                0,
                plan.mode,
                rotation,
                &outputs,
            )?;
            if answer(set.reply())?.is_none() {
                tracing::warn!(output = plan.wanted.output, "an output does not show the screen");
            }
        }
        self.set_size((width, height))?;
        self.desktop.shown = wanted;
        Ok(())
    }

    fn plan(&self, resources: &GetScreenResourcesCurrentReply) -> Result<Vec<Plan>, Lost> {
        let mut plans: Vec<Plan> = Vec::new();
        let mut x = 0_i16;
        for output in &resources.outputs {
            let asked = self.x.randr_get_output_info(*output, resources.config_timestamp)?;
            let Some(info) = answer(asked.reply())? else { continue };
            // The preferred modes are the first.
            let preferred = info.modes.first().filter(|_| info.num_preferred > 0);
            let mode = preferred.and_then(|id| resources.modes.iter().find(|mode| mode.id == *id));
            let (Some(mode), Connection::CONNECTED) = (mode, info.connection) else { continue };
            let free = |crtc: &&Crtc| plans.iter().all(|plan| plan.crtc != **crtc);
            let own = Some(&info.crtc).filter(|crtc| **crtc != NONE).filter(free);
            let Some(crtc) = own.or_else(|| info.crtcs.iter().find(free)).copied() else {
                continue;
            };
            let wanted = Wanted { output: *output, width: mode.width, height: mode.height };
            plans.push(Plan { wanted, crtc, mode: mode.id, x });
            x = x.saturating_add_unsigned(mode.width);
        }
        Ok(plans)
    }

    /// Makes the screen so large. What outputs show has to be within.
    pub(super) fn set_size(&mut self, size: (u16, u16)) -> Result<(), Lost> {
        if size == self.size {
            return Ok(());
        }
        let (width, height) = size;
        let (wide, high) = (millimetres(width.into()), millimetres(height.into()));
        let set = self.x.randr_set_screen_size(self.root, width, height, wide, high)?;
        match answer(set.check())? {
            Some(()) => self.size = size,
            None => tracing::warn!(width, height, "the X server keeps the size of its screen"),
        }
        Ok(())
    }
}
