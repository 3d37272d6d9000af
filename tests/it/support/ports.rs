//! Ports of 127.0.0.1 on which nothing listens.
//!
//! They are below the range of ephemeral ports. A port from that range could be taken by any client while its server is down, and a client
//! that dials it repeatedly could even connect to itself.

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::TcpListener;

const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// An address on which nothing listens, for a Kafka that is down.
pub(crate) fn nobody() -> String {
    format!("127.0.0.1:{}", free::<1>()[0])
}

/// `N` different ports that were free just now.
pub(crate) fn free<const N: usize>() -> [u16; N] {
    let first_try = RandomState::new().hash_one(0) % u64::from(COUNT);
    let start = u16::try_from(first_try).unwrap();
    let mut candidates = (0..COUNT).map(|step| FIRST + (start + step) % COUNT);
    // All are held until the last is found, so that they are different.
    let listeners: [TcpListener; N] = std::array::from_fn(|_nth| {
        candidates.find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).expect("a free port")
    });
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
