//! Guests of a few instructions.

/// A Multiboot kernel (version 0.6.96, with the address fields) that runs `code` at 1 MiB + 32.
pub(crate) fn multiboot(code: &[u8]) -> Vec<u8> {
    const BASE: u32 = 0x10_0000;
    const MAGIC: u32 = 0x1bad_b002;
    const ADDRESSES: u32 = 1 << 16;
    let end = BASE + 32 + u32::try_from(code.len()).unwrap();
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(ADDRESSES);
    let header = [MAGIC, ADDRESSES, checksum, BASE, BASE, end, end, BASE + 32];
    let mut kernel: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    kernel.extend(code);
    kernel
}

/// Code that writes `text` to `port`, byte by byte.
pub(crate) fn print(port: u16, text: &str) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    let mut code = vec![0x66, 0xba, low, high]; // mov dx, port
    for byte in text.bytes() {
        code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    code
}

pub(crate) const SERIAL: u16 = 0x3f8;
pub(crate) const DEBUG: u16 = 0xe9;
pub(crate) const HALT: [u8; 3] = [0xf4, 0xeb, 0xfd]; // hlt; jmp back

/// Waits until the serial line has a byte; leaves its port in DX.
pub(crate) const WAIT_FOR_A_BYTE: [u8; 13] = [
    0x66, 0xba, 0xfd, 0x03, // mov dx, 0x3fd
    0xec, 0xa8, 0x01, 0x74, 0xfb, // in al, dx; test al, 1; jz back
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
];

/// mov al, 6; mov dx, 0xcf9; out dx, al (ICH9 13.7.5: full reset); then halt.
pub(crate) const RESET: [u8; 10] = [0xb0, 0x06, 0x66, 0xba, 0xf9, 0x0c, 0xee, 0xf4, 0xeb, 0xfd];

pub(crate) const TRIPLE_FAULT: [u8; 14] = [
    0xbc, 0x00, 0x00, 0x08, 0x00, // mov esp, 0x80000
    0x6a, 0x00, 0x6a, 0x00, // push 0; push 0
    0x0f, 0x01, 0x1c, 0x24, // lidt [esp]: no vectors
    0xcc, // int3
];

/// mov eax, value; out 0xf4, eax; then halt.
pub(crate) fn debug_exit(value: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(value.to_le_bytes());
    code.extend([0xe7, 0xf4]);
    code.extend(HALT);
    code
}

/// Leaves through the debug exit with `value` in AL.
const fn leave(value: u8) -> [u8; 4] {
    [0xb0, value, 0xe6, 0xf4]
}

/// A 64-bit ELF with a PVH entry note (Xen docs/misc/pvh.pandoc) that prints its command line and
/// its one module on the debug console and leaves with 42; with 1 where it is told nonsense.
pub(crate) fn pvh() -> Vec<u8> {
    const BASE: u64 = 0x10_0000;
    const CODE: usize = 0x1000;
    let code = [
        // EBX has the start info; its magic is 0x336ec578.
        &[0x81, 0x3b, 0x78, 0xc5, 0x6e, 0x33][..], // cmp dword [ebx], magic
        &[0x75, 0x2d],                             // jne wrong
        &[0x8b, 0x73, 0x18],                       // mov esi, [ebx + 24]: cmdline_paddr
        &[0xac, 0x84, 0xc0, 0x74, 0x04, 0xe6, 0xe9, 0xeb, 0xf7], // print up to 0
        &[0xb0, 0x0a, 0xe6, 0xe9],                 // print a line's end
        &[0x83, 0x7b, 0x0c, 0x01],                 // cmp dword [ebx + 12], 1: nr_modules
        &[0x75, 0x17],                             // jne wrong
        &[0x8b, 0x4b, 0x10],                       // mov ecx, [ebx + 16]: modlist_paddr
        &[0x8b, 0x31, 0x8b, 0x79, 0x08, 0x01, 0xf7], // esi = paddr, edi = paddr + size
        &[0x39, 0xfe, 0x73, 0x05, 0xac, 0xe6, 0xe9, 0xeb, 0xf7], // print up to edi
        &[0xb0, 42, 0xeb, 0x02],                   // mov al, 42; jump over the next
        &leave(1),                                 // wrong:
        &HALT,
    ]
    .concat();
    let mut file = Vec::new();
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    // The ELF header: 64 bits, little-endian, version 1; EXEC, x86-64.
    put(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(&[2, 0, 62, 0, 1, 0, 0, 0]);
    put(&BASE.to_le_bytes());
    put(&64u64.to_le_bytes()); // program headers behind this header
    put(&0u64.to_le_bytes());
    put(&[0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 0, 0, 0, 0, 0, 0]); // two, 56 bytes each
    let mut segment = |kind: u32, offset: u64, address: u64, size: u64, align: u64| {
        put(&kind.to_le_bytes());
        put(&7u32.to_le_bytes());
        for field in [offset, address, address, size, size, align] {
            put(&field.to_le_bytes());
        }
    };
    let length = u64::try_from(code.len()).unwrap();
    segment(1, CODE as u64, BASE, length, 0x1000); // PT_LOAD
    segment(4, 0x200, 0, 24, 4); // PT_NOTE
    file.resize(0x200, 0);
    // Name and description lengths, XEN_ELFNOTE_PHYS32_ENTRY (Xen public/elfnote.h).
    for word in [4u32, 8, 18] {
        file.extend(word.to_le_bytes());
    }
    file.extend(b"Xen\0");
    file.extend(BASE.to_le_bytes());
    file.resize(CODE, 0);
    file.extend(code);
    file
}

/// A Multiboot kernel that does the same with what Multiboot tells (specification 0.6.96, 3.3).
pub(crate) fn multiboot_teller() -> Vec<u8> {
    let code = [
        &[0x3d, 0x02, 0xb0, 0xad, 0x2b][..], // cmp eax, 0x2badb002
        &[0x75, 0x2d],                       // jne wrong
        &[0x8b, 0x73, 0x10],                 // mov esi, [ebx + 16]: cmdline
        &[0xac, 0x84, 0xc0, 0x74, 0x04, 0xe6, 0xe9, 0xeb, 0xf7], // print up to 0
        &[0xb0, 0x0a, 0xe6, 0xe9],           // print a line's end
        &[0x83, 0x7b, 0x14, 0x01],           // cmp dword [ebx + 20], 1: mods_count
        &[0x75, 0x17],                       // jne wrong
        &[0x8b, 0x4b, 0x18],                 // mov ecx, [ebx + 24]: mods_addr
        &[0x8b, 0x31, 0x8b, 0x79, 0x04, 0x90, 0x90], // esi = mod_start, edi = mod_end
        &[0x39, 0xfe, 0x73, 0x05, 0xac, 0xe6, 0xe9, 0xeb, 0xf7], // print up to edi
        &[0xb0, 42, 0xeb, 0x02],             // mov al, 42; jump over the next
        &leave(1),                           // wrong:
        &HALT,
    ]
    .concat();
    multiboot(&code)
}
