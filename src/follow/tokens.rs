//! The token files of the applications and of the admin API: loads them at the start, and replaces the tokens of an application or of the
//! API whenever one of its files has changed.

pub(crate) mod metrics;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::auth::BadTokens;
use crate::auth::Tokens;
use crate::bearer::AdminTokens;
use crate::bearer::BadAdminTokens;
use crate::clock;
use crate::follow::ATTEMPTS;
use crate::follow::Reloaded;
use crate::follow::file::Content;
use crate::follow::file::FileError;
use crate::follow::file::FollowedFile;
use crate::follow::file::PollResult;
use crate::follow::file::read_small;
use crate::follow::tokens::metrics::TokenMetrics;

/// The largest token file of an application.
const BYTES_MAX: u64 = 64 * 1024;

/// The largest token file of the admin API.
const ADMIN_BYTES_MAX: u64 = 1024 * 1024;

/// Token files that cannot be used at the start. The reason for each has been logged.
#[derive(Debug, thiserror::Error)]
#[error("cannot be used: {}", .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
pub(crate) struct BadTokenFiles(Vec<PathBuf>);

/// All token files: those of each application and those of the admin API. Only this changes tokens.
#[derive(Debug)]
pub(crate) struct TokenFiles {
    /// By application; `None` if it has no files.
    apps: Vec<Option<TokenGroup<Tokens>>>,
    admin: Option<TokenGroup<AdminTokens>>,
    metrics: TokenMetrics,
}

/// Files whose tokens are valid together.
#[derive(Debug)]
struct TokenGroup<T> {
    files: Vec<FollowedFile<T>>,
    tokens: Arc<ArcSwap<T>>,
}

/// The contents of token files.
pub(crate) trait TokenSet: Content {
    /// The owner of the tokens, in the log.
    const OWNER: &'static str;

    /// The tokens of several files.
    fn union_of<'t>(files: impl Iterator<Item = &'t Self>) -> Self
    where
        Self: 't;

    /// The number of tokens.
    fn count(&self) -> usize;

    /// The weakness of valid tokens.
    fn weakness(&self) -> Option<String>;
}

impl Content for Tokens {
    const KIND: &'static str = "token";
    type Invalid = BadTokens;

    fn read(file: File) -> Result<Self, FileError<BadTokens>> {
        Self::parse(&read_small(file, BYTES_MAX)?).map_err(FileError::Invalid)
    }
}

impl TokenSet for Tokens {
    const OWNER: &'static str = "callbacks";

    fn union_of<'t>(files: impl Iterator<Item = &'t Self>) -> Self {
        Self::union(files)
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn weakness(&self) -> Option<String> {
        self.weakness().map(|weakness| weakness.to_string())
    }
}

impl Content for AdminTokens {
    const KIND: &'static str = "admin token";
    type Invalid = BadAdminTokens;

    fn read(file: File) -> Result<Self, FileError<BadAdminTokens>> {
        Self::parse(&read_small(file, ADMIN_BYTES_MAX)?).map_err(FileError::Invalid)
    }
}

impl TokenSet for AdminTokens {
    const OWNER: &'static str = "admin API";

    fn union_of<'t>(files: impl Iterator<Item = &'t Self>) -> Self {
        Self::union(files)
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn weakness(&self) -> Option<String> {
        self.weakness().map(|weakness| weakness.to_string())
    }
}

impl<T: TokenSet> TokenGroup<T> {
    /// Reads the files. Files that cannot be used are appended to `bad`. `None` if there are no files.
    fn load(paths: Vec<PathBuf>, bad: &mut Vec<PathBuf>) -> Option<Self> {
        let now = clock::monotonic();
        let mut read = |path: PathBuf| {
            let mut file = FollowedFile::new(path.clone());
            (0..ATTEMPTS).find(|_nth| file.load(now) != PollResult::Same);
            if file.last_good().is_none() {
                bad.push(path);
            }
            warn_of_weak(&file);
            file
        };
        let files: Vec<_> = paths.into_iter().map(&mut read).collect();
        let tokens = Arc::new(ArcSwap::from_pointee(Self::union(&files)));
        (!files.is_empty()).then_some(Self { files, tokens })
    }

    /// Calls `read` for every file, and puts the tokens in force if any has changed. Returns the number of failing files.
    fn update(&mut self, metrics: &TokenMetrics, mut read: impl FnMut(&mut FollowedFile<T>) -> PollResult) -> usize {
        let mut any_loaded = false;
        for file in &mut self.files {
            match read(file) {
                PollResult::Same => {}
                PollResult::Loaded => {
                    any_loaded = true;
                    warn_of_weak(file);
                }
                PollResult::Failed => metrics.file_errors.inc(),
            }
        }
        if any_loaded {
            let tokens = Self::union(&self.files);
            tracing::info!(tokens = tokens.count(), of = T::OWNER, "tokens loaded");
            self.tokens.store(Arc::new(tokens));
            metrics.loads.inc();
        }
        self.files.iter().filter(|file| file.failure().is_some()).count()
    }

    /// The last good contents of the files.
    fn union(files: &[FollowedFile<T>]) -> T {
        T::union_of(files.iter().filter_map(FollowedFile::last_good).map(AsRef::as_ref))
    }
}

impl TokenFiles {
    /// Reads the files of each application, and those of the admin API.
    ///
    /// # Errors
    ///
    /// A file cannot be used: without its tokens everybody would be allowed, or nobody.
    pub(crate) fn load(
        apps: impl IntoIterator<Item = Vec<PathBuf>>,
        admin: Vec<PathBuf>,
        metrics: TokenMetrics,
    ) -> Result<Self, BadTokenFiles> {
        let mut bad = Vec::new();
        let apps = apps.into_iter().map(|paths| TokenGroup::load(paths, &mut bad)).collect();
        let admin = TokenGroup::load(admin, &mut bad);
        if bad.is_empty() { Ok(Self { apps, admin, metrics }) } else { Err(BadTokenFiles(bad)) }
    }

