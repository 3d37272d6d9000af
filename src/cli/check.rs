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
use crate::config::App;
use crate::config::Callbacks;
use crate::config::Config;
use crate::config::JudgeKafka;
use crate::config::Tls;
use crate::journal::inspect;

/// What good files hold, in a few words, and warnings about it.
pub(crate) struct Contents {
    pub(crate) summary: String,
    pub(crate) warnings: Vec<String>,
}

/// Reads a file, and returns what it holds, or what is wrong, each mistake as one line that names the file.
pub(crate) type JudgeFile = fn(&Path) -> Result<Contents, Vec<String>>;

/// The same for the files of TLS, which are judged together.
pub(crate) type JudgeTls = fn(&Tls) -> Result<Contents, Vec<String>>;

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
    let mut report = Report { right: vec![format!("config ok: {}", summary(&config))], ..Report::default() };
    report.right.extend(config.apps.iter().map(|app| access(app, &config.callbacks)));
    report.warnings.extend(config.warnings.iter().map(ToString::to_string));
    for file in &config.blocklist.files {
        report.add("blocklist", file, (judges.blocklist)(file));
    }
    // Several applications may share one.
    let token_files: BTreeSet<&PathBuf> = config.apps.iter().flat_map(|app| &app.token_files).collect();
    for file in token_files {
        report.add("tokens", file, (judges.tokens)(file));
    }
    if let Some(tls) = &config.callbacks.tls {
        report.add("tls", &tls.certificate_file, (judges.tls)(tls));
    }
    if config.ack != Ack::Journal
        && let Err(error) = inspect::refuse_waiting(&config.journal.dir)
    {
        report.wrong.push(serve::chain(&error));
    }
    let Report { right, warnings, wrong } = report;
    let is_good = wrong.is_empty();
    let warnings = warnings.iter().map(|warning| format!("warning: {warning}"));
    let told =
        tell(io::stdout().lock(), right.into_iter()).and_then(|()| tell(io::stderr().lock(), warnings.chain(wrong)));
    match told {
        // Nobody can have read that all is well.
        Err(_unwritable) => ExitCode::FAILURE,
        Ok(()) if is_good => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(serve::EXIT_CONFIG),
    }
}

/// What there is to say, each as one line.
#[derive(Default)]
struct Report {
    right: Vec<String>,
    warnings: Vec<String>,
    wrong: Vec<String>,
}

impl Report {
    fn add(&mut self, kind: &str, file: &Path, judged: Result<Contents, Vec<String>>) {
        match judged {
            Ok(contents) => {
                self.right.push(format!("{kind} ok: {}: {}", file.display(), contents.summary));
                self.warnings.extend(contents.warnings);
            }
            Err(mistakes) => self.wrong.extend(mistakes),
        }
    }
}

/// Whose callbacks of `app` are taken, and how they come in.
fn access(app: &App, callbacks: &Callbacks) -> String {
    let callbacks_taken = match app.token_files.as_slice() {
        [] => "unsigned callbacks".to_owned(),
        files => format!("callbacks that are signed with a token of {}", list(files.iter().map(|file| file.display()))),
    };
    let senders = match &callbacks.senders {
        None => "from any address".to_owned(),
        Some(networks) => format!("from {} only", list(&networks.0)),
    };
    let proxies = match callbacks.proxies.0.as_slice() {
        [] => String::new(),
        networks => format!(", also through the proxies {}", list(networks)),
    };
    let path = callbacks.path.as_ref().map_or_else(|| "on any path".to_owned(), |path| format!("on {path} only"));
    let tls = match callbacks.tls.as_ref().map(|tls| &tls.client_ca_file) {
        None => "without TLS".to_owned(),
        Some(None) => "over TLS, from any client".to_owned(),
        Some(Some(client_ca)) => format!("over TLS, from clients with a certificate below {}", client_ca.display()),
    };
    format!("application {}: takes {callbacks_taken}; {senders}{proxies}; {path}; {tls}", app.sdk_app_id)
}

fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
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
