//! Checks of this machine: ports and the journal's directory.

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::io::Seek;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process;
use std::time::Duration;

use indicatif::BinaryBytes;

use crate::cli::doctor::report::CheckSection;
use crate::cli::healthcheck;
use crate::cli::serve::chain;
use crate::clock;
use crate::config::Config;
use crate::http::listener;
use crate::journal::Ack;
use crate::journal::inspect;
use crate::journal::inspect::JournalDirectory;
use crate::journal::log::directory::Filesystem;

use super::begin;

/// A sync that takes longer holds up every acknowledgement.
const SYNC_SLOW: Duration = Duration::from_millis(50);

/// After so long a disk counts as one that does not answer.
const DISK_LIMIT: Duration = Duration::from_secs(5);

const PROBE_BYTES: usize = 4096;

const JOURNAL: &str = "journal";

/// Whether the listeners find their addresses free, or a callbridge has them.
pub(super) fn ports(config: &Config) -> CheckSection {
    let mut section = CheckSection::new("ports");
    let listeners = [("callbacks.listen", config.callbacks.listen), ("admin.listen", config.admin.listen)];
    for (setting, address) in listeners {
        match listener::bind(address) {
            Ok(_listener) => section.ok(format!("{setting}: {address} is free")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_running(config) => {
                section.ok(format!("{setting}: {address} is in use, and callbridge runs here"));
            }
            Err(error) => {
                section.fail(format!("{setting}: cannot listen on {address}: {error}"), remedy(&error, address));
            }
        }
    }
    section
}

/// Whether a callbridge with this configuration runs on this machine.
fn is_running(config: &Config) -> bool {
    healthcheck::ask_in_time(&config.admin.listen.to_string()).is_ok()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "std's list is open")]
fn remedy(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let port = address.port();
            format!("\"ss -ltnp 'sport = :{port}'\" shows the process that has it: stop it, or set another port")
        }
        io::ErrorKind::PermissionDenied => "set a port above 1023, or grant CAP_NET_BIND_SERVICE".to_owned(),
        io::ErrorKind::AddrNotAvailable => "set an address of this machine, or 0.0.0.0 for all".to_owned(),
        _ => "set another address".to_owned(),
    }
}

/// Whether the journal can be written, on what filesystem, with how much room, and how long a sync takes.
pub(super) fn journal(config: &Config) -> CheckSection {
    if config.ack != Ack::Journal {
        return CheckSection::skipped(JOURNAL, "ack is not journal: callbacks are not kept on a disk");
    }
    let (config, dir) = (config.clone(), config.journal.dir.display().to_string());
    begin(move || journal_on_disk(&config)).recv_timeout(DISK_LIMIT).unwrap_or_else(|_late| {
        let mut section = CheckSection::new(JOURNAL);
        let what = format!("journal.dir: {dir} has not answered within {} s", DISK_LIMIT.as_secs());
        section.fail(what, "see whether its disk fails (dmesg), or set journal.dir to another");
        section
    })
}

fn journal_on_disk(config: &Config) -> CheckSection {
    let mut section = CheckSection::new(JOURNAL);
    let dir = config.journal.dir.as_path();
    let there = nearest(dir);
    let place = match inspect::place(&config.journal, there) {
        Ok(place) => place,
        Err(error) => {
            let remedy =
                "set journal.dir to a directory of a local disk with room for four segments (journal.segment_bytes)";
            section.fail(format!("journal.dir: {}", chain(&error)), remedy);
            return section;
        }
    };
    if there != dir {
        section.ok(format!("{} does not exist yet; the start makes it in {}", dir.display(), there.display()));
    } else if place.is_in_use && is_running(config) {
        section.ok(format!("{} is in use by the callbridge that runs here", dir.display()));
    } else if place.is_in_use {
        let remedy = "stop the other process, or set journal.dir to a directory of its own";
        section.fail(format!("{} belongs to another callbridge that is running", dir.display()), remedy);
    }
    filesystem(&mut section, config, there, &place);
    room(&mut section, config, there, &place);
    sync(&mut section, there);
    section
}

/// The directory itself or, since the start makes what is missing of it, the nearest above it that is there.
fn nearest(dir: &Path) -> &Path {
    let is_missing =
        |path: &&Path| fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let there = dir.ancestors().filter(|path| !path.as_os_str().is_empty()).find(|path| !is_missing(path));
    there.unwrap_or(Path::new("."))
}

