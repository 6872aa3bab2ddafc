//! The bootable image: from the boot loader's hands to the loop of each processor.
#![no_std]
#![no_main]
// The entry point and the panic handler are called by name.
#![allow(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hypervisor_abi::{SIGNATURE, VERSION};
use hypervisor_boot::archive::Archive;
use hypervisor_boot::memory_map::{Kind, Span};
use hypervisor_monitor::Transfer;
use hypervisor_monitor::calls::Core;
use hypervisor_monitor::clock::Clock;
use hypervisor_monitor::console::Console;
use hypervisor_monitor::guest::SharedConsole;
use hypervisor_monitor::hardware::memory::{Boot, Pool};
use hypervisor_monitor::hardware::{
    self, Hardware, Vmcall, apic, control, interrupts, paging, processors, serial,
};
use hypervisor_monitor::memory::PoolMemory;
use hypervisor_monitor::runner::{Runner, Shared};
use hypervisor_monitor::start::{self, Means, Ready};
use hypervisor_monitor::vcpu::Vcpu;
use hypervisor_monitor::virtio::Switch;
use spin::{Mutex, Once};

static HARDWARE: Once<Hardware> = Once::new();
static CLOCK: Once<Clock> = Once::new();

/// The machine's status when the monitor itself cannot go on.
const FAILED: u8 = 1;

/// Called by `entry.s` with what EBX was at entry.
#[unsafe(no_mangle)]
extern "C" fn monitor_main(start_info: u64) -> ! {
    serial::prepare();
    // SAFETY: this is the only call, before any other code ran.
    let boot = match unsafe { hardware::memory::read_boot(start_info) } {
        Ok(boot) => boot,
        Err(error) => stop(format_args!("{error}")),
    };
    interrupts::prepare_processor();
    paging::extend(boot.end);
    apic::mask_others();
    apic::prepare();
    apic::measure_timer();
    let Err(message) = run(&boot);
    stop(format_args!("{message}"))
}

/// Finds the core, makes the guests and runs them; comes back only when something is wrong.
fn run(boot: &Boot) -> Result<core::convert::Infallible, String> {
    let (pool, information) = find_core(boot)?;
    let amd = is_amd();
    // SAFETY: `find_core` saw the core answer.
    let gate = unsafe { Vmcall::new(information.key, amd) };
    let core = Arc::new(Core::new(Box::new(gate)));
    core.version().map_err(text)?;
    let hertz = match information.tsc_frequency {
        0 => apic::measure_tsc(),
        hertz => hertz,
    };
    let wall_clock = hardware::clock::since_1970();
    let clock = *CLOCK.call_once(|| Clock::new(control::tsc().0, hertz));
    let console: SharedConsole = Arc::new(Mutex::new(Console::new(serial::write)));
    let ids = processors::find(boot.rsdp);
    let count = ids.len().min(information.processors.max(1) as usize);
    let ids: Vec<u32> = ids.into_iter().take(count).collect();
    hardware::set_current(0);
    let hardware: &'static Hardware = HARDWARE.call_once(|| Hardware::new(ids.clone()));
    console.lock().line(format_args!(
        "core {}.{}, {count} processors, {} MHz, pool {} MiB",
        information.version >> 16,
        information.version & 0xffff,
        hertz / 1_000_000,
        information.pool_size >> 20,
    ));

    let devices = hardware::virtio::find();
    if let Some(terminal) = devices.console {
        console.lock().also(terminal);
    }
    let switch = Arc::new(Switch::default());
    if let Some(card) = devices.network {
        switch.set_uplink(card);
    }
    let means = Means {
        core: Arc::clone(&core),
        machine: hardware,
        processors: count,
        console: Arc::clone(&console),
        clock,
        now: nanoseconds,
        wall_clock,
        pool: PoolMemory::new(Pool::guest_memory(&information)),
        ram: &|from, ranges| pool.guest_ram(from, ranges),
        run_page: &|offset| Box::new(pool.run_page(offset)),
        slot: Box::new(pool.transfer(0)),
        // The rest is for frames, text and the guests themselves.
        disk_memory: hardware::heap::usage().1 as u64 / 4 * 3,
        disk: devices.disk,
        switch: Arc::clone(&switch),
    };
    let Ready { guests, vcpus } = start::make(&Archive::new(boot.archive), means).map_err(text)?;
    for guest in &guests {
        let vcpus = guest.wakes.processors().len();
        let line = format_args!("guest {}: {vcpus} vcpus", guest.name);
        console.lock().line(line);
    }
    let shared: &'static Shared = Box::leak(Box::new(Shared {
        machine: hardware,
        guests,
        console,
        clock,
        switch,
        idle: (0..count).map(|_| AtomicBool::new(false)).collect(),
    }));
    let vcpus: &'static [Mutex<Vec<Vcpu>>] =
        vcpus.into_iter().map(Mutex::new).collect::<Vec<_>>().leak();
    let work = move |index: usize| {
        hardware::set_current(index);
        let own = vcpus.get(index).map(|own| core::mem::take(&mut *own.lock()));
        Runner::new(shared, index, own.unwrap_or_default()).run();
    };
    let present = processors::start(&ids, &boot.map, work);
    if present.len() < count {
        return Err(alloc::format!(
            "processor {} of {count} (local APIC id {}) does not start",
            present.len(),
            ids[present.len()],
        ));
    }
    work(0);
    finish(shared, &core, &mut pool.transfer(0))
}

