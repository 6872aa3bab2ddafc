//! From the jump into 64-bit code to root's first instruction.

use super::machine::{MAPPED, Machine, RANGES};
use super::others::{self, Plan as Others, Processor};
use super::refuse;
use super::root_program::Program;
use core::arch::naked_asm;
use core::slice;
use hypervisor_abi::{CorePart, InformationPage, POOL_HEAD_SIZE, SIGNATURE, VERSION, features};
use hypervisor_boot::memory_map::{Kind, MemoryMap, Span};
use hypervisor_core::cpu::{control, descriptors, exceptions, physical_apic};
use hypervisor_core::frames::FramePool;
use hypervisor_core::machine::machine;
use hypervisor_core::memory::{self, Frames, HostTables, Object, Plan};
use hypervisor_core::processor::{MAX_CPUS, bring_up, has_vmx, is_complete};
use hypervisor_core::root::{self, Root};
use hypervisor_core::second_level::{Format, PageSize};
use hypervisor_core::vcpu::ExtendedFeatures;
use hypervisor_core::{cpuid, integrity, log, machine, msr, partition, svm, vmx};
use units::{Bytes, HostPhysical, PAGE_SIZE, Tsc};

unsafe extern "C" {
    static text_start: u8;
    static rodata_start: u8;
    static data_start: u8;
    static image_end: u8;
}

/// Where the image's code, constants and data lie, one behind the other.
fn image_parts() -> [Span; 3] {
    let span = |start: *const u8, end: *const u8| Span {
        start: HostPhysical(start as u64),
        end: HostPhysical(end as u64),
    };
    [
        span(&raw const text_start, &raw const rodata_start),
        span(&raw const rodata_start, &raw const data_start),
        span(&raw const data_start, &raw const image_end),
    ]
}

/// All of the image.
fn image() -> Span {
    let [code, _, data] = image_parts();
    Span { start: code.start, end: data.end }
}

const OUT_OF_MEMORY: &str = "the core is out of memory for what it needs to start";

#[unsafe(no_mangle)]
extern "C" fn core_main(kind: u64, information: u64) -> ! {
    let began = control::tsc();
    log::prepare_serial();
    // SAFETY: one processor runs, and it has not loaded an IDT yet.
    unsafe { descriptors::fill_idt() };
    descriptors::load_idt();
    let (major, minor) = (VERSION >> 16, VERSION & 0xffff);
    log!("macrohard-hypervisor core {}, interface {major}.{minor}", env!("CARGO_PKG_VERSION"));
    let machine = Machine::read(kind, information);
    if !is_complete() {
        refuse!("this processor lacks what is named above");
    }
    let program = Program::find(&machine);
    let (plan, map) = divide(&machine, &program);
    // The monitor never sleeps.
    let sleep = matches!(program, Program::Linux { .. })
        .then(|| machine.sleep_control().map(others::sleep))
        .flatten();
    let start = program.load(&machine, &map, sleep.is_some());
    take_frames(plan.frames);
    physical_apic::prepare(program.sets_apic_mode());
    let (mut tables, processors) = build_tables(&machine, &plan);
    let head = Span::of(plan.pool.start, Bytes(POOL_HEAD_SIZE));
    tables.map_same(head, memory::DATA).expect(OUT_OF_MEMORY);
    // SAFETY: the new tables map the image, the core's frames and this stack, which is in the image.
    unsafe { control::set_cr3(tables.root()) };
    let memory_end = map.ranges().last().map_or(MAPPED, |range| range.span.end.0);
    let root = Root::new(root_format(), [image(), plan.frames], memory_end, address_bits(), sleep)
        .and_then(Object::new)
        .expect("the core is out of memory for root's tables");
    root.expect_processors(processors.len()).expect(OUT_OF_MEMORY);
    partition::initialize(plan.pool).expect("the core is out of memory for the pool's owners");
    learn_machine(began, plan.pool, &machine, processors.len());
    if machine::machine().extended.spares_x87 {
        log!("QEMU's processors: x87 registers are loaded only where they differ");
    }
    write_information(processors.len());
    let Plan { frames, pool } = plan;
    let mebibytes = |span: Span| span.size().0 >> 20;
    log!(
        "core {} MiB at {frames}, pool {} MiB at {pool}, {} processors",
        mebibytes(frames),
        mebibytes(pool),
        processors.len()
    );
    let [code, constants, _] = image_parts();
    integrity::remember(code, constants);
    others::prepare(tables.root(), Others { processors, root: root.leak(), start });
    // SAFETY: the stack is mapped and nobody else's.
    unsafe { on_stack(processors[0].space.stack) }
}

