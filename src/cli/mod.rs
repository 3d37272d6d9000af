//! The command line: one file a subcommand.

mod check;
mod serve;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use crate::follow;
use crate::follow::file::FileError;
use crate::publish::kafka;

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
    Serve(serve::Args),
    /// Judge the configuration and the files that it names, without running.
    Check(serve::Args),
}

impl Cli {
    /// Does what the command line asks. Returns the exit code of the process.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(args) => serve::run(&args, kafka::problems),
            Command::Check(args) => check::run(&args, kafka::problems, judge_blocklist),
        }
    }
}

/// What a blocklist file holds, or every line of it that is wrong.
fn judge_blocklist(file: &Path) -> Result<String, Vec<String>> {
    match follow::file::read(file) {
        Ok(rules) => Ok(format!("{} rules", rules.len())),
        Err(FileError::BadLines(lines)) => {
            Err(lines.iter().map(|line| format!("{}: {line}", file.display())).collect())
        }
        Err(error) => Err(vec![format!("{}: {error}", file.display())]),
    }
}