fn filesystem(section: &mut CheckSection, config: &Config, dir: &Path, place: &JournalDirectory) {
    let shown = dir.display();
    let kind = kind_of(dir).unwrap_or_else(|| "a filesystem of an unknown kind".to_owned());
    let is_meant = config.journal.persistent == Some(false);
    match place.filesystem {
        Filesystem::Network(_) => section.fail(
            format!("{shown} is on a network filesystem ({kind}): its locks and syncs cannot be trusted"),
            "set journal.dir to a directory of a local disk",
        ),
        Filesystem::Memory if !is_meant => section.warn(
            format!("{shown} is in memory ({kind}): a reboot loses acknowledged callbacks"),
            "set journal.dir to a disk, or journal.persistent = false if this is meant",
        ),
        Filesystem::Container if !is_meant => section.warn(
            format!("{shown} is in the writable layer of a container ({kind}): it goes with the container"),
            "mount a volume there, or set journal.persistent = false if this is meant",
        ),
        Filesystem::Local | Filesystem::Memory | Filesystem::Container => {
            section.ok(format!("{shown} is on {kind}"));
        }
    }
    // That of a directory above it is not the journal's.
    if let Some(mode) = place.mode_for_others.filter(|_mode| dir == config.journal.dir) {
        let what = format!("{shown} lets group or others in (mode {mode:04o}), and holds messages and signatures");
        section.warn(what, format!("chmod -R go= {shown}"));
    }
}

/// The kind of filesystem that a path is on, as the mount table names it.
fn kind_of(path: &Path) -> Option<String> {
    let (path, mounts) = (path.canonicalize().ok()?, fs::read_to_string("/proc/self/mountinfo").ok()?);
    let mount = |line: &str| {
        // proc(5): the fifth field is the mount point, and the kind stands behind a dash.
        let (mount, filesystem) = line.split_once(" - ")?;
        Some((mount.split(' ').nth(4)?.to_owned(), filesystem.split(' ').next()?.to_owned()))
    };
    let under = mounts.lines().filter_map(mount).filter(|(point, _kind)| path.starts_with(point));
    // Of two on one point the later one is seen.
    under.max_by_key(|(point, _kind)| point.len()).map(|(_point, kind)| kind)
}

fn room(section: &mut CheckSection, config: &Config, dir: &Path, place: &JournalDirectory) {
    let (shown, free_min) = (dir.display(), config.journal.free_bytes_min);
    let (free, quota) = (BinaryBytes(place.free_bytes), BinaryBytes(place.quota_bytes));
    if place.free_bytes <= free_min {
        let what =
            format!("{shown}: {free} are free, not more than journal.free_bytes_min = {}", BinaryBytes(free_min));
        section.fail(what, "callbacks are refused: free some space, or use a larger disk");
    } else if place.free_bytes.saturating_add(place.used_bytes) < place.quota_bytes.saturating_add(free_min) {
        let what = format!("{shown}: {free} are free, too little for the journal's quota of {quota}");
        section.warn(what, "the disk is full before the quota is: free some space, or lower journal.quota_bytes");
    } else {
        section.ok(format!("{shown}: {free} are free; the journal's quota is {quota}"));
    }
}

fn sync(section: &mut CheckSection, dir: &Path) {
    let shown = dir.display();
    match write_and_sync(dir) {
        Ok(took) if took > SYNC_SLOW => {
            let what = format!("{shown} is writable, but one fsync took {} ms", took.as_millis());
            let remedy = "every acknowledgement waits for one: use a faster disk, or one that others write less to";
            section.warn(what, remedy);
        }
        Ok(took) => {
            section.ok(format!("{shown} is writable; one fsync took {:.1} ms", took.as_secs_f64() * 1e3));
        }
        Err(error) => {
            let remedy = "the user that callbridge runs as must be able to write there, and the disk must have room";
            section.fail(format!("{shown} cannot be written: {error}"), remedy);
        }
    }
}

/// How long a sync takes of what is written over in a file, as the journal does; the file is removed again.
fn write_and_sync(dir: &Path) -> io::Result<Duration> {
    let path = dir.join(format!(".callbridge-check-{}", process::id()));
    // Left behind by a check that was killed: in a container each has the same process id.
    let _ = fs::remove_file(&path);
    // Others may write to the directory: a link that they put there is not followed.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let mut write = || {
        file.write_all(&[0; PROBE_BYTES])?;
        // The first also writes down that there is a file.
        file.sync_all()?;
        file.rewind()?;
        file.write_all(&[1; PROBE_BYTES])?;
        let began = clock::monotonic();
        file.sync_data()?;
        Ok(clock::monotonic().saturating_duration_since(began))
    };
    let synced = write();
    fs::remove_file(&path)?;
    synced
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    #[test]
    fn the_probe_of_the_disk_follows_no_link_and_replaces_what_was_left_behind() {
        let dir = TempDir::new().unwrap();
        let (other, probe) =
            (dir.path().join("other"), dir.path().join(format!(".callbridge-check-{}", process::id())));
        fs::write(&other, "kept").unwrap();
        symlink(&other, &probe).unwrap();
        write_and_sync(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
        fs::write(&probe, "left behind").unwrap();
        write_and_sync(dir.path()).unwrap();
        assert!(!probe.exists());
        // It cannot be removed, and is not written to.
        fs::create_dir(&probe).unwrap();
        assert_eq!(write_and_sync(dir.path()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
