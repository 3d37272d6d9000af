//! The blocklist files: loads them at the start, and puts their rules in force whenever one of them has changed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::blocklist::lists::FileStatus;
use crate::blocklist::lists::Lists;
use crate::blocklist::metrics::BlocklistMetrics;
use crate::clock;
use crate::decide::blocklist::Source;
use crate::decide::blocklist::SourceKind;
use crate::decide::rules::Rules;
use crate::follow::Reloaded;
use crate::follow::file::FollowedFile;
use crate::follow::file::PollResult;

/// All blocklist files, without duplicates.
#[derive(Debug)]
pub(crate) struct BlocklistFiles {
    files: Vec<FollowedFile<Rules>>,
    lists: Lists,
    metrics: BlocklistMetrics,
}

impl BlocklistFiles {
    /// Reads the files, and puts their rules into `lists`. An invalid file is logged, but does not fail the start, because losing callbacks is
    /// worse than allowing blocked users.
    pub(crate) fn load(paths: Vec<PathBuf>, lists: Lists, metrics: BlocklistMetrics) -> Self {
        let files = paths.into_iter().map(FollowedFile::new).collect();
        let mut files = Self { files, lists, metrics };
        let now = clock::monotonic();
        files.update(|file| file.load(now));
        files
    }

    /// Whether there are no files.
    pub(crate) const fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Polls every file once.
    pub(crate) fn poll(&mut self, now: Instant) {
        self.update(|file| file.poll(now));
        self.lists.drop_replaced(now);
    }

    /// Reads every file.
    pub(crate) fn reload(&mut self, now: Instant, reloaded: &mut Reloaded) {
        self.update(|file| file.reload(now, reloaded));
        self.lists.drop_replaced(now);
    }

    /// Calls `read` for every file, and swaps the lists once if any file has new rules.
    fn update(&mut self, mut read: impl FnMut(&mut FollowedFile<Rules>) -> PollResult) {
        let (mut loaded, mut has_changed) = (Vec::new(), false);
        for (index, file) in self.files.iter_mut().enumerate() {
            let result = read(file);
            has_changed |= result != PollResult::Same;
            match result {
                PollResult::Same => {}
                PollResult::Loaded => loaded.extend(file.last_good().map(|rules| {
                    let name = file.path().display().to_string();
                    (index, Source::new(SourceKind::File, &name, Arc::clone(rules)))
                })),
                PollResult::Failed => self.metrics.file_errors.inc(),
            }
        }
        let failing = self.files.iter().filter(|file| file.failure().is_some()).count();
        self.metrics.files_failing.set(i64::try_from(failing).unwrap_or(i64::MAX));
        self.lists.put_files(loaded);
        if has_changed {
            self.lists.set_file_status(self.files.iter().map(status).collect());
        }
    }
}

