//! What the front-end's messages do to the device.

use crate::{Device, DeviceId, GuestMemory, Interrupts, Queue, Running, Session};
use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;
use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryMmap, GuestRegionMmap};
use vmm_sys_util::eventfd::EventFd;

/// The most memory regions a front-end may send at once (QEMU sends at most as many).
const MOST_REGIONS: usize = 32;

/// A device and what the front-end has set up so far.
pub(super) struct Backend {
    device: Box<dyn Device>,
    memory: GuestMemory,
    regions: Vec<Region>,
    features: u64,
    rings: Vec<Ring>,
    running: Option<Running>,
    /// Rings changed: the workers do not match them.
    unsettled: bool,
    signals: Arc<Signals>,
    /// Never used; see [`Self::set_gpu_socket`].
    gpu_socket: Option<GpuBackend>,
}

/// One region of guest memory in the front-end's own address space.
#[derive(Clone, Copy)]
struct Region {
    user: u64,
    guest: u64,
    size: u64,
}

#[derive(Default)]
struct Ring {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    next_available: u16,
    kick: Option<EventFd>,
    enabled: bool,
}

/// The way of interrupts: one eventfd per ring.
#[derive(Default)]
struct Signals {
    calls: Mutex<Vec<Option<EventFd>>>,
}

impl Signals {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<EventFd>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interrupts for Signals {
    fn queue(&self, index: u16) {
        if let Some(Some(call)) = self.lock().get(usize::from(index)) {
            // Fails only when the counter is full: the interrupt is on its way.
            let _ = call.write(1);
        }
    }

    fn config_changed(&self) {
        // Without a channel back, the front-end sees it when it reads the configuration again.
    }

    fn needs_reset(&self) {
        // vhost-user has no word for it; the rings just stand still until the driver gives up.
        tracing::warn!("vhost-user: driver broke a rule, the device stands still");
    }
}

impl Backend {
    pub(super) fn new(device: Box<dyn Device>) -> Self {
        let rings = device.queue_sizes().len();
        let signals = Signals { calls: Mutex::new((0..rings).map(|_| None).collect()) };
        Self {
            device,
            memory: GuestMemory::new(GuestMemoryMmap::new()),
            regions: Vec::new(),
            features: 0,
            rings: (0..rings).map(|_| Ring::default()).collect(),
            running: None,
            unsettled: false,
            signals: Arc::new(signals),
            gpu_socket: None,
        }
    }

    pub(super) fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    /// Starts, stops or restarts the workers so that they serve the rings as they are now.
    pub(super) fn settle(&mut self) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        self.stop();
        let queues: Vec<Queue> =
            (0..).zip(&self.rings).filter_map(|(n, ring)| self.queue(n, ring)).collect();
        if queues.is_empty() {
            return;
        }
        let kicks: Vec<_> = queues.iter().filter_map(|queue| queue.kick.try_clone().ok()).collect();
        let session = Session {
            memory: self.memory.clone(),
            features: self.features & !VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(),
            queues,
            interrupts: self.signals.clone(),
        };
        match Running::start(self.device.as_mut(), session) {
            Ok(running) => {
                self.running = Some(running);
                // What became available while nobody listened.
                for kick in kicks {
                    let _ = kick.write(1);
                }
            }
            // Rings come and go one by one: a device that needs two starts with the second.
            Err(error) => tracing::debug!(%error, "vhost-user: device does not start"),
        }
    }

    /// The ring as a worker takes it; `None` when it is off or makes no sense.
    fn queue(&self, index: u16, ring: &Ring) -> Option<Queue> {
        let kick = ring.kick.as_ref().filter(|_| ring.enabled)?;
        let most = *self.device.queue_sizes().get(usize::from(index))?;
        let make = || -> std::result::Result<_, String> {
            let text = |error: virtio_queue::Error| error.to_string();
            let mut queue = virtio_queue::Queue::new(most).map_err(text)?;
            queue.try_set_size(ring.size).map_err(text)?;
            queue.try_set_desc_table_address(GuestAddress(ring.descriptors)).map_err(text)?;
            queue.try_set_avail_ring_address(GuestAddress(ring.available)).map_err(text)?;
            queue.try_set_used_ring_address(GuestAddress(ring.used)).map_err(text)?;
            queue.set_event_idx(self.features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
            queue.set_ready(true);
            let memory = self.memory.memory();
            if !queue.is_valid(&*memory) {
                return Err("it does not lie in guest memory".to_owned());
            }
            // The front-end gives the available index only; a stopped ring has nothing in flight,
            // so the used index is where the ring says.
            let used = queue.used_idx(&*memory, Ordering::Acquire).map_err(text)?;
            queue.set_next_avail(ring.next_available);
            queue.set_next_used(used.0);
            let kick = kick.try_clone().map_err(|error| error.to_string())?;
            Ok(Queue::new(index, queue, kick))
        };
        make()
            .inspect_err(|error| tracing::warn!(ring = index, error, "vhost-user: ring left off"))
            .ok()
    }

    fn stop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        for state in running.finish(self.device.as_mut()) {
            if let Some(ring) = self.rings.get_mut(usize::from(state.index)) {
                ring.next_available = state.next_avail;
            }
        }
    }

    /// The front-end is gone.
    pub(super) fn disconnect(&mut self) {
        self.forget();
        self.gpu_socket = None;
        self.memory = GuestMemory::new(GuestMemoryMmap::new());
        self.regions.clear();
    }

    /// Stops and forgets the rings and the conversation with the driver.
    fn forget(&mut self) {
        self.stop();
        self.device.reset();
        self.features = 0;
        self.unsettled = false;
        self.rings.iter_mut().for_each(|ring| *ring = Ring::default());
        self.signals.lock().iter_mut().for_each(|call| *call = None);
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        let index = usize::try_from(index).map_err(|_| Error::InvalidParam)?;
        self.rings.get_mut(index).ok_or(Error::InvalidParam)
    }

