//! The per-user daemon; see [`host_agent::daemon`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    host_agent::daemon::main()
}
