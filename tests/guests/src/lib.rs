//! Tiny guest programs, assembled by the build: the smallest things that can prove a virtual
//! machine works, in each processor mode. Used by the tests of the VMM and the lab; holds data only.
//!
//! An image is a flat binary. It goes to guest-physical 0x7c00 and starts in real mode at
//! 0000:7c00; [`is_tiny_guest`] tells it from any other kernel. The programs talk through the
//! hypercall ports 0xe9 to 0xec (crate `chipset`, `HypercallPorts`).
#![forbid(unsafe_code)]

/// Guest-physical address where an image is put and starts.
pub const LOAD_ADDRESS: u64 = 0x7c00;
/// What an image holds at [`MAGIC_OFFSET`].
pub const MAGIC: [u8; 8] = *b"MHVTINY1";
/// Where; before it lies a jump over it.
pub const MAGIC_OFFSET: usize = 4;

/// How a program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It halts with interrupts off and never does anything again.
    Halts,
    /// It ends the machine with this status through port 0xec.
    Exits(u8),
}

/// One program.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Its name.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// The image.
    pub image: &'static [u8],
    /// What it prints when nothing waits as input.
    pub output: &'static str,
    /// How it ends.
    pub ending: Ending,
}

macro_rules! image {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".bin"))
    };
}

/// The programs for one processor, simplest first.
pub const ALL: &[Guest] = &[
    Guest {
        name: "minimal",
        about: "halts",
        image: image!("minimal"),
        output: "",
        ending: Ending::Halts,
    },
    Guest {
        name: "hello",
        about: "prints a greeting in 16-bit real mode",
        image: image!("hello"),
        output: "Hello from a tiny guest.\n",
        ending: Ending::Exits(0),
    },
    Guest {
        name: "counter",
        about: "counts to 20 in 16-bit real mode",
        image: image!("counter"),
        output: "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 \n",
        ending: Ending::Exits(0),
    },
    Guest {
        name: "hctest",
        about: "uses every hypercall port in 16-bit real mode, echoes its input",
        image: image!("hctest"),
        output: "ports: present\nputchar: abc\ngetchar: \nexit: 42\n",
        ending: Ending::Exits(42),
    },
    Guest {
        name: "multiplication",
        about: "prints the multiplication table of 2 to 9 in 16-bit real mode",
        image: image!("multiplication"),
        output: include_str!("../programs/multiplication.txt"),
        ending: Ending::Exits(0),
    },
    Guest {
        name: "pmode_simple",
        about: "enters 32-bit protected mode with its own GDT and IDT",
        image: image!("pmode_simple"),
        output: "32-bit protected mode\nmemory above 1 MiB works\n",
        ending: Ending::Exits(0),
    },
    Guest {
        name: "pmode_test",
        about: "takes a software interrupt and exceptions in protected mode and returns",
        image: image!("pmode_test"),
        output: "32-bit protected mode\n\
                 breakpoint: returned\n\
                 software interrupt 0x30: returned\n\
                 divide error: repaired\n\
                 invalid opcode: skipped\n\
                 general protection: skipped\n\
                 all returned\n",
        ending: Ending::Exits(5),
    },
    Guest {
        name: "matrix",
        about: "multiplies two 8x8 matrices in 64-bit long mode with its own page tables",
        image: image!("matrix"),
        output: "64-bit long mode\ntrace 18384\nchecksum 4937088\n",
        ending: Ending::Exits(0),
    },
];

/// The program for several processors: its [`Guest::output`] is that of a machine with one. The
/// bootstrap processor reads how many there are from CMOS cell 0x5f and wakes the others through
/// the local APIC; see [`smp_lines`].
pub const SMP: Guest = Guest {
    name: "smp",
    about: "runs a program on each processor at the same time, started by INIT and SIPI",
    image: image!("smp"),
    output: "[0] counter 1\n[0] counter 2\n[0] counter 3\n[0] counter 4\n[0] counter 5\nsum 15\n",
    ending: Ending::Exits(0),
};

/// Hostile: for the hypervisor core, whose answers it knows.
pub const REFUSED: Guest = Guest {
    name: "refused",
    about: "does what no guest may do and takes the exceptions",
    image: image!("refused"),
    output: "32-bit protected mode\n\
             instructions of hypervisors: refused\n\
             model-specific registers: refused what no guest has\n\
             single step and breakpoint: trapped\n",
    ending: Ending::Exits(14),
};

