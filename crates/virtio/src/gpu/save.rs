//! The device's state for a snapshot: what the driver made and what is shown.
//!
//! A saved state comes from a file, so it is checked as a driver's commands are.

use super::commands::{BlobLayout, Shown, State};
use super::protocol::{Format, Refusal};
use super::resource::{Backing, Kind, MOST_RESOURCES, Picture, Quota, Resource};
use super::{Gpu, Mode};
use crate::RestoreError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use display::{Rectangle, Size};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Version 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    /// Width and height in pixels, then in millimetres.
    mode: (u32, u32, u16, u16),
    events: u32,
    resources: Vec<SavedResource>,
    shown: Option<SavedShown>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedResource {
    id: u32,
    picture: Option<SavedPicture>,
    /// Bytes of a blob.
    blob: Option<u64>,
    /// Address and length of each piece of guest memory.
    backing: Option<Vec<(u64, u32)>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedPicture {
    width: u32,
    height: u32,
    format: u32,
    /// In base64.
    pixels: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedShown {
    resource: u32,
    /// Column, row, width, height.
    area: (u32, u32, u32, u32),
    /// Of a blob: format, bytes from row to row, place of the first pixel.
    layout: Option<(u32, u32, u32)>,
}

pub(super) fn save(gpu: &Gpu) -> serde_json::Value {
    let Some(state) = &gpu.state else {
        return serde_json::Value::Null;
    };
    let resources = state.resources.iter().map(|(id, resource)| {
        let (picture, blob) = match &resource.kind {
            Kind::Picture(Picture { size, format, pixels }) => {
                let pixels = BASE64.encode(pixels);
                let (width, height) = (size.width, size.height);
                (Some(SavedPicture { width, height, format: format.number(), pixels }), None)
            }
            Kind::Blob(bytes) => (None, Some(*bytes)),
        };
        let backing = resource.backing.as_ref().map(|backing| backing.entries().collect());
        SavedResource { id: *id, picture, blob, backing }
    });
    let Mode { size, width_mm, height_mm } = gpu.shared.mode();
    let saved = Saved {
        version: 1,
        mode: (size.width, size.height, width_mm, height_mm),
        events: gpu.shared.events.load(Ordering::SeqCst),
        resources: resources.collect(),
        shown: state.shown.map(|Shown { resource, area, blob }| SavedShown {
            resource,
            area: (area.x, area.y, area.width, area.height),
            layout: blob.map(|blob| (blob.format.number(), blob.stride, blob.offset)),
        }),
    };
    // Numbers and strings only: there is nothing in it that JSON has no word for.
    serde_json::to_value(saved).unwrap_or_default()
}

pub(super) fn restore(gpu: &mut Gpu, state: &serde_json::Value) -> Result<(), RestoreError> {
    let device = gpu.name.clone();
    let refuse = |reason: String| RestoreError { device: device.clone(), reason };
    let saved = Saved::deserialize(state).map_err(|error| refuse(error.to_string()))?;
    if saved.version != 1 {
        return Err(refuse(format!("version {}, 1 is known", saved.version)));
    }
    let (width, height, width_mm, height_mm) = saved.mode;
    let size = Size::new(width, height).ok_or_else(|| refuse("a size out of range".into()))?;
    let mut quota = Quota::default();
    let mut resources = BTreeMap::new();
    for saved in saved.resources {
        let id = saved.id;
        let wrong = |what: &dyn std::fmt::Debug| refuse(format!("resource {id}: {what:?}"));
        let resource = resource(saved, &mut quota).map_err(|refusal| wrong(&refusal))?;
        if id == 0 || resources.len() >= MOST_RESOURCES || resources.insert(id, resource).is_some()
        {
            return Err(wrong(&"one too many of its number, or of all"));
        }
    }
    let shown = saved.shown.map(shown).transpose();
    let shown = shown.map_err(|refusal| refuse(format!("what is shown: {refusal:?}")))?;
    let Some(state) = &mut gpu.state else {
        return Err(refuse("the device has lost its screen".into()));
    };
    state.reset();
    (state.resources, state.quota) = (resources, quota);
    if let Some(shown) = shown {
        state.show_restored(shown).map_err(|refusal| refuse(format!("shown: {refusal:?}")))?;
    }
    let mut mode = gpu.shared.mode.lock().unwrap_or_else(PoisonError::into_inner);
    *mode = Mode { size, width_mm, height_mm };
    gpu.shared.events.store(saved.events, Ordering::SeqCst);
    Ok(())
}

fn resource(saved: SavedResource, quota: &mut Quota) -> Result<Resource, Refusal> {
    let kind = match (saved.picture, saved.blob) {
        (Some(saved), None) => {
            let mut picture = Picture::new(saved.width, saved.height, saved.format, quota)?;
            let pixels = BASE64.decode(saved.pixels).map_err(|_| Refusal::InvalidParameter)?;
            if pixels.len() != picture.pixels.len() {
                return Err(Refusal::InvalidParameter);
            }
            picture.pixels = pixels;
            Kind::Picture(picture)
        }
        (None, Some(bytes)) => Kind::Blob(bytes),
        _ => return Err(Refusal::InvalidParameter),
    };
    let backing = saved.backing.map(|entries| Backing::new(&entries, quota)).transpose()?;
    Ok(Resource { kind, backing })
}

fn shown(saved: SavedShown) -> Result<Shown, Refusal> {
    let (x, y, width, height) = saved.area;
    let blob = match saved.layout {
        None => None,
        Some((format, stride, offset)) => {
            Some(BlobLayout { format: Format::from_number(format)?, stride, offset })
        }
    };
    Ok(Shown { resource: saved.resource, area: Rectangle { x, y, width, height }, blob })
}

impl State {
    /// Shows what a saved state says, if a command could have; it is painted when the device starts.
    fn show_restored(&mut self, shown: Shown) -> Result<(), Refusal> {
        let resource = self.resources.get(&shown.resource).ok_or(Refusal::InvalidResource)?;
        let fits = match (&resource.kind, shown.blob) {
            (Kind::Picture(picture), None) => shown.area.is_inside(&picture.size.whole()),
            (Kind::Blob(bytes), Some(layout)) => layout.holds(shown.area, *bytes),
            _ => false,
        };
        let size = Size::new(shown.area.width, shown.area.height);
        let size = size.filter(|_| fits).ok_or(Refusal::InvalidParameter)?;
        self.screen.configure(Some(size)).map_err(|_| Refusal::OutOfMemory)?;
        self.shown = Some(shown);
        Ok(())
    }
}
