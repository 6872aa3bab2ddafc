//! Random accesses to the firmware configuration ports, DMA requests in hostile memory included.
//! Run: `cargo +nightly fuzz run fw_cfg` in `crates/firmware`.
#![no_main]

use chipset::PortDevice;
use firmware::{Basics, DmaMemory, FwCfg, Items};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, Mutex};

/// RAM that holds the fuzzer's own bytes, so that DMA requests come out of it.
#[derive(Clone)]
struct Ram(Arc<Mutex<Vec<u8>>>);

impl DmaMemory for Ram {
    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let ram = self.0.lock().unwrap();
        let from = usize::try_from(address)
            .ok()
            .and_then(|at| ram.get(at..)?.get(..data.len()));
        from.map(|from| data.copy_from_slice(from)).is_some()
    }
    fn write(&self, address: u64, data: &[u8]) -> bool {
        let mut ram = self.0.lock().unwrap();
        let to = usize::try_from(address)
            .ok()
            .and_then(|at| ram.get_mut(at..)?.get_mut(..data.len()));
        to.map(|to| to.copy_from_slice(data)).is_some()
    }
}

fuzz_target!(|input: &[u8]| {
    let ram = Ram(Arc::new(Mutex::new(input.to_vec())));
    let mut items = Items::new(&Basics {
        uuid: [1; 16],
        ram: 1 << 30,
        processors: 1,
    });
    items.add_file("opt/file", vec![0xa5; 100]).unwrap();
    let mut device = FwCfg::new(items, Box::new(ram));
    for step in input.chunks_exact(6) {
        let port = 0x510 + u16::from(step[0] % 16);
        let mut data: [u8; 4] = step[2..].try_into().unwrap();
        let width = [1, 2, 4][usize::from(step[1] % 3)];
        if step[1] & 0x80 == 0 {
            device.write(port, &data[..width]);
        } else {
            device.read(port, &mut data[..width]);
        }
    }
});
