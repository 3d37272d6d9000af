//! Notifications to a service manager such as systemd (`sd_notify(3)`), and the sockets that it passes (`sd_listen_fds(3)`). Without a
//! service manager nothing happens.

use std::env;
use std::fmt;
use std::io;
use std::iter;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;
use rustix::time::ClockId;
use rustix::time::clock_gettime;

/// The names of passed sockets (`FileDescriptorName=`).
const CALLBACKS: &str = "callbacks";
const ADMIN: &str = "admin";

/// A notification.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Notice {
    /// The process has started, or has reloaded.
    Ready,
    /// The process is reading its files again, and sends `Ready` afterwards.
    Reloading,
    /// The process is stopping.
    Stopping,
    /// The process is alive.
    Watchdog,
}

/// How long to wait for a service manager that does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Notifies the service manager, if there is one (`NOTIFY_SOCKET`). If it does not read, watchdog notifications are dropped at once, since
/// they are repeated, and others after a second.
pub(crate) fn notify(notice: Notice) {
    let Some(address) = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else { return };
    let sent = || {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _path => SocketAddr::from_pathname(&address)?,
        };
        let socket = UnixDatagram::unbound()?;
        match notice {
            Notice::Watchdog => socket.set_nonblocking(true)?,
            Notice::Ready | Notice::Reloading | Notice::Stopping => socket.set_write_timeout(Some(PATIENCE))?,
        }
        socket.send_to_addr(notice.to_string().as_bytes(), &address)
    };
    if let Err(error) = sent() {
        tracing::warn!(%error, ?notice, "the service manager (NOTIFY_SOCKET) could not be notified");
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => formatter.write_str("READY=1"),
            Self::Reloading => {
                // Units of Type=notify-reload need this time to assign the notification to a reload.
                let now = clock_gettime(ClockId::Monotonic);
                let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
                write!(formatter, "RELOADING=1\nMONOTONIC_USEC={micros}")
            }
            Self::Stopping => formatter.write_str("STOPPING=1"),
            Self::Watchdog => formatter.write_str("WATCHDOG=1"),
        }
    }
}

/// The watchdog interval of the service manager; `None`: it has none.
pub(crate) fn watchdog_timeout() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
    number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0).map(Duration::from_micros)
}

/// Why passed sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassedError {
    /// It is not a listening TCP socket.
    #[error("socket {nth} of those passed (LISTEN_FDS)")]
    NoListener {
        /// Its number, from 1.
        nth: usize,
        /// The error.
        source: io::Error,
    },
    /// It has an unknown name.
    #[error(
        "socket {nth} of those passed has the name {name:?} (LISTEN_FDNAMES): set FileDescriptorName= to {CALLBACKS} or {ADMIN}, or \
         leave it out"
    )]
    UnknownName {
        /// Its number, from 1.
        nth: usize,
        /// The name.
        name: String,
    },
    /// Two sockets have the same name.
    #[error("socket {nth} of those passed has the same name as another: {name} (LISTEN_FDNAMES)")]
    SameName {
        /// The number of the second, from 1.
        nth: usize,
        /// The name.
        name: String,
    },
}

/// The listening sockets passed by the service manager.
#[derive(Debug, Default)]
pub(crate) struct PassedSockets {
    pub(crate) callbacks: Option<TcpListener>,
    pub(crate) admin: Option<TcpListener>,
}

/// The use of the passed sockets, by index.
#[derive(Debug, Default, PartialEq, Eq)]
struct Assignment {
    callbacks: Option<usize>,
    admin: Option<usize>,
}

impl Assignment {
    /// Assigns sockets by name. Sockets without a name are assigned to what is left, callbacks first.
    fn of(names: &[&str]) -> Result<Self, PassedError> {
        let mut assigned = Self::default();
        let mut nameless = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let slot = match *name {
                CALLBACKS => &mut assigned.callbacks,
                ADMIN => &mut assigned.admin,
                name if is_default(name) => {
                    nameless.push(index);
                    continue;
                }
                name => return Err(PassedError::UnknownName { nth: index + 1, name: name.to_owned() }),
            };
            if slot.replace(index).is_some() {
                return Err(PassedError::SameName { nth: index + 1, name: (*name).to_owned() });
            }
        }
        let mut nameless = nameless.into_iter();
        for slot in [&mut assigned.callbacks, &mut assigned.admin] {
            if slot.is_none() {
                *slot = nameless.next();
            }
        }
        let ignored = nameless.len();
        if ignored > 0 {
            tracing::warn!(
                ignored,
                "sockets beyond the second are ignored: one is for callbacks, one for the admin listener"
            );
        }
        Ok(assigned)
    }
}

/// Whether systemd uses this name for a socket without a configured one: the name of the socket unit, or `unknown`.
fn is_default(name: &str) -> bool {
    matches!(name, "" | "unknown") || name.ends_with(".socket")
}

/// Takes the listening sockets that the service manager has passed. Must be called once, before other threads use the environment: it
/// removes the variables that describe them.
///
/// # Errors
///
/// A socket is not a listening TCP socket, or has a wrong name.
pub(crate) fn passed_sockets() -> Result<PassedSockets, PassedError> {
    let mut passed = ListenFd::from_env();
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').chain(iter::repeat("")).take(passed.len());
    let Assignment { callbacks, admin } = Assignment::of(&names.collect::<Vec<_>>())?;
    let mut take = |index: Option<usize>| {
        let Some(index) = index else { return Ok(None) };
        take_listener(&mut passed, index).map_err(|source| PassedError::NoListener { nth: index + 1, source })
    };
    Ok(PassedSockets { callbacks: take(callbacks)?, admin: take(admin)? })
}

fn take_listener(passed: &mut ListenFd, index: usize) -> io::Result<Option<TcpListener>> {
    let Some(listener) = passed.take_tcp_listener(index)? else { return Ok(None) };
    if !socket_acceptconn(&listener)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
    }
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(names: &[&str]) -> Result<(Option<usize>, Option<usize>), String> {
        let assignment = Assignment::of(names).map_err(|error| error.to_string());
        assignment.map(|Assignment { callbacks, admin }| (callbacks, admin))
    }

    #[test]
    fn sockets_are_assigned_by_name_and_without_one_by_place() {
        for (names, callbacks, admin) in [
            (&[][..], None, None),
            (&["callbridge.socket"], Some(0), None),
            (&["", ""], Some(0), Some(1)),
            (&["callbridge.socket", "callbridge-admin.socket", "unknown"], Some(0), Some(1)),
            (&["admin"], None, Some(0)),
            (&["admin", "callbacks"], Some(1), Some(0)),
            (&["admin", "callbridge.socket"], Some(1), Some(0)),
            (&["unknown", "callbacks"], Some(1), Some(0)),
            (&["unknown", "unknown", "callbacks"], Some(2), Some(0)),
        ] {
            assert_eq!(assigned(names), Ok((callbacks, admin)), "{names:?}");
        }
    }

    #[test]
    fn a_wrong_name_and_one_given_twice_are_refused() {
        for (names, says) in [
            (&["callback"][..], "socket 1 of those passed has the name \"callback\""),
            (&["callbacks", "Admin"], "socket 2 of those passed has the name \"Admin\""),
            (&["callbacks", "http", "admin"], "set FileDescriptorName= to callbacks or admin"),
            (&["connection"], "\"connection\""),
            (&["admin", "admin"], "socket 2 of those passed has the same name as another: admin"),
        ] {
            assert!(assigned(names).unwrap_err().contains(says), "{names:?}");
        }
    }
}
