//! `callbridge check`: the configuration and the files that it names, judged without running.

use std::collections::BTreeSet;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::serve;
use crate::cli::serve::Args;
use crate::config::Ack;
use crate::config::Config;
use crate::config::JudgeKafka;
use crate::config::Tls;
use crate::journal::inspect;

/// Reads a file, and returns what it holds, in a few words, or what is wrong, each mistake as one line that names the file.
pub(crate) type JudgeFile = fn(&Path) -> Result<String, Vec<String>>;

/// The same for the files of TLS, which are judged together.
pub(crate) type JudgeTls = fn(&Tls) -> Result<String, Vec<String>>;

/// Who judges which files.
pub(crate) struct Judges {
    pub(crate) blocklist: JudgeFile,
    pub(crate) tokens: JudgeFile,
    pub(crate) tls: JudgeTls,
}

/// Judges what `args` name. Says on stdout what is right, and on stderr what is not.
pub(crate) fn run(args: &Args, judge_kafka: JudgeKafka, judges: &Judges) -> ExitCode {
    let config = match args.config(judge_kafka) {
        Ok(config) => config,
        Err(problems) => return serve::refuse(&problems),
    };
    let mut right = vec![format!("config ok: {}", summary(&config))];
    let mut wrong = Vec::new();
    let blocklists = config.blocklist.files.iter().map(|file| ("blocklist", file, judges.blocklist));
    // Several applications may share one.
    let token_files: BTreeSet<&PathBuf> = config.apps.iter().flat_map(|app| &app.token_files).collect();
    let token_files = token_files.into_iter().map(|file| ("tokens", file, judges.tokens));
    for (kind, file, judge) in blocklists.chain(token_files) {
        match judge(file) {
            Ok(holds) => right.push(format!("{kind} ok: {}: {holds}", file.display())),
            Err(mistakes) => wrong.extend(mistakes),
        }
    }
    if let Some(tls) = &config.callbacks.tls {
        match (judges.tls)(tls) {
            Ok(holds) => right.push(format!("tls ok: {}: {holds}", tls.certificate_file.display())),
            Err(mistakes) => wrong.extend(mistakes),
        }
    }
    if config.ack != Ack::Journal
        && let Err(error) = inspect::refuse_waiting(&config.journal.dir)
    {
        wrong.push(serve::chain(&error));
    }
    let warnings = config.warnings.iter().map(|warning| format!("warning: {warning}"));
    let told = tell(io::stdout().lock(), right.into_iter())
        .and_then(|()| tell(io::stderr().lock(), warnings.chain(wrong.iter().cloned())));
    match told {
        // Nobody can have read that all is well.
        Err(_unwritable) => ExitCode::FAILURE,
        Ok(()) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(serve::EXIT_CONFIG),
    }
}

fn summary(config: &Config) -> String {
    let ack = match config.ack {
        Ack::Journal => "journal",
        Ack::Broker => "broker",
        Ack::Memory => "memory",
    };
    let servers = config.kafka.properties.get("bootstrap.servers").map_or("embedded", String::as_str);
    let apps: Vec<String> =
        config.apps.iter().map(|app| format!("{} to {}.*", app.sdk_app_id, app.topic_prefix)).collect();
    format!("ack {ack}, apps {}, brokers {servers}", apps.join(", "))
}

fn tell(mut to: impl Write, lines: impl Iterator<Item = String>) -> io::Result<()> {
    for line in lines {
        writeln!(to, "{line}")?;
    }
    to.flush()
}
