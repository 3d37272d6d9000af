//! Merges the file, the environment and the flags, and remembers the origin of each value.
//!
//! serde parses the result. A value that does not fit is reported and left out, so that further errors are found too.

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

/// The prefix of all variables.
const VARIABLE_PREFIX: &str = "CALLBRIDGE_";

/// The tables of the file whose settings have variables. A table precedes the tables in it.
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

/// Without these, more senders are allowed. An empty variable for one of them was probably meant as a check, and would disable it.
///
/// `callbacks.proxies` is not among them: without it no proxy is trusted, so fewer senders are allowed.
const SECURITY: [&str; 7] = [
    "admin.token_files",
    "callbacks.path",
    "callbacks.senders",
    "callbacks.tls.certificate_file",
    "callbacks.tls.key_file",
    "callbacks.tls.client_ca_file",
    "apps[].token_files",
];

/// The suffixes of librdkafka's properties whose values are secrets.
const SECRETS: [&str; 5] = ["password", "passphrase", "secret", "key.pem", "oauthbearer.config"];

/// All given values, by the path of their setting, and the problems found.
#[derive(Default)]
pub(super) struct Layers {
    /// Tables are included, as empty ones, for their lines.
    pub(super) given: BTreeMap<String, (Value, Origin)>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// There is a file that cannot be read: settings that seem to be missing may be in it.
    is_file_unknown: bool,
}

