//! The command line `macrohard-hypervisor`. One file per command that is more than a question to
//! the daemon; those are all in [`vm`]. Refusals end here: printed with what to do, and turned into
//! an exit code (1 failed, 2 wrong usage).

mod applications;
mod arguments;
mod clipboard;
mod console;
mod core;
mod doctor;
mod documents;
mod edit;
mod exec;
mod image;
mod integration;
mod launch;
mod machine;
mod output;
mod parse;
mod ping;
mod run;
mod share;
mod terminal;
mod vm;
mod windows;

pub use arguments::Arguments;

use crate::problem::Problem;
use arguments::Command;
use clap::Parser;
use std::fmt;
use std::io::IsTerminal;
use std::process::ExitCode;

/// The CLI's `main`.
#[must_use]
pub fn main() -> ExitCode {
    // Clap prints its own refusals and ends with 2.
    let arguments = Arguments::parse();
    match dispatch(arguments.command) {
        Ok(code) => code,
        Err(problem) => {
            report(&problem);
            ExitCode::from(problem.exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Problem> {
    let done = match command {
        Command::Run(arguments) => return run::run(*arguments),
        Command::Exec(arguments) => return exec::exec(arguments),
        Command::Shell(arguments) => return exec::shell(arguments),
        Command::Ping(arguments) => ping::ping(arguments),
        Command::Doctor(arguments) => return doctor::doctor(arguments.json),
        Command::Completions { shell } => documents::completions(shell),
        Command::Man { output } => documents::man_pages(&output),
        Command::Console(name) => vm::console(&name.name),
        Command::Apps(arguments) => applications::list(&arguments),
        Command::Launch(arguments) => launch::launch(arguments),
        Command::Integration(arguments) => integration::settings(arguments),
        Command::Seamless(arguments) => windows::seamless(arguments),
        Command::Windows(arguments) => windows::list(arguments.name, arguments.json),
        Command::Screenshot(arguments) => windows::screenshot(arguments),
        Command::Core(command) => core::dispatch(&command),
        Command::Image(command) => image::dispatch(command),
        Command::Clipboard(arguments) => clipboard::clipboard(arguments),
        Command::Edit(name) => edit::edit(&name.name),
        Command::Share(command) => share::dispatch(command),
        other => vm::dispatch(other),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// A problem as miette draws it.
#[derive(Debug)]
struct Report<'a>(&'a Problem);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let advice = self.0.advice.as_ref()?;
        Some(Box::new(advice))
    }
}

fn report(problem: &Problem) {
    use miette::{GraphicalReportHandler, GraphicalTheme};
    if !std::io::stderr().is_terminal() {
        eprintln!("error: {}", problem.message);
        if let Some(advice) = &problem.advice {
            eprintln!("help: {advice}");
        }
        return;
    }
    let theme = if std::env::var_os("NO_COLOR").is_some() {
        GraphicalTheme::unicode_nocolor()
    } else {
        GraphicalTheme::unicode()
    };
    let mut text = String::new();
    let drawn = GraphicalReportHandler::new_themed(theme)
        .with_wrap_lines(false)
        .render_report(&mut text, &Report(problem));
    match drawn {
        Ok(()) => eprintln!("{}", text.trim_end()),
        Err(_) => eprintln!("error: {problem}"),
    }
}