fn text(error: impl fmt::Display) -> String {
    alloc::format!("{error}")
}

fn nanoseconds() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.nanoseconds(control::tsc().0))
}

/// CPUID.0: AMD and Hygon have VMMCALL.
fn is_amd() -> bool {
    let [_, ebx, _, _] = control::cpuid(0, 0);
    [*b"Auth", *b"Hygo"].contains(&ebx.to_le_bytes())
}

/// The core and its pool, or why there is none.
fn find_core(boot: &Boot) -> Result<(Pool, hypervisor_abi::InformationPage), String> {
    if !Vmcall::core_is_here() {
        return Err(
            "no core runs beneath (CPUID 0x40000100 does not say so); boot core-image with a boot \
             archive whose first file is this image"
                .into(),
        );
    }
    let version = Vmcall::version();
    if version >> 16 != VERSION >> 16 {
        return Err(alloc::format!(
            "the core's interface has version {:#x}, this monitor speaks {VERSION:#x}",
            version,
        ));
    }
    for span in boot.map.of_kind(Kind::SoftReserved) {
        // SAFETY: a core runs beneath, and it alone makes memory soft-reserved for root.
        let pool = unsafe { Pool::new(span) };
        let information = pool.information();
        if information.signature == SIGNATURE {
            return Ok((pool, information));
        }
    }
    let spans: Vec<Span> = boot.map.of_kind(Kind::SoftReserved).collect();
    Err(alloc::format!(
        "a core runs beneath, but no soft-reserved memory begins with its signature: {spans:x?}"
    ))
}

/// Every guest has ended: says how often they left, and ends the machine.
fn finish(shared: &Shared, core: &Core, slot: &mut dyn Transfer) -> ! {
    let mut status = 0;
    {
        let mut console = shared.console.lock();
        for guest in &shared.guests {
            let mut line = String::new();
            for (name, count) in guest.exits() {
                let comma = if line.is_empty() { "" } else { ", " };
                let _ = write!(line, "{comma}{name} {count}");
            }
            console.line(format_args!("guest {} exits: {line}", guest.name));
            if let Ok(first) = core.statistics(guest.partition, 0, slot) {
                console.line(format_args!(
                    "guest {}: {} bytes of second-level tables, first entered {} ticks after the core began",
                    guest.name, first.table_bytes, first.first_entry,
                ));
            }
            for index in 0..guest.wakes.processors().len() {
                if let Ok(record) = core.statistics(guest.partition, index, slot) {
                    console.line(format_args!(
                        "guest {} vcpu {index}: entries {}, interrupts {}, kicks {}, refused {}",
                        guest.name, record.entries, record.interrupts, record.kicks, record.refused,
                    ));
                }
            }
        }
        let statuses = shared.guests.iter().filter_map(|guest| guest.ending());
        status = statuses.map(|ending| ending.status()).find(|s| *s != 0).unwrap_or(status);
        match core.self_check() {
            Ok(None) => console.line(format_args!("core unchanged")),
            Ok(Some(part)) => panic!("the core has changed: {}", part.text()),
            Err(error) => panic!("{error}"),
        }
        console.line(format_args!("exit {status}"));
    }
    power_off(status)
}

/// Where text goes that cannot wait for the console's lock.
struct Plain;

impl Write for Plain {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        serial::write(text.as_bytes());
        Ok(())
    }
}

fn stop(message: fmt::Arguments<'_>) -> ! {
    let _ = write!(Plain, "\r\nmonitor: {message}\r\n");
    end(FAILED)
}

fn end(status: u8) -> ! {
    let _ = write!(Plain, "monitor: exit {status}\r\n");
    power_off(status)
}

fn power_off(status: u8) -> ! {
    hardware::serial::finish();
    hardware::power::off(status)
}

/// Which panic came first; a panic in a panic only stops.
static PANICS: AtomicU64 = AtomicU64::new(0);

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    if PANICS.fetch_add(1, Ordering::SeqCst) > 0 {
        control::stop();
    }
    stop(format_args!("panic: {information}"))
}
