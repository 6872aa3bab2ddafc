//! `completions` and `man`: made from the arguments themselves.

use super::arguments::Arguments;
use super::output;
use crate::problem::Problem;
use clap::CommandFactory;
use clap_complete::{Shell, generate};
use std::path::Path;

pub(super) fn completions(shell: Shell) -> Result<(), Problem> {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    generate(shell, &mut command, name, &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

pub(super) fn man_pages(folder: &Path) -> Result<(), Problem> {
    let failed = |error: std::io::Error| {
        Problem::failed(format!("cannot write man pages to {}: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command(), folder).map_err(failed)
}
