//! ext-data-control-v1 and wlr-data-control-unstable-v1 behind one face. The second was the first's draft:
//! the same requests and events under other names.

use std::os::fd::{BorrowedFd, OwnedFd};

use wayland_client::backend::ObjectId;
use wayland_client::globals::{BindError, GlobalList};
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, event_created_child};
use wayland_protocols::ext::data_control::v1::client as ext;
use wayland_protocols_wlr::data_control::v1::client as wlr;

use super::worker::Worker;
use crate::Selection;

/// Makes everything else.
#[derive(Debug)]
pub(super) enum Manager {
    Ext(ext::ext_data_control_manager_v1::ExtDataControlManagerV1),
    Wlr(wlr::zwlr_data_control_manager_v1::ZwlrDataControlManagerV1),
}

/// The clipboards of a seat.
#[derive(Debug)]
pub(super) enum Device {
    Ext(ext::ext_data_control_device_v1::ExtDataControlDeviceV1),
    Wlr(wlr::zwlr_data_control_device_v1::ZwlrDataControlDeviceV1),
}

/// Something that this side offers.
#[derive(Debug)]
pub(super) enum Given {
    Ext(ext::ext_data_control_source_v1::ExtDataControlSourceV1),
    Wlr(wlr::zwlr_data_control_source_v1::ZwlrDataControlSourceV1),
}

/// Something that another program offers, or the compositor's echo of what this side does.
#[derive(Debug)]
pub(super) enum Found {
    Ext(ext::ext_data_control_offer_v1::ExtDataControlOfferV1),
    Wlr(wlr::zwlr_data_control_offer_v1::ZwlrDataControlOfferV1),
}

impl Manager {
    /// The standard one where there is a choice.
    pub(super) fn bind(globals: &GlobalList, queue: &QueueHandle<Worker>) -> Option<Self> {
        // Version 2 of the draft has the primary selection.
        let ext: Result<_, BindError> = globals.bind(queue, 1..=1, ());
        ext.map(Self::Ext).or_else(|_| globals.bind(queue, 1..=2, ()).map(Self::Wlr)).ok()
    }

    pub(super) fn device(&self, seat: &WlSeat, queue: &QueueHandle<Worker>) -> Device {
        match self {
            Self::Ext(manager) => Device::Ext(manager.get_data_device(seat, queue, ())),
            Self::Wlr(manager) => Device::Wlr(manager.get_data_device(seat, queue, ())),
        }
    }

    pub(super) fn give(&self, queue: &QueueHandle<Worker>) -> Given {
        match self {
            Self::Ext(manager) => Given::Ext(manager.create_data_source(queue, ())),
            Self::Wlr(manager) => Given::Wlr(manager.create_data_source(queue, ())),
        }
    }
}

impl Device {
    /// Whether it knows the selection.
    pub(super) fn has(&self, selection: Selection) -> bool {
        match self {
            Self::Ext(_) => true,
            Self::Wlr(device) => selection == Selection::Clipboard || device.version() >= 2,
        }
    }

    pub(super) fn set(&self, selection: Selection, given: &Given) {
        match (self, given, selection) {
            (Self::Ext(device), Given::Ext(given), Selection::Clipboard) => {
                device.set_selection(Some(given));
            }
            (Self::Ext(device), Given::Ext(given), Selection::Primary) => {
                device.set_primary_selection(Some(given));
            }
            (Self::Wlr(device), Given::Wlr(given), Selection::Clipboard) => {
                device.set_selection(Some(given));
            }
            (Self::Wlr(device), Given::Wlr(given), Selection::Primary) => {
                device.set_primary_selection(Some(given));
            }
            // One manager makes both.
            (Self::Ext(_), Given::Wlr(_), _) | (Self::Wlr(_), Given::Ext(_), _) => {}
        }
    }
}

impl Given {
    pub(super) fn id(&self) -> ObjectId {
        match self {
            Self::Ext(given) => given.id(),
            Self::Wlr(given) => given.id(),
        }
    }

    pub(super) fn name(&self, name: String) {
        match self {
            Self::Ext(given) => given.offer(name),
            Self::Wlr(given) => given.offer(name),
        }
    }

    pub(super) fn destroy(&self) {
        match self {
            Self::Ext(given) => given.destroy(),
            Self::Wlr(given) => given.destroy(),
        }
    }
}

