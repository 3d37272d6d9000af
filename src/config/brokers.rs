//! Checks the addresses in `bootstrap.servers`, more strictly than librdkafka, which takes a port modulo 65536, and a word as port 0.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

/// The prefixes that librdkafka supports before `://`, and compares with `security.protocol`.
const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];

/// The longest DNS name.
const NAME_LENGTH_MAX: usize = 253;

const EMPTY: &str = "is empty; expected HOST:PORT, with commas between";
const SCHEME: &str =
    "expected HOST:PORT; the only prefixes are plaintext://, ssl://, sasl_plaintext:// and sasl_ssl://";
/// The client would skip this address and all behind it.
const OTHER_PROTOCOL: &str = "its protocol is not that of security.protocol, so the client would ignore it";
const NO_HOST: &str = "the host before the port is missing";
const HOST: &str = "the host must be a name or an IP address; addresses are separated by commas";
const PORT: &str = "the port must be a number from 1 to 65535";
const IPV6: &str = "an IPv6 address with a port is written as [::1]:9092";

/// The host of `[PROTOCOL://]HOST[:PORT]`.
///
/// # Errors
///
/// Why the client would misunderstand it.
pub(super) fn host<'b>(text: &'b str, security_protocol: &str) -> Result<&'b str, &'static str> {
    let address = match text.split_once("://") {
        None => text,
        Some((protocol, _)) if !PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(protocol)) => {
            return Err(SCHEME);
        }
        Some((protocol, _)) if !protocol.eq_ignore_ascii_case(security_protocol) => return Err(OTHER_PROTOCOL),
        Some((_, address)) => address,
    };
    if address.is_empty() {
        return Err(EMPTY);
    }
    let (host, port) = match address.strip_prefix('[').map(|rest| rest.split_once(']').ok_or(HOST)) {
        Some(bracketed) => {
            let (host, port) = bracketed?;
            (Some(host).filter(|host| is_ipv6(host)).ok_or(HOST)?, port)
        }
        None if address.matches(':').count() > 1 => return bare_ipv6(address),
        None => {
            let (host, port) = address.split_at(address.find(':').unwrap_or(address.len()));
            if host.is_empty() {
                return Err(NO_HOST);
            }
            (Some(host).filter(|host| is_host(host)).ok_or(HOST)?, port)
        }
    };
    if port.is_empty() || port.strip_prefix(':').is_some_and(is_port) { Ok(host) } else { Err(PORT) }
}

/// Whether traffic to `host` stays on this machine.
pub(super) fn is_local(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback() || address.is_unspecified();
    name == "localhost" || name.ends_with(".localhost") || name.parse().is_ok_and(is_loopback)
}

/// The client takes the whole text for the address, with the default port: `fe80::1:9092` would be another machine.
fn bare_ipv6(address: &str) -> Result<&str, &'static str> {
    let has_port = |is_wanted: fn(&str) -> bool| {
        address.rsplit_once(':').is_some_and(|(address, port)| is_ipv6(address) && is_wanted(port))
    };
    match is_ipv6(address) {
        true if !has_port(is_port) => Ok(address),
        _ if has_port(|_any| true) => Err(IPV6),
        _ => Err(HOST),
    }
}

/// Whether it is an IPv4 address, or a name in DNS or a hosts file. Docker's names have underscores.
fn is_host(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    // No top-level domain is a number: such a text is meant as an address.
    let is_name = !name.rsplit('.').next().is_some_and(is_number);
    name.len() <= NAME_LENGTH_MAX && name.split('.').all(is_label) && (is_name || host.parse::<Ipv4Addr>().is_ok())
}

/// Whether it is an IPv6 address, possibly with a zone.
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

    fn parse(text: &str) -> Result<&str, &'static str> {
        host(text, "SASL_SSL")
    }

    #[test]
    fn takes_what_librdkafka_understands() {
        for (text, expected) in [
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
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn rejects_what_librdkafka_would_misunderstand() {
        for (text, bad) in [
            ("", EMPTY),
            ("sasl_ssl://", EMPTY),
            ("127.0.0.1:99999", PORT),
            ("kafka:65536", PORT),
            ("kafka:0", PORT),
            ("kafka:", PORT),
            ("kafka:abc", PORT),
            ("kafka:+9092", PORT),
            ("kafka:-1", PORT),
            ("kafka:90 92", PORT),
            ("kafka:9092/", PORT),
            ("[::1]9092", PORT),
            ("[::1]:", PORT),
            (":9092", NO_HOST),
            ("http://kafka:9092", SCHEME),
            ("://kafka:9092", SCHEME),
            ("a:9092 sasl_ssl://b:9092", SCHEME),
            ("PLAINTEXT://kafka:9092", OTHER_PROTOCOL),
            ("a:9092;b:9092", HOST),
            ("a:9092 b:9092", HOST),
            ("a;b", HOST),
            ("my kafka:9092", HOST),
            ("kafka/9092", HOST),
            ("user@kafka:9092", HOST),
            ("user:password@kafka:9092", HOST),
            ("kafk\u{e4}:9092", HOST),
            ("kafka..com:9092", HOST),
            ("256.0.0.1:9092", HOST),
            ("10.0.0:9092", HOST),
            ("9092", HOST),
            ("[kafka]:9092", HOST),
            ("[10.0.0.1]:9092", HOST),
            ("[::1:9092", HOST),
            ("fe80::1:9092", IPV6),
            ("::1:9092", IPV6),
            ("2001:db8:0:0:0:0:0:1:9092", IPV6),
            ("::1:99999", IPV6),
            ("::1:abcdef", IPV6),
        ] {
            assert_eq!(parse(text), Err(bad), "{text}");
        }
        assert_eq!(parse(&format!("{}.com:9092", "a".repeat(64))), Err(HOST));
        assert_eq!(parse(&format!("{}:9092", "a.".repeat(128))), Err(HOST));
    }

    #[test]
    fn only_addresses_of_this_machine_are_local() {
        let is_local_address = |text: &str| is_local(host(text, "plaintext").unwrap());
        for local in [
            "localhost",
            "LOCALHOST:1",
            "kafka.localhost.",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:1",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_local_address(local), "{local}");
        }
        for remote in ["kafka:1", "localhost.example.com", "10.0.0.1", "[fe80::1]:1", "notlocalhost"] {
            assert!(!is_local_address(remote), "{remote}");
        }
    }
}
