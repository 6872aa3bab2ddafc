//! A guest's own page tables, walked as the processor walks them (SDM 3A chapter 4, APM 2 chapter 5).
//!
//! The core walks to fetch an instruction it must decode and to reach the memory operands of one it
//! carries out. Pure: the caller brings memory and, as [`Paging`], the registers. Entries are a guest's,
//! which may change them meanwhile: each is read once. Accessed and dirty bits are left alone, and
//! protection keys are not looked at.

#[cfg(test)]
mod tests;

use crate::registers::{
    CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_LMA, EFER_NXE, RFLAGS_AC,
};
use crate::validate::canonical;
use units::GuestPhysical;

/// The registers that decide how addresses are translated.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// RFLAGS, of which AC counts: with it, supervisor accesses to user pages are wanted (SDM 3A 4.6).
    pub rflags: u64,
    /// The access is that of code at CPL 3.
    pub user: bool,
    /// Physical address bits, 32 to 52.
    pub physical_bits: u8,
    /// 1 GiB pages exist.
    pub gigabyte_pages: bool,
}

/// What is done at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data is read.
    Read,
    /// Data is written.
    Write,
    /// An instruction is fetched.
    Fetch,
}

/// Bits of entries.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const EXECUTE_DISABLE: u64 = 1 << 63;
/// The smallest page.
const PAGE_SHIFT: u32 = 12;
/// Bits 51 to 12: where 64-bit entries hold addresses.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Bits of a page fault's error code (SDM 3A 4.7).
pub mod code {
    /// The page is there; something else is wrong.
    pub const PRESENT: u32 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// The access was a user's.
    pub const USER: u32 = 1 << 2;
    /// An entry has a reserved bit set.
    pub const RESERVED: u32 = 1 << 3;
    /// The access was a fetch.
    pub const FETCH: u32 = 1 << 4;
}

/// Why there is no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// #PF with this error code, and the linear address in CR2.
    PageFault(u32),
    /// The linear address is not canonical: #GP, or #SS for the stack.
    NotCanonical,
    /// The entry here was to be read, where the guest has no memory.
    OutsideMemory(GuestPhysical),
}

impl Paging {
    const fn has(&self, bit: u64) -> bool {
        self.cr4 & bit != 0
    }

    /// Execute-disable bits count (SDM 3A 4.1.4). Never in 32-bit paging, whose entries have none.
    const fn execute_disable(&self) -> bool {
        self.efer & EFER_NXE != 0 && self.has(CR4_PAE)
    }

    fn physical_mask(&self) -> u64 {
        (1 << self.physical_bits.clamp(32, 52)) - 1
    }

    /// What the error code says of the access itself (SDM 3A 4.7).
    fn access_code(&self, access: Access) -> u32 {
        let kind = match access {
            Access::Write => code::WRITE,
            Access::Fetch if self.execute_disable() || self.has(CR4_SMEP) => code::FETCH,
            _ => 0,
        };
        kind | if self.user { code::USER } else { 0 }
    }

    /// Whether code of this privilege may reach a page that is the user's or not (SDM 3A 4.6).
    const fn reaches(&self, user_page: bool, access: Access) -> bool {
        match access {
            _ if self.user => user_page,
            Access::Fetch => !user_page || !self.has(CR4_SMEP),
            _ => !user_page || !self.has(CR4_SMAP) || self.rflags & RFLAGS_AC != 0,
        }
    }
}

/// Translates `linear` for `access`. `read` brings the eight bytes at a multiple of 8, or `None` outside
/// of memory.
///
/// # Errors
///
/// Where the processor faults, and where a table lies outside of memory.
pub fn walk(
    mut read: impl FnMut(GuestPhysical) -> Option<u64>,
    paging: &Paging,
    linear: u64,
    access: Access,
) -> Result<GuestPhysical, Error> {
    let format = Format::of(paging);
    let linear = match format {
        Format::Long(levels) => {
            canonical(linear, levels == 5).then_some(linear).ok_or(Error::NotCanonical)?
        }
        _ => linear & u64::from(u32::MAX),
    };
    let fault = |code| Err(Error::PageFault(code | paging.access_code(access)));
    let (mut user, mut writable, mut executable) = (true, true, true);
    let mut table = format.root(paging);
    for &shift in format.levels() {
        let address = table + format.offset(linear, shift);
        let outside = Error::OutsideMemory(GuestPhysical(address));
        let word = read(GuestPhysical(address & !7)).ok_or(outside)?;
        let entry = match format {
            Format::Bits32 => word >> (address % 8 * 8) & u64::from(u32::MAX),
            _ => word,
        };
        if entry & PRESENT == 0 {
            return fault(0);
        }
        let leaf = format.is_leaf(shift, entry, paging);
        if entry & format.reserved(shift, leaf, paging) != 0 {
            return fault(code::PRESENT | code::RESERVED);
        }
        if !format.is_pointer_register(shift) {
            user &= entry & USER != 0;
            writable &= entry & WRITABLE != 0;
            executable &= !paging.execute_disable() || entry & EXECUTE_DISABLE == 0;
        }
        if !leaf {
            table = format.frame(entry, PAGE_SHIFT, paging);
            continue;
        }
        let permitted = match access {
            Access::Read => true,
            Access::Write => writable || !paging.user && paging.cr0 & CR0_WP == 0,
            Access::Fetch => executable,
        };
        if !permitted || !paging.reaches(user, access) {
            return fault(code::PRESENT);
        }
        let offset = linear & ((1 << shift) - 1);
        return Ok(GuestPhysical(format.frame(entry, shift, paging) | offset));
    }
    // Every format ends in a level whose entries are leaves; without paging there are no levels.
    Ok(GuestPhysical(linear))
}

