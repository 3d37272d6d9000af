//! The command line: one file a subcommand.

mod check;
mod serve;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

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
            Command::Serve(args) => serve::run(&args, judge_kafka),
            Command::Check(args) => check::run(&args, judge_kafka, judge_blocklist),
        }
    }
}

fn judge_kafka(_properties: &BTreeMap<String, String>) -> Vec<(String, String)> {
    Vec::new()
}

fn judge_blocklist(file: &Path) -> Result<String, Vec<String>> {
    match fs::read(file) {
        Ok(bytes) => Ok(format!("{} bytes", bytes.len())),
        Err(error) => Err(vec![format!("{}: cannot be read: {error}", file.display())]),
    }
}
