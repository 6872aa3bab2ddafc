//! The transfer area. Root can write it at any moment: structures are copied out before they are looked
//! at.

use crate::machine::machine;
use hypervisor_abi::{Fault, Status, TRANSFER_OFFSET, TRANSFER_SIZE};

/// Structures of the interface, all of whose bit patterns are values.
///
/// # Safety
/// Any bytes are a value.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: numbers only.
unsafe impl Plain for hypervisor_abi::VcpuState {}
// SAFETY: numbers only.
unsafe impl Plain for hypervisor_abi::CpuidRow {}
// SAFETY: numbers only.
unsafe impl Plain for hypervisor_abi::StatisticsRecord {}

/// Where `size` bytes at `offset` lie, from the start of the pool.
fn place(offset: u64, size: u64, argument: u8, size_argument: u8) -> Result<u64, Status> {
    if !offset.is_multiple_of(8) || offset >= TRANSFER_SIZE {
        return Err(Status::argument(Fault::BadValue, argument));
    }
    if size > TRANSFER_SIZE - offset {
        return Err(Status::argument(Fault::BadValue, size_argument));
    }
    Ok(TRANSFER_OFFSET + offset)
}

fn pointer<T>(place: u64) -> *mut T {
    (machine().pool.start.0 + place) as *mut T
}

/// A structure at `offset`, which is argument `argument`.
pub(super) fn read<T: Plain>(offset: u64, argument: u8) -> Result<T, Status> {
    let at = place(offset, size_of::<T>() as u64, argument, argument)?;
    // SAFETY: within the transfer area, which is mapped for good; aligned; any bytes are a value.
    Ok(unsafe { pointer::<T>(at).read_volatile() })
}

/// Writes a structure.
pub(super) fn write<T: Plain>(offset: u64, argument: u8, value: &T) -> Result<(), Status> {
    let at = place(offset, size_of::<T>() as u64, argument, argument)?;
    // SAFETY: as above.
    unsafe { pointer::<T>(at).write_volatile(*value) };
    Ok(())
}

/// Bytes to be written.
pub(super) fn bytes(
    offset: u64,
    argument: u8,
    size: u64,
    size_argument: u8,
) -> Result<&'static mut [u8], Status> {
    let at = place(offset, size, argument, size_argument)?;
    // SAFETY: within the transfer area. Root may write it meanwhile, which spoils its own answer only:
    // nothing is decided by what is read back.
    Ok(unsafe { core::slice::from_raw_parts_mut(pointer(at), size as usize) })
}

#[cfg(test)]
mod tests {
    use super::{Fault, Status, TRANSFER_OFFSET, TRANSFER_SIZE, place};
    use proptest::prelude::*;

    /// Numbers near the area's end, at powers of two, and any.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..2 * TRANSFER_SIZE,
            (0_u32..64).prop_map(|bit| 1 << bit),
            (0_u64..64).prop_map(|less| u64::MAX - less),
            (0_u64..64).prop_map(|less| TRANSFER_SIZE - less),
            any::<u64>(),
        ]
    }

    proptest! {
        #[test]
        fn a_place_lies_in_the_area_or_the_argument_at_fault_is_named(
            offset in number(),
            size in number(),
        ) {
            match place(offset, size, 3, 4) {
                Ok(at) => {
                    let from = at - TRANSFER_OFFSET;
                    prop_assert_eq!(from % 8, 0);
                    prop_assert_eq!(from, offset);
                    prop_assert!(from.checked_add(size).is_some_and(|end| end <= TRANSFER_SIZE));
                }
                Err(status) if status == Status::argument(Fault::BadValue, 3) => {
                    prop_assert!(offset % 8 != 0 || offset >= TRANSFER_SIZE);
                }
                Err(status) => {
                    prop_assert_eq!(status, Status::argument(Fault::BadValue, 4));
                    prop_assert!(offset < TRANSFER_SIZE && size > TRANSFER_SIZE - offset);
                }
            }
        }
    }
}
