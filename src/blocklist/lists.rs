//! The current blocklists. Each is built from the sources that its applications configure: files, and at most one topic.
//!
//! The followers of files and topics put new rules here; every list with that source is rebuilt and swapped. Sources are independent: if
//! one is invalid or unreachable, the rules of the others stay in force.

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

/// How long after a source was loaded the allocator returns freed memory to the system.
const RETURN_MEMORY_AFTER: Duration = Duration::from_secs(2);

/// The allocation of the thread in [`return_memory`], without which it would have no heap to release.
const RETURN_MEMORY_BYTES: usize = 1024;

/// The sources of one list, by index among all files and among all topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ListSources {
    pub(crate) files: Vec<usize>,
    pub(crate) topic: Option<usize>,
}

/// The status of a blocklist file.
#[derive(Debug, Clone)]
pub(crate) struct FileStatus {
    pub(crate) path: String,
    /// When it was last loaded; `None` if it has not been valid since the start.
    pub(crate) loaded: Option<Instant>,
    /// Why it cannot be used at present.
    pub(crate) error: Option<Arc<str>>,
}

/// The status of the files of one list. Clones share the same status.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListFiles {
    /// The indexes of the files.
    files: Vec<usize>,
    all: Arc<ArcSwap<Vec<FileStatus>>>,
}

/// All lists of the process. Clones share the same lists.
#[derive(Debug, Clone)]
pub(crate) struct Lists(Arc<ListsInner>);

#[derive(Debug)]
struct ListsInner {
    lists: Vec<CurrentList>,
    sources: Mutex<Sources>,
    files: Arc<ArcSwap<Vec<FileStatus>>>,
    metrics: BlocklistMetrics,
}

#[derive(Debug)]
struct CurrentList {
    sources: ListSources,
    in_force: Arc<ArcSwap<Blocklist>>,
}

/// The last good rules of each source.
#[derive(Debug, Default)]
struct Sources {
    files: Vec<Option<Source>>,
    /// With the generation of the topic.
    topics: Vec<Option<(Source, u64)>>,
    /// Replaced lists that a decision may still be reading. A follower thread drops them, because freeing the rules of a large list takes
    /// longer than a decision may.
    replaced: Vec<Arc<Blocklist>>,
    /// When the allocator returns the memory that a load has freed.
    return_memory_at: Option<Instant>,
}

impl ListFiles {
    /// The status of each file, in the order of the configuration.
    pub(crate) fn status(&self) -> Vec<FileStatus> {
        let all = self.all.load();
        self.files.iter().filter_map(|file| all.get(*file).cloned()).collect()
    }
}

impl Lists {
    /// Lists whose sources have not been read. A list without sources counts as loaded and blocks nobody. The metrics are those of the
    /// first list.
    pub(crate) fn new(lists: Vec<ListSources>, metrics: BlocklistMetrics) -> Self {
        let initial = |sources: ListSources| {
            let has_none = sources.files.is_empty() && sources.topic.is_none();
            let blocklist = if has_none { Blocklist::of([], 0) } else { Blocklist::unloaded() };
            CurrentList { sources, in_force: Arc::new(ArcSwap::from_pointee(blocklist)) }
        };
        let lists = lists.into_iter().map(initial).collect();
        Self(Arc::new(ListsInner { lists, sources: Mutex::default(), files: Arc::default(), metrics }))
    }

    /// The list with this index, which is swapped when its sources change.
    pub(crate) fn in_force(&self, list: usize) -> Arc<ArcSwap<Blocklist>> {
        let none = || Arc::new(ArcSwap::from_pointee(Blocklist::of([], 0)));
        self.0.lists.get(list).map_or_else(none, |list| Arc::clone(&list.in_force))
    }

    /// The status of the files of the list with this index.
    pub(crate) fn files(&self, list: usize) -> ListFiles {
        let files = self.0.lists.get(list).map(|list| list.sources.files.clone()).unwrap_or_default();
        ListFiles { files, all: Arc::clone(&self.0.files) }
    }

    /// Sets the status of all files, in order of index.
    pub(crate) fn set_file_status(&self, status: Vec<FileStatus>) {
        self.0.files.store(Arc::new(status));
    }

