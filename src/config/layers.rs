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

use crate::config::Config;
use crate::config::flags::Flags;
use crate::config::problem::Origin;
use crate::config::problem::Problem;

/// What every variable of the environment begins with.
const VARIABLE_PREFIX: &str = "CALLBRIDGE_";

/// The tables of the file whose settings have variables; a table within another stands before it.
const SECTIONS: [&str; 11] = [
    "callbacks.tls",
    "callbacks",
    "admin",
    "kafka",
    "topics",
    "envelope",
    "blocklist",
    "decide",
    "queue",
    "journal",
    "log",
];

/// Without these more senders are let in: whoever gives an empty variable for one meant a check and would have none.
///
/// Not among them is `callbacks.proxies`: without it no proxy is believed, so fewer are let in.
const SECURITY: [&str; 6] = [
    "callbacks.path",
    "callbacks.senders",
    "callbacks.tls.certificate_file",
    "callbacks.tls.key_file",
    "callbacks.tls.client_ca_file",
    "apps[].token_files",
];

/// How the names of librdkafka's properties end whose values are secrets.
const SECRETS: [&str; 5] = ["password", "passphrase", "secret", "key.pem", "oauthbearer.config"];

/// A file with more mistakes than this is probably not a config file at all.
const PROBLEMS_MAX: usize = 100;

const SOCKET_ADDRESS: &str = "an IP address and a port, like 0.0.0.0:8080";

