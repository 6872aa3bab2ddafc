//! The process of one VM. Takes a launch specification (one line of JSON) from standard input, or
//! from a file, and runs the VM to its end. Started by `macrohardd` and by `run`; a person starts
//! it only to look for a fault.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd;
use std::process::ExitCode;
use vm_control::LaunchSpec;
use vmm::process::{Denied, EXIT_FAILURE, Options};

/// Exit code for a wrong command line.
const EXIT_USAGE: u8 = 2;
const USAGE: &str = "\
usage: macrohard-vm [--spec FILE] [--seccomp=fatal|log|off] [--verbose]

Runs one VM. Without --spec the launch specification is the first line of standard input; what
follows it is typed into the console when the specification says foreground.
Exit code: of the guest's debug exit; 0 after power off, stop or reset; 124 after a timeout; 1 when
the VM failed; 2 for a wrong command line.";

struct Arguments {
    spec: Option<String>,
    options: Options,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments { spec: None, options: Options::default() };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--spec" => parsed.spec = Some(rest.next().ok_or("--spec needs a file")?),
            "--seccomp=fatal" => parsed.options.denied = Denied::Fatal,
            "--seccomp=log" => parsed.options.denied = Denied::Logged,
            "--seccomp=off" => parsed.options.denied = Denied::Off,
            "--verbose" => parsed.options.verbose = true,
            other => return Err(format!("{other:?} is not understood")),
        }
    }
    Ok(parsed)
}

/// The specification, and what was read behind it.
fn specification(file: Option<&str>) -> Result<(LaunchSpec, Vec<u8>), String> {
    if let Some(path) = file {
        let text = std::fs::read(path).map_err(|e| format!("cannot read {path}: {e}"))?;
        let spec = serde_json::from_slice(&text).map_err(|e| format!("{path}: {e}"))?;
        return Ok((spec, Vec::new()));
    }
    // Not through `std::io::stdin`, whose own buffer would swallow what follows the line.
    let stdin = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|e| format!("standard input: {e}"))?;
    let mut input = BufReader::new(File::from(stdin));
    let spec = LaunchSpec::read_from(&mut input).map_err(|e| format!("standard input: {e}"))?;
    Ok((spec, input.buffer().to_vec()))
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("macrohard-vm: {error}\n{USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match specification(arguments.spec.as_deref()) {
        Ok((spec, typed)) => ExitCode::from(vmm::process::run(spec, typed, arguments.options)),
        Err(error) => {
            eprintln!("macrohard-vm: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}
