//! `callbridge man`: the manual pages, one for each subcommand.

use std::fs;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;

use super::Cli;

/// The arguments of `man`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the pages go. The directory is created if it is missing.
    dir: PathBuf,
}

/// Writes the pages.
pub(super) fn run(args: &Args) -> ExitCode {
    match write(&args.dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // When nobody reads it, the exit code still tells.
            let _ = writeln!(io::stderr(), "callbridge man: {}: {error}", args.dir.display());
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)
}
