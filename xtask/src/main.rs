//! The task runner: `cargo xtask demo | test | lab | bench | package | docs`.
//!
//! Whatever a task needs, it prepares: missing system packages, builds, images. It uses nothing that
//! a machine merely happens to have. It is never part of the product.
#![forbid(unsafe_code)]

mod bare_metal;
mod bench;
mod binaries;
mod cpio;
mod demo;
mod docs;
mod failure;
mod fuzz;
mod guest_package;
mod image;
mod lab;
mod package;
mod packages;
mod process;
mod sources;
mod test;
mod workspace;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Runs the project's tasks.")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Sets everything up, boots a Debian guest and opens applications of it as windows of this desktop.
    Demo {
        /// The test of it instead: on engine tcg, in folders of its own, up to the whole desktop.
        #[arg(long)]
        check: bool,
        /// A film of it instead (an animated PNG), on a desktop of its own.
        #[arg(long, value_name = "FILE", conflicts_with = "check")]
        film: Option<PathBuf>,
    },
    /// Runs every test; the last line says how many passed, failed and were skipped.
    Test {
        /// Also what takes long: fuzzing for a while, and the benchmarks.
        #[arg(long)]
        all: bool,
    },
    /// Measures the product beside QEMU in one lab machine, and its windows beside xpra; a table, then JSON.
    Bench {
        /// One of: agent, clipboard, disk, exits, memory, seamless, seamless-vm, share, start, stream, type15.
        name: Option<String>,
    },
    /// Makes a Debian package under target/package.
    Package,
    /// Writes the chapter that is made from the code, and checks the links of every document.
    Docs,
    /// Runs scenarios on emulated machines with virtualization hardware.
    #[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
    Lab {
        /// Name the scenarios and what holds in each.
        #[arg(long, conflicts_with = "name")]
        list: bool,
        /// The scenario to run; the last line it prints is its figures as JSON.
        name: Option<String>,
        #[command(subcommand)]
        command: Option<LabCommand>,
    },
}

#[derive(Subcommand)]
enum LabCommand {
    /// Boots a lab machine, runs a script in it and exits with the script's status.
    Host(lab::HostArguments),
    /// Boots core and monitor on a bare machine with one guest, and exits with the guest's status.
    Core(lab::core::CoreArguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Demo { film: Some(file), .. } => demo::film(&file).map(|()| 0),
        Task::Demo { check: false, .. } => demo::run(),
        Task::Demo { check: true, .. } => demo::check().map(|()| 0),
        Task::Test { all } => test::run(all),
        Task::Bench { name } => bench::run(name.as_deref()),
        Task::Package => package::run(),
        Task::Docs => docs::run().map(|()| 0),
        Task::Lab { command: Some(LabCommand::Host(arguments)), .. } => lab::host(&arguments),
        Task::Lab { command: Some(LabCommand::Core(arguments)), .. } => lab::core::run(&arguments),
        Task::Lab { name: Some(name), .. } => lab::scenario::one(&name),
        Task::Lab { .. } => lab::scenario::list(),
    };
    match result {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}