/// Hostile: for processors that check what is written to control registers, which QEMU's TCG does not.
pub const CONTROL_REGISTERS: Guest = Guest {
    name: "control_registers",
    about: "writes to control registers what no processor takes",
    image: image!("control_registers"),
    output: "32-bit protected mode\n\
             control registers: refused what no processor takes\n",
    ending: Ending::Exits(4),
};

/// For virtual processors whose hypervisor has non-maskable interrupts from the local APIC.
pub const NMI: Guest = Guest {
    name: "nmi",
    about: "sends itself non-maskable interrupts, one while it handles the other",
    image: image!("nmi"),
    output: "32-bit protected mode\n\
             the second waits while the first is handled\n\
             both came, one after the other\n",
    ending: Ending::Exits(2),
};

/// The program that measures what leaving the guest costs: its [`Guest::output`] is not foreseen. It is
/// a Multiboot image too.
pub const EXITS: Guest = Guest {
    name: "exits",
    about: "measures the cost of each kind of exit in 64-bit long mode, with one or two processors",
    image: image!("exits"),
    output: "",
    ending: Ending::Exits(0),
};

/// The program called `name`, those outside [`ALL`] included.
#[must_use]
pub fn find(name: &str) -> Option<Guest> {
    ALL.iter()
        .copied()
        .chain([SMP, REFUSED, CONTROL_REGISTERS, NMI, EXITS])
        .find(|guest| guest.name == name)
}

/// The lines [`SMP`] prints on `processors` processors with APIC ids from 0 on, without newlines.
/// Lines of one processor come in this order, those of different processors in any; the last
/// line is always last.
#[must_use]
pub fn smp_lines(processors: u32) -> Vec<String> {
    let mut lines = Vec::new();
    let mut sum = 0;
    for id in 0..processors {
        match id % 3 {
            0 => {
                lines.extend((1..=5).map(|count| format!("[{id}] counter {count}")));
                sum += (1..=5u32).sum::<u32>();
            }
            1 => {
                let table: u32 = (2..=9u32).flat_map(|a| (1..=9u32).map(move |b| a * b)).sum();
                lines.push(format!("[{id}] multiplication {table}"));
                sum += table;
            }
            _ => {
                let terms = (0..4u32).flat_map(|i| (0..4u32).map(move |k| (i + k) * (k * i + 1)));
                let trace: u32 = terms.sum();
                lines.push(format!("[{id}] matrix {trace}"));
                sum += trace;
            }
        }
    }
    lines.push(format!("sum {sum}"));
    lines
}

/// Whether `image` is one of these programs, by its first bytes.
#[must_use]
pub fn is_tiny_guest(image: &[u8]) -> bool {
    matches!(image.first(), Some(0xeb | 0xe9))
        && image.get(MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len()) == Some(&MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_known_by_its_head_and_fits_a_real_mode_segment() {
        for guest in ALL.iter().copied().chain([SMP, EXITS]) {
            assert!(is_tiny_guest(guest.image), "{}", guest.name);
            assert!(guest.image.len() <= 0x1_0000 - 0x7c00, "{}", guest.name);
            assert_eq!(find(guest.name).unwrap().image, guest.image);
        }
        assert!(!is_tiny_guest(b"\x7fELF"));
        assert!(!is_tiny_guest(b"\xeb"));
    }

    #[test]
    fn expected_output_is_what_arithmetic_says() {
        let table: String = (1..=9)
            .map(|row| {
                let cells: Vec<_> =
                    (2..=9).map(|column| format!("{column}x{row}={:2}", column * row)).collect();
                cells.join(" ") + "\n"
            })
            .collect();
        assert_eq!(find("multiplication").unwrap().output, table);

        let product =
            |i: u64, j: u64| -> u64 { (0..8).map(|k| (3 * i + k + 1) * (k * j + 2)).sum() };
        let trace: u64 = (0..8).map(|i| product(i, i)).sum();
        let checksum: u64 = (0..64).map(|at| product(at / 8, at % 8) * (at + 1)).sum();
        let output = format!("64-bit long mode\ntrace {trace}\nchecksum {checksum}\n");
        assert_eq!(find("matrix").unwrap().output, output);

        assert_eq!(SMP.output, smp_lines(1).join("\n") + "\n");
    }
}
