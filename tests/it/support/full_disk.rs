//! A small disk of its own, ext4 on a loop device, that can be filled to the last byte.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::FallocateFlags;

use crate::support::mounted;
use crate::support::mounted::MountPoint;
use crate::support::real;

const MEBIBYTE: u64 = 1 << 20;

/// Nothing smaller is allocated.
const BLOCK_BYTES: u64 = 1024;

/// A mounted disk. Unmounted on drop, and with the test process, however that ends.
pub(crate) struct FullDisk {
    data: PathBuf,
    ballast: PathBuf,
    point: MountPoint,
}

impl FullDisk {
    /// Mounts an empty one of that size, of which the file system takes some. Nothing when this machine cannot: the test
    /// shall return.
    pub(crate) fn mount(mebibytes: u64) -> Option<Self> {
        real::found_or_skipped(mounted::allowed())?;
        let point = MountPoint::make();
        real::found_or_skipped(make(&point, mebibytes * MEBIBYTE))?;
        let data = point.path().join("data");
        fs::create_dir(&data).unwrap();
        Some(Self { data, ballast: point.path().join("ballast"), point })
    }

    /// An empty folder on it.
    pub(crate) fn path(&self) -> &Path {
        &self.data
    }

    /// What is free.
    pub(crate) fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.point.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all that is free.
    pub(crate) fn fill(&self) {
        let ballast = File::options().append(true).create(true).open(&self.ballast).unwrap();
        let mut step = self.free_bytes();
        while step >= BLOCK_BYTES {
            let length = ballast.metadata().unwrap().len();
            let taken = rustix::fs::fallocate(&ballast, FallocateFlags::empty(), length, step);
            match taken {
                Ok(()) => {}
                Err(rustix::io::Errno::NOSPC) => step /= 2,
                Err(error) => panic!("cannot fill {}: {error}", self.ballast.display()),
            }
        }
        // Until then some of what was deleted before is not free yet, and would be afterwards.
        ballast.sync_all().unwrap();
    }

    /// Gives back what `fill` took.
    pub(crate) fn unfill(&self) {
        fs::remove_file(&self.ballast).unwrap();
    }
}

fn make(point: &MountPoint, bytes: u64) -> Result<(), String> {
    let image = point.beside("image");
    File::create(&image).unwrap().set_len(bytes).unwrap();
    // Nothing is kept for root, who runs the tests. Tables are made now, not by a thread of the kernel later.
    let options = ["-q", "-F", "-m", "0", "-b", "1024", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    run(Command::new("mkfs.ext4").args(options).arg(&image))?;
    run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(point.path()))
}

/// What it printed, when it failed.
fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("cannot run {program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)))
}
