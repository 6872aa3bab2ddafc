//! The small tools that lab machines and the guests in them need, as one static program: ending a
//! guest with a code, vsock ends, reading a disk against the clock, and misbehaving as a guest.
//!
//! Called by the scenario scripts in `tests/lab/scenarios` and by `cargo xtask bench`; never part of
//! the product.

mod attribute;
mod clock;
mod core_calls;
mod debug_exit;
mod files;
mod garbage;
mod input_events;
mod lock;
mod power_button;
mod read_disk;
mod screen;
mod stream;
mod tiny;
mod virtqueue_abuse;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Every tool reports what went wrong as text for the console.
type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
#[command(about = "Small tools for lab machines and their guests.")]
struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand)]
enum Tool {
    /// Prints or sets an extended attribute of a file; without a name prints the names of all.
    Attribute { file: PathBuf, name: Option<String>, value: Option<String> },
    /// Calls the core beneath with random numbers.
    CoreCalls {
        /// Start of the random sequence.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 10_000)]
        calls: u64,
        #[arg(long, default_value = "/dev/dax0.0")]
        device: String,
    },
    /// Ends the virtual machine through its debug-exit port with this code.
    DebugExit { code: u8 },
    /// Does the same random work in two empty folders and compares what they show.
    Files {
        one: PathBuf,
        other: PathBuf,
        /// Start of the random sequence.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 1000)]
        steps: u64,
    },
    /// Prints the events of all input devices until so many groups of them have ended.
    InputEvents { groups: usize },
    /// Waits until the power button is pressed.
    PowerButton,
    /// Reads a block device past the page cache and prints `operations OPS bytes BYTES nanoseconds NS`.
    ReadDisk {
        device: PathBuf,
        /// Bytes per request, a multiple of 512.
        #[arg(long)]
        block: usize,
        /// Requests.
        #[arg(long)]
        count: u64,
        /// At random places instead of one after the other.
        #[arg(long)]
        random: bool,
    },
    /// Looks at a VM's screen, or uses its keyboard and pointer.
    Screen {
        /// The VM's `display.sock`.
        socket: PathBuf,
        #[command(subcommand)]
        act: screen::Act,
    },
    /// Sends standard input to `vsock:CID:PORT`, `tcp:HOST:PORT` or `unix:PATH:PORT` (the `CONNECT port`
    /// protocol) and prints what comes back.
    Send { to: String },
    /// Accepts one vsock connection and sends back what it gets until its end.
    VsockEcho { port: u32 },
    /// Accepts one connection on `tcp:PORT`, `vsock:PORT` or `unix:PATH` and swallows it; prints
    /// `bytes BYTES nanoseconds NS`.
    Sink { at: String },
    /// Sends this many MiB to an address as for `send`.
    Source { to: String, mebibytes: u64 },
    /// Accepts connections as `sink` does, one after the other, and sends this many MiB on each.
    Serve { at: String, mebibytes: u64 },
    /// Connects to an address as for `send` and reads to the end, again and again; prints
    /// `nanoseconds NS` of the median, from before the connection to the last byte.
    Fetch {
        from: String,
        #[arg(long)]
        count: usize,
    },
    /// Sends a byte to an address as for `send` and waits until it comes back, again and again; prints
    /// `nanoseconds NS` of the median.
    RoundTrips {
        to: String,
        #[arg(long)]
        count: usize,
    },
    /// Runs a program again and again; prints `nanoseconds NS` of the median run.
    Clock {
        #[arg(long, default_value_t = 1)]
        count: usize,
        #[arg(last = true, required = true)]
        program: Vec<std::ffi::OsString>,
    },
    /// Runs a program while it holds a lock on a file, as flock(1) does.
    Lock {
        file: PathBuf,
        /// Fail instead of waiting.
        #[arg(long)]
        now: bool,
        #[arg(last = true, required = true)]
        program: Vec<std::ffi::OsString>,
    },
    /// Writes the tiny guests and what each is to print into a folder.
    TinyGuests { folder: PathBuf },
    /// Writes garbage to every I/O port that is no part of this guest's own plumbing, and to every BAR.
    Garbage {
        /// Start of the random sequence.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Writes per port range and BAR.
        #[arg(long, default_value_t = 400)]
        rounds: u32,
    },
    /// Takes a virtio PCI device from its driver and gives it impossible virtqueues.
    VirtqueueAbuse {
        /// PCI address such as 0000:00:02.0, or `all`.
        device: String,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 60)]
        rounds: u32,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().tool {
        Tool::Attribute { file, name, value } => {
            attribute::run(&file, name.as_deref(), value.as_deref())
        }
        Tool::CoreCalls { seed, calls, device } => core_calls::run(&device, seed, calls),
        Tool::DebugExit { code } => debug_exit::end(code),
        Tool::Files { one, other, seed, steps } => files::run(&one, &other, seed, steps),
        Tool::InputEvents { groups } => input_events::print(groups),
        Tool::PowerButton => power_button::wait(),
        Tool::ReadDisk { device, block, count, random } => {
            read_disk::run(&device, block, count, random)
        }
        Tool::Screen { socket, act } => screen::run(&socket, &act),
        Tool::Send { to } => stream::send(&to),
        Tool::VsockEcho { port } => stream::vsock_echo(port),
        Tool::Sink { at } => stream::sink(&at),
        Tool::Source { to, mebibytes } => stream::source(&to, mebibytes),
        Tool::Serve { at, mebibytes } => stream::serve(&at, mebibytes),
        Tool::Fetch { from, count } => stream::fetch(&from, count),
        Tool::RoundTrips { to, count } => stream::round_trips(&to, count),
        Tool::Clock { count, program } => clock::run(&program, count),
        Tool::Lock { file, now, program } => lock::run(&file, now, &program),
        Tool::TinyGuests { folder } => tiny::write(&folder),
        Tool::Garbage { seed, rounds } => garbage::run(seed, rounds),
        Tool::VirtqueueAbuse { device, seed, rounds } => {
            virtqueue_abuse::run(&device, seed, rounds)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-tool: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A small random sequence that is the same everywhere (xorshift64*, Vigna 2016, "An experimental
/// exploration of Marsaglia's xorshift generators").
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.max(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn the_same_seed_gives_the_same_sequence_and_another_seed_another() {
        let sequence = |seed| {
            let mut random = Random::new(seed);
            (0..8).map(|_| random.next()).collect::<Vec<_>>()
        };
        assert_eq!(sequence(1), sequence(1));
        assert_ne!(sequence(1), sequence(2));
    }
}
