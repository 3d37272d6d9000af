//! callbridge with its journal on a disk of the tests, and the ways in which it dies there.

use std::path::Path;
use std::path::PathBuf;

use tempfile::NamedTempFile;
use tempfile::TempDir;

use crate::support::bridge::Bridge;
use crate::support::bridge::Stopped;
use crate::support::powercut::PowerCut;
use crate::support::settings;
use crate::support::torture;
use crate::support::torture::Site;
use crate::support::wait;

/// The exit code when the disk has failed.
pub(crate) const DISK_FAILED: i32 = 74;

/// So many syncs fail for one that goes on all the same.
const FAILED_SYNCS: u32 = 20;

/// The smallest segments that there may be.
pub(crate) const SEGMENT_BYTES: u64 = 1 << 20;

/// How a callbridge with a journal is started, again and again.
pub(crate) struct Settings {
    args: Vec<String>,
    variables: Vec<String>,
    /// It is read at each start.
    file: NamedTempFile,
}

impl Settings {
    /// With small segments, and with `more` lines of its section in the file.
    pub(crate) fn new(brokers: &str, topic_prefix: &str, more: &str) -> Self {
        Self::new_without_topics(brokers, topic_prefix, more).with(&["--create-topics"])
    }

    /// The same for one that makes no topics.
    pub(crate) fn new_without_topics(brokers: &str, topic_prefix: &str, more: &str) -> Self {
        let text = format!("[journal]\nsegment_bytes = {SEGMENT_BYTES}\n{more}\n");
        let file = settings::file(&text);
        let args = ["--config", settings::path(&file), "--sdk-app-id", torture::APP, "--brokers", brokers];
        let args = [&args[..], &["--topic-prefix", topic_prefix]].concat();
        let settings = Self { args: args.into_iter().map(str::to_owned).collect(), variables: Vec::new(), file };
        settings.with_variable("CALLBRIDGE_JOURNAL_FREE_BYTES_MIN", "0")
    }

    /// With more arguments.
    pub(crate) fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|it| (*it).to_owned()));
        self
    }

    /// With a variable of the environment.
    pub(crate) fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push(format!("{name}={value}"));
        self
    }

    /// Starts it in `dir`, and waits for nothing.
    pub(crate) fn launch(&self, dir: &Path) -> Bridge {
        self.launch_under(&[], dir)
    }

    /// Starts it in `dir`, and waits until it is ready.
    pub(crate) fn start(&self, dir: &Path) -> Bridge {
        self.start_under(&[], dir)
    }

    /// The same under another program.
    pub(crate) fn start_under(&self, prefix: &[String], dir: &Path) -> Bridge {
        let mut bridge = self.launch_under(prefix, dir);
        bridge.wait_until_ready();
        bridge
    }

    fn launch_under(&self, prefix: &[String], dir: &Path) -> Bridge {
        assert!(self.file.path().exists());
        let mut args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        args.extend(["--data-dir", dir.to_str().unwrap()]);
        Bridge::launch(&[&self.variables, prefix].concat(), &args)
    }
}

/// A folder for a journal, which is not made yet.
pub(crate) fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::with_prefix_in("journal-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = folder.path().join("journal");
    (folder, dir)
}

/// It is killed, and the machine lives on.
pub(crate) struct Killed {
    settings: Settings,
    dir: PathBuf,
    _folder: TempDir,
}

impl Killed {
    pub(crate) fn new(settings: Settings) -> Self {
        let (folder, dir) = folder();
        Self { settings, dir, _folder: folder }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Site for Killed {
    fn launch(&mut self) -> Bridge {
        self.settings.launch(&self.dir)
    }

    fn crash(&mut self, bridge: Bridge) -> Stopped {
        let stopped = bridge.kill9();
        assert_eq!(stopped.code, 128 + 9);
        stopped
    }
}

/// The power goes, and comes again.
pub(crate) struct Unplugged {
    settings: Settings,
    disk: PowerCut,
}

impl Unplugged {
    /// Nothing when this machine cannot mount: the test shall return.
    pub(crate) fn new(settings: Settings, seed: u64) -> Option<Self> {
        Some(Self { settings, disk: PowerCut::mount(seed)? })
    }
}

impl Site for Unplugged {
    fn launch(&mut self) -> Bridge {
        self.settings.launch(&self.disk.path().join("journal"))
    }

    fn crash(&mut self, bridge: Bridge) -> Stopped {
        self.disk.cut();
        // It may have ended by itself: its disk is gone.
        let stopped = bridge.kill9();
        self.disk.remount();
        stopped
    }
}

/// A sync fails, and then the power goes, so that what was not synced is gone.
pub(crate) struct Failing {
    unplugged: Unplugged,
    /// Whether it must end by itself, as it says, before the power goes.
    ends: bool,
}

impl Failing {
    pub(crate) fn new(unplugged: Unplugged, ends: bool) -> Self {
        Self { unplugged, ends }
    }
}

impl Site for Failing {
    fn launch(&mut self) -> Bridge {
        self.unplugged.launch()
    }

    fn crash(&mut self, mut bridge: Bridge) -> Stopped {
        // Some syncs are of files that nothing depends on yet, and are tried again: one is not enough.
        let mut tries = 0;
        wait::until("it ends by itself", || {
            self.unplugged.disk.fail_next_sync();
            tries += 1;
            bridge.exit_code().is_some() || !self.ends && tries > FAILED_SYNCS
        });
        let stopped = self.unplugged.crash(bridge);
        assert!(!self.ends || stopped.code == DISK_FAILED, "{stopped:?}");
        stopped
    }

    fn crash_starting(&mut self, bridge: Bridge) -> Stopped {
        self.unplugged.crash(bridge)
    }
}
