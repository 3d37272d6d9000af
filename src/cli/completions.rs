//! `callbridge completions`: what a shell needs to complete callbridge's command line.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::print;

/// The arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell to write for.
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(args: &Args) -> ExitCode {
    // Into memory first: written to a pipe that is closed early, it would panic.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "callbridge", &mut script);
    print(&script)
}
