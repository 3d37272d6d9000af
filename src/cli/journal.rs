//! `callbridge journal`: shows the journal on disk. Except for `drain`, it changes nothing and needs no configuration.

use std::env;
use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Subcommand;
use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::auth::Apps;
use crate::clock::UnixMillis;
use crate::journal::codec;
use crate::journal::codec::Kept;
use crate::journal::durable::JournalError;
use crate::journal::durable::Settings;
use crate::journal::inspect;
use crate::journal::inspect::InspectedCapture;
use crate::journal::inspect::Inspection;
use crate::normalise::Normaliser;
use crate::normalise::envelope::Mode;
use crate::normalise::part::Parts;
use crate::record::Record;
use crate::record::Topics;

use super::drain;
use super::drain::DrainArgs;
use super::serve;

/// The arguments of `journal`.
#[derive(Debug, clap::Args)]
pub(super) struct JournalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    #[command(flatten)]
    Look(ReadOnly),
    /// Deliver the journal to Kafka, without accepting callbacks.
    ///
    /// Settings are those of `serve`; `ack` and the listeners do not matter. Ends with 0 if the journal is empty. Ends with 1 after a
    /// signal, after --seconds, if Kafka has accepted nothing for 30 seconds, and if captures are left that this configuration cannot
    /// deliver: it then says how many of which topic, and why. Also if a running callbridge has locked the journal. Ends with 78 if the
    /// configuration is wrong, and with 74 if the disk fails.
    Drain(Box<DrainArgs>),
}

#[derive(Debug, Subcommand)]
enum ReadOnly {
    /// Show the segments, the undelivered captures, and damage.
    Inspect(JournalPlace),
    /// Read everything. Ends with 1 if acknowledged callbacks cannot be read.
    Verify(JournalPlace),
    /// Print captures as JSON lines. Ends with 1, and names the damage, if acknowledged callbacks cannot be read.
    Export {
        #[command(flatten)]
        place: JournalPlace,
        /// The form of a line: the raw callback, or its envelopes, each with its topic.
        #[arg(long, value_enum, default_value_t = OutputForm::Captures)]
        form: OutputForm,
        /// Also print captures that are delivered, as far as they are still there.
        #[arg(long)]
        all: bool,
        /// The prefix of topics.
        #[arg(long, value_name = "PREFIX", default_value = "tencent-chat")]
        topic_prefix: String,
    },
}

#[derive(Debug, clap::Args)]
struct JournalPlace {
    /// The directory of the journal.
    #[arg(long, value_name = "DIR", env = "CALLBRIDGE_DATA_DIR", default_value_os_t = usual_dir())]
    data_dir: PathBuf,
}

