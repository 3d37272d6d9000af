//! The lists that decide, each made of the sources that its applications name: files, and perhaps a topic.
//!
//! Whoever follows a source puts its rules here, and every list of which it is part is made anew and swapped. Sources stay apart: one
//! that is bad or cannot be reached takes nothing from another.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::blocklist::metrics::BlocklistMetrics;
use crate::clock;
use crate::decide::blocklist::Blocklist;
use crate::decide::blocklist::Source;

/// How long after the rules of a source were replaced the memory of the old ones is given back.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(2);

/// What the thread allocates that gives it back, so that it knows the allocator at all.
const GIVE_BACK_BYTES: usize = 1024;

/// The sources of one list, by their places among all files and among all topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ListSources {
    pub(crate) files: Vec<usize>,
    pub(crate) topic: Option<usize>,
}

/// How a blocklist file fares.
#[derive(Debug, Clone)]
pub(crate) struct FileReport {
    pub(crate) path: String,
    /// When the rules in force were read from it; `None`: it has had no good ones since the start.
    pub(crate) loaded: Option<Instant>,
    /// Why it cannot be used at present.
    pub(crate) failure: Option<Arc<str>>,
}

/// The files of one list. Clones are handles to the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListFiles {
    places: Vec<usize>,
    all: Arc<ArcSwap<Vec<FileReport>>>,
}

/// All lists of the process. Clones are handles to the same.
#[derive(Debug, Clone)]
pub(crate) struct Lists(Arc<ListsInner>);

#[derive(Debug)]
struct ListsInner {
    lists: Vec<SourcedList>,
    sources: Mutex<Sources>,
    files: Arc<ArcSwap<Vec<FileReport>>>,
    metrics: BlocklistMetrics,
}

#[derive(Debug)]
struct SourcedList {
    sources: ListSources,
    in_force: Arc<ArcSwap<Blocklist>>,
}

/// What each source held when it was last good.
#[derive(Debug, Default)]
struct Sources {
    files: Vec<Option<Source>>,
    /// With the generation of the topic.
    topics: Vec<Option<(Source, u64)>>,
    /// Lists that were replaced, while a decision may still read them. Kept so that they are dropped by a thread that follows a source: to
    /// free the rules of a large list takes longer than a decision may.
    replaced: Vec<Arc<Blocklist>>,
    /// When to have the allocator give back what a load has left free.
    give_back_at: Option<Instant>,
}

impl ListFiles {
    /// How each fares, in the order of the configuration.
    pub(crate) fn reports(&self) -> Vec<FileReport> {
        let all = self.all.load();
        self.places.iter().filter_map(|place| all.get(*place).cloned()).collect()
    }
}

impl Lists {
    /// Lists of which no source has been read. One without sources blocks nobody; any other is not loaded. The metrics show the first.
    pub(crate) fn new(lists: Vec<ListSources>, metrics: BlocklistMetrics) -> Self {
        let unread = |sources: ListSources| {
            let has_none = sources.files.is_empty() && sources.topic.is_none();
            let blocklist = if has_none { Blocklist::of([], 0) } else { Blocklist::unloaded() };
            SourcedList { sources, in_force: Arc::new(ArcSwap::from_pointee(blocklist)) }
        };
        let lists = lists.into_iter().map(unread).collect();
        Self(Arc::new(ListsInner { lists, sources: Mutex::default(), files: Arc::default(), metrics }))
    }

    /// The list of this place, as long as it is in force.
    pub(crate) fn in_force(&self, list: usize) -> Arc<ArcSwap<Blocklist>> {
        let none = || Arc::new(ArcSwap::from_pointee(Blocklist::of([], 0)));
        self.0.lists.get(list).map_or_else(none, |list| Arc::clone(&list.in_force))
    }

    /// The files of the list of this place.
    pub(crate) fn files(&self, list: usize) -> ListFiles {
        let places = self.0.lists.get(list).map(|list| list.sources.files.clone()).unwrap_or_default();
        ListFiles { places, all: Arc::clone(&self.0.files) }
    }

    /// Takes note of how each file fares, by its place.
    pub(crate) fn report_files(&self, reports: Vec<FileReport>) {
        self.0.files.store(Arc::new(reports));
    }

    /// Puts the rules of files in force, each by its place, and logs that.
    pub(crate) fn put_files(&self, files: impl IntoIterator<Item = (usize, Source)>) {
        let mut sources = self.lock();
        let mut changed = Vec::new();
        for (file, source) in files {
            put(&mut sources.files, file, source);
            changed.push(file);
        }
        if changed.is_empty() {
            return;
        }
        sources.give_back_at = Some(clock::monotonic() + GIVE_BACK_AFTER);
        self.swap(&mut sources, |list| list.files.iter().any(|file| changed.contains(file)));
        let rules = sources.rule_count();
        self.0.metrics.rules_of_files(sources.files.iter().flatten().map(Source::rules));
        drop(sources);
        tracing::info!(generation = self.in_force(0).load().generation(), rules, "blocklist loaded");
    }

    /// Puts the rules of a topic in force, as of its `generation`. `is_anew`: they were read from its start.
    pub(crate) fn put_topic(&self, topic: usize, source: Source, generation: u64, is_anew: bool) {
        let mut sources = self.lock();
        put(&mut sources.topics, topic, (source, generation));
        if is_anew {
            sources.give_back_at = Some(clock::monotonic() + GIVE_BACK_AFTER);
        }
        self.swap(&mut sources, |list| list.topic == Some(topic));
    }

