//! Capability MSRs as processors report them, by MSR number.

use super::capability::Capabilities;

/// One processor's IA32_FEATURE_CONTROL and IA32_VMX_* values.
pub(crate) type Values = &'static [(u32, u64)];

/// Haswell, Core i7-4770, as Bochs 2.7 models it.
pub(crate) const HASWELL: Values = &[
    (0x03a, 0x0000_0000_0000_0005),
    (0x480, 0x00d8_1000_0000_002b),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xf7f9_fffe_0401_e172),
    (0x483, 0x007f_ffff_0003_6dff),
    (0x484, 0x0000_ffff_0000_11ff),
    (0x485, 0x0000_0000_2004_01e0),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0017_27ff),
    (0x48b, 0x0004_7fff_0000_0000),
    (0x48c, 0x0000_0f01_0633_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xf7f9_fffe_0400_6172),
    (0x48f, 0x007f_ffff_0003_6dfb),
    (0x490, 0x0000_ffff_0000_11fb),
];

/// Ice Lake U, Core i7-1065G7, as Bochs 2.7 models it.
pub(crate) const ICE_LAKE: Values = &[
    (0x03a, 0x0000_0000_0000_0005),
    (0x480, 0x00d8_1000_0000_0004),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xfff9_fffe_0401_e172),
    (0x483, 0x007f_ffff_0003_6dff),
    (0x484, 0x0000_ffff_0000_11ff),
    (0x485, 0x0000_0000_6004_01e0),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0077_2fff),
    (0x48b, 0x0297_7fff_0000_0000),
    (0x48c, 0x0000_0f01_0633_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xfff9_fffe_0400_6172),
    (0x48f, 0x007f_ffff_0003_6dfb),
    (0x490, 0x0000_ffff_0000_11fb),
];

/// Lynnfield, Core i5-750, as Bochs 2.7 models it: EPT, but no unrestricted guest.
pub(crate) const LYNNFIELD: Values = &[
    (0x03a, 0x0000_0000_0000_0005),
    (0x480, 0x00d8_1000_0000_002b),
    (0x481, 0x0000_007f_0000_0016),
    (0x482, 0xf7f9_fffe_0401_e172),
    (0x483, 0x007f_ffff_0003_6dff),
    (0x484, 0x0000_ffff_0000_11ff),
    (0x485, 0x0000_0000_0004_01e0),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0000_67ff),
    (0x48b, 0x0000_007f_0000_0000),
    (0x48c, 0x0000_0f01_0611_4141),
    (0x48d, 0x0000_007f_0000_0016),
    (0x48e, 0xf7f9_fffe_0400_6172),
    (0x48f, 0x007f_ffff_0003_6dfb),
    (0x490, 0x0000_ffff_0000_11fb),
];

/// Penryn, Core 2 Duo T9600, as Bochs 2.7 models it with IA32_VMX_BASIC bit 55 cleared:
/// no EPT, no exact controls.
pub(crate) const PENRYN: Values = &[
    (0x03a, 0x0000_0000_0000_0005),
    (0x480, 0x0058_1000_0000_002b),
    (0x481, 0x0000_003f_0000_0016),
    (0x482, 0xf7f9_fffe_0401_e172),
    (0x483, 0x0003_ffff_0003_6dff),
    (0x484, 0x0000_3fff_0000_11ff),
    (0x485, 0x0000_0000_0004_01e0),
    (0x486, 0x0000_0000_8000_0021),
    (0x487, 0x0000_0000_ffff_ffff),
    (0x488, 0x0000_0000_0000_2000),
    (0x489, 0x0000_0000_0004_67ff),
    (0x48b, 0x0000_0041_0000_0000),
];

/// The snapshot of a processor with `values`, `changed` in some; reads of any other MSR fail the test.
pub(crate) fn processor(values: Values, changed: &[(u32, u64)]) -> Capabilities {
    Capabilities::read(|msr| {
        changed
            .iter()
            .chain(values)
            .find(|(number, _)| *number == msr)
            .unwrap_or_else(|| panic!("MSR {msr:#x} is not there"))
            .1
    })
}