/// The directory that `serve` uses without a flag and without `CALLBRIDGE_DATA_DIR`: the variable of the setting counts too.
fn usual_dir() -> PathBuf {
    let given = env::var_os("CALLBRIDGE_JOURNAL_DIR").filter(|dir| !dir.is_empty());
    given.map_or_else(|| Settings::default().dir, PathBuf::from)
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OutputForm {
    Captures,
    Envelopes,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum JournalCommandError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Nobody reads stdout any more.
    #[error("write to stdout")]
    Output(#[from] io::Error),
}

/// Runs the command.
pub(super) fn run(args: &JournalArgs) -> ExitCode {
    match &args.what {
        What::Look(what) => look(what),
        What::Drain(args) => drain::run(args),
    }
}

fn look(what: &ReadOnly) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let (ReadOnly::Inspect(place) | ReadOnly::Verify(place) | ReadOnly::Export { place, .. }) = what;
    let done =
        inspect::holds_log(&place.data_dir).map_err(JournalCommandError::Journal).and_then(|_holds| match what {
            ReadOnly::Inspect(place) => inspect(place, &mut out).map(|()| ExitCode::SUCCESS),
            ReadOnly::Verify(place) => verify(place, &mut out),
            ReadOnly::Export { place, form, all, topic_prefix } => export(place, *form, *all, topic_prefix, &mut out),
        });
    match done.and_then(|code| Ok(out.flush().map(|()| code)?)) {
        Ok(code) => code,
        // As with `callbridge journal export | head`.
        Err(JournalCommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // If nobody reads it, the exit code still says it.
            let _ = writeln!(io::stderr(), "callbridge journal: {}", serve::chain(&failure));
            ExitCode::FAILURE
        }
    }
}

fn inspect(place: &JournalPlace, out: &mut impl Write) -> Result<(), JournalCommandError> {
    let found = inspect::inspect(&place.data_dir)?;
    let files: u64 = found.segments.iter().map(|segment| segment.file_bytes).sum();
    let used: u64 = found.segments.iter().map(|segment| segment.used_bytes).sum();
    let captures: u64 = found.segments.iter().map(|segment| segment.captures).sum();
    let undelivered: u64 = found.segments.iter().map(|segment| segment.undelivered).sum();
    let state = if found.is_in_use { "in use by a running callbridge" } else { "not in use" };
    writeln!(out, "{}: {state}", place.data_dir.display())?;
    writeln!(out, "segments {} ({files} bytes, {used} written), spares {}", found.segments.len(), found.spares)?;
    writeln!(out, "captures {captures}, of which {undelivered} are not known to be in kafka")?;
    if undelivered > 0 {
        oldest(place, out)?;
    }
    problems(&found, out)?;
    if !found.segments.is_empty() {
        writeln!(out, "\n{:<26} {:>20} {:>10} {:>12} {:>12}", "segment", "first", "captures", "undelivered", "bytes")?;
    }
    for segment in &found.segments {
        let inspect::SegmentSummary { name, first_seq, captures, undelivered, used_bytes, is_sealed, .. } = segment;
        let sealed = if *is_sealed { "" } else { "  open" };
        writeln!(out, "{name:<26} {first_seq:>20} {captures:>10} {undelivered:>12} {used_bytes:>12}{sealed}")?;
    }
    Ok(())
}

/// Prints the oldest capture that is not known to be in Kafka.
fn oldest(place: &JournalPlace, out: &mut impl Write) -> Result<(), JournalCommandError> {
    let mut is_first = true;
    inspect::each_capture(&place.data_dir, |capture| {
        if is_first && !capture.is_delivered {
            is_first = false;
            let received = Kept::read(capture.bytes).map(|kept| time(kept.received)).unwrap_or_default();
            writeln!(out, "oldest of those: number {}, received {received}", capture.seq)?;
        }
        Ok::<(), JournalCommandError>(())
    })
}

fn verify(place: &JournalPlace, out: &mut impl Write) -> Result<ExitCode, JournalCommandError> {
    let found = inspect::inspect(&place.data_dir)?;
    let mut unknown = 0_u64;
    inspect::each_capture(&place.data_dir, |capture| {
        unknown += u64::from(Kept::read(capture.bytes).is_none());
        Ok::<(), JournalCommandError>(())
    })?;
    let captures: u64 = found.segments.iter().map(|segment| segment.captures).sum();
    problems(&found, out)?;
    if unknown > 0 {
        writeln!(out, "{unknown} captures were written by a version that this one does not know")?;
    }
    let verdict = if is_damaged(&found) { "damaged" } else { "ok" };
    writeln!(out, "journal {verdict}: {captures} captures in {} segments can be read", found.segments.len())?;
    Ok(code(&found))
}

fn is_damaged(found: &Inspection) -> bool {
    found.segments.iter().any(|segment| !segment.damage.is_empty())
}

fn code(found: &Inspection) -> ExitCode {
    if is_damaged(found) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn problems(found: &Inspection, out: &mut impl Write) -> io::Result<()> {
    for segment in &found.segments {
        for damage in &segment.damage {
            writeln!(out, "{damage}")?;
        }
        if let Some(offset) = segment.torn_at {
            let name = &segment.name;
            let why = if found.is_in_use { "it may be being written" } else { "it was not acknowledged" };
            writeln!(out, "{name} ends in a write that is not whole, at byte {offset}: {why}")?;
        }
    }
    for name in &found.set_aside {
        writeln!(out, "{name} was damaged, salvaged and set aside; remove it when nobody needs it any more")?;
    }
    Ok(())
}

fn export(
    place: &JournalPlace,
    form: OutputForm,
    all: bool,
    prefix: &str,
    out: &mut impl Write,
) -> Result<ExitCode, JournalCommandError> {
    let found = inspect::inspect(&place.data_dir)?;
    let mut makers: Vec<Maker> = Vec::new();
    inspect::each_capture(&place.data_dir, |capture| {
        if capture.is_delivered && !all {
            return Ok(());
        }
        let Some(kept) = Kept::read(capture.bytes) else {
            let mut line = json!({"seq": capture.seq, "delivered": capture.is_delivered});
            put_bytes(&mut line, "unknown", capture.bytes);
            return Ok(writeln!(out, "{line}")?);
        };
        match form {
            OutputForm::Captures => writeln!(out, "{}", line_of_capture(capture, &kept))?,
            OutputForm::Envelopes => {
                let known = makers.iter().position(|maker| maker.app == kept.app);
                let index = known.unwrap_or_else(|| {
                    makers.push(Maker::new(kept.app, prefix));
                    makers.len() - 1
                });
                if let Some(maker) = makers.get(index) {
                    maker.write(capture, out)?;
                }
            }
        }
        Ok::<(), JournalCommandError>(())
    })?;
    for damage in found.segments.iter().flat_map(|segment| &segment.damage) {
        // If nobody reads it, the exit code still says it.
        let _ = writeln!(io::stderr(), "callbridge journal: {damage}");
    }
    Ok(code(&found))
}

fn line_of_capture(capture: &InspectedCapture<'_>, kept: &Kept<'_>) -> Value {
    let mut line = json!({
        "seq": capture.seq,
        "delivered": capture.is_delivered,
        "received": time(kept.received),
        "peer": kept.peer.to_string(),
        "sdkappid": kept.app,
        "outcome": kept.outcome_word(),
        "query": kept.query(),
    });
    if let (Some(fields), Ok(detail)) = (line.as_object_mut(), serde_json::from_slice(kept.detail())) {
        fields.insert("detail".to_owned(), detail);
    }
    put_bytes(&mut line, "body", kept.body());
    line
}

/// Makes records of the captures of one application.
struct Maker {
    app: String,
    apps: Arc<Apps>,
    topics: Arc<Topics>,
    normaliser: Normaliser,
}

impl Maker {
    fn new(app: &str, prefix: &str) -> Self {
        let apps = Arc::new(Apps::new(app.parse()));
        let topics = Arc::new(Topics::new([prefix]));
        let normaliser = Normaliser::new(Arc::clone(&apps), Arc::clone(&topics), Mode::Structured);
        Self { app: app.to_owned(), apps, topics, normaliser }
    }

    fn write(&self, capture: &InspectedCapture<'_>, out: &mut impl Write) -> io::Result<()> {
        let Ok(decoded) = codec::decode(capture.bytes, &self.apps) else { return Ok(()) };
        for part in Parts::of(&decoded).iter() {
            writeln!(out, "{}", self.line(&self.normaliser.record_of(&decoded, part)))?;
        }
        Ok(())
    }

    fn line(&self, record: &Record<'_>) -> Value {
        let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
        let headers: Map<String, Value> =
            record.headers.iter().map(|header| (header.name.to_owned(), text(&header.value))).collect();
        let mut line = json!({"topic": self.topics.name(record.topic), "key": record.key, "headers": headers});
        put_bytes(&mut line, "value", &record.value);
        line
    }
}

/// Adds bytes as text, or in base64 under another name.
fn put_bytes(line: &mut Value, name: &str, bytes: &[u8]) {
    let Some(fields) = line.as_object_mut() else { return };
    match str::from_utf8(bytes) {
        Ok(text) => fields.insert(name.to_owned(), text.into()),
        Err(_) => fields.insert(format!("{name}_base64"), BASE64_STANDARD.encode(bytes).into()),
    };
}

fn time(moment: UnixMillis) -> String {
    Timestamp::from_millisecond(moment.0).map(|time| format!("{time:.3}")).unwrap_or_default()
}
