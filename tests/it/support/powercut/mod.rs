//! A file system whose power can be cut: what a program did not sync may then be gone, in any way that POSIX allows.
//!
//! It is a FUSE file system that this process serves from memory. `kill -9` keeps the page cache, so it proves nothing about
//! a missing `fdatasync`; this does. The kinds of loss are in `content` and `names`.

mod content;
pub(crate) mod dice;
mod disk;
mod fuse;
mod names;

use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use fuser::BackgroundSession;
use fuser::Config;
use fuser::MountOption;

use crate::support::mounted;
use crate::support::mounted::MountPoint;
use crate::support::powercut::disk::Cut;
use crate::support::powercut::disk::Disk;
use crate::support::powercut::fuse::Face;
use crate::support::real;

/// A mounted disk. Unmounted on drop, and with the test process, however that ends.
pub(crate) struct PowerCut {
    face: Face,
    session: Option<BackgroundSession>,
    point: MountPoint,
}

impl PowerCut {
    /// Mounts an empty one. `seed` decides what each power cut takes; it is printed, for when a test fails. Nothing when this
    /// machine cannot mount: the test shall return.
    pub(crate) fn mount(seed: u64) -> Option<Self> {
        real::found_or_skipped(mounted::allowed())?;
        let face = Face::new(Disk::new(seed));
        let point = MountPoint::make();
        let session = real::found_or_skipped(serve(&face, point.path()))?;
        say(&format!("seed of the power cuts: {seed}"));
        Some(Self { face, session: Some(session), point })
    }

    /// Where it is mounted, also after `remount`.
    pub(crate) fn path(&self) -> &Path {
        self.point.path()
    }

    /// Takes what was not synced. Everything answers EIO from now on.
    pub(crate) fn cut(&self) -> Cut {
        let cut = self.disk().cut();
        self.face.thaw_syncs();
        self.face.thaw_reads();
        say(&format!("power cut: {cut:?}"));
        cut
    }

    /// Mounts what survived. Whoever still has files of the old mount open gets errors.
    pub(crate) fn remount(&mut self) {
        assert!(self.unmount(), "cannot unmount {}", self.path().display());
        self.disk().power_on();
        self.session = Some(serve(&self.face, self.point.path()).unwrap());
    }

    /// Lets the next sync fail, of a file or of a folder. As with Linux, the writes of that file then never reach the disk,
    /// though readers see them and later syncs succeed.
    pub(crate) fn fail_next_sync(&self) {
        self.fail_sync_after(0);
    }

    /// The same for the one after `count` more.
    pub(crate) fn fail_sync_after(&self, count: u64) {
        self.disk().fail_sync_after(count);
    }

    /// How many syncs have succeeded, of files and of folders.
    pub(crate) fn syncs(&self) -> u64 {
        self.disk().syncs()
    }

    /// Lets every read of these bytes of a file fail from now on, as a bad sector does.
    pub(crate) fn spoil(&self, file: &Path, bytes: Range<u64>) {
        let node = std::fs::metadata(file).unwrap().ino();
        self.disk().spoil(node, bytes);
    }

    /// Everything can be read again.
    pub(crate) fn heal(&self) {
        self.disk().heal();
    }

    /// Lets every sync wait from now on, as a disk that is slow does. The kernel lets no one write to a file
    /// whose sync waits; everything else goes on.
    pub(crate) fn freeze_syncs(&self) {
        self.face.freeze_syncs();
    }

    /// How many wait.
    pub(crate) fn frozen_syncs(&self) -> usize {
        self.face.frozen_syncs()
    }

    /// Lets them go on. A power cut does too, and lets them fail.
    pub(crate) fn thaw_syncs(&self) {
        self.face.thaw_syncs();
    }

    /// Lets every read wait from now on.
    pub(crate) fn freeze_reads(&self) {
        self.face.freeze_reads();
    }

    /// Lets them go on. A power cut does too, and lets them fail.
    pub(crate) fn thaw_reads(&self) {
        self.face.thaw_reads();
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.face.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it could be unmounted. If not, the thread that serves it must not be waited for.
    fn unmount(&mut self) -> bool {
        let is_unmounted = self.point.unmount();
        if let Some(session) = self.session.take().filter(|_session| is_unmounted) {
            // It ends with an error when somebody still had a file open.
            let _end = session.join();
        }
        is_unmounted
    }
}

impl Drop for PowerCut {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn serve(face: &Face, path: &Path) -> Result<BackgroundSession, String> {
    if !Path::new("/dev/fuse").exists() {
        return Err("there is no /dev/fuse".to_owned());
    }
    let mut config = Config::default();
    config.mount_options.push(MountOption::FSName("callbridge-power-cut".to_owned()));
    fuser::spawn_mount(face.clone(), path, &config).map_err(|error| format!("no FUSE mount: {error}"))
}

/// By macro, so that it stands with the output of the test that failed.
#[expect(clippy::print_stderr, reason = "what a failed test did")]
fn say(line: &str) {
    eprintln!("{line}");
}