/// The formats of page tables (SDM 3A 4.3 to 4.5, figures 4-4, 4-7 and 4-11). A level of one is named after the lowest bit of the linear address that indexes
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Off,
    Bits32,
    Pae,
    /// With 4 or 5 levels.
    Long(usize),
}

impl Format {
    /// SDM 3A 4.1.1.
    const fn of(paging: &Paging) -> Self {
        if paging.cr0 & CR0_PG == 0 {
            Self::Off
        } else if paging.efer & EFER_LMA != 0 {
            Self::Long(if paging.has(CR4_LA57) { 5 } else { 4 })
        } else if paging.has(CR4_PAE) {
            Self::Pae
        } else {
            Self::Bits32
        }
    }

    /// From the root on; none without paging.
    fn levels(self) -> &'static [u32] {
        match self {
            Self::Off => &[],
            Self::Bits32 => &[22, 12],
            Self::Pae => &[30, 21, 12],
            Self::Long(levels) => &[48, 39, 30, 21, 12][5 - levels..],
        }
    }

    /// Where the entry that translates `linear` lies in its table.
    const fn offset(self, linear: u64, shift: u32) -> u64 {
        match self {
            Self::Bits32 => (linear >> shift & 0x3ff) * 4,
            _ => (linear >> shift & 0x1ff) * 8,
        }
    }

    /// The first table: CR3 without its flags and PCID.
    fn root(self, paging: &Paging) -> u64 {
        match self {
            Self::Off | Self::Bits32 => paging.cr3 & 0xffff_f000,
            // 32-byte aligned.
            Self::Pae => paging.cr3 & 0xffff_ffe0,
            Self::Long(_) => paging.cr3 & FRAME & paging.physical_mask(),
        }
    }

    /// PAE's first level has no rights and no accessed bit: on Intel it is four registers, loaded from
    /// here when CR3 is written (SDM 3A 4.4.1). Read from memory, as on AMD.
    const fn is_pointer_register(self, shift: u32) -> bool {
        matches!((self, shift), (Self::Pae, 30))
    }

    /// The entry maps a page and points to no further table.
    const fn is_leaf(self, shift: u32, entry: u64, paging: &Paging) -> bool {
        shift == PAGE_SHIFT || entry & LARGE != 0 && self.can_be_large(shift, paging)
    }

    const fn can_be_large(self, shift: u32, paging: &Paging) -> bool {
        match (self, shift) {
            (Self::Bits32, 22) => paging.has(CR4_PSE),
            (Self::Long(_), 30) => paging.gigabyte_pages,
            _ => shift == 21,
        }
    }

    /// Bits that must be clear in an entry.
    fn reserved(self, shift: u32, leaf: bool, paging: &Paging) -> u64 {
        let above = !paging.physical_mask();
        let mut reserved = match self {
            // PSE-36: bits from 13 on hold address bits from 32 on, of which there are at most 40.
            Self::Bits32 if leaf && shift == 22 => {
                return (1 << 22) - (1 << (paging.physical_bits.clamp(32, 40) - 19));
            }
            Self::Off | Self::Bits32 => return 0,
            // R/W, U/S and A do not exist here, nor does XD.
            Self::Pae if shift == 30 => return above | 0x1e6,
            Self::Pae => above & !EXECUTE_DISABLE,
            // Bits 62 to 52 are software's and protection keys.
            Self::Long(_) => above & FRAME,
        };
        if !paging.execute_disable() {
            reserved |= EXECUTE_DISABLE;
        }
        if leaf {
            // A large page is aligned; bit 12 is PAT.
            reserved |= ((1 << shift) - 1) & !0x1fff;
        } else if !self.can_be_large(shift, paging) {
            reserved |= LARGE;
        }
        reserved
    }

    /// The address in an entry, of a page of 2 to the `shift` bytes or of a table.
    fn frame(self, entry: u64, shift: u32, paging: &Paging) -> u64 {
        let address = match self {
            Self::Bits32 if shift == 22 => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
            _ => entry & FRAME,
        };
        address & paging.physical_mask() & !((1 << shift) - 1)
    }
}