    /// Puts the rules of files, each with its index, in force, and logs it.
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
        sources.return_memory_at = Some(clock::monotonic() + RETURN_MEMORY_AFTER);
        self.swap(&mut sources, |list| list.files.iter().any(|file| changed.contains(file)));
        let rules = sources.rule_count();
        self.0.metrics.rules_of_files(sources.files.iter().flatten().map(Source::rules));
        drop(sources);
        tracing::info!(generation = self.in_force(0).load().generation(), rules, "blocklist loaded");
    }

    /// Puts the rules of a topic in force, as of `generation`. `is_full_read`: the topic was read from its start.
    pub(crate) fn put_topic(&self, topic: usize, source: Source, generation: u64, is_full_read: bool) {
        let mut sources = self.lock();
        put(&mut sources.topics, topic, (source, generation));
        if is_full_read {
            sources.return_memory_at = Some(clock::monotonic() + RETURN_MEMORY_AFTER);
        }
        self.swap(&mut sources, |list| list.topic == Some(topic));
    }

    /// Drops the replaced lists that have no readers. They cannot get new ones.
    pub(crate) fn drop_replaced(&self, now: Instant) {
        let mut sources = self.lock();
        let unread = sources.replaced.extract_if(.., |list| Arc::strong_count(list) == 1).collect::<Vec<_>>();
        let is_due = sources.return_memory_at.take_if(|at| *at <= now).is_some();
        // Unlocked first: freeing a large list takes time.
        drop(sources);
        drop(unread);
        if is_due {
            return_memory();
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
            // Not `store`, which would drop the old list, here or in its last reader.
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

fn put<T: Clone>(items: &mut Vec<Option<T>>, index: usize, item: T) {
    if items.len() <= index {
        items.resize(index + 1, None);
    }
    if let Some(slot) = items.get_mut(index) {
        *slot = Some(item);
    }
}

/// Makes the allocator return freed memory to the system. mimalloc does so when a thread ends, with memory that has been free for a second.
/// Without it, a replaced list can leave as much free memory behind as it took.
fn return_memory() {
    // If the thread cannot be created, the memory is reused by the next list.
    if let Ok(thread) = thread::Builder::new().spawn(|| black_box(Vec::<u8>::with_capacity(RETURN_MEMORY_BYTES)).len())
    {
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
        let is_loaded = |list| lists.in_force(list).load().is_loaded();
        assert_eq!([0, 1, 2, 3].map(is_loaded), [false, false, false, true]);
        lists.put_topic(1, topic("dave"), 7, true);
        assert_eq!([0, 1, 2, 3].map(is_loaded), [false, false, true, true]);
        lists.put_files([(0, file("alice")), (1, file("bob"))]);
        assert_eq!([0, 1, 2, 3].map(is_loaded), [true; 4]);
        lists.put_topic(0, topic("carol"), 9, true);
        let expected: [&[&str]; 4] = [&["alice", "carol"], &["alice", "bob"], &["dave"], &[]];
        for (list, expected) in expected.into_iter().enumerate() {
            assert_eq!(blocked(&lists, list), expected);
        }
        let generations = [0, 1, 2, 3].map(|list| lists.in_force(list).load().generation());
        assert_eq!(generations, [9, 1, 7, 0]);
    }

    #[test]
    fn a_replaced_list_is_dropped_once_it_has_no_readers() {
        let metrics = BlocklistMetrics::register(&Registry::new()).expect("metrics");
        let lists = Lists::new(vec![ListSources { files: vec![0], topic: None }], metrics);
        let old = rules("alice");
        lists.put_files([(0, Source::new(SourceKind::File, "list", Arc::clone(&old)))]);
        let reader = lists.in_force(0).load_full();
        lists.put_files([(0, file("bob"))]);
        lists.drop_replaced(clock::monotonic());
        assert_eq!(Arc::strong_count(&old), 2, "it still has a reader");
        drop(reader);
        lists.drop_replaced(clock::monotonic());
        assert_eq!(Arc::strong_count(&old), 1);
    }
}