    /// The tokens of each application, which are replaced when files change; `None` if there are no files.
    pub(crate) fn in_force(&self) -> Vec<Option<Arc<ArcSwap<Tokens>>>> {
        self.apps.iter().map(|app| app.as_ref().map(|app| Arc::clone(&app.tokens))).collect()
    }

    /// The tokens of the admin API, which are replaced when files change; `None` if there are no files.
    pub(crate) fn of_admin(&self) -> Option<Arc<ArcSwap<AdminTokens>>> {
        self.admin.as_ref().map(|admin| Arc::clone(&admin.tokens))
    }

    /// Whether there are no files.
    pub(crate) fn is_empty(&self) -> bool {
        self.apps.iter().all(Option::is_none) && self.admin.is_none()
    }

    /// Polls every file once.
    pub(crate) fn poll(&mut self, now: Instant) {
        let of_apps = self.apps.iter_mut().flatten().map(|app| app.update(&self.metrics, |file| file.poll(now)));
        let of_admin = self.admin.iter_mut().map(|admin| admin.update(&self.metrics, |file| file.poll(now)));
        let failing = of_apps.chain(of_admin).sum();
        self.show_failing(failing);
    }

    /// Reads every file.
    pub(crate) fn reload(&mut self, now: Instant, reloaded: &mut Reloaded) {
        let mut failing = 0;
        for app in self.apps.iter_mut().flatten() {
            failing += app.update(&self.metrics, |file| file.reload(now, reloaded));
        }
        if let Some(admin) = &mut self.admin {
            failing += admin.update(&self.metrics, |file| file.reload(now, reloaded));
        }
        self.show_failing(failing);
    }

    fn show_failing(&self, failing: usize) {
        self.metrics.files_failing.set(i64::try_from(failing).unwrap_or(i64::MAX));
    }
}

fn warn_of_weak<T: TokenSet>(file: &FollowedFile<T>) {
    if let Some(weakness) = file.last_good().and_then(|tokens| tokens.weakness()) {
        tracing::warn!(file = %file.path().display(), %weakness, "weak tokens");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use prometheus::Registry;

    fn load(paths: Vec<Vec<PathBuf>>) -> Result<TokenFiles, BadTokenFiles> {
        TokenFiles::load(paths, Vec::new(), TokenMetrics::register(&Registry::new()).expect("metrics"))
    }

    fn replace(path: &Path, text: &str) {
        fs::write(path.with_extension("next"), text).expect("written");
        fs::rename(path.with_extension("next"), path).expect("renamed");
    }

    fn counts(files: &TokenFiles) -> Vec<Option<usize>> {
        files.in_force().iter().map(|tokens| tokens.as_ref().map(|tokens| tokens.load().len())).collect()
    }

    #[test]
    fn each_application_has_the_tokens_of_its_files_and_bad_ones_change_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
        replace(&one, "a\nb");
        replace(&two, "c");
        let mut files = load(vec![vec![one.clone(), two.clone()], vec![], vec![two.clone()]]).expect("good files");
        assert_eq!(counts(&files), [Some(3), None, Some(1)]);
        let mut now = clock::monotonic();
        let mut step = |files: &mut TokenFiles| {
            now += Duration::from_secs(1);
            files.poll(now);
        };

        replace(&two, "c\nd\ne");
        step(&mut files);
        assert_eq!((counts(&files), files.metrics.loads.get()), (vec![Some(5), None, Some(3)], 2));

        replace(&one, " \n");
        step(&mut files);
        step(&mut files);
        assert_eq!(counts(&files), [Some(5), None, Some(3)]);
        assert_eq!((files.metrics.file_errors.get(), files.metrics.files_failing.get()), (1, 1));

        replace(&one, "f");
        step(&mut files);
        assert_eq!(counts(&files), [Some(4), None, Some(3)]);
        assert_eq!((files.metrics.file_errors.get(), files.metrics.files_failing.get()), (1, 0));
    }

    #[test]
    fn the_tokens_of_the_admin_api_are_those_of_its_files_as_they_are_now() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin");
        replace(&path, "alice:0123456789abcdef");
        let metrics = TokenMetrics::register(&Registry::new()).expect("metrics");
        let mut files = TokenFiles::load([], vec![path.clone()], metrics).expect("good files");
        let tokens = files.of_admin().expect("there is a file");
        assert_eq!(tokens.load().name_of("0123456789abcdef"), Some("alice"));
        assert!(!files.is_empty());

        replace(&path, "bob:fedcba9876543210");
        files.poll(clock::monotonic() + Duration::from_secs(1));
        assert_eq!(tokens.load().name_of("0123456789abcdef"), None);
        assert_eq!(tokens.load().name_of("fedcba9876543210"), Some("bob"));

        replace(&path, "no token");
        files.poll(clock::monotonic() + Duration::from_secs(2));
        assert_eq!(tokens.load().name_of("fedcba9876543210"), Some("bob"));
        assert_eq!(files.metrics.files_failing.get(), 1);
    }

    #[test]
    fn one_bad_file_fails_the_start_and_all_bad_ones_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let [good, empty, none] = ["good", "empty", "none"].map(|name| directory.path().join(name));
        replace(&good, "a");
        replace(&empty, "");
        let error = load(vec![vec![good, empty.clone()], vec![none.clone()]]).expect_err("bad files").to_string();
        assert_eq!(error, format!("cannot be used: {}, {}", empty.display(), none.display()));
    }
}
