//! Lays the file, the environment and the flags over each other, and remembers where each value was given.
//!
//! serde reads the outcome. A value that does not fit is reported and left out, so that the next one is found too.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::mem;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::Table;
use toml::Value;
use toml::de::DeTable;
use toml::de::DeValue;
use toml::de::ValueDeserializer;

use crate::config::flags::Flags;
use crate::config::problem::Origin;
use crate::config::problem::Problem;

/// What every variable of the environment begins with.
const VARIABLE_PREFIX: &str = "CALLBRIDGE_";

/// The tables of the file whose settings have variables; a table within another stands before it.
pub(super) const SECTIONS: [&str; 12] = [
    "callbacks.tls",
    "callbacks",
    "admin",
    "kafka",
    "topics",
    "publish",
    "envelope",
    "blocklist",
    "decide",
    "queue",
    "journal",
    "log",
];

/// Without these more are let in: whoever gives an empty variable for one meant a check and would have none.
///
/// Not among them is `callbacks.proxies`: without it no proxy is believed, so fewer are let in.
const SECURITY: [&str; 7] = [
    "admin.token_files",
    "callbacks.path",
    "callbacks.senders",
    "callbacks.tls.certificate_file",
    "callbacks.tls.key_file",
    "callbacks.tls.client_ca_file",
    "apps[].token_files",
];

/// How the names of librdkafka's properties end whose values are secrets.
const SECRETS: [&str; 5] = ["password", "passphrase", "secret", "key.pem", "oauthbearer.config"];

/// Every value that was given, by the path of its setting, and what was found to be wrong.
#[derive(Default)]
pub(super) struct Layers {
    /// Tables are here too, as empty ones, for their lines.
    pub(super) given: BTreeMap<String, (Value, Origin)>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// Whether there is a file whose content is not known: what is missing may well stand in it.
    is_file_unknown: bool,
}

