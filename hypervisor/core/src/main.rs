//! The bootable image: from the boot loader's jump to the first instruction of root.
//!
//! `unsafe` here: memory before there are types for it, and the hand-over between processors.
#![no_std]
#![no_main]

mod image;

use core::panic::PanicInfo;

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    hypervisor_core::processor::stop_others();
    hypervisor_core::log::last_words(format_args!("PANIC: {information}"));
    stop()
}

/// Says so and does nothing any more.
fn stop() -> ! {
    hypervisor_core::log::last_words(format_args!("the machine is stopped"));
    hypervisor_core::cpu::control::stop()
}
