//! Bitmaps that tell the processor which registers exit: of a guest's, everything but the processor's
//! own.

use core::ops::RangeInclusive;

/// The processor's own: guests read and write them without an exit, the core switches them between
/// guests. Those with addresses are checked by the processor, which raises #GP for ones that are not
/// canonical. IA32_SYSENTER_CS, ESP, EIP; [`KEPT_ON_VMX`]; FS.base, GS.base, KernelGSbase.
pub(super) const PASSED_THROUGH: [RangeInclusive<u32>; 3] =
    [0x174..=0x176, KEPT_ON_VMX, 0xc000_0100..=0xc000_0102];

/// STAR, LSTAR, CSTAR, SFMASK: their writes exit on Intel all the same. VMX does not switch them, and so
/// the core knows what is in them without reading them at each change between root and a guest.
pub const KEPT_ON_VMX: RangeInclusive<u32> = 0xc000_0081..=0xc000_0084;

/// Fills a guest's bitmap, of VMX or of SVM.
pub fn fill_bitmap(bitmap: &mut [u8], vmx: bool) {
    bitmap.fill(!0);
    for index in PASSED_THROUGH.into_iter().flatten() {
        set_exits(bitmap, vmx, index, false, vmx && KEPT_ON_VMX.contains(&index));
    }
}

/// Says whether reads and writes of a register in one of the ranges exit. They are 0-1FFFH,
/// C000_0000H-C000_1FFFH and, on SVM, C001_0000H-C001_1FFFH: a bitmap of VMX has one bit for each register,
/// first for reads and from byte 2048 on for writes (SDM 3C 25.6.9); one of SVM two, the lower for reads
/// (APM 2 15.11).
pub fn set_exits(bitmap: &mut [u8], vmx: bool, index: u32, reads: bool, writes: bool) {
    let range = match index {
        0..0x2000 => 0,
        0xc000_0000..0xc000_2000 => 0x2000,
        _ => 0x4000,
    };
    let place = range + index as usize % 0x2000;
    let (read, write) = if vmx { (place, place + 0x4000) } else { (2 * place, 2 * place + 1) };
    for (bit, exits) in [(read, reads), (write, writes)] {
        let others = bitmap[bit / 8] & !(1 << (bit % 8));
        bitmap[bit / 8] = others | u8::from(exits) << (bit % 8);
    }
}
