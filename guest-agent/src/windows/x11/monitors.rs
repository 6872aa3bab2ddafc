//! The screen has the shape of the host's monitors (RandR 1.5), but for desktop mode ([`super::outputs`]).

use proto::v1::{Monitor, Rectangle};
use window_link::limits;
use x11rb::protocol::randr::{ConnectionExt as _, MonitorInfo};
use x11rb::protocol::xproto::{AtomEnum, ConnectionExt as _, PropMode, Window};
use x11rb::wrapper::ConnectionExt as _;

use super::{Lost, X11, answer};
use crate::windows::record;

/// Dots per inch of a monitor that says nothing.
const DPI: u32 = 96;
/// Tenths of millimetres of an inch.
const INCH: u32 = 254;

/// Moved by so much.
pub(super) fn shifted(place: Rectangle, by: (i32, i32)) -> Rectangle {
    Rectangle { x: place.x.saturating_add(by.0), y: place.y.saturating_add(by.1), ..place }
}

/// Millimetres of so many pixels at 96 dots per inch.
pub(super) fn millimetres(pixels: u32) -> u32 {
    (pixels * INCH / (DPI * 10)).max(1)
}

impl X11 {
    pub(super) fn begin_monitors(&mut self) -> Result<(), Lost> {
        if let Some(range) = answer(self.x.randr_get_screen_size_range(self.root)?.reply())? {
            self.most = (range.max_width.max(1), range.max_height.max(1));
        }
        self.tell_work_area()
    }

    /// The host's monitors are these.
    pub(super) fn monitors(&mut self, told: Vec<Monitor>) -> Result<(), Lost> {
        // One that begins farther away than the screen can be large is none of it.
        let (wide, high) = (u32::from(self.most.0), u32::from(self.most.1));
        let near =
            |place: &Rectangle| place.x.unsigned_abs() < wide && place.y.unsigned_abs() < high;
        let mut monitors: Vec<(Rectangle, Monitor)> = told
            .into_iter()
            .take(limits::MONITORS)
            .filter_map(|monitor| Some((record::place(monitor.geometry?), monitor)))
            .filter(|(place, _)| near(place))
            .collect();
        let least = |side: fn(&Rectangle) -> i32| {
            monitors.iter().map(|(place, _)| side(place)).min().unwrap_or(0).min(0)
        };
        let origin = (least(|place| place.x), least(|place| place.y));
        let here = |place: Rectangle| shifted(place, (-origin.0, -origin.1));
        monitors.retain(|(place, _)| near(&here(*place)));
        let monitors: Vec<Monitor> = monitors
            .into_iter()
            .map(|(place, monitor)| Monitor {
                geometry: Some(here(place)),
                work_area: monitor.work_area.map(record::place).map(here),
                ..monitor
            })
            .collect();
        if monitors.is_empty() {
            return Ok(());
        }
        self.begin_at(origin)?;
        self.monitors = monitors;
        let primary = self.monitors.iter().find(|monitor| monitor.primary);
        let scale = primary.or(self.monitors.first()).map_or(100, |monitor| monitor.scale);
        self.set_scale(scale)?;
        match self.desktop.is_on() {
            true => Ok(()),
            false => self.follow_monitors(),
        }
    }

    /// The screen begins there on the host. Windows stay where the host has them.
    fn begin_at(&mut self, origin: (i32, i32)) -> Result<(), Lost> {
        let before = std::mem::replace(&mut self.origin, origin);
        let by = (before.0 - origin.0, before.1 - origin.1);
        if by == (0, 0) {
            return Ok(());
        }
        self.shift_places(by);
        if self.desktop.is_on() {
            return Ok(());
        }
        let windows: Vec<(Window, Rectangle)> =
            self.clients.iter().map(|(window, client)| (*window, client.geometry)).collect();
        for (window, place) in windows {
            self.put(window, shifted(place, by))?;
        }
        Ok(())
    }