    /// Drops replaced lists that nobody reads any more. Whoever loads a list now gets a newer one, so that none is read again.
    pub(crate) fn drop_replaced(&self, now: Instant) {
        let mut sources = self.lock();
        let unread = sources.replaced.extract_if(.., |list| Arc::strong_count(list) == 1).collect::<Vec<_>>();
        let gives_back = sources.give_back_at.take_if(|at| *at <= now).is_some();
        // Others need not wait while it is freed.
        drop(sources);
        drop(unread);
        if gives_back {
            give_back();
        }
    }

    fn swap(&self, sources: &mut Sources, is_changed: impl Fn(&ListSources) -> bool) {
        for list in self.0.lists.iter().filter(|list| is_changed(&list.sources)) {
            let files = list.sources.files.iter().filter_map(|file| sources.files.get(*file)?.clone());
            let topic = list.sources.topic.map(|topic| sources.topics.get(topic).cloned().flatten());
            let generation = match &topic {
                Some(topic) => topic.as_ref().map_or(0, |(_source, generation)| *generation),
                None => list.in_force.load().generation() + 1,
            };
            let topic = topic.flatten().map(|(source, _generation)| source);
            let blocklist = Blocklist::of(files.chain(topic), generation);
            // Not `store`, which would drop the old list, here or at whoever reads it last.
            let replaced = list.in_force.swap(Arc::new(blocklist));
            sources.replaced.push(replaced);
        }
        if let Some(first) = self.0.lists.first() {
            self.0.metrics.loaded(first.in_force.load().generation(), sources.rule_count(), clock::wall());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sources> {
        self.0.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sources {
    fn rule_count(&self) -> usize {
        let topics = self.topics.iter().flatten().map(|(source, _generation)| source);
        self.files.iter().flatten().chain(topics).map(|source| source.rules().len()).sum()
    }
}

fn put<T: Clone>(places: &mut Vec<Option<T>>, place: usize, what: T) {
    if places.len() <= place {
        places.resize(place + 1, None);
    }
    if let Some(place) = places.get_mut(place) {
        *place = Some(what);
    }
}

/// mimalloc gives back what has been free for a second, and looks for that when a thread ends. Without it a list that is replaced can leave as
/// much memory behind as it had.
fn give_back() {
    // Where the system has no thread to give, the memory stays for the next list.
    if let Ok(thread) = thread::Builder::new().spawn(|| black_box(Vec::<u8>::with_capacity(GIVE_BACK_BYTES)).len()) {
        let _ended = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use prometheus::Registry;

    use crate::clock::UnixMillis;
    use crate::decide::blocklist::SourceKind;
    use crate::decide::file::parse;
    use crate::decide::rules::Rules;

    fn rules(text: &str) -> Arc<Rules> {
        Arc::new(parse(text.as_bytes()).expect("good"))
    }

    fn file(text: &str) -> Source {
        Source::new(SourceKind::File, "list", rules(text))
    }

    fn topic(text: &str) -> Source {
        Source::new(SourceKind::Topic, "topic", rules(text))
    }

    fn blocked(lists: &Lists, list: usize) -> Vec<&'static str> {
        let list = lists.in_force(list);
        let list = list.load();
        ["alice", "bob", "carol", "dave"].into_iter().filter(|user| list.blocks(user, UnixMillis(0))).collect()
    }

    #[test]
    fn each_list_has_the_rules_of_its_own_sources() {
        let list = |files: &[usize], topic| ListSources { files: files.to_vec(), topic };
        let lists = vec![list(&[0], Some(0)), list(&[0, 1], None), list(&[], Some(1)), list(&[], None)];
        let metrics = BlocklistMetrics::register(&Registry::new()).expect("metrics");
        let lists = Lists::new(lists, metrics);
        let is_loaded = |place| lists.in_force(place).load().is_loaded();
        assert_eq!([0, 1, 2, 3].map(is_loaded), [false, false, false, true]);
        lists.put_topic(1, topic("dave"), 7, true);
        assert_eq!([0, 1, 2, 3].map(is_loaded), [false, false, true, true]);
        lists.put_files([(0, file("alice")), (1, file("bob"))]);
        assert_eq!([0, 1, 2, 3].map(is_loaded), [true; 4]);
        lists.put_topic(0, topic("carol"), 9, true);
        let expected: [&[&str]; 4] = [&["alice", "carol"], &["alice", "bob"], &["dave"], &[]];
        for (place, expected) in expected.into_iter().enumerate() {
            assert_eq!(blocked(&lists, place), expected);
        }
        let generations = [0, 1, 2, 3].map(|place| lists.in_force(place).load().generation());
        assert_eq!(generations, [9, 1, 7, 0]);
    }

    #[test]
    fn a_replaced_list_is_dropped_once_nobody_reads_it() {
        let metrics = BlocklistMetrics::register(&Registry::new()).expect("metrics");
        let lists = Lists::new(vec![ListSources { files: vec![0], topic: None }], metrics);
        let old = rules("alice");
        lists.put_files([(0, Source::new(SourceKind::File, "list", Arc::clone(&old)))]);
        let reader = lists.in_force(0).load_full();
        lists.put_files([(0, file("bob"))]);
        lists.drop_replaced(clock::monotonic());
        assert_eq!(Arc::strong_count(&old), 2, "it is still read");
        drop(reader);
        lists.drop_replaced(clock::monotonic());
        assert_eq!(Arc::strong_count(&old), 1);
    }
}
