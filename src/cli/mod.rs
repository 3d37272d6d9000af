//! The command line: one file a subcommand.

mod check;
mod journal;
mod serve;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

use crate::auth::Tokens;
use crate::clock;
use crate::config::Tls;
use crate::decide::rules::Rules;
use crate::follow;
use crate::follow::file::FileError;
use crate::follow::tls::TlsPaths;
use crate::publish::kafka;

use self::check::Contents;
use self::check::Judges;
use self::serve::chain;

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
    /// Look at the journal on disk without changing it, also while a bridge writes to it.
    Journal(journal::Args),
}

impl Cli {
    /// Does what the command line asks. Returns the exit code of the process.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(args) => serve::run(&args, kafka::problems),
            Command::Check(args) => {
                let judges = Judges { blocklist: judge_blocklist, tokens: judge_tokens, tls: judge_tls };
                check::run(&args, kafka::problems, &judges)
            }
            Command::Journal(args) => journal::run(&args),
        }
    }
}

/// What a blocklist file holds, or which lines of it are wrong.
fn judge_blocklist(file: &Path) -> Result<Contents, Vec<String>> {
    match follow::file::read::<Rules>(file) {
        Ok(rules) => Ok(Contents { summary: format!("{} rules", rules.len()), warnings: Vec::new() }),
        Err(FileError::Bad(bad_lines)) => {
            let more = bad_lines.count - bad_lines.first.len();
            let more = (more > 0).then(|| format!("{}: and {more} more bad lines", file.display()));
            Err(bad_lines.first.iter().map(|line| format!("{}: {line}", file.display())).chain(more).collect())
        }
        Err(error) => Err(vec![format!("{}: {error}", file.display())]),
    }
}

/// How many tokens a file holds, or what is wrong with it.
fn judge_tokens(file: &Path) -> Result<Contents, Vec<String>> {
    match follow::file::read::<Tokens>(file) {
        Ok(tokens) => {
            let weak = tokens.weakness().map(|weakness| format!("{}: {weakness}", file.display()));
            Ok(Contents { summary: format!("{} tokens", tokens.len()), warnings: weak.into_iter().collect() })
        }
        Err(error) => Err(vec![format!("{}: {error}", file.display())]),
    }
}

/// What clients of TLS are asked for, or what is wrong with its files.
fn judge_tls(files: &Tls) -> Result<Contents, Vec<String>> {
    let paths = TlsPaths {
        certificate: files.certificate_file.clone(),
        key: files.key_file.clone(),
        client_ca: files.client_ca_file.clone(),
    };
    match follow::tls::load(&paths) {
        Ok(validity) => {
            let summary = if paths.client_ca.is_some() { "clients must show a certificate" } else { "any client" };
            let invalid = validity.and_then(|validity| validity.invalid(clock::wall()));
            let warning = invalid.map(|invalid| format!("{}: {invalid}", paths.certificate.display()));
            Ok(Contents { summary: summary.to_owned(), warnings: warning.into_iter().collect() })
        }
        Err(error) => Err(vec![format!("callbacks.tls: {}", chain(&error))]),
    }
}
