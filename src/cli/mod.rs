//! The command line: one file a subcommand.

mod check;
mod journal;
mod serve;

use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use crate::config::flags::Flags;

/// Takes Tencent Cloud Chat callbacks, answers them within their deadline, and publishes them to Kafka.
#[derive(Debug, Parser)]
#[command(name = "callbridge", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the bridge.
    ///
    /// Settings come from the config file, then the environment, then the flags; the later wins. Every setting of the
    /// file has a variable, named for its path: callbacks.listen is CALLBRIDGE_CALLBACKS_LISTEN.
    Serve(Flags),
    /// Check the configuration and the files that it names, without running.
    Check(Flags),
    /// Look at the journal on disk without changing it, also while a bridge writes to it.
    Journal(journal::Args),
}

impl Cli {
    /// Does what the command line asks. Returns the exit code of the process.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(flags) => serve::run(&flags),
            Command::Check(flags) => check::run(&flags),
            Command::Journal(args) => journal::run(&args),
        }
    }
}
