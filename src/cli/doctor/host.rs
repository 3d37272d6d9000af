//! Checks of this machine: ports and the journal's directory.

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process;
use std::time::Duration;

use crate::cli::doctor::report::CheckSection;
use crate::cli::healthcheck;
use crate::clock;
use crate::config::Config;
use crate::journal::Ack;

/// A sync that takes longer holds up every acknowledgement.
const SYNC_SLOW: Duration = Duration::from_millis(50);

const PROBE_BYTES: usize = 4096;

/// Whether the listeners find their addresses free, or a callbridge has them.
pub(super) fn ports(config: &Config) -> CheckSection {
    let mut section = CheckSection::new("ports");
    let listeners = [("callbacks.listen", config.callbacks.listen), ("admin.listen", config.admin.listen)];
    for (setting, address) in listeners {
        match TcpListener::bind(address) {
            Ok(_listener) => section.ok(format!("{setting}: {address} is free")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_callbridge(config.admin.listen) => {
                section.ok(format!("{setting}: {address} is in use, and a callbridge runs here"));
            }
            Err(error) => {
                section.fail(format!("{setting}: cannot listen on {address}: {error}"), remedy(&error, address));
            }
        }
    }
    section
}

fn is_callbridge(admin: SocketAddr) -> bool {
    healthcheck::ask_in_time(&admin.to_string()).is_ok()
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

/// Whether the journal can be written, on what filesystem, and how long a sync takes.
pub(super) fn journal(config: &Config) -> CheckSection {
    let mut section = CheckSection::new("journal");
    if config.ack != Ack::Journal {
        section.skip("ack is not journal: callbacks are not kept on a disk");
        return section;
    }
    let dir = config.journal.dir.as_path();
    // The start makes what is missing of it.
    let Some(there) = dir.ancestors().find(|path| path.exists()).filter(|there| there.is_dir()) else {
        section.fail(format!("{} is not in a directory", dir.display()), "set journal.dir to a directory");
        return section;
    };
    if there != dir {
        section.ok(format!("{} does not exist yet; the start makes it in {}", dir.display(), there.display()));
    }
    filesystem(&mut section, config, there);
    match write_and_sync(there) {
        Ok(took) if took > SYNC_SLOW => {
            let what = format!("{} is writable, but one fsync took {} ms", there.display(), took.as_millis());
            section
                .warn(what, "every acknowledgement waits for one: use a faster disk, or one that less is written to");
        }
        Ok(took) => {
            section.ok(format!("{} is writable; one fsync took {:.1} ms", there.display(), took.as_secs_f64() * 1e3));
        }
        Err(error) => {
            let remedy = "the user that callbridge runs as must be able to write there, and the disk must have room";
            section.fail(format!("{} cannot be written: {error}", there.display()), remedy);
        }
    }
    section
}

fn filesystem(section: &mut CheckSection, config: &Config, dir: &Path) {
    let shown = dir.display();
    let Ok(status) = rustix::fs::statfs(dir) else { return };
    // Magic numbers of statfs(2).
    match u64::try_from(status.f_type).unwrap_or_default() & 0xffff_ffff {
        0x0102_1994 | 0x8584_58f6 if config.journal.persistent != Some(false) => {
            let remedy = "set journal.dir to a disk, or journal.persistent = false if this is meant";
            section.warn(format!("{shown} is in memory (tmpfs): a reboot loses acknowledged callbacks"), remedy);
        }
        0x794c_7630 | 0x6175_6673 if config.journal.persistent != Some(false) => {
            let what = format!("{shown} is in the writable layer of a container (overlay): it goes with the container");
            section.warn(what, "mount a volume there, or set journal.persistent = false if this is meant");
        }
        0x6969 | 0x517b | 0xff53_4d42 | 0xfe53_4d42 | 0x0102_1997 | 0x00c3_6400 | 0x5346_414f | 0x7375_7245 => {
            section.fail(format!("{shown} is on a network filesystem"), "set journal.dir to a local disk");
        }
        _ => {}
    }
    let Ok(space) = rustix::fs::statvfs(dir) else { return };
    let (free, wanted) = (space.f_bavail.saturating_mul(space.f_frsize), config.journal.free_bytes_min);
    let quota = config.journal.quota_bytes.unwrap_or_default();
    if free <= wanted {
        let what = format!("{shown}: {free} bytes are free, not more than journal.free_bytes_min = {wanted}");
        section.fail(what, "callbacks are refused: free some space, or use a larger disk");
    } else if free < quota {
        let what = format!("{shown}: {free} bytes are free, less than journal.quota_bytes = {quota}");
        section.warn(what, "the disk is full before the quota is: free some space, or lower journal.quota_bytes");
    }
}

/// How long a sync takes of a file that is removed again.
fn write_and_sync(dir: &Path) -> io::Result<Duration> {
    let path = dir.join(format!(".callbridge-check-{}", process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let synced = file.write_all(&[0; PROBE_BYTES]).and_then(|()| {
        let began = clock::monotonic();
        file.sync_all()?;
        Ok(clock::monotonic().saturating_duration_since(began))
    });
    fs::remove_file(&path)?;
    synced
}
