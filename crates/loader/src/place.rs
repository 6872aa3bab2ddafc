//! Writing into guest memory, and finding room in it.

use crate::image::{Image, Source};
use crate::{LoadError, NoRam, Ram};
use layout::{BDA_EBDA_SEGMENT, COMMAND_LINE, COMMAND_LINE_SIZE, EBDA, MemoryMap};
use units::{GuestPhysical, PAGE_SIZE};

/// Writes `bytes` at `address`.
pub(crate) fn write(
    memory: &dyn Ram,
    address: GuestPhysical,
    bytes: &[u8],
) -> Result<(), LoadError> {
    memory.write(address, bytes).map_err(|NoRam| LoadError::Memory { address: address.0 })
}

/// What every PC has in low memory: the BDA word that says where the EBDA is, and the EBDA's
/// first byte with its size in KiB.
pub(crate) fn conventional_memory(memory: &dyn Ram) -> Result<(), LoadError> {
    let segment = u16::try_from(EBDA.0 >> 4).unwrap_or(0);
    write(memory, BDA_EBDA_SEGMENT, &segment.to_le_bytes())?;
    write(memory, EBDA, &[1])
}

/// Writes `text` with a terminating zero at the command line's place.
pub(crate) fn command_line(
    memory: &dyn Ram,
    text: &str,
    who: &'static str,
    most: usize,
) -> Result<(), LoadError> {
    if let Some(position) = text.bytes().position(|byte| byte == 0) {
        return Err(LoadError::CommandLineZero { position });
    }
    let room = usize::try_from(COMMAND_LINE_SIZE.0 - 1).unwrap_or(0);
    let (who, most) = if room < most { ("this machine", room) } else { (who, most) };
    if text.len() > most {
        return Err(LoadError::CommandLine { length: text.len(), who, most });
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    write(memory, COMMAND_LINE, &bytes)
}

/// A file that was put into guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) address: u64,
    pub(crate) size: u64,
}

/// Copies the initrd to the highest page that ends below RAM's end and `most`, above `from`.
pub(crate) fn initrd<I: Image>(
    memory: &dyn Ram,
    map: &MemoryMap,
    file: &mut Source<'_, I>,
    from: u64,
    most: u64,
) -> Result<Placed, LoadError> {
    let size = file.size();
    let to = map.low_ram_end().0.min(most);
    let address = to
        .checked_sub(size)
        .map(|address| address & !(PAGE_SIZE - 1))
        .filter(|address| *address >= from)
        .ok_or(LoadError::NoRoom { what: "initrd", size, from, to })?;
    file.copy(0, size, memory, address)?;
    Ok(Placed { address, size })
}