fn status(file: &FollowedFile<Rules>) -> FileStatus {
    FileStatus { path: file.path().display().to_string(), loaded: file.loaded(), error: file.failure().map(Into::into) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::Duration;

    use arc_swap::ArcSwap;

    use crate::blocklist::lists::ListSources;
    use crate::clock::UnixMillis;
    use crate::decide::blocklist::Blocklist;
    use crate::follow::POLL_PERIOD;
    use crate::follow::file::DEBOUNCE;
    use prometheus::Registry;
    use tempfile::TempDir;

    /// Followed files in a temporary directory, and a simulated clock.
    struct FollowedDirectory {
        directory: TempDir,
        files: BlocklistFiles,
        blocklist: Arc<ArcSwap<Blocklist>>,
        metrics: BlocklistMetrics,
        now: Instant,
    }

    impl FollowedDirectory {
        fn of(names: &[&str], prepare: impl FnOnce(&Path)) -> Self {
            let directory = tempfile::tempdir().expect("a directory");
            prepare(directory.path());
            let metrics = BlocklistMetrics::register(&Registry::new()).expect("metrics");
            let paths = names.iter().map(|name| directory.path().join(name)).collect();
            let sources = ListSources { files: (0..names.len()).collect(), topic: None };
            let lists = Lists::new(vec![sources], metrics.clone());
            let blocklist = lists.in_force(0);
            let files = BlocklistFiles::load(paths, lists, metrics.clone());
            Self { directory, files, blocklist, metrics, now: clock::monotonic() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn rewrite(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).expect("written");
        }

        fn replace(&self, name: &str, text: &str) {
            self.rewrite("next", text);
            fs::rename(self.path("next"), self.path(name)).expect("renamed");
        }

        fn poll(&mut self, after: Duration) {
            self.now += after;
            self.files.poll(self.now);
        }

        fn settle(&mut self) {
            self.poll(POLL_PERIOD);
            self.poll(DEBOUNCE);
        }

        /// The blocked users among alice, bob and carol.
        fn blocked(&self) -> Vec<&'static str> {
            let blocklist = self.blocklist.load();
            ["alice", "bob", "carol"].into_iter().filter(|user| blocklist.blocks(user, UnixMillis(0))).collect()
        }

        fn generation(&self) -> u64 {
            self.blocklist.load().generation()
        }
    }

    fn put(text: &str) -> impl FnOnce(&Path) {
        move |directory| fs::write(directory.join("list"), text).expect("written")
    }

    #[test]
    fn a_list_without_files_is_empty_and_loaded() {
        let following = FollowedDirectory::of(&[], |_| {});
        assert!(following.blocklist.load().is_loaded());
        assert_eq!(following.generation(), 0);
        assert_eq!(following.blocked(), [""; 0]);
    }

    #[test]
    fn a_valid_file_is_loaded_at_the_start() {
        let following = FollowedDirectory::of(&["list"], put("alice\nbob\nbob"));
        assert_eq!(following.blocked(), ["alice", "bob"]);
        assert_eq!(following.generation(), 1);
        assert_eq!(following.metrics.generation.get(), 1);
        assert_eq!(following.metrics.rules.get(), 2);
        assert!(following.metrics.loaded_timestamp.get() > 1_600_000_000.0);
        assert_eq!(following.metrics.file_errors.get(), 0);
        assert_eq!(following.metrics.files_failing.get(), 0);
    }

    #[test]
    fn a_file_that_does_not_change_is_not_read_again() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        following.settle();
        following.settle();
        assert_eq!(following.generation(), 1);
    }

    #[test]
    fn several_files_are_one_list() {
        let mut following = FollowedDirectory::of(&["list", "other"], |directory| {
            put("alice")(directory);
            fs::write(directory.join("other"), "bob").expect("written");
        });
        assert_eq!(following.blocked(), ["alice", "bob"]);
        following.replace("other", "carol");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["alice", "carol"]);
        assert_eq!(following.generation(), 2);
    }

    #[test]
    fn a_renamed_file_is_read_at_the_next_poll() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        following.replace("list", "bob");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["bob"]);
        assert_eq!(following.generation(), 2);
        assert_eq!(following.metrics.generation.get(), 2);
    }

    #[test]
    fn a_directory_symlink_swapped_as_by_kubernetes_is_read_at_the_next_poll() {
        let mut following = FollowedDirectory::of(&["list"], |directory| {
            fs::create_dir(directory.join("..1")).expect("made");
            fs::write(directory.join("..1/list"), "alice").expect("written");
            symlink("..1", directory.join("..data")).expect("linked");
            symlink("..data/list", directory.join("list")).expect("linked");
        });
        assert_eq!(following.blocked(), ["alice"]);

        fs::create_dir(following.path("..2")).expect("made");
        following.rewrite("..2/list", "bob");
        symlink("..2", following.path("..data_tmp")).expect("linked");
        fs::rename(following.path("..data_tmp"), following.path("..data")).expect("renamed");
        fs::remove_dir_all(following.path("..1")).expect("removed");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["bob"]);
    }

    #[test]
    fn a_file_rewritten_in_place_is_read_once_it_is_stable() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        following.rewrite("list", "bob\ncar");
        following.poll(POLL_PERIOD);
        following.poll(DEBOUNCE - Duration::from_millis(1));
        assert_eq!(following.blocked(), ["alice"]);
        following.rewrite("list", "bob\ncarol");
        following.poll(Duration::from_millis(1));
        following.poll(DEBOUNCE - Duration::from_millis(1));
        assert_eq!(following.blocked(), ["alice"]);
        following.poll(Duration::from_millis(1));
        assert_eq!(following.blocked(), ["bob", "carol"]);
        assert_eq!(following.generation(), 2);
    }

    /// An open file keeps its inode, so that the next one gets another.
    fn removed(path: &Path) -> fs::File {
        let open = fs::File::open(path).expect("opened");
        fs::remove_file(path).expect("removed");
        open
    }

    #[test]
    fn a_removed_and_recreated_file_is_read_once_it_is_stable() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        let _old = removed(&following.path("list"));
        following.rewrite("list", "bob\ncar");
        following.poll(POLL_PERIOD);
        following.poll(DEBOUNCE - Duration::from_millis(1));
        assert_eq!(following.blocked(), ["alice"]);
        following.rewrite("list", "bob\ncarol");
        following.settle();
        assert_eq!(following.blocked(), ["bob", "carol"]);
        assert_eq!(following.generation(), 2);
        // The same if a poll has found the file missing.
        let _old = removed(&following.path("list"));
        following.poll(POLL_PERIOD);
        following.rewrite("list", "al");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["bob", "carol"]);
    }

    #[test]
    fn a_missing_file_restored_by_rename_is_read_at_the_next_poll() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        fs::remove_file(following.path("list")).expect("removed");
        following.poll(POLL_PERIOD);
        following.replace("list", "bob");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["bob"]);
        assert_eq!(following.metrics.files_failing.get(), 0);
    }

    #[test]
    fn a_new_file_after_a_renamed_one_is_read_once_it_is_stable() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        following.replace("list", "bob");
        let _old = removed(&following.path("list"));
        following.rewrite("list", "car");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["alice"]);
        following.poll(DEBOUNCE);
        assert_eq!(following.generation(), 2);
    }

    #[test]
    fn renames_and_new_files_behind_a_symlink_are_distinguished() {
        let mut following = FollowedDirectory::of(&["list"], |directory| {
            fs::create_dir(directory.join("real")).expect("made");
            fs::write(directory.join("real/file"), "alice").expect("written");
            symlink("real/file", directory.join("list")).expect("linked");
        });
        following.replace("real/file", "bob");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["bob"]);
        let _old = removed(&following.path("real/file"));
        following.rewrite("real/file", "carol");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["bob"]);
        following.poll(DEBOUNCE);
        assert_eq!(following.blocked(), ["carol"]);
    }

    #[test]
    fn a_replaced_directory_is_watched() {
        let mut following = FollowedDirectory::of(&["folder/list"], |directory| {
            fs::create_dir(directory.join("folder")).expect("made");
            fs::write(directory.join("folder/list"), "alice").expect("written");
        });
        fs::rename(following.path("folder"), following.path("old")).expect("renamed");
        fs::create_dir(following.path("folder")).expect("made");
        following.poll(POLL_PERIOD);
        // Changes in the old directory have no effect.
        following.replace("old/list", "carol");
        following.rewrite("folder/list", "al");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["alice"]);
        following.replace("folder/list", "bob");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["bob"]);
    }

    #[test]
    fn an_empty_file_is_read_after_it_is_stable() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        following.replace("list", "");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["alice"]);
        following.rewrite("list", "bob\ncar");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["alice"]);
        following.rewrite("list", "bob\ncarol");
        following.settle();
        assert_eq!(following.blocked(), ["bob", "carol"]);
        // A file that stays empty is intended.
        following.replace("list", "");
        following.settle();
        assert_eq!(following.blocked(), [""; 0]);
    }

    #[test]
    fn an_invalid_file_keeps_its_last_good_rules_until_it_is_valid() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        following.replace("list", "bob\nclose");
        following.settle();
        following.settle();
        assert_eq!(following.blocked(), ["alice"]);
        assert_eq!(following.generation(), 1);
        assert_eq!(following.metrics.file_errors.get(), 1);
        assert_eq!(following.metrics.files_failing.get(), 1);

        following.replace("list", "bob\nclose @a");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["bob"]);
        assert_eq!(following.generation(), 2);
        assert_eq!(following.metrics.file_errors.get(), 1);
        assert_eq!(following.metrics.files_failing.get(), 0);
    }

    #[test]
    fn each_distinct_failure_is_counted_once() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        for bad in ["bob\nclose", "carol\nclose", "block\nclose"] {
            following.replace("list", bad);
            following.settle();
        }
        assert_eq!(following.metrics.file_errors.get(), 2);
    }

    #[test]
    fn a_replaced_list_is_dropped_by_the_thread_that_polls_files() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        let decision = following.blocklist.load();
        let old = Arc::downgrade(&Arc::clone(&decision));
        following.replace("list", "bob");
        following.poll(POLL_PERIOD);
        drop(decision);
        assert!(old.upgrade().is_some(), "the decision does not drop it");
        following.poll(POLL_PERIOD);
        assert!(old.upgrade().is_none());
    }

    #[test]
    fn lists_replaced_by_a_reload_are_dropped() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        let old = Arc::downgrade(&following.blocklist.load_full());
        following.files.reload(clock::monotonic(), &mut Reloaded::default());
        assert!(old.upgrade().is_none());
    }

    #[test]
    fn a_missing_file_keeps_its_last_good_rules_until_it_is_back() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        fs::remove_file(following.path("list")).expect("removed");
        following.settle();
        following.settle();
        assert_eq!(following.blocked(), ["alice"]);
        assert_eq!(following.metrics.file_errors.get(), 1);
        assert_eq!(following.metrics.files_failing.get(), 1);

        following.rewrite("list", "bob");
        following.poll(POLL_PERIOD);
        assert_eq!(following.blocked(), ["alice"]);
        following.poll(DEBOUNCE);
        assert_eq!(following.blocked(), ["bob"]);
        assert_eq!(following.metrics.files_failing.get(), 0);
    }

    #[test]
    fn a_missing_file_that_comes_back_unchanged_is_valid_again() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        fs::rename(following.path("list"), following.path("away")).expect("renamed");
        following.settle();
        assert_eq!(following.metrics.files_failing.get(), 1);
        fs::rename(following.path("away"), following.path("list")).expect("renamed");
        following.settle();
        assert_eq!(following.blocked(), ["alice"]);
        assert_eq!(following.metrics.files_failing.get(), 0);
    }

    #[test]
    fn a_directory_in_place_of_a_file_is_invalid() {
        let mut following = FollowedDirectory::of(&["list"], put("alice"));
        fs::remove_file(following.path("list")).expect("removed");
        fs::create_dir(following.path("list")).expect("made");
        following.settle();
        following.settle();
        assert_eq!(following.blocked(), ["alice"]);
        assert_eq!(following.metrics.file_errors.get(), 1);
    }

    #[test]
    fn a_list_without_any_valid_file_is_not_loaded() {
        let mut following = FollowedDirectory::of(&["list", "missing"], put("close"));
        assert!(!following.blocklist.load().is_loaded());
        assert_eq!(following.generation(), 0);
        assert_eq!(following.metrics.file_errors.get(), 2);
        assert_eq!(following.metrics.files_failing.get(), 2);
        following.poll(POLL_PERIOD);
        assert!(!following.blocklist.load().is_loaded());

        following.rewrite("missing", "carol");
        following.settle();
        assert!(following.blocklist.load().is_loaded());
        assert_eq!(following.blocked(), ["carol"]);
        assert_eq!(following.generation(), 1);
        assert_eq!(following.metrics.files_failing.get(), 1);
    }

    #[test]
    fn a_list_with_one_valid_file_of_two_is_loaded() {
        let following = FollowedDirectory::of(&["missing", "list"], put("alice"));
        assert!(following.blocklist.load().is_loaded());
        assert_eq!(following.blocked(), ["alice"]);
        assert_eq!(following.metrics.files_failing.get(), 1);
    }
}