/// Goes on in [`first_processor`] on another stack.
///
/// # Safety
/// `stack` is the top of a mapped stack.
#[unsafe(naked)]
unsafe extern "C" fn on_stack(stack: u64) -> ! {
    naked_asm!(
        "mov rsp, rdi",
        "xor ebp, ebp",
        "call {next}",
        "ud2",
        next = sym first_processor
    )
}

extern "C" fn first_processor() -> ! {
    let plan = others::plan();
    let Processor { id, space } = &plan.processors[0];
    let cpu = bring_up(0, *id, space).expect("the first processor cannot run the core");
    others::start(plan.processors);
    log!("starting root");
    log::leave_serial();
    root::run(cpu, plan.root, plan.start)
}

/// Notes what the rest of the core wants to know of this machine, with a key of what randomness it has.
fn learn_machine(began: Tsc, pool: Span, booted: &Machine, processors: usize) {
    let extended = ExtendedFeatures::detect(processors);
    let capabilities = cpuid::Capabilities {
        xcr0: if extended.xsave { extended.supported } else { 0 },
        tsc_aux: extended.tsc_aux,
        physical_bits: address_bits() as u8,
    };
    let supported = cpuid::supported(control::cpuid, &capabilities)
        .expect("the processor has more CPUID leaves than the core has room for");
    let mut msr_map = Frames::allocate(2).expect(OUT_OF_MEMORY);
    msr::fill_bitmap(msr_map.bytes_mut(), has_vmx());
    let mut port_map = Frames::allocate(3).expect(OUT_OF_MEMORY);
    port_map.bytes_mut().fill(0xff);
    // Guests have no devices of their own, so on Intel all of their memory is write-back whatever
    // their PAT says.
    let (format, of_vendor, tags) = if has_vmx() {
        // VPIDs have 16 bits (SDM 3C 25.6.12).
        (vmx::table_format(true), features::VMX | features::OWN_TIMER, 1 << 16)
    } else {
        (root_format(), features::SVM, svm::tags())
    };
    machine::set(machine::Machine {
        format,
        address_bits: address_bits().min(48),
        tags,
        extended,
        supported: Object::new(supported).expect(OUT_OF_MEMORY).leak(),
        microcode_revision: exceptions::try_read_msr(0x8b).unwrap_or(0),
        guest_msr_map: msr_map.into_raw(),
        guest_port_map: port_map.into_raw(),
        pool,
        key: [control::random(), control::random()],
        shows_hypervisor: booted.words().any(|word| word == "show-hypervisor"),
        features: features::DIRTY_LOG | features::SELF_CHECK | of_vendor,
        began,
        tsc_frequency: control::tsc_frequency(),
    });
}

fn address_bits() -> u32 {
    control::cpuid(0x8000_0008, 0)[0] & 0xff
}

/// The format of root's second-level tables (1 GiB pages: CPUID 0x8000_0001 EDX bit 26).
fn root_format() -> Format {
    if has_vmx() {
        return vmx::table_format(false);
    }
    let huge = control::cpuid(0x8000_0001, 0)[3] & 1 << 26 != 0;
    Format::Npt { largest: if huge { PageSize::Size1G } else { PageSize::Size2M } }
}

