//! Kernels made by hand, and a machine to load them into.

use layout::MemoryMap;
use loader::{LoadError, Loaded, Request};
use std::io::Cursor;
use units::{Bytes, GuestPhysical};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

pub(crate) struct Machine {
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) map: MemoryMap,
}

impl Machine {
    pub(crate) fn new(mib: u64) -> Self {
        let map = MemoryMap::new(Bytes::mib(mib), 40).unwrap();
        let ranges: Vec<_> = map
            .ram()
            .iter()
            .map(|range| (GuestAddress(range.base.0), usize::try_from(range.size.0).unwrap()))
            .collect();
        Self { memory: GuestMemoryMmap::from_ranges(&ranges).unwrap(), map }
    }

    pub(crate) fn load(
        &self,
        kernel: &[u8],
        initrd: Option<&[u8]>,
        line: &str,
    ) -> Result<Loaded, LoadError> {
        let mut kernel = Cursor::new(kernel);
        let mut initrd = initrd.map(Cursor::new);
        let request = Request {
            kernel: &mut kernel,
            kernel_name: "a kernel",
            initrd: initrd.as_mut(),
            initrd_name: "module.img",
            command_line: line,
            rsdp: Some(GuestPhysical(0xe_0000)),
        };
        loader::load(&self.memory, &self.map, request)
    }

    pub(crate) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(crate) fn u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.bytes(address, 4).try_into().unwrap())
    }

    pub(crate) fn u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.bytes(address, 8).try_into().unwrap())
    }

    pub(crate) fn text(&self, address: u64) -> String {
        let bytes = self.bytes(address, 256);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(bytes[..end].to_vec()).unwrap()
    }
}

pub(crate) fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage of boot protocol 2.15 whose protected-mode code is 0x3000 bytes of 0x90.
pub(crate) fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 0x400];
    image.resize(0x400 + 0x3000, 0x90);
    put(&mut image, 0x1f1, &[1]);
    put(&mut image, 0x1f4, &0x300u32.to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020fu16.to_le_bytes());
    put(&mut image, 0x211, &[1]);
    put(&mut image, 0x214, &0x10_0000u32.to_le_bytes());
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut image, 0x234, &[1]);
    put(&mut image, 0x236, &1u16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x248, &0x100u32.to_le_bytes());
    put(&mut image, 0x24c, &0x2000u32.to_le_bytes());
    put(&mut image, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut image, 0x260, &0x40_0000u32.to_le_bytes());
    image
}

/// A 64-bit ELF at 16 MiB with a PVH note: 0x100 bytes of code, 0x1000 of memory.
pub(crate) fn pvh_elf() -> Vec<u8> {
    let mut image = vec![0; 0x400];
    put(&mut image, 0, b"\x7fELF\x02\x01\x01");
    put(&mut image, 16, &2u16.to_le_bytes());
    put(&mut image, 18, &62u16.to_le_bytes());
    put(&mut image, 24, &0x100_0000u64.to_le_bytes());
    put(&mut image, 32, &64u64.to_le_bytes());
    put(&mut image, 54, &56u16.to_le_bytes());
    put(&mut image, 56, &2u16.to_le_bytes());
    let headers = [(1u32, 0x200u64, 0x100_0000u64, 0x100u64, 0x1000u64), (4, 0x180, 0, 40, 40)];
    for (i, (kind, offset, address, in_file, in_memory)) in headers.into_iter().enumerate() {
        let at = 64 + i * 56;
        put(&mut image, at, &kind.to_le_bytes());
        for (field, value) in
            [(8, offset), (16, address), (24, address), (32, in_file), (40, in_memory)]
        {
            put(&mut image, at + field, &value.to_le_bytes());
        }
    }
    // A note of another owner first.
    put(&mut image, 0x180, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(&mut image, 0x18c, b"GNU\0\x01\0\0\0");
    put(&mut image, 0x194, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(&mut image, 0x1a0, b"Xen\0");
    put(&mut image, 0x1a4, &0x100_0010u32.to_le_bytes());
    image[0x200..0x300].fill(0xf4);
    image
}

/// A Multiboot kernel as an ELF32 at 4 MiB; virtual addresses are 3 GiB higher.
pub(crate) fn multiboot_elf() -> Vec<u8> {
    let mut image = vec![0; 0x400];
    put(&mut image, 0, b"\x7fELF\x01\x01\x01");
    put(&mut image, 16, &2u16.to_le_bytes());
    put(&mut image, 18, &3u16.to_le_bytes());
    put(&mut image, 24, &0xc040_0020u32.to_le_bytes());
    put(&mut image, 28, &52u32.to_le_bytes());
    put(&mut image, 42, &32u16.to_le_bytes());
    put(&mut image, 44, &1u16.to_le_bytes());
    for (i, value) in [1u32, 0x200, 0xc040_0000, 0x40_0000, 0x100, 0x2000].into_iter().enumerate() {
        put(&mut image, 52 + i * 4, &value.to_le_bytes());
    }
    multiboot_header(&mut image, 0x200, 3, &[]);
    image
}

/// A flat Multiboot kernel at 1 MiB with addresses in its header, 0x40 bytes in.
pub(crate) fn multiboot_flat() -> Vec<u8> {
    let mut image = vec![0x90; 0x800];
    multiboot_header(
        &mut image,
        0x40,
        1 << 16,
        &[0x10_0040, 0x10_0000, 0x10_0800, 0x10_2000, 0x10_0080],
    );
    image
}

pub(crate) fn multiboot_header(image: &mut [u8], at: usize, flags: u32, addresses: &[u32]) {
    let magic = 0x1bad_b002u32;
    let sum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    for (i, value) in [magic, flags, sum].iter().chain(addresses).enumerate() {
        put(image, at + i * 4, &value.to_le_bytes());
    }
}

pub(crate) fn tiny() -> Vec<u8> {
    let mut image = vec![0xeb, 10, 0x90, 0x90];
    image.extend_from_slice(&loader::tiny::MAGIC);
    image.push(0xf4);
    image
}
