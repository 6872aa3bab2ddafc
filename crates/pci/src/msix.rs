//! MSI-X: the vector table and pending bits of one function (PCIe 6.0 6.1.4, 7.7.2).

use crate::{ConfigError, ConfigSpace, MsiLine, MsiMessage, MsiSink, StateError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Capability id (PCIe 6.0 7.7.2).
const CAPABILITY_MSIX: u8 = 0x11;
/// Message control, bits 14 and 15 (PCIe 6.0 7.7.2.2).
const FUNCTION_MASK: u16 = 1 << 14;
const ENABLE: u16 = 1 << 15;
/// Bytes per table entry (PCIe 6.0 7.7.2.5).
const ENTRY: u64 = 16;
/// The most vectors a function may have (11-bit field).
const MOST_VECTORS: u16 = 2048;

const STATE_VERSION: u32 = 1;

/// Where table and pending bits lie in their BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// BAR that holds both.
    pub bar: u8,
    /// Offset of the table, a multiple of 8.
    pub table: u32,
    /// Offset of the pending bits, a multiple of 8.
    pub pending: u32,
}

/// The table as saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    version: u32,
    control: u16,
    /// Address, data, masked and pending of each vector.
    vectors: Vec<(u64, u32, bool, bool)>,
}

#[derive(Clone, Copy, Default)]
struct Vector {
    message: MsiMessage,
    masked: bool,
    pending: bool,
}

struct Table {
    vectors: Vec<Vector>,
    enabled: bool,
    function_masked: bool,
    /// Of vectors that somebody else raises.
    lines: BTreeMap<u16, Box<dyn MsiLine>>,
}

/// The MSI-X half of a function. Cheap to clone: the function answers the guest with one handle,
/// workers raise vectors through another.
#[derive(Clone)]
pub struct Msix {
    table: Arc<Mutex<Table>>,
    sink: Arc<dyn MsiSink>,
    layout: MsixLayout,
    /// Offset of the capability in configuration space.
    capability: u16,
}

