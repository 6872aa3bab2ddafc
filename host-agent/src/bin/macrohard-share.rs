//! The process of one folder shared with one running VM; see [`share`]. Started by `macrohardd`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::sync::Arc::new(share::LimitedError::default()))
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MACROHARD_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(false)
        .init();
    share::run()
}