/// The smallest and the largest value of an integer setting.
pub(super) type Range = (&'static str, i64, i64);

/// Every value that was given, by the path of its setting, and what was found to be wrong.
#[derive(Default)]
pub(super) struct Layers {
    given: BTreeMap<String, (Value, Origin)>,
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

    /// What all of it says, but for what is wrong. `None` when too much is.
    pub(super) fn read(&mut self, ranges: &[Range]) -> Option<Config> {
        while self.problems.len() < PROBLEMS_MAX {
            self.check_values(ranges);
            let error = match serde_path_to_error::deserialize::<_, Config>(Value::Table(self.nested())) {
                Ok(config) => return Some(config),
                Err(error) => error,
            };
            self.misfit(error.path().to_string(), error.inner().message());
        }
        None
    }

    /// Adds a problem with the setting at `path`. It was made where that was given.
    pub(super) fn fault(&mut self, path: &str, what: impl Into<String>) {
        self.problem(self.origin(path).cloned(), path, what);
    }

    /// Says that `path` contradicts `other`, unless one of them is wrong by itself. The place is that of `other` where nobody gave `path`.
    pub(super) fn contradiction(&mut self, path: &str, other: &str, why: &str) {
        if !self.is_faulty(path) && !self.is_faulty(other) {
            let origin = self.origin(path).or_else(|| self.origin(other)).cloned();
            self.problem(origin, path, why);
        }
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

    fn problem(&mut self, origin: Option<Origin>, path: &str, what: impl Into<String>) {
        self.problems.push(Problem { origin, path: path.to_owned(), what: what.into() });
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

    /// All values as the file would have them.
    fn nested(&self) -> Table {
        let mut root = Table::new();
        'values: for (path, (value, _origin)) in &self.given {
            let (sections, key) = match path.strip_prefix("kafka.") {
                // The names of properties have dots in them.
                Some(property) => ("kafka", property),
                None => path.rsplit_once('.').unwrap_or(("", path)),
            };
            let mut table = &mut root;
            for section in sections.split('.').filter(|section| !section.is_empty()) {
                let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
                // One that is no table is reported as such.
                let Some(inner) = section.as_table_mut() else { continue 'values };
                table = inner;
            }
            table.insert(key.to_owned(), value.clone());
        }
        let apps: Vec<Value> = (0..).map_while(|index| root.remove(&format!("apps[{index}]"))).collect();
        if !apps.is_empty() {
            root.insert("apps".to_owned(), Value::Array(apps));
        }
        root
    }

    /// Reports what serde does not look at: empty texts, lists in the place of tables, and integers that are out of range.
    fn check_values(&mut self, ranges: &[Range]) {
        let mut wrong = Vec::new();
        for (path, (value, _origin)) in &self.given {
            let is_empty = |value: &Value| value.as_str().is_some_and(str::is_empty);
            let has_empty = is_empty(value) || value.as_array().is_some_and(|items| items.iter().any(is_empty));
            if has_empty && !path.starts_with("kafka.") {
                wrong.push((path.clone(), "must not be empty".to_owned()));
            }
            if SECTIONS.contains(&path.as_str()) && !value.is_table() {
                // From a list serde would take the fields in their order.
                wrong.push((path.clone(), "must be a table".to_owned()));
            }
            if path == "apps" && value.as_array().is_none_or(|apps| !apps.is_empty()) {
                wrong.push((path.clone(), "must be tables, each under its own [[apps]]".to_owned()));
            }
            let range = ranges.iter().find(|(name, ..)| *name == without_index(path));
            if let (Some((_, min, max)), Some(number)) = (range, value.as_integer())
                && !(*min..=*max).contains(&number)
            {
                wrong.push((path.clone(), format!("must be from {min} to {max}")));
            }
        }
        for (path, what) in wrong {
            self.fault(&path, what);
            self.remove(&path);
        }
    }

    /// Leaves out the value at `path`, which serde did not take. Text of a variable or a flag gets a second chance as what is wanted.
    fn misfit(&mut self, path: String, message: &str) {
        // Of a list the mistake may be in an element.
        let path = match path.rsplit_once('[') {
            Some((list, _index)) if self.given.contains_key(list) => list.to_owned(),
            _ => path,
        };
        if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            let mut others = self.given.range(path.clone()..).filter(|(other, _)| is_within(other, &path));
            let origin = others.next().map(|(_path, (_value, origin))| origin.clone());
            self.problem(origin, &format!("{path}.{name}"), format!("is missing: {path} needs it"));
            return self.remove(&path);
        }
        let (value, origin) = self.given.get(&path).cloned().unzip();
        if message.starts_with("unknown field") {
            self.unknown(&path, origin, message);
        } else {
            let is_of_file = matches!(origin, Some(Origin::File { .. }));
            if let Some(Value::String(text)) = value.as_ref().filter(|_value| !is_of_file)
                && let Some(value) = as_wanted(text, message)
                && let Some((slot, _origin)) = self.given.get_mut(&path)
            {
                *slot = value;
                return;
            }
            let is_no_text = value.is_some_and(|value| value.is_table()) && !is_of_file;
            let what = if is_no_text { "must be UTF-8".to_owned() } else { plain(message) };
            self.problem(origin, &path, what);
        }
        self.remove(&path);
    }

    /// A variable that is misnamed is a warning only: others may use such names too.
    fn unknown(&mut self, path: &str, origin: Option<Origin>, message: &str) {
        let (section, name) = path.rsplit_once('.').map_or(("", path), |(section, name)| (section, name));
        let section = if section.is_empty() { String::new() } else { format!("{section}.") };
        let mut known: Vec<String> = names_in(message).into_iter().map(str::to_owned).collect();
        if let Some(Origin::Variable(variable)) = origin {
            if section.is_empty() {
                known.extend(Flags::default().all().map(|flag| flag.name.replace('-', "_")));
            }
            let near = nearest(name, &known).map(|near| variable_of(&format!("{section}{near}")));
            self.warnings.push(format!("{variable}: no such setting{}", did_you_mean(near)));
        } else {
            let near = nearest(name, &known).map(|near| format!("{section}{near}"));
            self.problem(origin, path, format!("no such setting{}", did_you_mean(near)));
        }
    }

    fn remove(&mut self, path: &str) {
        self.given.retain(|other, _value| !is_within(other, path));
    }
}

/// Whether `other` is `path` or below it.
fn is_within(other: &str, path: &str) -> bool {
    other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
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
fn variable_of(name: &str) -> String {
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

/// `apps[3].x` as `apps[].x`.
fn without_index(path: &str) -> String {
    let is_digit = |letter: char| letter.is_ascii_digit();
    match path.strip_prefix("apps[") {
        Some(rest) => format!("apps[{}", rest.trim_start_matches(is_digit)),
        None => path.to_owned(),
    }
}

/// What serde's `message` wants, made of the text of a variable or a flag.
fn as_wanted(text: &str, message: &str) -> Option<Value> {
    match expected(message)? {
        "usize" | "u64" | "i64" | "i32" => text.parse().ok().map(Value::Integer),
        "a boolean" => text.parse().ok().map(Value::Boolean),
        "a sequence" => Some(Value::from(text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>())),
        _ => None,
    }
}

/// serde's message without the value that it repeats, which may be a secret, in words of the file rather than of Rust.
fn plain(message: &str) -> String {
    let wanted = match expected(message) {
        None if message == "invalid socket address syntax" => SOCKET_ADDRESS,
        None => return message.to_owned(),
        Some(_) if message.starts_with("unknown variant") => {
            return format!("must be one of {}", names_in(message).join(", "));
        }
        Some("usize" | "u64" | "i64" | "i32") => "a whole number",
        Some("a boolean") => "true or false",
        Some("a sequence") => "a list of texts",
        Some("a string" | "path string" | "string only") => "text",
        Some("socket address") => SOCKET_ADDRESS,
        Some(other) => other,
    };
    format!("must be {wanted}")
}

fn expected(message: &str) -> Option<&str> {
    let is_of_serde = message.starts_with("invalid ") || message.starts_with("unknown ");
    message.rsplit_once(", expected ").filter(|_| is_of_serde).map(|(_value, expected)| expected)
}

/// The names that serde's `message` would have taken.
fn names_in(message: &str) -> Vec<&str> {
    expected(message).unwrap_or_default().split('`').skip(1).step_by(2).collect()
}

/// The one of `known` that `name` is probably a misspelling of.
fn nearest<'k>(name: &str, known: &'k [String]) -> Option<&'k String> {
    // Three letters wrong in a long name is a slip; in a short one it is another name.
    let distance_max = (name.len() / 4).min(3);
    let distances = known.iter().map(|other| (strsim::levenshtein(name, other), other));
    distances.filter(|(distance, _)| *distance <= distance_max).min().map(|(_, nearest)| nearest)
}

fn did_you_mean(near: Option<String>) -> String {
    near.map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}