impl Msix {
    /// Adds the capability for `vectors` vectors (1 to 2048, clamped) to `config`; the caller has
    /// the BAR of `layout` and routes accesses inside it to [`Self::read`] and [`Self::write`].
    ///
    /// # Errors
    /// No room in the capability list.
    pub fn new(
        config: &mut ConfigSpace,
        vectors: u16,
        layout: MsixLayout,
        sink: Arc<dyn MsiSink>,
    ) -> Result<Self, ConfigError> {
        let vectors = vectors.clamp(1, MOST_VECTORS);
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(vectors - 1).to_le_bytes());
        let place = |offset: u32| ((offset & !7) | u32::from(layout.bar & 7)).to_le_bytes();
        body[2..6].copy_from_slice(&place(layout.table));
        body[6..10].copy_from_slice(&place(layout.pending));
        let writable = (ENABLE | FUNCTION_MASK).to_le_bytes();
        let capability = config.add_capability(CAPABILITY_MSIX, &body, &writable)?;
        let vector = Vector { masked: true, ..Vector::default() };
        let table = Table {
            vectors: vec![vector; usize::from(vectors)],
            enabled: false,
            function_masked: false,
            lines: BTreeMap::new(),
        };
        Ok(Self { table: Arc::new(Mutex::new(table)), sink, layout, capability })
    }

    /// Bytes the table of `vectors` vectors takes in its BAR.
    #[must_use]
    pub fn table_size(vectors: u16) -> u64 {
        u64::from(vectors) * ENTRY
    }

    /// Bytes the pending bits of `vectors` vectors take in their BAR.
    #[must_use]
    pub fn pending_size(vectors: u16) -> u64 {
        u64::from(vectors).div_ceil(64) * 8
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many vectors there are.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.lock().vectors.len()).unwrap_or(MOST_VECTORS)
    }

    /// Whether the guest uses MSI-X.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.lock().enabled
    }

    /// The function interrupts on `vector`: sent now, or left pending while masked. Dropped when
    /// the vector does not exist or MSI-X is off.
    pub fn raise(&self, vector: u16) {
        let mut table = self.lock();
        let (enabled, function_masked) = (table.enabled, table.function_masked);
        let Some(vector) = table.vectors.get_mut(usize::from(vector)) else {
            return;
        };
        if !enabled {
            return;
        }
        if function_masked || vector.masked {
            vector.pending = true;
        } else {
            // Under the lock: once a guest's mask write has returned, nothing more is sent.
            self.sink.send(vector.message);
        }
    }

    /// A descriptor that raises `vector` for whoever signals it, also when the guest changes the vector, until a
    /// reset. None while MSI-X is off, for a vector that does not exist, or where the engine has no such thing.
    #[must_use]
    pub fn descriptor(&self, vector: u16) -> Option<OwnedFd> {
        let mut table = self.lock();
        if !table.enabled || usize::from(vector) >= table.vectors.len() {
            return None;
        }
        if let Entry::Vacant(place) = table.lines.entry(vector) {
            place.insert(self.sink.line()?);
        }
        table.set_lines();
        table.lines.get(&vector)?.descriptor()
    }

    /// Call after each guest write to configuration space: takes enable and function mask over.
    pub fn config_written(&self, config: &ConfigSpace) {
        let control = config.u16_at(self.capability + 2);
        let mut table = self.lock();
        table.enabled = control & ENABLE != 0;
        table.function_masked = control & FUNCTION_MASK != 0;
        self.settle(&mut table);
    }

    /// Delivers what is pending and no longer masked.
    fn settle(&self, table: &mut Table) {
        table.set_lines();
        let open = table.open();
        for vector in &mut table.vectors {
            if open && !vector.masked && vector.pending {
                vector.pending = false;
                self.sink.send(vector.message);
            }
        }
    }

    /// Guest read at `offset` of the BAR; false when it touches neither table nor pending bits.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> bool {
        let table = self.lock();
        let vectors = u64::try_from(table.vectors.len()).unwrap_or(0);
        if let Some(at) = inside(offset, data.len(), self.layout.table, vectors * ENTRY) {
            for (byte, at) in data.iter_mut().zip(at..) {
                *byte = table.entry(at / ENTRY).map_or(0, |e| e[low_index(at % ENTRY)]);
            }
            return true;
        }
        let size = vectors.div_ceil(64) * 8;
        if let Some(at) = inside(offset, data.len(), self.layout.pending, size) {
            for (byte, at) in data.iter_mut().zip(at..) {
                *byte = (0..8u8).fold(0, |bits, bit| {
                    let vector = low_index(at * 8 + u64::from(bit));
                    let pending = table.is_pending(vector);
                    bits | (u8::from(pending) << bit)
                });
            }
            return true;
        }
        false
    }

    /// Guest write at `offset` of the BAR; false when it touches neither table nor pending bits.
    /// Pending bits are read-only.
    pub fn write(&self, offset: u64, data: &[u8]) -> bool {
        let mut table = self.lock();
        let vectors = u64::try_from(table.vectors.len()).unwrap_or(0);
        if let Some(at) = inside(offset, data.len(), self.layout.table, vectors * ENTRY) {
            for (byte, at) in data.iter().zip(at..) {
                table.write_entry(at / ENTRY, low_index(at % ENTRY), *byte);
            }
            self.settle(&mut table);
            return true;
        }
        let size = vectors.div_ceil(64) * 8;
        inside(offset, data.len(), self.layout.pending, size).is_some()
    }

    /// Back to power-on: off, every vector masked, nothing pending.
    pub fn reset(&self) {
        let mut table = self.lock();
        table.enabled = false;
        table.function_masked = false;
        table.lines.clear();
        self.settle(&mut table);
        for vector in &mut table.vectors {
            *vector = Vector { masked: true, ..Vector::default() };
        }
    }

    /// For a snapshot.
    #[must_use]
    pub fn save(&self) -> MsixState {
        let table = self.lock();
        let bit = |on, bit| if on { bit } else { 0 };
        MsixState {
            version: STATE_VERSION,
            control: bit(table.enabled, ENABLE) | bit(table.function_masked, FUNCTION_MASK),
            vectors: (0..)
                .zip(&table.vectors)
                .map(|(n, v)| (v.message.address, v.message.data, v.masked, table.is_pending(n)))
                .collect(),
        }
    }

    /// Takes a snapshot back. The configuration space is restored by its own state.
    ///
    /// # Errors
    /// Another version or another number of vectors.
    pub fn restore(&self, state: &MsixState) -> Result<(), StateError> {
        if state.version != STATE_VERSION {
            return Err(StateError::Version {
                what: "MSI-X table",
                found: state.version,
                known: STATE_VERSION,
            });
        }
        let mut table = self.lock();
        if state.vectors.len() != table.vectors.len() {
            return Err(StateError::Mismatch {
                what: "number of MSI-X vectors",
                saved: state.vectors.len() as u64,
                here: table.vectors.len() as u64,
            });
        }
        for (vector, (address, data, masked, pending)) in
            table.vectors.iter_mut().zip(&state.vectors)
        {
            vector.message = MsiMessage { address: *address, data: *data };
            vector.masked = *masked;
            vector.pending = *pending;
        }
        table.enabled = state.control & ENABLE != 0;
        table.function_masked = state.control & FUNCTION_MASK != 0;
        self.settle(&mut table);
        Ok(())
    }
}

