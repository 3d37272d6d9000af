//! Allow-lists of senders: networks, and the client that a proxy names.
//!
//! What a proxy says about its client is trusted only if the proxy's own address is configured: anybody else could send the same header.

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::str::FromStr;

/// A network in CIDR notation, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_length: u8,
}

/// Why a text is not a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    /// It is neither an address nor an address with a prefix length.
    #[error("not an address or a network, like 203.0.113.7 or 2001:db8::/32")]
    Form,
    /// Bits behind the prefix are set: either the address or the length is wrong.
    #[error("the address has bits set behind the prefix")]
    HostBits,
}

impl Network {
    /// Whether `address` is in the network. An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = u64::from(u32::from(network) ^ u32::from(address));
                differing >> (32 - u32::from(self.prefix_length)) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = u128::from(network) ^ u128::from(address);
                // A shift by all 128 bits is undefined.
                differing.checked_shr(128 - u32::from(self.prefix_length)).unwrap_or_default() == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_no_address| BadNetwork::Form)?;
        // An IPv4-mapped IPv6 network would never match: peers are compared in their IPv4 form.
        if address.to_canonical() != address {
            return Err(BadNetwork::Form);
        }
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix_length = match length {
            None => bits,
            // Digits only: `parse` would accept `+8`.
            Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().ok().filter(|length| *length <= bits).ok_or(BadNetwork::Form)?
            }
            Some(_other) => return Err(BadNetwork::Form),
        };
        let host_bits = match address {
            IpAddr::V4(address) => u128::from(u32::from(address)) & ((1 << (32 - u32::from(prefix_length))) - 1),
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix_length)).unwrap_or_default();
                u128::from(address) & !mask
            }
        };
        if host_bits == 0 { Ok(Self { address, prefix_length }) } else { Err(BadNetwork::HostBits) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix_length)
    }
}

/// A list of networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(pub Vec<Network>);

impl Networks {
    /// Whether `address` is in one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

/// The allow-list of senders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Senders {
    /// The networks of the senders.
    pub allowed: Networks,
    /// The proxies that forward requests of others.
    pub proxies: Networks,
}

impl Senders {
    /// Whether a request from `peer` with these `X-Forwarded-For` headers, in order, is allowed.
    pub fn allows<'h>(&self, peer: IpAddr, forwarded: impl DoubleEndedIterator<Item = &'h [u8]>) -> bool {
        self.sender(peer, forwarded).is_some_and(|sender| self.allowed.contain(sender))
    }

    /// The sender of a request. Each proxy appends the address of its client, so the sender is, from the end, the first address that is not
    /// one of our proxies; what is before it was written by others. `None` if one of our proxies has appended something invalid.
    fn sender<'h>(&self, peer: IpAddr, forwarded: impl DoubleEndedIterator<Item = &'h [u8]>) -> Option<IpAddr> {
        let mut sender = peer;
        for entry in forwarded.rev().flat_map(|header| header.rsplit(|byte| *byte == b',')) {
            if !self.proxies.contain(sender) {
                break;
            }
            sender = address(entry)?;
        }
        Some(sender)
    }
}

/// Parses an address with or without a port, as proxies write it.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = str::from_utf8(entry).ok()?.trim();
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || entry.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from);
    entry.parse().ok().or_else(with_port).or_else(in_brackets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        Networks(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("203.0.113.7", vec!["203.0.113.7", "::ffff:203.0.113.7"], vec!["203.0.113.6", "2001:db8::7"]),
            ("203.0.113.0/24", vec!["203.0.113.0", "203.0.113.255"], vec!["203.0.112.255", "203.0.114.0"]),
            ("0.0.0.0/0", vec!["1.2.3.4", "255.255.255.255"], vec!["::1"]),
            ("128.0.0.0/1", vec!["128.0.0.0", "255.255.255.255"], vec!["127.255.255.255"]),
            ("2001:db8::/32", vec!["2001:db8::", "2001:db8:ffff::1"], vec!["2001:db9::", "1.2.3.4"]),
            ("2001:db8::1", vec!["2001:db8::1"], vec!["2001:db8::2"]),
            ("::/0", vec!["::1", "ffff::"], vec!["1.2.3.4", "::ffff:1.2.3.4"]),
        ] {
            let network: Network = network.parse().unwrap();
            for address in inside {
                assert!(network.contains(address.parse().unwrap()), "{address} in {network}");
            }
            for address in outside {
                assert!(!network.contains(address.parse().unwrap()), "{address} in {network}");
            }
        }
    }

    #[test]
    fn what_is_no_network_is_not_taken_for_one() {
        for text in ["", "/8", "1.2.3/8", "1.2.3.4/", "1.2.3.4/33", "1.2.3.4/+8", "::/129", "::/-1", "a", "1.2.3.4/8/8"]
        {
            assert_eq!(text.parse::<Network>(), Err(BadNetwork::Form), "{text}");
        }
        for text in ["1.2.3.4/31.", "1.2.3.4 ", "::ffff:1.2.3.4", "::ffff:1.2.3.0/120"] {
            assert_eq!(text.parse::<Network>(), Err(BadNetwork::Form), "{text}");
        }
        for text in ["1.2.3.4/24", "1.2.3.4/0", "2001:db8::1/64", "::1/0"] {
            assert_eq!(text.parse::<Network>(), Err(BadNetwork::HostBits), "{text}");
        }
    }

    #[test]
    fn only_what_our_proxies_say_is_believed() {
        let senders =
            Senders { allowed: networks(&["203.0.113.0/24"]), proxies: networks(&["10.0.0.0/8", "fd00::/8"]) };
        let allows = |peer: &str, headers: &[&str]| {
            senders.allows(peer.parse().unwrap(), headers.iter().map(|header| header.as_bytes()))
        };
        // Straight from a sender, whatever it writes.
        assert!(allows("203.0.113.9", &[]));
        assert!(allows("203.0.113.9", &["8.8.8.8"]));
        assert!(!allows("8.8.8.8", &[]));
        assert!(!allows("8.8.8.8", &["203.0.113.9"]), "a stranger names a sender");
        // Through a proxy.
        assert!(allows("10.1.1.1", &["203.0.113.9"]));
        assert!(allows("::ffff:10.1.1.1", &["203.0.113.9:4711"]));
        assert!(allows("fd00::1", &["8.8.8.8 , 203.0.113.9"]), "the last is the proxy's own word");
        assert!(!allows("10.1.1.1", &["203.0.113.9, 8.8.8.8"]), "a stranger named a sender to the proxy");
        assert!(!allows("10.1.1.1", &["203.0.113.9", "8.8.8.8"]), "in a header of its own");
        assert!(!allows("10.1.1.1", &[]), "the proxy itself is no sender");
        // Through several.
        assert!(allows("10.1.1.1", &["203.0.113.9, [fd00::2]:80, 10.2.2.2"]));
        assert!(allows("10.1.1.1", &["1.1.1.1, 203.0.113.9", "fd00::2", "10.2.2.2"]));
        assert!(!allows("10.1.1.1", &["10.3.3.3, 10.2.2.2"]));
        for nonsense in ["", "unknown", "203.0.113.9,", "203.0.113.9:x:y", "[203.0.113.9]", "[::1", "\u{e9}"] {
            assert!(!allows("10.1.1.1", &[nonsense]), "{nonsense}");
        }
    }
}
