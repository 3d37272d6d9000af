//! `callbridge completions`: prints a shell completion script.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::print;

/// Prints the script for `shell`.
pub(super) fn run(shell: Shell) -> ExitCode {
    // Into memory first: writing to a pipe that is closed early would panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "callbridge", &mut script);
    print(&script)
}
