//! A place to mount something that cannot stay mounted when the tests end, however they do.
//!
//! As with `process`, a small shell holds a pipe from this process, and cleans up when the pipe closes.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use tempfile::TempDir;

/// Whatever is mounted there is forced off, for nothing must wait for a FUSE server that is gone. The folder is removed only
/// when nothing is mounted in it any more. A process that was killed while one of its threads waited for the mount does not
/// close the pipe: that thread cannot end. So its state is watched too.
const GUARD: &str = r#"
trap '' INT HUP
{ while sleep 1; do grep -q '^State:.Z' "/proc/$2/status" && umount -i -f -l "$1/mount"; done; } 2>/dev/null &
watch=$!
trap '' TERM
read -r line
kill $watch
umount -i -f -l "$1/mount" 2>/dev/null
rmdir "$1/mount" && rm -rf "$1"
"#;

/// Says what is missing where nothing can be mounted.
pub(crate) fn allowed() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("only root can mount".to_owned()) }
}

/// An empty folder, with a place beside it.
pub(crate) struct MountPoint {
    guard: Child,
    path: PathBuf,
    folder: TempDir,
}

impl MountPoint {
    /// Makes it, under the target directory.
    pub(crate) fn make() -> Self {
        let folder = TempDir::with_prefix_in("mount-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("mount");
        std::fs::create_dir(&path).unwrap();
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(folder.path())
            .arg(std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("cannot run sh");
        Self { guard, path, folder }
    }

    /// Where to mount.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path that is not in what is mounted, and goes with it.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Unmounts, also what is in use. Says whether it did.
    pub(crate) fn unmount(&self) -> bool {
        let umount = Command::new("umount").args(["-i", "-f", "-l"]).arg(&self.path).output();
        umount.is_ok_and(|output| output.status.success())
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _status = self.guard.wait();
    }
}

/// A filesystem of that kind, with a folder for a journal on it.
pub(crate) fn mounted(kind: &str, options: &str) -> (MountPoint, PathBuf) {
    let point = MountPoint::make();
    let mut mount = Command::new("mount");
    mount.args(["-t", kind, "none", "-o", options]).arg(point.path());
    assert!(mount.status().unwrap().success(), "{mount:?}");
    let dir = point.path().join("journal");
    (point, dir)
}
