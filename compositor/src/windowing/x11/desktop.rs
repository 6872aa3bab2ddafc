//! What the desktop is: monitors, work area, scale, keyboard.

use super::X11;
use crate::model::Rect;
use crate::windowing::WindowingError;
use proto::v1;
use window_link::limits;
use x11rb::protocol::randr::{self, ConnectionExt as _};
use x11rb::protocol::xproto::{AtomEnum, ConnectionExt as _, KeyButMask};

/// Dots in an inch of a desktop that is not scaled (as `Xft.dpi` counts).
const UNSCALED: u32 = 96;

impl X11 {
    pub(super) fn read_monitors(&self) -> Result<v1::Monitors, WindowingError> {
        let found = self.connection.randr_get_monitors(self.root, true)?.reply()?;
        let resources = self.connection.randr_get_screen_resources_current(self.root)?.reply()?;
        let areas = self.work_areas()?;
        let scale = self.scale()?;
        let mut monitors = Vec::new();
        for monitor in found.monitors.iter().take(limits::MONITORS) {
            let rect = Rect {
                x: monitor.x.into(),
                y: monitor.y.into(),
                width: monitor.width.into(),
                height: monitor.height.into(),
            };
            if rect.area() == 0 {
                continue;
            }
            let name = self.connection.get_atom_name(monitor.name)?.reply()?;
            // Of several, that which has most of it: each monitor has one on some desktops.
            let work = areas
                .iter()
                .filter_map(|area| area.common(&rect))
                .max_by_key(Rect::area)
                .unwrap_or(rect);
            monitors.push(v1::Monitor {
                geometry: Some(rect.into()),
                work_area: Some(work.into()),
                scale,
                width_mm: monitor.width_in_millimeters,
                height_mm: monitor.height_in_millimeters,
                refresh: self.refresh(monitor, &resources).unwrap_or(0),
                primary: monitor.primary,
                name: String::from_utf8_lossy(&name.name).chars().take(16).collect(),
            });
        }
        if monitors.is_empty() {
            // RandR knows of none (a server without outputs): the screen is one.
            let screen = self.connection.get_geometry(self.root)?.reply()?;
            let rect =
                Rect { x: 0, y: 0, width: screen.width.into(), height: screen.height.into() };
            monitors.push(v1::Monitor {
                geometry: Some(rect.into()),
                work_area: Some(rect.into()),
                scale,
                primary: true,
                ..v1::Monitor::default()
            });
        }
        Ok(v1::Monitors { monitors })
    }

    /// Thousandths of a hertz; none where the mode says nothing.
    fn refresh(
        &self,
        monitor: &randr::MonitorInfo,
        resources: &randr::GetScreenResourcesCurrentReply,
    ) -> Option<u32> {
        let output = *monitor.outputs.first()?;
        let time = resources.config_timestamp;
        let output = self.connection.randr_get_output_info(output, time).ok()?.reply().ok()?;
        let crtc = self.connection.randr_get_crtc_info(output.crtc, time).ok()?.reply().ok()?;
        let mode = resources.modes.iter().find(|mode| mode.id == crtc.mode)?;
        let dots = u64::from(mode.htotal) * u64::from(mode.vtotal);
        u32::try_from((u64::from(mode.dot_clock) * 1000).checked_div(dots)?).ok()
    }

    /// Work areas: of each monitor where the desktop says so, else one of all.
    fn work_areas(&self) -> Result<Vec<Rect>, WindowingError> {
        for (property, per_desktop) in
            [(self.atoms._GTK_WORKAREAS_D0, false), (self.atoms._NET_WORKAREA, true)]
        {
            let numbers = self.cardinals(self.root, property)?;
            let mut areas: Vec<Rect> = numbers
                .chunks_exact(4)
                .filter_map(|area| {
                    Some(Rect {
                        x: i32::try_from(area[0]).ok()?,
                        y: i32::try_from(area[1]).ok()?,
                        width: area[2],
                        height: area[3],
                    })
                })
                .collect();
            if per_desktop && !areas.is_empty() {
                let current = self.cardinals(self.root, self.atoms._NET_CURRENT_DESKTOP)?;
                let current = current.first().map_or(0, |desktop| *desktop as usize);
                areas = vec![areas[current.min(areas.len() - 1)]];
            }
            if !areas.is_empty() {
                return Ok(areas);
            }
        }
        Ok(Vec::new())
    }

    /// Percent.
    fn scale(&self) -> Result<u32, WindowingError> {
        let database = x11rb::resource_manager::new_from_resource_manager(&*self.connection)?;
        let dpi = database.and_then(|database| {
            let text = database.get_string("Xft.dpi", "")?;
            text.trim().parse::<f64>().ok()
        });
        let percent = dpi.map_or(100.0, |dpi| dpi * 100.0 / f64::from(UNSCALED));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped; NaN is 0"
        )]
        let percent = percent.clamp(50.0, 400.0).round() as u32;
        Ok(percent.max(50))
    }

    pub(super) fn read_keyboard(&self) -> Result<v1::Keyboard, WindowingError> {
        let property = self
            .connection
            .get_property(false, self.root, self.atoms._XKB_RULES_NAMES, AtomEnum::STRING, 0, 1024)?
            .reply()?;
        let mut parts = property
            .value
            .split(|byte| *byte == 0)
            .map(|part| String::from_utf8_lossy(part).chars().take(64).collect::<String>());
        let mut next = || parts.next().filter(|part| part.len() <= 64).unwrap_or_default();
        let (rules, model, layout, variant, options) = (next(), next(), next(), next(), next());
        let pointer = self.connection.query_pointer(self.root)?.reply()?;
        Ok(v1::Keyboard {
            rules,
            model,
            layout,
            variant,
            options,
            caps_lock: pointer.mask.contains(KeyButMask::LOCK),
            // Where every layout of XKB has it.
            num_lock: pointer.mask.contains(KeyButMask::MOD2),
        })
    }

    /// A property of 32-bit numbers; empty when it is not there.
    pub(super) fn cardinals(&self, window: u32, property: u32) -> Result<Vec<u32>, WindowingError> {
        let reply = self
            .connection
            .get_property(false, window, property, AtomEnum::ANY, 0, 4096)?
            .reply()?;
        Ok(reply.value32().map(Iterator::collect).unwrap_or_default())
    }
}