impl Found {
    pub(super) fn id(&self) -> ObjectId {
        match self {
            Self::Ext(found) => found.id(),
            Self::Wlr(found) => found.id(),
        }
    }

    pub(super) fn receive(&self, name: String, into: BorrowedFd<'_>) {
        match self {
            Self::Ext(found) => found.receive(name, into),
            Self::Wlr(found) => found.receive(name, into),
        }
    }

    pub(super) fn destroy(&self) {
        match self {
            Self::Ext(found) => found.destroy(),
            Self::Wlr(found) => found.destroy(),
        }
    }
}

/// What the protocols tell.
#[derive(Debug)]
pub(super) enum Told {
    Found(Found),
    Named(ObjectId, String),
    Selected(Selection, Option<ObjectId>),
    /// A paste from this side.
    Asked(ObjectId, String, OwnedFd),
    /// What this side offers is not offered any more.
    Cancelled(ObjectId),
    /// The seat is gone.
    Finished,
}

macro_rules! speaks {
    (
        $variant:ident,
        $managers:path, $manager:ty,
        $devices:path, $device:ty,
        $sources:path, $source:ty,
        $offers:path, $offer:ty
    ) => {
        const _: () = {
            use $devices as devices;
            use $managers as managers;
            use $offers as offers;
            use $sources as sources;

            impl Dispatch<$manager, ()> for Worker {
                fn event(
                    _: &mut Self,
                    _: &$manager,
                    _: managers::Event,
                    (): &(),
                    _: &Connection,
                    _: &QueueHandle<Self>,
                ) {
                }
            }

            impl Dispatch<$device, ()> for Worker {
                fn event(
                    worker: &mut Self,
                    _: &$device,
                    event: devices::Event,
                    (): &(),
                    _: &Connection,
                    _: &QueueHandle<Self>,
                ) {
                    worker.told(match event {
                        devices::Event::DataOffer { id } => Told::Found(Found::$variant(id)),
                        devices::Event::Selection { id } => {
                            Told::Selected(Selection::Clipboard, id.map(|offer| offer.id()))
                        }
                        devices::Event::PrimarySelection { id } => {
                            Told::Selected(Selection::Primary, id.map(|offer| offer.id()))
                        }
                        devices::Event::Finished => Told::Finished,
                        _ => return,
                    });
                }

                event_created_child!(Self, $device, [
                    devices::EVT_DATA_OFFER_OPCODE => ($offer, ()),
                ]);
            }

            impl Dispatch<$source, ()> for Worker {
                fn event(
                    worker: &mut Self,
                    source: &$source,
                    event: sources::Event,
                    (): &(),
                    _: &Connection,
                    _: &QueueHandle<Self>,
                ) {
                    worker.told(match event {
                        sources::Event::Send { mime_type, fd } => {
                            Told::Asked(source.id(), mime_type, fd)
                        }
                        sources::Event::Cancelled => Told::Cancelled(source.id()),
                        _ => return,
                    });
                }
            }

            impl Dispatch<$offer, ()> for Worker {
                fn event(
                    worker: &mut Self,
                    offer: &$offer,
                    event: offers::Event,
                    (): &(),
                    _: &Connection,
                    _: &QueueHandle<Self>,
                ) {
                    if let offers::Event::Offer { mime_type } = event {
                        worker.told(Told::Named(offer.id(), mime_type));
                    }
                }
            }
        };
    };
}

speaks!(
    Ext,
    ext::ext_data_control_manager_v1,
    ext::ext_data_control_manager_v1::ExtDataControlManagerV1,
    ext::ext_data_control_device_v1,
    ext::ext_data_control_device_v1::ExtDataControlDeviceV1,
    ext::ext_data_control_source_v1,
    ext::ext_data_control_source_v1::ExtDataControlSourceV1,
    ext::ext_data_control_offer_v1,
    ext::ext_data_control_offer_v1::ExtDataControlOfferV1
);
speaks!(
    Wlr,
    wlr::zwlr_data_control_manager_v1,
    wlr::zwlr_data_control_manager_v1::ZwlrDataControlManagerV1,
    wlr::zwlr_data_control_device_v1,
    wlr::zwlr_data_control_device_v1::ZwlrDataControlDeviceV1,
    wlr::zwlr_data_control_source_v1,
    wlr::zwlr_data_control_source_v1::ZwlrDataControlSourceV1,
    wlr::zwlr_data_control_offer_v1,
    wlr::zwlr_data_control_offer_v1::ZwlrDataControlOfferV1
);
