//! How many connections each peer has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::net::Ipv6Addr;

/// How many connections each peer has, where that is bounded.
#[derive(Debug, Default)]
pub(super) struct Peers {
    open: HashMap<IpAddr, usize>,
}

impl Peers {
    /// How many connections `peer` has.
    pub(super) fn open(&self, peer: IpAddr) -> usize {
        self.open.get(&peer).copied().unwrap_or_default()
    }

    /// Counts a connection of `peer`.
    pub(super) fn enter(&mut self, peer: IpAddr) {
        *self.open.entry(peer).or_default() += 1;
    }

    /// One of `peer`'s has ended.
    pub(super) fn leave(&mut self, peer: Option<IpAddr>) {
        let Some(peer) = peer else { return };
        if let Entry::Occupied(mut open) = self.open.entry(peer) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

/// Who counts as one peer: an address, or a network of IPv6 that one host may have for itself.
pub(super) fn peer_key(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}