/// Decides what belongs to whom; the map is what root will be told.
fn divide(machine: &Machine, program: &Program) -> (Plan, MemoryMap<RANGES>) {
    let mut map = machine.map;
    let full = "the machine's memory map has more than 128 ranges";
    map.carve(image(), Kind::Reserved).expect(full);
    let mut free = map;
    let modules = machine.modules().map(|module| module.span);
    for span in modules.chain([program.memory(), Span::of(HostPhysical(0), Bytes(1 << 20))]) {
        free.subtract(span).expect(full);
    }
    let pool = machine.words().find_map(|word| word.strip_prefix("pool=")).map(|word| {
        let mebibytes: Result<u64, _> = word.parse();
        Bytes(
            mebibytes.unwrap_or_else(|_| {
                refuse!("the core's command line says pool={word}: a number is wanted")
            }) << 20,
        )
    });
    // A desktop keeps half of the machine; the monitor has no use for memory of its own.
    let pool = pool.or_else(|| {
        matches!(program, Program::Linux { .. }).then(|| {
            Bytes(free.largest_usable(Span::ALL, PAGE_SIZE).map_or(0, |span| span.size().0 / 2))
        })
    });
    let plan = memory::plan(&free, pool).unwrap_or_else(|error| refuse!("{error}"));
    map.carve(plan.frames, Kind::Reserved).expect(full);
    map.carve(plan.pool, Kind::SoftReserved).expect(full);
    (plan, map)
}

/// Gives the core its frames; the first ones hold the list of which are free, and at both ends is a
/// page with a canary.
fn take_frames(frames: Span) {
    let words = FramePool::bitmap_words((frames.size().0 / PAGE_SIZE) as usize);
    let bitmap = frames.start.0 as *mut u64;
    // SAFETY: the range is free memory below 4 GiB, mapped one to one, the core's from now on.
    let bitmap = unsafe {
        core::ptr::write_bytes(bitmap, 0, words);
        slice::from_raw_parts_mut(bitmap, words)
    };
    let used = (words as u64 * 8).next_multiple_of(PAGE_SIZE);
    let start = HostPhysical(frames.start.0 + used + PAGE_SIZE);
    // At the very end, where the next boot of the same machine looks for it.
    let ring = frames.end.0 - (size_of::<log::Ring>() as u64).next_multiple_of(PAGE_SIZE);
    // SAFETY: mapped, aligned, nobody else's; any bytes are a ring, sound or not.
    log::keep(unsafe { &mut *(ring as *mut log::Ring) });
    let end = ring - PAGE_SIZE;
    integrity::seed(control::random());
    for page in [start.0 - PAGE_SIZE, end] {
        // SAFETY: a page of the core's that is not in the list.
        unsafe { integrity::guard(CorePart::Frames, HostPhysical(page)) };
    }
    memory::initialize(FramePool::new(start, ((end - start.0) / PAGE_SIZE) as usize, bitmap));
}

/// Makes the core's page tables, and says for which processors.
fn build_tables(machine: &Machine, plan: &Plan) -> (HostTables, &'static [Processor]) {
    let out = "the core is out of memory for its own page tables";
    let mut tables = HostTables::new().expect(out);
    let [code, constants, data] = image_parts();
    for (part, how) in [
        (code, memory::CODE),
        (constants, memory::CONSTANT),
        (data, memory::DATA),
        (plan.frames, memory::DATA),
        (Span::of(others::TRAMPOLINE, Bytes(PAGE_SIZE)), memory::DATA),
    ] {
        tables.map_same(part, how).expect(out);
    }
    let registers = Span::of(physical_apic::page(), Bytes(PAGE_SIZE));
    tables.map_same(registers, memory::DEVICE).expect(out);
    let (ids, count) = machine.processors(physical_apic::id());
    let first = Processor { id: ids[0], space: tables.add_processor(0).expect(out) };
    let processors = Object::new([first; MAX_CPUS]).expect(out).leak();
    for index in 1..count {
        let space = tables.add_processor(index as u32).expect(out);
        processors[index] = Processor { id: ids[index], space };
    }
    (tables, &processors[..count])
}

/// Fills the information page.
fn write_information(processors: usize) {
    let machine = machine();
    let page = InformationPage {
        signature: SIGNATURE,
        version: VERSION,
        processors: processors as u32,
        key: machine.key,
        pool_start: machine.pool.start.0,
        pool_size: machine.pool.size().0,
        features: machine.features,
        tsc_frequency: machine.tsc_frequency,
    };
    // SAFETY: the pool's head is mapped one to one and nobody uses it yet.
    unsafe {
        core::ptr::write_bytes(machine.pool.start.0 as *mut u8, 0, POOL_HEAD_SIZE as usize);
        (machine.pool.start.0 as *mut InformationPage).write(page);
    }
}
