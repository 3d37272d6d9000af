//! Where values come from: defaults, then the file, then the environment, then the flags; the later wins.
//!
//! Everything is laid flat: a path, its value, and where it was given. Judging values is not done here.

use std::collections::BTreeMap;
use std::ffi::OsString;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use crate::config::problem::Fault;
use crate::config::problem::Origin;
use crate::config::problem::Problem;
use crate::config::problem::Warning;
use crate::config::setting::ANY_KAFKA;
use crate::config::setting::SECURITY;
use crate::config::setting::SETTINGS;
use crate::config::setting::Setting;
use crate::config::setting::Shape;
use crate::config::setting::VARIABLE_PREFIX;
use crate::config::setting::nearest;

/// How the names of librdkafka's properties end whose values are secrets.
const SECRETS: [&str; 5] = ["password", "passphrase", "secret", "key.pem", "oauthbearer.config"];

/// A value as it was given.
pub(crate) enum Value {
    /// From a default, a variable or a flag: text that stands for whatever the setting wants.
    Raw(String),
    /// A string of the file.
    Text(String),
    /// A number of the file.
    Integer(i64),
    /// A boolean of the file.
    Boolean(bool),
    /// A list of strings of the file, or a flag given several times.
    Texts(Vec<String>),
    /// Something of the file that no setting takes.
    Other,
}

/// A value, and where it was given; a default was given nowhere.
pub(crate) struct Entry {
    pub(crate) value: Value,
    pub(crate) origin: Option<Origin>,
}

/// What one source gives.
#[derive(Default)]
pub(crate) struct Layer {
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Warning>,
}

/// What the table of settings gives.
pub(crate) fn defaults() -> Layer {
    let mut layer = Layer::default();
    for setting in SETTINGS {
        if let Some(default) = setting.default {
            let entry = Entry { value: Value::Raw(default.to_owned()), origin: None };
            layer.entries.insert(setting.path.to_owned(), entry);
        }
    }
    layer
}

/// What `text`, the content of the file called `name`, gives. Of a file that is not TOML only the mistakes are kept.
pub(crate) fn file(name: &str, text: &str) -> Layer {
    let mut flat = Flat { name, text, layer: Layer::default() };
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        flat.table("", table.get_ref());
    }
    for error in errors {
        let origin = Some(flat.origin(error.span().map_or(0, |span| span.start)));
        // toml tells some mistakes in several lines; a problem is one.
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        flat.layer.problems.push(Problem { origin, path: String::new(), fault: Fault::Syntax(message) });
    }
    flat.layer
}

/// What `variables` give. One that is empty counts as absent, so that a template may leave it out, unless that would switch a check of
/// senders off.
pub(crate) fn environment(variables: BTreeMap<OsString, OsString>) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)).map(str::to_owned) else {
            continue;
        };
        let path = path_of(&name);
        if value.is_empty() {
            if let Some(path) = path.filter(|path| SECURITY.contains(&path.as_str())) {
                let why = "is empty: give it a value, or unset it to do without that check of who sends";
                layer.fault(Origin::Variable(name), path, Fault::Contradicts(why));
            }
            continue;
        }
        let Some(path) = path else {
            let known: Vec<String> = SETTINGS.iter().flat_map(Setting::variables).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let near = nearest(&name, &known).map(str::to_owned);
            layer.warnings.push(Warning::UnknownVariable { name, near });
            continue;
        };
        let origin = Origin::Variable(name);
        match value.into_string() {
            Ok(value) => layer.insert(path, Value::Raw(value), origin),
            Err(_not_unicode) => layer.fault(origin, path, Fault::Wanted("UTF-8")),
        }
    }
    layer
}

