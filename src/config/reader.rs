//! Takes typed values out of the layers one by one, and collects every problem instead of stopping at the first.
//!
//! Where a value cannot be had, a stand-in is returned. Nobody sees it: a reader that has problems makes no `Config`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::problem::Fault;
use crate::config::problem::Origin;
use crate::config::problem::Problem;
use crate::config::setting::nearest;
use crate::config::setting::paths;
use crate::config::source::Entry;
use crate::config::source::Value;

/// The values that were given, and the problems found so far.
pub(crate) struct Reader {
    pub(crate) entries: BTreeMap<String, Entry>,
    /// The paths that were asked for. What was given and never asked for does not exist.
    asked: BTreeSet<String>,
    /// What relative paths of the file are relative to.
    folder: PathBuf,
    pub(crate) problems: Vec<Problem>,
}

impl Reader {
    pub(crate) fn new(entries: BTreeMap<String, Entry>, folder: PathBuf, problems: Vec<Problem>) -> Self {
        Self { entries, asked: BTreeSet::new(), folder, problems }
    }

    /// The value at `path`, if there is one.
    pub(crate) fn take(&mut self, path: &str) -> Option<&Value> {
        self.asked.insert(path.to_owned());
        self.entries.get(path).map(|entry| &entry.value)
    }

    /// Says what is wrong at `path`, and where that stands.
    pub(crate) fn fault(&mut self, path: &str, fault: Fault) {
        self.fault_beside(path, path, fault);
    }

    /// Like [`Self::fault`]; the place is that of `other` when nobody gave `path`.
    pub(crate) fn fault_beside(&mut self, path: &str, other: &str, fault: Fault) {
        let origin = self.origin(path).or_else(|| self.origin(other)).cloned();
        self.problems.push(Problem { origin, path: path.to_owned(), fault });
    }

    /// Says that `path` contradicts `other`, unless one of them is wrong by itself.
    pub(crate) fn contradiction(&mut self, path: &str, other: &str, why: &'static str) {
        if !self.is_faulty(path) && !self.is_faulty(other) {
            self.fault_beside(path, other, Fault::Contradicts(why));
        }
    }

    /// Whether something is wrong at `path`.
    pub(crate) fn is_faulty(&self, path: &str) -> bool {
        self.problems.iter().any(|problem| problem.path == path)
    }

    /// The paths that begin with `prefix`.
    pub(crate) fn paths_under(&self, prefix: &str) -> Vec<String> {
        self.entries.keys().filter(|path| path.starts_with(prefix)).cloned().collect()
    }

    /// Says of each value nobody asked for that there is no such setting.
    pub(crate) fn finish(&mut self) {
        let unknown: Vec<String> = self.entries.keys().filter(|path| !self.asked.contains(*path)).cloned().collect();
        for path in unknown {
            let near = nearest(&without_index(&path), &paths());
            self.fault(&path, Fault::Unknown(near));
        }
    }

    /// Text that is not empty.
    pub(crate) fn text(&mut self, path: &str) -> Option<String> {
        self.read(path, "text that is not empty", |value| match value {
            Value::Raw(text) | Value::Text(text) => Some(text.clone()).filter(|text| !text.is_empty()),
            Value::Integer(_) | Value::Boolean(_) | Value::Texts(_) | Value::Other => None,
        })
    }

    /// Like [`Self::texts`]; one alone needs no list.
    pub(crate) fn words(&mut self, path: &str) -> Vec<String> {
        if let Some(Value::Text(word)) = self.take(path)
            && !word.is_empty()
        {
            return vec![word.clone()];
        }
        self.texts(path)
    }

    /// Several texts; none by default.
    pub(crate) fn texts(&mut self, path: &str) -> Vec<String> {
        let texts = self.read(path, "a list of texts that are not empty", |value| match value {
            Value::Raw(text) => Some(text.split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>()),
            Value::Texts(texts) => Some(texts.clone()),
            Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other => None,
        });
        let texts = texts.unwrap_or_default();
        if texts.iter().any(String::is_empty) {
            self.fault(path, Fault::Wanted("a list of texts that are not empty"));
        }
        texts
    }