    /// Front-ends name places by their own addresses.
    fn guest_address(&self, user: u64) -> Result<u64> {
        self.regions
            .iter()
            .find_map(|region| {
                let offset =
                    user.checked_sub(region.user).filter(|offset| *offset < region.size)?;
                region.guest.checked_add(offset)
            })
            .ok_or(Error::InvalidParam)
    }

    fn offered(&self) -> u64 {
        self.device.features()
            | 1 << VIRTIO_F_VERSION_1
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }
}

/// A descriptor from the front-end as an eventfd that never makes us wait.
#[allow(unsafe_code)]
fn event(file: File) -> Result<EventFd> {
    rustix::fs::fcntl_getfl(&file)
        .and_then(|flags| rustix::fs::fcntl_setfl(&file, flags | rustix::fs::OFlags::NONBLOCK))
        .map_err(|error| Error::ReqHandlerError(error.into()))?;
    // SAFETY: the descriptor was `file`'s alone and is given up by it here. Should it be no
    // eventfd, reads and writes of 8 bytes fail or are lost, which harms only the sender.
    Ok(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}

fn not_offered<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered by this device"))
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.forget();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.forget();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.offered() != 0 {
            return Err(Error::InvalidParam);
        }
        let enabled = features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0;
        if features != self.features {
            self.features = features;
            self.unsettled = true;
            if enabled {
                // Without protocol features there is no message to enable a ring.
                self.rings.iter_mut().for_each(|ring| ring.enabled = true);
            }
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        if regions.len() > MOST_REGIONS || regions.len() != files.len() {
            return Err(Error::InvalidParam);
        }
        let mut mapped = Vec::new();
        let mut table = Vec::new();
        for (region, file) in regions.iter().zip(files) {
            let size = usize::try_from(region.memory_size).map_err(|_| Error::InvalidParam)?;
            let memory: MmapRegion =
                MmapRegion::from_file(FileOffset::new(file, region.mmap_offset), size)
                    .map_err(|error| Error::ReqHandlerError(std::io::Error::other(error)))?;
            let at = GuestAddress(region.guest_phys_addr);
            mapped.push(GuestRegionMmap::new(memory, at).ok_or(Error::InvalidParam)?);
            table.push(Region {
                user: region.user_addr,
                guest: region.guest_phys_addr,
                size: region.memory_size,
            });
        }
        mapped.sort_by_key(vm_memory::GuestMemoryRegion::start_addr);
        let memory = GuestMemoryMmap::from_regions(mapped)
            .map_err(|error| Error::ReqHandlerError(std::io::Error::other(error)))?;
        self.regions = table;
        // Running workers see the new layout with their next request.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).replace(memory);
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        let most = self.device.queue_sizes().get(index as usize).copied().unwrap_or(0);
        let size = u16::try_from(size).map_err(|_| Error::InvalidParam)?;
        if !size.is_power_of_two() || size > most {
            return Err(Error::InvalidParam);
        }
        self.ring(index)?.size = size;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let descriptors = self.guest_address(descriptors)?;
        let used = self.guest_address(used)?;
        let available = self.guest_address(available)?;
        let ring = self.ring(index)?;
        (ring.descriptors, ring.used, ring.available) = (descriptors, used, available);
        self.unsettled = true;
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        let ring = self.ring(index)?;
        // A front-end that goes on gives back the base it got. One that begins anew on a used ring
        // has seen the driver reset the device; there is no message of its own for that.
        let anew = base == 0 && ring.next_available != 0;
        ring.next_available = base;
        if anew && self.running.is_none() {
            self.device.reset();
        }
        Ok(())
    }

    /// Stops the ring.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.ring(index)?;
        self.stop();
        let ring = self.ring(index)?;
        ring.kick = None;
        let base = ring.next_available;
        // The others go on.
        self.unsettled = true;
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let kick = file.map(event).transpose()?;
        self.ring(index.into())?.kick = kick;
        self.unsettled = true;
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let call = file.map(event).transpose()?;
        let mut calls = self.signals.lock();
        *calls.get_mut(usize::from(index)).ok_or(Error::InvalidParam)? = call;
        Ok(())
    }

    fn set_vring_err(&mut self, _index: u8, _file: Option<File>) -> Result<()> {
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let ring = self.ring(index)?;
        if ring.enabled != enable {
            ring.enabled = enable;
            self.unsettled = true;
        }
        Ok(())
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> Result<Vec<u8>> {
        // The message format bounds the size to some KiB (vhost checks it).
        let mut data = vec![0; size as usize];
        self.device.read_config(offset.into(), &mut data);
        Ok(data)
    }

    fn set_config(&mut self, offset: u32, data: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        self.device.write_config(offset.into(), data);
        Ok(())
    }

    /// A graphics device is offered a way to show pictures in the front-end. Ours shows them itself
    /// and keeps the socket: a front-end that finds it closed stops the device.
    fn set_gpu_socket(&mut self, gpu: GpuBackend) -> Result<()> {
        if self.device.id() != DeviceId::Gpu {
            return not_offered();
        }
        self.gpu_socket = Some(gpu);
        Ok(())
    }

    fn get_shared_object(&mut self, _id: VhostUserSharedMsg) -> Result<File> {
        not_offered()
    }

    fn get_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
    ) -> Result<(VhostUserInflight, File)> {
        not_offered()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        not_offered()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        not_offered()
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _file: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<u64>> {
        not_offered()
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        not_offered()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        not_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        not_offered()
    }
}
