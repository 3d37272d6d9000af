//! How long the first bytes of a connection waited for this process.
//!
//! A listening socket that the service manager passes outlasts the process: connections wait in its backlog while callbridge restarts, and
//! the two seconds of their senders pass meanwhile.

use std::time::Duration;

use nix::getsockopt_impl;
use nix::libc;
use nix::sockopt_impl;
use nix::sys::socket::getsockopt;
use rustix::io::ioctl_fionread;
use tokio::net::TcpStream;

/// How many 32-bit words the kernel's `struct tcp_info` has up to `tcpi_last_data_recv`. Every kernel fills so many; the struct as a whole
/// grows from one to the next.
const WORDS: usize = 14;

sockopt_impl!(
    /// The beginning of what the kernel knows of a connection.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u32; WORDS]
);

/// How long ago the bytes came that can be read now, or the last of them. Zero where there are none: their sender may take its time.
pub(super) fn waited(stream: &TcpStream) -> Duration {
    let has_bytes = ioctl_fionread(stream).is_ok_and(|bytes| bytes > 0);
    let info = has_bytes.then(|| getsockopt(stream, TcpInfo).ok()).flatten();
    // A system that does not know leaves the deadline as it is.
    info.map_or(Duration::ZERO, |[.., last_data_recv_millis]| Duration::from_millis(last_data_recv_millis.into()))
}
