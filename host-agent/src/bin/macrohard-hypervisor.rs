//! The command line; see [`host_agent::cli`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    host_agent::cli::main()
}