/// What the flags give: each by its name, with its values.
pub(crate) fn flags(given: &[(&'static str, Vec<String>)]) -> Layer {
    let mut layer = Layer::default();
    for (name, values) in given {
        let Some((setting, flag)) = SETTINGS
            .iter()
            .find_map(|setting| setting.flag.filter(|flag| flag.name == *name).map(|flag| (setting, flag)))
        else {
            continue;
        };
        if setting.path == ANY_KAFKA {
            values.iter().for_each(|value| layer.kafka_flag(name, value));
            continue;
        }
        let value = match flag.shape {
            Shape::Often(_) => Value::Texts(values.clone()),
            Shape::Once(_) | Shape::Switch => Value::Raw(values.first().cloned().unwrap_or_default()),
        };
        layer.insert(setting.path.to_owned(), value, Origin::Flag((*name).to_owned()));
    }
    layer
}

impl Layer {
    fn insert(&mut self, path: String, value: Value, origin: Origin) {
        if let Some(Entry { origin: Some(first), .. }) = self.entries.get(&path) {
            let fault = Fault::Twice(first.clone());
            self.fault(origin, path, fault);
        } else {
            self.entries.insert(path, Entry { value, origin: Some(origin) });
        }
    }

    fn kafka_flag(&mut self, flag: &str, given: &str) {
        let Some((name, value)) = given.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            self.fault(Origin::Flag(flag.to_owned()), ANY_KAFKA.to_owned(), Fault::Wanted("NAME=VALUE"));
            return;
        };
        if SECRETS.iter().any(|secret| name.ends_with(secret)) {
            self.warnings.push(Warning::SecretOnCommandLine(name.to_owned()));
        }
        let origin = Origin::Flag(format!("{flag} {name}"));
        self.insert(format!("kafka.{name}"), Value::Raw(value.to_owned()), origin);
    }

    fn fault(&mut self, origin: Origin, path: String, fault: Fault) {
        self.problems.push(Problem { origin: Some(origin), path, fault });
    }
}

/// The path of the setting that a variable gives.
fn path_of(variable: &str) -> Option<String> {
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.variables().iter().any(|name| name == variable)) {
        return Some(setting.path.to_owned());
    }
    let property = variable.strip_prefix(VARIABLE_PREFIX)?.strip_prefix("KAFKA_")?;
    let is_property = !property.is_empty() && !is_of_kubernetes(property);
    is_property.then(|| format!("kafka.{}", property.to_lowercase().replace('_', ".")))
}

/// Whether Kubernetes makes such a variable, for a service named `callbridge-kafka` or `callbridge-kafka-…`: `SERVICE_HOST`,
/// `SERVICE_PORT` and `SERVICE_PORT_<NAME>`, `PORT`, `PORT_<NUMBER>_TCP` and what follows that. librdkafka has no property like it.
fn is_of_kubernetes(property: &str) -> bool {
    let words: Vec<&str> = property.split('_').collect();
    let is_number = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    words.last() == Some(&"PORT")
        || words.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]))
        || words.windows(3).any(|three| matches!(three, ["PORT", number, "TCP" | "UDP" | "SCTP"] if is_number(number)))
}

/// Lays the tables of a file flat.
struct Flat<'t> {
    name: &'t str,
    text: &'t str,
    layer: Layer,
}

impl Flat<'_> {
    /// Nesting is bounded: the parser refuses what is too deep.
    fn table(&mut self, above: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = if above.is_empty() { key.get_ref().to_string() } else { format!("{above}.{}", key.get_ref()) };
            let origin = self.origin(key.span().start);
            if key.get_ref().contains('[') {
                // Brackets are ours, for the tables of an array; a quoted key must not pass for one.
                self.layer.fault(origin, path, Fault::Unknown(None));
            } else {
                self.value(path, value, origin);
            }
        }
    }

    fn value(&mut self, path: String, value: &Spanned<DeValue<'_>>, origin: Origin) {
        let value = value.get_ref();
        if let Some(table) = value.as_table().filter(|table| !table.is_empty() || is_section(&path)) {
            self.table(&path, table);
        } else if let Some(items) = value.as_array().filter(|items| path == "apps" && items.iter().all(is_table)) {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                // The application itself has an entry, so that one without settings is still seen.
                self.layer.insert(path.clone(), Value::Other, self.origin(item.span().start));
                item.get_ref().as_table().into_iter().for_each(|table| self.table(&path, table));
            }
        } else {
            self.layer.insert(path, leaf_value(value), origin);
        }
    }

    fn origin(&self, at: usize) -> Origin {
        let before = self.text.get(..at).unwrap_or(self.text);
        Origin::File { name: self.name.to_owned(), line: Some(before.matches('\n').count() + 1) }
    }
}

fn is_table(value: &Spanned<DeValue<'_>>) -> bool {
    value.get_ref().is_table()
}

fn is_section(path: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

fn leaf_value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).map_or(Value::Other, Value::Integer)
        }
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().map_or(Value::Other, Value::Texts)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => Value::Other,
    }
}
