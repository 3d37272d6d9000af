//! The addresses in `bootstrap.servers`, read more strictly than librdkafka does: it takes the digits of a port modulo 65536, and a word
//! as port 0.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

/// What librdkafka allows before `://`, and compares with `security.protocol`.
const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];

/// The longest name of the DNS.
const NAME_LENGTH_MAX: usize = 253;

/// Why a text is no address of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadBroker {
    /// There is nothing between two commas, or nothing at all.
    #[error("is empty; expected HOST:PORT, with commas between")]
    Empty,
    /// A prefix that is no protocol of Kafka.
    #[error("expected HOST:PORT; the only prefixes are plaintext://, ssl://, sasl_plaintext:// and sasl_ssl://")]
    Scheme,
    /// The client would pass over this address and all behind it.
    #[error("its protocol is not that of security.protocol, so the client would ignore it")]
    OtherProtocol,
    /// There is a port, but no host.
    #[error("the host before the port is missing")]
    NoHost,
    /// The host is neither a name nor an address.
    #[error("the host must be a name or an IP address; addresses are separated by commas")]
    Host,
    /// The port is no port.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// An address of IPv6 whose end may be a port.
    #[error("an IPv6 address with a port is written as [::1]:9092")]
    Ipv6,
}

/// One broker, as far as callbridge must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broker<'b> {
    host: &'b str,
}

impl<'b> Broker<'b> {
    /// Reads `[PROTOCOL://]HOST[:PORT]`.
    ///
    /// # Errors
    ///
    /// The client would not understand it, or understand something else.
    pub(super) fn parse(text: &'b str, security_protocol: &str) -> Result<Self, BadBroker> {
        let address = match text.split_once("://") {
            None => text,
            Some((protocol, address)) => {
                if !PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(protocol)) {
                    return Err(BadBroker::Scheme);
                }
                if !protocol.eq_ignore_ascii_case(security_protocol) {
                    return Err(BadBroker::OtherProtocol);
                }
                address
            }
        };
        if address.is_empty() {
            return Err(BadBroker::Empty);
        }
        if let Some(rest) = address.strip_prefix('[') {
            return Self::bracketed(rest);
        }
        if address.matches(':').count() > 1 {
            return Self::bare_ipv6(address);
        }
        let (host, port) = address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port)));
        if host.is_empty() {
            return Err(BadBroker::NoHost);
        }
        if !is_host(host) {
            return Err(BadBroker::Host);
        }
        if port.is_some_and(|port| !is_port(port)) {
            return Err(BadBroker::Port);
        }
        Ok(Self { host })
    }

    /// `rest` is what follows the bracket.
    fn bracketed(rest: &'b str) -> Result<Self, BadBroker> {
        let (host, behind) = rest.split_once(']').ok_or(BadBroker::Host)?;
        if !is_ipv6(host) {
            return Err(BadBroker::Host);
        }
        match behind.strip_prefix(':') {
            None if behind.is_empty() => Ok(Self { host }),
            Some(port) if is_port(port) => Ok(Self { host }),
            None | Some(_) => Err(BadBroker::Port),
        }
    }

    /// The client takes all of it for the address, and the default port: `fe80::1:9092` would be another machine.
    fn bare_ipv6(address: &'b str) -> Result<Self, BadBroker> {
        let may_end_in_port = address.rsplit_once(':').is_some_and(|(address, port)| is_ipv6(address) && is_port(port));
        if is_ipv6(address) && !may_end_in_port {
            return Ok(Self { host: address });
        }
        let has_ipv6 = address.rsplit_once(':').is_some_and(|(address, _port)| is_ipv6(address));
        Err(if has_ipv6 { BadBroker::Ipv6 } else { BadBroker::Host })
    }

    /// Whether what is sent to it stays on this machine.
    pub(super) fn is_local(self) -> bool {
        let name = self.host.strip_suffix('.').unwrap_or(self.host).to_ascii_lowercase();
        let is_loopback = |address: IpAddr| address.to_canonical().is_loopback() || address.is_unspecified();
        name == "localhost" || name.ends_with(".localhost") || name.parse().is_ok_and(is_loopback)
    }
}

/// Whether it is an IPv4 address, or a name that DNS or a hosts file can hold. Docker's names have underscores.
fn is_host(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    // No top-level domain is a number: such a name is meant as an address.
    let is_name = !name.rsplit('.').next().is_some_and(is_number);
    name.len() <= NAME_LENGTH_MAX && name.split('.').all(is_label) && (is_name || host.parse::<Ipv4Addr>().is_ok())
}