impl Table {
    fn open(&self) -> bool {
        self.enabled && !self.function_masked
    }

    /// Lines send what their vectors say now.
    fn set_lines(&self) {
        let open = self.open();
        for (number, line) in &self.lines {
            let vector = self.vectors.get(usize::from(*number)).filter(|it| open && !it.masked);
            line.set(vector.map(|vector| vector.message));
        }
    }

    fn is_pending(&self, number: usize) -> bool {
        let line = u16::try_from(number).ok().and_then(|number| self.lines.get(&number));
        self.vectors.get(number).is_some_and(|vector| vector.pending)
            || line.is_some_and(|line| line.waits())
    }

    /// The 16 bytes of an entry: address, data, vector control (PCIe 6.0 7.7.2.5 to 7.7.2.8).
    fn entry(&self, index: u64) -> Option<[u8; 16]> {
        let vector = self.vectors.get(low_index(index))?;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&vector.message.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&vector.message.data.to_le_bytes());
        bytes[12] = u8::from(vector.masked);
        Some(bytes)
    }

    fn write_entry(&mut self, index: u64, byte: usize, value: u8) {
        let Some(mut bytes) = self.entry(index) else {
            return;
        };
        bytes[byte] = value;
        let Some(vector) = self.vectors.get_mut(low_index(index)) else {
            return;
        };
        let mut address = [0; 8];
        address.copy_from_slice(&bytes[..8]);
        let mut data = [0; 4];
        data.copy_from_slice(&bytes[8..12]);
        // The two lowest address bits are wired to zero (7.7.2.5).
        vector.message.address = u64::from_le_bytes(address) & !3;
        vector.message.data = u32::from_le_bytes(data);
        vector.masked = bytes[12] & 1 != 0;
    }
}

/// Offset within the range of `size` bytes at `start`, when all `length` bytes are inside it.
fn inside(offset: u64, length: usize, start: u32, size: u64) -> Option<u64> {
    let at = offset.checked_sub(u64::from(start))?;
    let length = u64::try_from(length).ok()?;
    (at < size && length <= size - at).then_some(at)
}