impl Layers {
    /// Adds what the file gives.
    pub(super) fn file(&mut self, path: &Path) {
        let name = path.display().to_string();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.is_file_unknown = true;
                return self.problem(Some(Origin::File { name, line: None }), "", format!("cannot be read: {error}"));
            }
        };
        let origin = |at: usize| {
            let line = text.get(..at).unwrap_or(&text).matches('\n').count() + 1;
            Origin::File { name: name.clone(), line: Some(line) }
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        self.is_file_unknown = !errors.is_empty();
        for error in &errors {
            // toml explains some mistakes in several lines; a problem is one.
            let what = error.message().lines().collect::<Vec<_>>().join(", ");
            self.problem(Some(origin(error.span().map_or(0, |span| span.start))), "", what);
        }
        if errors.is_empty() {
            self.table("", table.get_ref(), &origin);
        }
    }

    /// Adds what variables give. One that is empty counts as absent, so that a template may leave it out, unless that would switch a
    /// check of senders off.
    pub(super) fn environment(&mut self, variables: BTreeMap<OsString, OsString>) {
        for (variable, value) in variables {
            let Some(name) = variable.to_str().and_then(|name| name.strip_prefix(VARIABLE_PREFIX)) else { continue };
            if is_of_kubernetes(name) {
                continue;
            }
            let is_variable = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            let path = path_of(name);
            let origin = Origin::Variable(format!("{VARIABLE_PREFIX}{name}"));
            if !path.starts_with("kafka.") && !name.bytes().all(is_variable) {
                self.warnings.push(format!("{origin}: no such setting"));
            } else if value.is_empty() {
                if SECURITY.contains(&path.as_str()) {
                    let why = "is empty: give it a value, or unset it to do without that check of who sends";
                    self.problem(Some(origin), &path, why);
                }
            } else if path.ends_with('.') || path == "apps" || SECTIONS.contains(&path.as_str()) {
                self.warnings.push(format!("{origin}: no such setting"));
            } else {
                // What is not text is found where the setting is read, if there is such a setting.
                let value = value.into_string().map_or(Value::Table(Table::new()), Value::String);
                self.insert(path, value, origin);
            }
        }
    }

    /// Adds what the command line gives.
    pub(super) fn flags(&mut self, flags: &Flags) {
        for flag in flags.all() {
            if let Some(value) = flag.value {
                self.insert(flag.path.to_owned(), value, Origin::Flag(flag.name.to_owned()));
            }
        }
        for given in &flags.kafka {
            let Some((name, value)) = given.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                self.problem(Some(Origin::Flag("kafka".to_owned())), "kafka", "must be NAME=VALUE");
                continue;
            };
            if SECRETS.iter().any(|secret| name.ends_with(secret)) {
                let why = "a secret on a command line can be read by every user of the machine";
                self.warnings.push(format!("--kafka {name}: {why}"));
            }
            self.insert(format!("kafka.{name}"), value.into(), Origin::Flag(format!("kafka {name}")));
        }
    }

    /// Adds a problem with the setting at `path`. It was made where that was given.
    pub(super) fn fault(&mut self, path: &str, what: impl Into<String>) {
        self.problem(self.origin(path).cloned(), path, what);
    }

    /// Says that `path` contradicts `other`, unless one of them is wrong by itself. The place is that of `other` where nobody gave `path`.
    pub(super) fn contradiction(&mut self, path: &str, other: &str, why: &str) {
        if !self.is_faulty(path) && !self.is_faulty(other) {
            match self.origin(path) {
                Some(_) => self.fault(path, why),
                None => self.absent(path, self.origin(other).cloned(), why),
            }
        }
    }

    /// Adds a problem with the setting at `path`, which nobody gave, at the place of another one.
    pub(super) fn absent(&mut self, path: &str, other: Option<Origin>, what: &str) {
        // That variable or flag does not name this setting.
        let is_unnamed = matches!(other, Some(Origin::Variable(_) | Origin::Flag(_)));
        let what = if is_unnamed { format!("{path}: {what}") } else { what.to_owned() };
        self.problem(other, path, what);
    }

    /// Says that nobody gave `path`, unless somebody did, but wrongly, or may have.
    pub(super) fn missing(&mut self, path: &str, what: &str) {
        if !self.is_faulty(path) && !self.is_file_unknown {
            self.problem(None, path, format!("is missing: {what}"));
        }
    }

    /// Whether something is wrong at `path`.
    pub(super) fn is_faulty(&self, path: &str) -> bool {
        self.problems.iter().any(|problem| problem.path == path)
    }

    /// Where the value at `path` was given.
    pub(super) fn origin(&self, path: &str) -> Option<&Origin> {
        self.given.get(path).map(|(_value, origin)| origin)
    }

    pub(super) fn problem(&mut self, origin: Option<Origin>, path: &str, what: impl Into<String>) {
        self.problems.push(Problem { origin, path: path.to_owned(), what: what.into(), is_warning: false });
    }

    fn insert(&mut self, path: String, value: Value, origin: Origin) {
        if let Some((_, first)) = self.given.get(&path)
            && mem::discriminant(first) == mem::discriminant(&origin)
        {
            let what = format!("is given twice, first by {first}");
            return self.problem(Some(origin), &path, what);
        }
        self.given.insert(path, (value, origin));
    }

    /// Adds the values of a table and of those within it. Nesting is bounded: the parser refuses what is too deep.
    fn table(&mut self, above: &str, table: &DeTable<'_>, origin: &impl Fn(usize) -> Origin) {
        for (key, value) in table {
            let path = if above.is_empty() { key.get_ref().to_string() } else { format!("{above}.{}", key.get_ref()) };
            let here = origin(key.span().start);
            let (value, is_property) = (value.get_ref(), path.starts_with("kafka."));
            let is_table = |app: &Spanned<DeValue<'_>>| app.get_ref().is_table();
            if path.starts_with("apps.") || key.get_ref().contains('[') {
                // A quoted key must not pass for an element of an array.
                self.problem(Some(here), &path, "no such setting");
            } else if let Some(table) = value.as_table().filter(|_table| path != "apps") {
                if !is_property || table.is_empty() {
                    self.insert(path.clone(), Value::Table(Table::new()), here);
                }
                self.table(&path, table, origin);
            } else if let Some(apps) = value.as_array().filter(|apps| path == "apps" && apps.iter().all(is_table)) {
                for (index, app) in apps.iter().enumerate() {
                    let path = format!("apps[{index}]");
                    self.insert(path.clone(), Value::Table(Table::new()), origin(app.span().start));
                    app.get_ref().as_table().into_iter().for_each(|table| self.table(&path, table, origin));
                }
            } else {
                self.leaf(path, value, here);
            }
        }
    }

    fn leaf(&mut self, path: String, value: &DeValue<'_>, origin: Origin) {
        let is_property = path.starts_with("kafka.");
        match Value::deserialize(ValueDeserializer::from(Spanned::new(0..0, value.clone()))) {
            // librdkafka takes all of them as text.
            Ok(Value::Integer(number)) if is_property => self.insert(path, number.to_string().into(), origin),
            Ok(Value::Boolean(boolean)) if is_property => self.insert(path, boolean.to_string().into(), origin),
            Ok(value) => self.insert(path, value, origin),
            Err(_) => self.problem(Some(origin), &path, "must be a number of 64 bits at most"),
        }
    }
}

/// The path of the setting that a variable gives; `name` is without the prefix.
fn path_of(name: &str) -> String {
    if let Some(flag) = Flags::default().all().iter().find(|flag| variable_of(flag.name) == variable_of(name)) {
        return flag.path.to_owned();
    }
    let name = name.to_lowercase();
    for section in SECTIONS {
        if let Some(key) = name.strip_prefix(&section.replace('.', "_")).and_then(|rest| rest.strip_prefix('_')) {
            let key = if section == "kafka" { key.replace('_', ".") } else { key.to_owned() };
            return format!("{section}.{key}");
        }
    }
    name
}

/// The variable that gives the setting or the flag `name`.
pub(super) fn variable_of(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.to_uppercase().replace(['.', '-'], "_"))
}

/// Whether Kubernetes makes such a variable for a service whose name begins with `callbridge`: `…SERVICE_HOST`, `…SERVICE_PORT`,
/// `…SERVICE_PORT_<NAME>`, `…PORT`, `…PORT_<NUMBER>_TCP` and what follows that. No setting and no property of librdkafka is named so.
fn is_of_kubernetes(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let is_number = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    words.last() == Some(&"PORT")
        || words.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]))
        || words.windows(3).any(|three| matches!(three, ["PORT", number, "TCP" | "UDP" | "SCTP"] if is_number(number)))
}
