//! `callbridge journal`: what an operator sees of a journal.

use std::path::Path;
use std::process::Command;

/// What it printed, and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `callbridge journal` on the journal in `dir`.
pub(crate) fn journal(dir: &Path, args: &[&str]) -> Told {
    run(callbridge().args(args).arg("--data-dir").arg(dir))
}

/// The same where a variable says which.
pub(crate) fn journal_of(variable: &str, dir: &Path, what: &str) -> Told {
    run(callbridge().arg(what).env(variable, dir))
}

/// Runs callbridge with arguments that end in the directory.
pub(crate) fn run_with(args: &[&str], dir: &Path) -> Told {
    run(Command::new(env!("CARGO_BIN_EXE_callbridge")).args(args).arg(dir))
}

fn callbridge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbridge"));
    command.arg("journal");
    command
}

fn run(command: &mut Command) -> Told {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Told { code: output.status.code().unwrap(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// How many captures are not known to be in Kafka.
pub(crate) fn undelivered(dir: &Path) -> u64 {
    let told = journal(dir, &["inspect"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    let count = told.stdout.split_once("of which ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("{}", told.stdout))
}
