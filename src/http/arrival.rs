//! How long the first bytes of a connection waited for this process to read them.
//!
//! A listening socket that is passed by the service manager outlives the process: connections wait in its backlog while callbridge
//! restarts, and use up part of the two seconds that their senders wait.

use std::time::Duration;

use nix::getsockopt_impl;
use nix::libc;
use nix::sockopt_impl;
use nix::sys::socket::getsockopt;
use rustix::io::ioctl_fionread;
use tokio::net::TcpStream;

/// The number of 32-bit words of the kernel's `struct tcp_info` up to `tcpi_last_data_recv`. Every kernel fills these; the struct as a
/// whole grows between versions.
const WORDS: usize = 14;

sockopt_impl!(
    /// The beginning of `struct tcp_info`.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u32; WORDS]
);

/// The age of the last bytes that can be read now. Zero if there are none.
pub(super) fn waited(stream: &TcpStream) -> Duration {
    let has_bytes = ioctl_fionread(stream).is_ok_and(|bytes| bytes > 0);
    let info = has_bytes.then(|| getsockopt(stream, TcpInfo).ok()).flatten();
    // On a system without this option the deadline stays as it is.
    info.map_or(Duration::ZERO, |[.., last_data_recv_millis]| Duration::from_millis(last_data_recv_millis.into()))
}
