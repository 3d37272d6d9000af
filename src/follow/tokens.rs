//! The token files: loads them at the start, and replaces an application's tokens whenever one of its files holds something new.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::auth::BadTokens;
use crate::auth::Tokens;
use crate::clock;
use crate::follow::ATTEMPTS;
use crate::follow::Reloaded;
use crate::follow::file::Content;
use crate::follow::file::FileError;
use crate::follow::file::FollowedFile;
use crate::follow::file::PollResult;
use crate::follow::file::read_small;
use crate::metrics::tokens::TokenMetrics;

/// The largest token file that is read.
const BYTES_MAX: u64 = 64 * 1024;

/// Files that cannot be used at the start. What is wrong with each has been logged.
#[derive(Debug, thiserror::Error)]
#[error("cannot be used: {}", .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
pub(crate) struct BadTokenFiles(Vec<PathBuf>);

/// All token files, by application. Nobody else changes the tokens.
#[derive(Debug)]
pub(crate) struct TokenFiles {
    /// By the place of the application in the configuration.
    apps: Vec<Option<SignedApp>>,
    metrics: TokenMetrics,
}

/// An application with token files.
#[derive(Debug)]
struct SignedApp {
    files: Vec<FollowedFile<Tokens>>,
    tokens: Arc<ArcSwap<Tokens>>,
}

impl Content for Tokens {
    const KIND: &'static str = "token";
    type Bad = BadTokens;

    fn read(file: File) -> Result<Self, FileError<BadTokens>> {
        Self::parse(&read_small(file, BYTES_MAX)?).map_err(FileError::Bad)
    }
}

impl TokenFiles {
    /// Reads the files of each application.
    ///
    /// # Errors
    ///
    /// A file that cannot be used fails the start: without its tokens everybody would be let in, or nobody.
    pub(crate) fn load(
        paths: impl IntoIterator<Item = Vec<PathBuf>>,
        metrics: TokenMetrics,
    ) -> Result<Self, BadTokenFiles> {
        let now = clock::monotonic();
        let mut bad = Vec::new();
        let mut read = |path: PathBuf| {
            let mut file = FollowedFile::new(path.clone());
            (0..ATTEMPTS).find(|_nth| file.load(now) != PollResult::Same);
            if file.last_good().is_none() {
                bad.push(path);
            }
            warn_of_weak(&file);
            file
        };
        let mut sign = |paths: Vec<PathBuf>| {
            let files: Vec<_> = paths.into_iter().map(&mut read).collect();
            let tokens = Arc::new(ArcSwap::from_pointee(union(&files)));
            (!files.is_empty()).then_some(SignedApp { files, tokens })
        };
        let apps = paths.into_iter().map(&mut sign).collect();
        if bad.is_empty() { Ok(Self { apps, metrics }) } else { Err(BadTokenFiles(bad)) }
    }

    /// The tokens of each application, as they are from now on; none where there are no files.
    pub(crate) fn in_force(&self) -> Vec<Option<Arc<ArcSwap<Tokens>>>> {
        self.apps.iter().map(|app| app.as_ref().map(|app| Arc::clone(&app.tokens))).collect()
    }

    /// Whether there is nothing to follow.
    pub(crate) fn is_empty(&self) -> bool {
        self.apps.iter().all(Option::is_none)
    }

    /// Looks at every file once.
    pub(crate) fn step(&mut self, now: Instant) {
        self.visit(|file| file.look(now));
    }

    /// Reads every file.
    pub(crate) fn reload(&mut self, now: Instant, reloaded: &mut Reloaded) {
        self.visit(|file| file.reload(now, reloaded));
    }

    fn visit(&mut self, mut visit: impl FnMut(&mut FollowedFile<Tokens>) -> PollResult) {
        for app in self.apps.iter_mut().flatten() {
            let mut any_loaded = false;
            for file in &mut app.files {
                match visit(file) {
                    PollResult::Same => {}
                    PollResult::Loaded => {
                        any_loaded = true;
                        warn_of_weak(file);
                    }
                    PollResult::Failed => self.metrics.file_errors.inc(),
                }
            }
            if any_loaded {
                let tokens = union(&app.files);
                tracing::info!(tokens = tokens.len(), "tokens loaded");
                app.tokens.store(Arc::new(tokens));
                self.metrics.loads.inc();
            }
        }
        let failing = self.apps.iter().flatten().flat_map(|app| &app.files).filter(|file| file.is_failing()).count();
        self.metrics.files_failing.set(i64::try_from(failing).unwrap_or(i64::MAX));
    }
}

fn warn_of_weak(file: &FollowedFile<Tokens>) {
    if let Some(weakness) = file.last_good().and_then(|tokens| tokens.weakness()) {
        tracing::warn!(file = %file.path().display(), %weakness, "weak tokens");
    }
}

/// What the files held when each was last good.
fn union(files: &[FollowedFile<Tokens>]) -> Tokens {
    Tokens::union(files.iter().filter_map(FollowedFile::last_good).map(AsRef::as_ref))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use prometheus::Registry;

    fn load(paths: Vec<Vec<PathBuf>>) -> Result<TokenFiles, BadTokenFiles> {
        TokenFiles::load(paths, TokenMetrics::register(&Registry::new()).expect("metrics"))
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
            files.step(now);
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
    fn one_bad_file_fails_the_start_and_all_bad_ones_are_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let [good, empty, none] = ["good", "empty", "none"].map(|name| directory.path().join(name));
        replace(&good, "a");
        replace(&empty, "");
        let error = load(vec![vec![good, empty.clone()], vec![none.clone()]]).expect_err("bad files").to_string();
        assert_eq!(error, format!("cannot be used: {}, {}", empty.display(), none.display()));
    }
}
