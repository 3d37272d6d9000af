//! What a service manager such as systemd is told (`sd_notify(3)`), and the sockets that it passes (`sd_listen_fds(3)`). Without one
//! nothing happens.

use std::env;
use std::fmt;
use std::io;
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

/// How many sockets are taken: for callbacks, and for the admin listener.
const SOCKETS_MAX: usize = 2;

/// What the service manager is told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Notice {
    /// It has started, or has reloaded.
    Ready,
    /// It reads its files again, and says `Ready` when it has.
    Reloading,
    /// It stops.
    Stopping,
    /// It is alive.
    Watchdog,
}

/// How long a service manager that does not read is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells it, where there is a service manager (`NOTIFY_SOCKET`). One that does not read is not told: the watchdog's notices are not waited for at
/// all, since they come again, and the others for a second.
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
                // Units of Type=notify-reload need the time of this clock, to tell it from a reload before.
                let now = clock_gettime(ClockId::Monotonic);
                let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
                write!(formatter, "RELOADING=1\nMONOTONIC_USEC={micros}")
            }
            Self::Stopping => formatter.write_str("STOPPING=1"),
            Self::Watchdog => formatter.write_str("WATCHDOG=1"),
        }
    }
}

/// How long the service manager waits for [`Notice::Watchdog`] before it takes this process for hung; `None`: it does not wait for any.
pub(crate) fn watchdog_timeout() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
    number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0).map(Duration::from_micros)
}

/// What was passed cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("socket {nth} of those passed (LISTEN_FDS)")]
pub(crate) struct NoListener {
    nth: usize,
    source: io::Error,
}

/// The listening sockets that the service manager has passed, in its order. Must be called once, before the process has threads that use the
/// environment: it takes what names them out of it.
///
/// # Errors
///
/// One of them is no listening TCP socket.
pub(crate) fn passed_sockets() -> Result<Vec<TcpListener>, NoListener> {
    let mut passed = ListenFd::from_env();
    if passed.len() > SOCKETS_MAX {
        tracing::warn!(
            passed = passed.len(),
            "sockets beyond the second are ignored: one is for callbacks, one for the admin listener"
        );
    }
    let take = |index| take_listener(&mut passed, index).map_err(|source| NoListener { nth: index + 1, source });
    (0..SOCKETS_MAX).map(take).filter_map(Result::transpose).collect()
}

fn take_listener(passed: &mut ListenFd, index: usize) -> io::Result<Option<TcpListener>> {
    let Some(listener) = passed.take_tcp_listener(index)? else { return Ok(None) };
    if !socket_acceptconn(&listener)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
    }
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}