    /// Paths: of the file relative to its folder, of a variable or a flag to where the program was started.
    pub(crate) fn files(&mut self, path: &str) -> Vec<PathBuf> {
        let texts = self.texts(path);
        texts.into_iter().map(|text| self.located(path, text)).collect()
    }

    /// One path, like [`Self::files`].
    pub(crate) fn folder(&mut self, path: &str) -> PathBuf {
        let text = self.text(path).unwrap_or_default();
        self.located(path, text)
    }

    /// True or false; false by default.
    pub(crate) fn boolean(&mut self, path: &str) -> bool {
        let boolean = self.read(path, "true or false", |value| match value {
            Value::Boolean(boolean) => Some(*boolean),
            Value::Raw(text) => text.parse().ok(),
            Value::Text(_) | Value::Integer(_) | Value::Texts(_) | Value::Other => None,
        });
        boolean.unwrap_or_default()
    }

    /// A whole number in `range`.
    pub(crate) fn integer(&mut self, path: &str, range: &RangeInclusive<i64>) -> Option<i64> {
        let number = self.read(path, "a whole number", |value| match value {
            Value::Integer(number) => Some(*number),
            Value::Raw(text) => text.parse().ok(),
            Value::Text(_) | Value::Boolean(_) | Value::Texts(_) | Value::Other => None,
        })?;
        if range.contains(&number) {
            return Some(number);
        }
        self.fault(path, Fault::OutOfRange { min: *range.start(), max: *range.end() });
        None
    }

    /// A number of bytes or things in `range`, which is not negative.
    pub(crate) fn count(&mut self, path: &str, range: &RangeInclusive<i64>) -> usize {
        let number = self.integer(path, range).unwrap_or(*range.start());
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    /// A number that Kafka's protocol writes in 32 bits: from 1 to `max`.
    pub(crate) fn kafka_count(&mut self, path: &str, max: i32) -> Option<i32> {
        let number = self.integer(path, &(1..=i64::from(max)))?;
        i32::try_from(number).ok()
    }

    /// A time, given in milliseconds in `range`.
    pub(crate) fn millis(&mut self, path: &str, range: &RangeInclusive<i64>) -> Duration {
        Duration::from_millis(self.integer(path, range).unwrap_or_default().unsigned_abs())
    }

    /// A time, given in seconds in `range`.
    pub(crate) fn seconds(&mut self, path: &str, range: &RangeInclusive<i64>) -> Duration {
        Duration::from_secs(self.integer(path, range).unwrap_or_default().unsigned_abs())
    }

    /// An IP address with a port.
    pub(crate) fn address(&mut self, path: &str) -> SocketAddr {
        let address = self.read(path, "an IP address and a port, like 0.0.0.0:8080", |value| match value {
            Value::Raw(text) | Value::Text(text) => text.parse().ok(),
            Value::Integer(_) | Value::Boolean(_) | Value::Texts(_) | Value::Other => None,
        });
        address.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
    }

    /// One of `words`, as what it means.
    pub(crate) fn choice<T: Copy>(&mut self, path: &str, stand_in: T, words: &[(&str, T)]) -> T {
        let Some(given) = self.text(path) else { return stand_in };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == given) {
            return *meaning;
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.fault(path, Fault::NotOneOf(known.join(", ")));
        stand_in
    }

    fn read<T>(&mut self, path: &str, wanted: &'static str, understand: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let understood = understand(self.take(path)?);
        if understood.is_none() {
            self.fault(path, Fault::Wanted(wanted));
        }
        understood
    }

    fn origin(&self, path: &str) -> Option<&Origin> {
        self.entries.get(path)?.origin.as_ref()
    }

    fn located(&self, path: &str, text: String) -> PathBuf {
        match self.origin(path) {
            Some(Origin::File { .. }) => self.folder.join(text),
            Some(Origin::Variable(_) | Origin::Flag(_)) | None => PathBuf::from(text),
        }
    }
}

/// `apps[3].x` as the table of settings has it: `apps[].x`.
fn without_index(path: &str) -> String {
    match (path.find('['), path.find(']')) {
        (Some(open), Some(close)) if open < close => {
            format!("{}[]{}", path.get(..open).unwrap_or_default(), path.get(close + 1..).unwrap_or_default())
        }
        _ => path.to_owned(),
    }
}
