//! callbridge with its journal on a test disk, and the ways to crash it.

use std::path::Path;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::bridge::Bridge;
use crate::support::bridge::BridgeBuilder;
use crate::support::bridge::Stopped;
use crate::support::powercut::PowerCut;
use crate::support::torture::Site;
use crate::support::wait;

/// The exit code after a failure of the disk.
pub(crate) const DISK_FAILED: i32 = 74;

/// How many syncs fail, to hit one that is fatal.
const FAILED_SYNCS: u32 = 20;

/// The smallest allowed segments.
pub(crate) const SEGMENT_BYTES: u64 = 1 << 20;

/// A callbridge with a journal of small segments, and `more` lines in that section of the file.
pub(crate) fn builder(brokers: &str, topic_prefix: &str, more: &str) -> BridgeBuilder {
    builder_without_topics(brokers, topic_prefix, more).args(&["--create-topics"])
}

/// The same without creating topics.
pub(crate) fn builder_without_topics(brokers: &str, topic_prefix: &str, more: &str) -> BridgeBuilder {
    let builder = Bridge::builder().brokers(brokers).args(&["--topic-prefix", topic_prefix]);
    let builder = builder.variable("CALLBRIDGE_JOURNAL_FREE_BYTES_MIN", "0");
    builder.settings(&format!("[journal]\nsegment_bytes = {SEGMENT_BYTES}\n{more}"))
}

/// A folder for a journal, which does not exist yet.
pub(crate) fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::with_prefix_in("journal-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = folder.path().join("journal");
    (folder, dir)
}

/// The process is killed; the machine keeps running.
pub(crate) struct Killed {
    bridge: BridgeBuilder,
    dir: PathBuf,
    _folder: TempDir,
}

impl Killed {
    pub(crate) fn new(bridge: BridgeBuilder) -> Self {
        let (folder, dir) = folder();
        Self { bridge, dir, _folder: folder }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Site for Killed {
    fn launch(&mut self) -> Bridge {
        self.bridge.launch_in(&self.dir)
    }

    fn crash(&mut self, bridge: Bridge) -> Stopped {
        let stopped = bridge.kill9();
        assert_eq!(stopped.code, 128 + 9);
        stopped
    }
}

/// The power fails and returns.
pub(crate) struct Unplugged {
    bridge: BridgeBuilder,
    disk: PowerCut,
}

impl Unplugged {
    /// `None` if this machine cannot mount: the test must return.
    pub(crate) fn new(bridge: BridgeBuilder, seed: u64) -> Option<Self> {
        Some(Self { bridge, disk: PowerCut::mount(seed)? })
    }
}

impl Site for Unplugged {
    fn launch(&mut self) -> Bridge {
        self.bridge.launch_in(&self.disk.path().join("journal"))
    }

    fn crash(&mut self, bridge: Bridge) -> Stopped {
        self.disk.cut();
        // It may have ended by itself, because its disk is gone.
        let stopped = bridge.kill9();
        self.disk.remount();
        stopped
    }
}

/// A sync fails, and then the power, so that what was not synced is lost.
pub(crate) struct Failing {
    unplugged: Unplugged,
    /// Whether the process must end by itself before the power failure.
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
        // Some syncs are of files that nothing depends on yet, and are retried: one failure is not enough.
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