impl Layers {
    /// Adds the values of the file.
    pub(super) fn file(&mut self, path: &Path) {
        let name = path.display().to_string();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.is_file_unknown = true;
                return self.problem(
                    Some(Origin::File { name, line: None, column: None }),
                    "",
                    format!("cannot be read: {error}"),
                );
            }
        };
        let origin = |at: usize| {
            let before = text.get(..at).unwrap_or(&text);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map(|line| line.chars().count() + 1);
            Origin::File { name: name.clone(), line: Some(line), column }
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        self.is_file_unknown = !errors.is_empty();
        for error in &errors {
            // toml explains some errors in several lines; a problem has one.
            let what = error.message().lines().collect::<Vec<_>>().join(", ");
            self.problem_at(Some(origin(error.span().map_or(0, |span| span.start))), "", what);
        }
        if errors.is_empty() {
            self.table("", table.get_ref(), &origin);
        }
    }

    /// Adds the values of variables. An empty variable counts as absent, so that templates can leave it out, unless that would disable a
    /// check of senders.
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
                    let why = "is empty: set a value, or unset it to disable this check of senders";
                    self.problem(Some(origin), &path, why);
                }
            } else if path.ends_with('.') || path == "apps" || SECTIONS.contains(&path.as_str()) {
                self.warnings.push(format!("{origin}: no such setting"));
            } else {
                // Values that are not UTF-8 are reported when the setting is read, if there is such a setting.
                let value = value.into_string().map_or(Value::Table(Table::new()), Value::String);
                self.insert(path, value, origin);
            }
        }
    }

    /// Adds the values of the command line.
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

    /// Adds a problem with the setting at `path`, at the origin of its value.
    pub(super) fn fault(&mut self, path: &str, what: impl Into<String>) {
        self.problem(self.origin(path).cloned(), path, what);
    }

    /// Adds a contradiction between `path` and `other`, unless one of them has a problem itself. The origin is that of `other` if `path` is
    /// not given.
    pub(super) fn contradiction(&mut self, path: &str, other: &str, why: &str) {
        if !self.is_faulty(path) && !self.is_faulty(other) {
            match self.origin(path) {
                Some(_) => self.fault(path, why),
                None => self.absent(path, self.origin(other).cloned(), why),
            }
        }
    }

    /// Adds a problem with the setting at `path`, which is not given, at the origin of another setting.
    pub(super) fn absent(&mut self, path: &str, other: Option<Origin>, what: &str) {
        // The variable or flag does not name this setting.
        let is_unnamed = matches!(other, Some(Origin::Variable(_) | Origin::Flag(_)));
        let what = if is_unnamed { format!("{path}: {what}") } else { what.to_owned() };
        self.problem(other, path, what);
    }

    /// Reports that `path` is missing, unless it is given with a wrong value, or may be in an unreadable file.
    pub(super) fn missing(&mut self, path: &str, what: &str) {
        if !self.is_faulty(path) && !self.is_file_unknown {
            self.problem(None, path, format!("is missing: {what}"));
        }
    }

    /// Whether there is a problem with `path`.
    pub(super) fn is_faulty(&self, path: &str) -> bool {
        self.problems.iter().any(|problem| problem.path == path)
    }

    /// The origin of the value at `path`.
    pub(super) fn origin(&self, path: &str) -> Option<&Origin> {
        self.given.get(path).map(|(_value, origin)| origin)
    }

    pub(super) fn problem(&mut self, origin: Option<Origin>, path: &str, what: impl Into<String>) {
        self.problem_at(origin.map(Origin::without_column), path, what);
    }

    /// The same with the column.
    pub(super) fn problem_at(&mut self, origin: Option<Origin>, path: &str, what: impl Into<String>) {
        self.problems.push(Problem { origin, path: path.to_owned(), what: what.into(), is_warning: false });
    }

    fn insert(&mut self, path: String, value: Value, origin: Origin) {
        if let Some((_, first)) = self.given.get(&path)
            && mem::discriminant(first) == mem::discriminant(&origin)
        {
            let what = format!("is given twice, first by {}", first.clone().without_column());
            return self.problem(Some(origin), &path, what);
        }
        self.given.insert(path, (value, origin));
    }

    /// Adds the values of a table and of its subtables. The parser limits the nesting.
    fn table(&mut self, above: &str, table: &DeTable<'_>, origin: &impl Fn(usize) -> Origin) {
        for (key, value) in table {
            let path = if above.is_empty() { key.get_ref().to_string() } else { format!("{above}.{}", key.get_ref()) };
            let here = origin(key.span().start);
            let at_value = origin(value.span().start);
            let (value, is_property) = (value.get_ref(), path.starts_with("kafka."));
            let is_table = |app: &Spanned<DeValue<'_>>| app.get_ref().is_table();
            if path.starts_with("apps.") || key.get_ref().contains('[') {
                // A quoted key must not look like an element of an array.
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
                self.leaf(path, value, at_value);
            }
        }
    }

    fn leaf(&mut self, path: String, value: &DeValue<'_>, origin: Origin) {
        let is_property = path.starts_with("kafka.");
        match Value::deserialize(ValueDeserializer::from(Spanned::new(0..0, value.clone()))) {
            // librdkafka takes all values as text.
            Ok(Value::Integer(number)) if is_property => self.insert(path, number.to_string().into(), origin),
            Ok(Value::Boolean(boolean)) if is_property => self.insert(path, boolean.to_string().into(), origin),
            Ok(value) => self.insert(path, value, origin),
            Err(_) => self.problem_at(Some(origin), &path, "must be a number of 64 bits at most"),
        }
    }
}

/// The path of the setting of a variable; `name` is without the prefix.
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

/// The variable of the setting or the flag `name`.
pub(super) fn variable_of(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.to_uppercase().replace(['.', '-'], "_"))
}

/// Whether Kubernetes sets such a variable for a service whose name begins with `callbridge`: `…SERVICE_HOST`, `…SERVICE_PORT`,
/// `…SERVICE_PORT_<NAME>`, `…PORT`, `…PORT_<NUMBER>_TCP` and longer ones. No setting and no property of librdkafka has such a name.
fn is_of_kubernetes(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let is_number = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    words.last() == Some(&"PORT")
        || words.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]))
        || words.windows(3).any(|three| matches!(three, ["PORT", number, "TCP" | "UDP" | "SCTP"] if is_number(number)))
}
