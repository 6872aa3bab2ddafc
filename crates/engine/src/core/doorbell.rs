//! Guest writes that signal a descriptor. The vCPU's thread does it as soon as it has the exit, and goes on with the
//! guest without asking the machine's devices. The core itself could only note the write: the thread that waits
//! for it is Linux's to wake.

use crate::{Doorbell, DoorbellAddress, EngineError};
use std::cmp::Ordering;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A descriptor and what rings it.
struct Bell {
    doorbell: Doorbell,
    event: OwnedFd,
    /// Tells it from others at the same place.
    number: u64,
}

/// The doorbells of a partition, in the order of their places.
#[derive(Default)]
pub(super) struct Doorbells {
    bells: RwLock<Bells>,
}

#[derive(Default)]
struct Bells {
    sorted: Vec<Bell>,
    numbers: u64,
}

/// A doorbell in place; dropping it takes it away.
struct Guard {
    doorbells: Arc<Doorbells>,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.doorbells.write().sorted.retain(|bell| bell.number != self.number);
    }
}

/// Memory before ports, then by address.
fn order(a: DoorbellAddress, b: DoorbellAddress) -> Ordering {
    let key = |address| match address {
        DoorbellAddress::Memory(at) => (false, at.0),
        DoorbellAddress::Port(port) => (true, u64::from(port)),
    };
    key(a).cmp(&key(b))
}

/// Whether a write of `data` is one that the doorbell waits for.
fn matches(doorbell: &Doorbell, data: &[u8]) -> bool {
    let mut bytes = [0; 8];
    let Some(place) = bytes.get_mut(..data.len()) else { return false };
    place.copy_from_slice(data);
    (doorbell.width == 0 || usize::from(doorbell.width) == data.len())
        && doorbell.value.is_none_or(|value| value == u64::from_le_bytes(bytes))
}

impl Doorbells {
    // The list changes in one statement, so that a panic leaves it in order.
    fn read(&self) -> RwLockReadGuard<'_, Bells> {
        self.bells.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Bells> {
        self.bells.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts one in place.
    pub(super) fn add(
        self: &Arc<Self>,
        doorbell: Doorbell,
        event: BorrowedFd<'_>,
    ) -> Result<Box<dyn Send + Sync>, EngineError> {
        let event = event.try_clone_to_owned().map_err(|e| EngineError::call("dup", e))?;
        let mut bells = self.write();
        bells.numbers += 1;
        let number = bells.numbers;
        let at = bells
            .sorted
            .partition_point(|bell| order(bell.doorbell.address, doorbell.address).is_le());
        bells.sorted.insert(at, Bell { doorbell, event, number });
        Ok(Box::new(Guard { doorbells: Arc::clone(self), number }))
    }

    /// The guest has written `data`: signals the descriptor that waits for it. False when there is none.
    pub(super) fn ring(&self, address: DoorbellAddress, data: &[u8]) -> bool {
        let bells = self.read();
        let first =
            bells.sorted.partition_point(|bell| order(bell.doorbell.address, address).is_lt());
        let mut here =
            bells.sorted[first..].iter().take_while(|bell| bell.doorbell.address == address);
        let Some(bell) = here.find(|bell| matches(&bell.doorbell, data)) else {
            return false;
        };
        // A counter that is full rings already (eventfd(2)).
        matches!(
            rustix::io::write(&bell.event, &1u64.to_ne_bytes()),
            Ok(_) | Err(rustix::io::Errno::AGAIN)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::AsFd;
    use units::GuestPhysical;

    const MEMORY: DoorbellAddress = DoorbellAddress::Memory(GuestPhysical(0x3000));
    const PORT: DoorbellAddress = DoorbellAddress::Port(0x3000);

    fn place(
        doorbells: &Arc<Doorbells>,
        address: DoorbellAddress,
        width: u8,
        value: Option<u64>,
    ) -> (OwnedFd, Box<dyn Send + Sync>) {
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let guard = doorbells.add(Doorbell { address, width, value }, event.as_fd()).unwrap();
        (event, guard)
    }

    /// How often it rang since it was last asked.
    fn rung(event: &OwnedFd) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(event, &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(rustix::io::Errno::AGAIN) => 0,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_write_rings_what_stands_at_its_place_and_nothing_else() {
        let doorbells = Arc::<Doorbells>::default();
        let (memory, _memory) = place(&doorbells, MEMORY, 0, None);
        let (port, _port) = place(&doorbells, PORT, 0, None);
        assert!(doorbells.ring(MEMORY, &[0, 0]));
        assert!(doorbells.ring(MEMORY, &[1, 0, 0, 0]));
        assert_eq!((rung(&memory), rung(&port)), (2, 0));
        assert!(doorbells.ring(PORT, &[7]));
        assert_eq!((rung(&memory), rung(&port)), (0, 1));
        for other in [0x2fff, 0x3001] {
            assert!(!doorbells.ring(DoorbellAddress::Memory(GuestPhysical(other)), &[0, 0]));
        }
        assert!(!doorbells.ring(MEMORY, &[0; 16]), "more than a register holds");
    }

    #[test]
    fn width_and_value_choose_between_those_at_one_place() {
        let doorbells = Arc::<Doorbells>::default();
        let (first, _first) = place(&doorbells, MEMORY, 2, Some(1));
        let (second, _second) = place(&doorbells, MEMORY, 2, Some(0x0102));
        assert!(doorbells.ring(MEMORY, &[2, 1]));
        assert_eq!((rung(&first), rung(&second)), (0, 1));
        assert!(!doorbells.ring(MEMORY, &[1]), "another width");
        assert!(!doorbells.ring(MEMORY, &[3, 0]), "another value");
        assert!(doorbells.ring(MEMORY, &[1, 0]));
        assert_eq!((rung(&first), rung(&second)), (1, 0));
    }

    #[test]
    fn one_that_is_taken_away_does_not_ring_and_the_others_do() {
        let doorbells = Arc::<Doorbells>::default();
        let (gone, guard) = place(&doorbells, MEMORY, 0, None);
        let (stays, _stays) = place(&doorbells, PORT, 0, None);
        drop(guard);
        assert!(!doorbells.ring(MEMORY, &[0]));
        assert!(doorbells.ring(PORT, &[0]));
        assert_eq!((rung(&gone), rung(&stays)), (0, 1));
    }

    #[test]
    fn a_full_counter_is_a_bell_that_rings() {
        let doorbells = Arc::<Doorbells>::default();
        let (event, _guard) = place(&doorbells, MEMORY, 0, None);
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert!(doorbells.ring(MEMORY, &[0]));
    }
}