/// A number that is an index or out of every range.
fn low_index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    #[derive(Default)]
    struct Sent {
        messages: Mutex<Vec<MsiMessage>>,
        /// What each line was set to last.
        lines: Mutex<Vec<Arc<Mutex<Option<MsiMessage>>>>>,
    }
    impl MsiSink for Sent {
        fn send(&self, message: MsiMessage) {
            self.messages.lock().unwrap().push(message);
        }
        fn line(&self) -> Option<Box<dyn MsiLine>> {
            let set = Arc::default();
            self.lines.lock().unwrap().push(Arc::clone(&set));
            Some(Box::new(TestLine(set)))
        }
    }
    impl Sent {
        fn take(&self) -> Vec<u32> {
            self.messages.lock().unwrap().drain(..).map(|m| m.data).collect()
        }
        fn lines(&self) -> Vec<Option<u32>> {
            let lines = self.lines.lock().unwrap();
            lines.iter().map(|line| line.lock().unwrap().map(|message| message.data)).collect()
        }
    }
    /// One for which a signal always waits while it is masked.
    struct TestLine(Arc<Mutex<Option<MsiMessage>>>);
    impl MsiLine for TestLine {
        fn descriptor(&self) -> Option<OwnedFd> {
            Some(std::fs::File::open("/dev/null").unwrap().into())
        }
        fn set(&self, message: Option<MsiMessage>) {
            *self.0.lock().unwrap() = message;
        }
        fn waits(&self) -> bool {
            self.0.lock().unwrap().is_none()
        }
    }
    const LAYOUT: MsixLayout = MsixLayout { bar: 1, table: 0, pending: 0x800 };

    fn machine() -> (ConfigSpace, Msix, Arc<Sent>) {
        let mut config = ConfigSpace::new(&Identity::default());
        let sink = Arc::new(Sent::default());
        let msix = Msix::new(&mut config, 70, LAYOUT, sink.clone()).unwrap();
        (config, msix, sink)
    }

    fn control(config: &mut ConfigSpace, msix: &Msix, value: u16) {
        config.write(msix.capability + 2, &value.to_le_bytes());
        msix.config_written(config);
    }

    fn program(msix: &Msix, vector: u64, data: u32, masked: bool) {
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&0xfee0_1000u64.to_le_bytes());
        entry[8..12].copy_from_slice(&data.to_le_bytes());
        entry[12] = u8::from(masked);
        for (i, half) in (0u64..).zip(entry.chunks(8)) {
            assert!(msix.write(vector * 16 + i * 8, half));
        }
    }

    #[test]
    fn a_masked_vector_is_delivered_when_it_is_unmasked_and_once() {
        let (mut config, msix, sent) = machine();
        control(&mut config, &msix, ENABLE);
        program(&msix, 66, 0x41, true);
        msix.raise(66);
        msix.raise(66);
        assert_eq!(sent.take(), []);
        let mut pending = [0; 8];
        assert!(msix.read(0x808, &mut pending));
        assert_eq!(pending, [4, 0, 0, 0, 0, 0, 0, 0]);
        program(&msix, 66, 0x41, false);
        assert_eq!(sent.take(), [0x41]);
        assert!(msix.read(0x808, &mut pending));
        assert_eq!(pending, [0; 8]);
        msix.raise(66);
        assert_eq!(sent.take(), [0x41]);
    }

    #[test]
    fn the_function_mask_holds_every_vector_back() {
        let (mut config, msix, sent) = machine();
        program(&msix, 0, 0x30, false);
        program(&msix, 1, 0x31, false);
        msix.raise(0);
        assert_eq!(sent.take(), [], "dropped: MSI-X is off");
        control(&mut config, &msix, ENABLE | FUNCTION_MASK);
        msix.raise(1);
        msix.raise(0);
        msix.raise(999);
        assert_eq!(sent.take(), []);
        control(&mut config, &msix, ENABLE);
        assert_eq!(sent.take(), [0x30, 0x31]);
    }

    #[test]
    fn a_line_sends_what_its_vector_says_and_is_masked_with_it() {
        let (mut config, msix, sent) = machine();
        assert!(msix.descriptor(3).is_none(), "MSI-X is off");
        control(&mut config, &msix, ENABLE);
        program(&msix, 3, 0x43, false);
        assert!(msix.descriptor(70).is_none(), "there is no such vector");
        assert!(msix.descriptor(3).is_some() && msix.descriptor(3).is_some());
        assert_eq!(sent.lines(), [Some(0x43)]);
        program(&msix, 3, 0x44, true);
        assert_eq!(sent.lines(), [None]);
        let mut pending = [0; 8];
        assert!(msix.read(0x800, &mut pending));
        assert_eq!(pending, [8, 0, 0, 0, 0, 0, 0, 0]);
        assert!(msix.save().vectors[3].3);
        program(&msix, 3, 0x44, false);
        assert_eq!(sent.lines(), [Some(0x44)]);
        assert!(msix.read(0x800, &mut pending));
        assert_eq!(pending, [0; 8]);
        control(&mut config, &msix, ENABLE | FUNCTION_MASK);
        assert_eq!(sent.lines(), [None]);
        control(&mut config, &msix, 0);
        assert_eq!(sent.lines(), [None]);
        assert_eq!(sent.take(), []);
        msix.reset();
        let weak = Arc::downgrade(&sent.lines.lock().unwrap()[0]);
        assert_eq!(weak.strong_count(), 1, "a reset gives the line back");
    }

    #[test]
    fn a_snapshot_keeps_what_is_pending() {
        let (mut config, msix, sent) = machine();
        control(&mut config, &msix, ENABLE | FUNCTION_MASK);
        program(&msix, 5, 0x55, false);
        msix.raise(5);
        let state = msix.save();
        let (mut config, other, sent_there) = machine();
        other.restore(&state).unwrap();
        control(&mut config, &other, ENABLE);
        assert_eq!(sent_there.take(), [0x55]);
        assert_eq!(sent.take(), []);
    }
}