/// Whether it is an IPv6 address, perhaps with a zone.
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = host.split_once('%').map_or((host, None), |(address, zone)| (address, Some(zone)));
    let is_zone = |zone: &str| !zone.is_empty() && zone.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    address.parse::<Ipv6Addr>().is_ok() && zone.is_none_or(is_zone)
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<&str, BadBroker> {
        Broker::parse(text, "SASL_SSL").map(|broker| broker.host)
    }

    #[test]
    fn takes_what_librdkafka_understands() {
        for (text, host) in [
            ("kafka-1.kafka_net.svc:9092", "kafka-1.kafka_net.svc"),
            ("kafka", "kafka"),
            ("kafka.example.com.:65535", "kafka.example.com."),
            ("10.0.0.1:1", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.1"),
            ("1-2.3c:9092", "1-2.3c"),
            ("[::1]:9092", "::1"),
            ("[::1]", "::1"),
            ("[fe80::1%eth0]:9092", "fe80::1%eth0"),
            ("::1", "::1"),
            ("2001:db8::abcd", "2001:db8::abcd"),
            ("2001:db8:0:0:0:0:0:1", "2001:db8:0:0:0:0:0:1"),
            ("SASL_SSL://kafka:9093", "kafka"),
            ("sasl_ssl://[::1]", "::1"),
        ] {
            assert_eq!(parse(text), Ok(host), "{text}");
        }
    }

    #[test]
    fn rejects_what_librdkafka_would_misunderstand() {
        for (text, bad) in [
            ("", BadBroker::Empty),
            ("sasl_ssl://", BadBroker::Empty),
            ("127.0.0.1:99999", BadBroker::Port),
            ("kafka:65536", BadBroker::Port),
            ("kafka:0", BadBroker::Port),
            ("kafka:", BadBroker::Port),
            ("kafka:abc", BadBroker::Port),
            ("kafka:+9092", BadBroker::Port),
            ("kafka:-1", BadBroker::Port),
            ("kafka:90 92", BadBroker::Port),
            ("kafka:9092/", BadBroker::Port),
            ("[::1]9092", BadBroker::Port),
            ("[::1]:", BadBroker::Port),
            (":9092", BadBroker::NoHost),
            ("http://kafka:9092", BadBroker::Scheme),
            ("://kafka:9092", BadBroker::Scheme),
            ("a:9092 sasl_ssl://b:9092", BadBroker::Scheme),
            ("PLAINTEXT://kafka:9092", BadBroker::OtherProtocol),
            ("a:9092;b:9092", BadBroker::Host),
            ("a:9092 b:9092", BadBroker::Host),
            ("a;b", BadBroker::Host),
            ("my kafka:9092", BadBroker::Host),
            ("kafka/9092", BadBroker::Host),
            ("user@kafka:9092", BadBroker::Host),
            ("user:password@kafka:9092", BadBroker::Host),
            ("kafk\u{e4}:9092", BadBroker::Host),
            ("kafka..com:9092", BadBroker::Host),
            ("256.0.0.1:9092", BadBroker::Host),
            ("10.0.0:9092", BadBroker::Host),
            ("9092", BadBroker::Host),
            ("[kafka]:9092", BadBroker::Host),
            ("[10.0.0.1]:9092", BadBroker::Host),
            ("[::1:9092", BadBroker::Host),
            ("fe80::1:9092", BadBroker::Ipv6),
            ("::1:9092", BadBroker::Ipv6),
            ("2001:db8:0:0:0:0:0:1:9092", BadBroker::Ipv6),
            ("::1:99999", BadBroker::Ipv6),
            ("::1:abcdef", BadBroker::Ipv6),
        ] {
            assert_eq!(parse(text), Err(bad), "{text}");
        }
        assert_eq!(parse(&format!("{}.com:9092", "a".repeat(64))), Err(BadBroker::Host));
        assert_eq!(parse(&format!("{}:9092", "a.".repeat(128))), Err(BadBroker::Host));
    }

    #[test]
    fn only_addresses_of_this_machine_are_local() {
        let is_local = |text: &str| Broker::parse(text, "plaintext").unwrap().is_local();
        for local in [
            "localhost",
            "LOCALHOST:1",
            "kafka.localhost.",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:1",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_local(local), "{local}");
        }
        for remote in ["kafka:1", "localhost.example.com", "10.0.0.1", "[fe80::1]:1", "notlocalhost"] {
            assert!(!is_local(remote), "{remote}");
        }
    }
}
