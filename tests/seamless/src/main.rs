//! `cargo xtask bench seamless`: a window of a guest's program on the host's screen, by our agent and
//! compositor and by xpra, without a VM.
//!
//! One desktop ([`desktop`]: Xvfb and openbox) is the host's. The two sides ([`side`]) show on it the windows of
//! another X server, one side after the other, several turns. The same program ([`subject`]) runs in each.
//! What is measured is seen on the host's screen alone ([`observer`]), and what it costs is asked of the kernel
//! ([`cost`]). [`turns`] has the order of it all and what is printed.
#![forbid(unsafe_code)]

mod cost;
mod desktop;
mod failure;
mod figures;
mod observer;
mod program;
mod side;
mod stages;
mod subject;
mod turns;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures both sides; prints lines `compare` and `held` as `cargo xtask bench` reads them.
    Measure {
        /// macrohard-guest-agent.
        #[arg(long)]
        agent: PathBuf,
        /// macrohard-compositor.
        #[arg(long)]
        compositor: PathBuf,
        /// For the logs of all programs.
        #[arg(long)]
        logs: PathBuf,
        /// Turns of each side.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
        turns: u32,
        /// Key presses in a turn.
        #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
        keys: u32,
        /// Seconds of animation in a turn.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
        /// Only one side, for a look at what it does.
        #[arg(long, value_enum)]
        only: Option<side::Kind>,
        /// Only the animation.
        #[arg(long)]
        animation: bool,
    },
    /// Without a VM: the way from a key to its pixels by stage. The log has to want `latency=trace`.
    Stages {
        /// macrohard-guest-agent.
        #[arg(long)]
        agent: PathBuf,
        /// macrohard-compositor.
        #[arg(long)]
        compositor: PathBuf,
        /// For the logs of all programs.
        #[arg(long)]
        logs: PathBuf,
        /// Key presses.
        #[arg(long, default_value_t = 160, value_parser = clap::value_parser!(u32).range(1..))]
        keys: u32,
    },
    /// Before $DISPLAY, where a subject is: presses keys and says when, and when what they do was seen.
    Strike {
        /// Where the logs of all programs are, for messages.
        #[arg(long)]
        logs: PathBuf,
        /// Key presses.
        #[arg(long, default_value_t = 160, value_parser = clap::value_parser!(u32).range(1..))]
        keys: u32,
    },
    /// The way from a key to its pixels by stage, of what was written meanwhile.
    Split {
        /// What `strike` has printed.
        #[arg(long)]
        strikes: PathBuf,
        /// The compositor's log.
        #[arg(long)]
        host: PathBuf,
        /// The agent's log.
        #[arg(long)]
        guest: PathBuf,
        /// What the subject has printed.
        #[arg(long)]
        subject: PathBuf,
    },
    /// The program whose window is measured, on $DISPLAY.
    #[command(subcommand)]
    Subject(subject::Mode),
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Subject(mode) => subject::run(mode),
        Command::Measure { agent, compositor, logs, turns, keys, seconds, only, animation } => {
            let programs = side::Programs { agent, compositor, logs };
            turns::run(&programs, &turns::Plan { turns, keys, seconds, only, animation })
        }
        Command::Stages { agent, compositor, logs, keys } => {
            stages::measure(&side::Programs { agent, compositor, logs }, keys)
        }
        Command::Strike { logs, keys } => stages::strike(&logs, keys),
        Command::Split { strikes, host, guest, subject } => {
            stages::of_files(&strikes, &host, &guest, &subject)
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("seamless-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
