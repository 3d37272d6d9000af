//! Lets serde parse the merged values. A value that does not fit is reported and left out, so that further errors are found too.

use toml::Table;
use toml::Value;

use crate::config::Config;
use crate::config::flags::Flags;
use crate::config::layers::Layers;
use crate::config::layers::SECTIONS;
use crate::config::layers::variable_of;
use crate::config::problem::Origin;

/// A file with more errors than this is probably not a config file.
const PROBLEMS_MAX: usize = 100;

const SOCKET_ADDRESS: &str = "an IP address and a port, like 0.0.0.0:8080";

/// The range of an integer setting.
pub(super) type Range = (&'static str, i64, i64);

impl Layers {
    /// The parsed values, without the wrong ones. `None` if there are too many errors.
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

    /// All values in the structure of the file.
    fn nested(&self) -> Table {
        let mut root = Table::new();
        'values: for (path, (value, _origin)) in &self.given {
            let (sections, key) = match path.strip_prefix("kafka.") {
                // The names of properties contain dots.
                Some(property) => ("kafka", property),
                None => path.rsplit_once('.').unwrap_or(("", path)),
            };
            let mut table = &mut root;
            for section in sections.split('.').filter(|section| !section.is_empty()) {
                let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
                // A value in the place of a table is reported as such.
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

    /// Reports what serde does not check: empty texts, lists in the place of tables, and integers that are out of range.
    fn check_values(&mut self, ranges: &[Range]) {
        let mut wrong = Vec::new();
        for (path, (value, _origin)) in &self.given {
            let is_empty = |value: &Value| value.as_str().is_some_and(str::is_empty);
            let has_empty = is_empty(value) || value.as_array().is_some_and(|items| items.iter().any(is_empty));
            if has_empty && !path.starts_with("kafka.") {
                wrong.push((path.clone(), "must not be empty".to_owned()));
            }
            if SECTIONS.contains(&path.as_str()) && !value.is_table() {
                // serde would accept a list of the fields in order.
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

    /// Leaves out the value at `path`, which serde has rejected. A text from a variable or a flag is first converted to the expected type.
    fn misfit(&mut self, path: String, message: &str) {
        // The error may be in an element of a list.
        let path = match path.rsplit_once('[') {
            Some((list, _index)) if self.given.contains_key(list) => list.to_owned(),
            _ => path,
        };
        if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            let mut others = self.given.range(path.clone()..).filter(|(other, _)| is_within(other, &path));
            let origin = others.next().map(|(_path, (_value, origin))| origin.clone());
            self.absent(&format!("{path}.{name}"), origin, &format!("is missing: {path} needs it"));
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
            self.problem_at(origin, &path, what);
        }
        self.remove(&path);
    }

    /// A misnamed variable is only a warning: other programs may use such names too.
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

/// `apps[3].x` as `apps[].x`.
fn without_index(path: &str) -> String {
    let is_digit = |letter: char| letter.is_ascii_digit();
    match path.strip_prefix("apps[") {
        Some(rest) => format!("apps[{}", rest.trim_start_matches(is_digit)),
        None => path.to_owned(),
    }
}

/// The type that serde's `message` expects, made from the text of a variable or a flag.
fn as_wanted(text: &str, message: &str) -> Option<Value> {
    match expected(message)? {
        "usize" | "u64" | "i64" | "i32" => text.parse().ok().map(Value::Integer),
        "a boolean" => text.parse().ok().map(Value::Boolean),
        "a sequence" => Some(Value::from(text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>())),
        _ => None,
    }
}

/// serde's message without the value, which may be a secret, and in the terms of TOML rather than of Rust.
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

/// The names that serde's `message` lists.
fn names_in(message: &str) -> Vec<&str> {
    expected(message).unwrap_or_default().split('`').skip(1).step_by(2).collect()
}

/// The name in `known` of which `name` is probably a misspelling.
fn nearest<'k>(name: &str, known: &'k [String]) -> Option<&'k String> {
    // Three wrong letters in a long name are a typo; in a short one it is another name.
    let distance_max = (name.len() / 4).min(3);
    let distances = known.iter().map(|other| (strsim::levenshtein(name, other), other));
    distances.filter(|(distance, _)| *distance <= distance_max).min().map(|(_, nearest)| nearest)
}

fn did_you_mean(near: Option<String>) -> String {
    near.map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}