    /// Gives the screen the shape that the host's monitors have.
    pub(super) fn follow_monitors(&mut self) -> Result<(), Lost> {
        if self.monitors.is_empty() {
            return Ok(());
        }
        let end = |start: i32, length: u32| start.unsigned_abs() + length;
        let ends = self.monitors.iter().filter_map(|monitor| monitor.geometry);
        let (width, height) = ends.fold((1, 1), |(width, height), place| {
            (end(place.x, place.width).max(width), end(place.y, place.height).max(height))
        });
        let fits = |length: u32, most: u16| {
            u16::try_from(length).unwrap_or(u16::MAX).min(most).min(i16::MAX.unsigned_abs())
        };
        let size = (fits(width, self.most.0), fits(height, self.most.1));
        if (u32::from(size.0), u32::from(size.1)) != (width, height) {
            tracing::warn!(
                width,
                height,
                ?size,
                "the X server's screen cannot be as large as the host's"
            );
        }
        self.dark()?;
        self.set_size(size)?;
        self.set_monitors(&self.monitors)?;
        self.tell_work_area()
    }

    /// Takes the host's monitors back: programs see the outputs that there are.
    pub(super) fn forget_monitors(&self) -> Result<(), Lost> {
        if let Some(held) = answer(self.x.randr_get_monitors(self.root, false)?.reply())? {
            for monitor in held.monitors.iter().filter(|monitor| !monitor.automatic) {
                self.x.randr_delete_monitor(self.root, monitor.name)?;
            }
        }
        Ok(())
    }

    fn set_monitors(&self, monitors: &[Monitor]) -> Result<(), Lost> {
        // One whose name is there already is refused.
        self.forget_monitors()?;
        for (number, monitor) in monitors.iter().enumerate() {
            // Names of the host need not be unique, and are any text.
            let name = format!("HOST-{number}");
            let name = answer(self.x.intern_atom(false, name.as_bytes())?.reply())?;
            let (Some(name), Some(place)) = (name, monitor.geometry) else { continue };
            let small = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
            let size = |said: u32, pixels: u32| if said > 0 { said } else { millimetres(pixels) };
            let info = MonitorInfo {
                name: name.atom,
                primary: monitor.primary,
                automatic: false,
                x: i16::try_from(place.x).unwrap_or(i16::MAX),
                y: i16::try_from(place.y).unwrap_or(i16::MAX),
                width: small(place.width),
                height: small(place.height),
                width_in_millimeters: size(monitor.width_mm, place.width),
                height_in_millimeters: size(monitor.height_mm, place.height),
                outputs: Vec::new(),
            };
            self.x.randr_set_monitor(self.root, info)?;
        }
        Ok(())
    }

    /// Where new windows go: the primary monitor without the host's panels.
    pub(super) fn work_area(&self) -> Rectangle {
        let shown = if self.desktop.is_on() { &[] } else { &self.monitors[..] };
        let primary = shown.iter().find(|monitor| monitor.primary);
        let monitor = primary.or(shown.first());
        let area = monitor.and_then(|monitor| monitor.work_area.or(monitor.geometry));
        area.map_or(
            Rectangle { x: 0, y: 0, width: self.size.0.into(), height: self.size.1.into() },
            record::place,
        )
    }

    /// The monitor with a window's middle on it, whole or without the host's panels.
    pub(super) fn monitor_of(&self, place: Rectangle, whole: bool) -> Rectangle {
        let middle = (
            i64::from(place.x) + i64::from(place.width / 2),
            i64::from(place.y) + i64::from(place.height / 2),
        );
        let on = |monitor: &&Monitor| {
            monitor.geometry.is_some_and(|g| {
                let within = |at: i64, start: i32, length: u32| {
                    (i64::from(start)..i64::from(start) + i64::from(length)).contains(&at)
                };
                within(middle.0, g.x, g.width) && within(middle.1, g.y, g.height)
            })
        };
        match self.monitors.iter().filter(|_| !self.desktop.is_on()).find(on) {
            Some(monitor) if whole => monitor.geometry.unwrap_or_default(),
            Some(monitor) => {
                record::place(monitor.work_area.or(monitor.geometry).unwrap_or_default())
            }
            None => self.work_area(),
        }
    }

    fn tell_work_area(&self) -> Result<(), Lost> {
        let area = self.work_area();
        let value = |number: i32| number.unsigned_abs();
        let area = [value(area.x), value(area.y), area.width, area.height];
        let size = [u32::from(self.size.0), u32::from(self.size.1)];
        let (a, replace, kind) = (&self.atoms, PropMode::REPLACE, AtomEnum::CARDINAL);
        self.x.change_property32(replace, self.root, a._NET_WORKAREA, kind, &area)?;
        self.x.change_property32(replace, self.root, a._NET_DESKTOP_GEOMETRY, kind, &size)?;
        Ok(())
    }
}
