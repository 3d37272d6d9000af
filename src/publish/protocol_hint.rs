//! Tells from what librdkafka says of a broken connection that `security.protocol` is probably not that of the broker's port.
//!
//! Neither side says so itself: a broker that gets what it does not understand closes the connection.

/// A connection that was up for so long was not closed because of the protocol.
const SOON_MS: u64 = 2000;

/// How far a connection had come, as a message of librdkafka ends: after how many milliseconds, and in which state.
pub(super) fn state(message: &str) -> Option<(&str, &str)> {
    // It ends in "(after 12ms in state UP)", and may go on behind the state.
    let (ms, state) = message.rsplit_once("(after ")?.1.split_once("ms in state ")?;
    Some((ms, state.split([',', ')']).next()?))
}

/// What to do about it, if this message of librdkafka is a sign of the wrong `security.protocol`.
pub(super) fn of(message: &str) -> Option<&'static str> {
    let (ms, state) = state(message)?;
    // The name of a broker begins with the protocol, unless that is plaintext.
    let (has_tls, has_sasl) = (message.contains("ssl://"), message.contains("sasl_"));
    let is_closed = message.contains("Disconnected");
    match state {
        "APIVERSION_QUERY" if is_closed && !has_tls => Some(
            "a broker closes the connection instead of answering; if its port speaks TLS, set security.protocol to ssl or sasl_ssl",
        ),
        // Of bytes that are no answer of a broker librdkafka takes the first four for a length.
        "APIVERSION_QUERY" if message.contains("Invalid response size") => Some(
            "what answers in the place of a broker does not speak Kafka, or speaks TLS; see bootstrap.servers and security.protocol",
        ),
        "SSL_HANDSHAKE" if is_closed || message.contains("wrong version number") => Some(
            "a broker does not answer in TLS; if its port speaks without TLS, set security.protocol to plaintext or sasl_plaintext",
        ),
        "UP" if is_closed && !has_sasl && ms.parse::<u64>().is_ok_and(|ms| ms < SOON_MS) => Some(
            "a broker closes the connection just after it was made; if it requires SASL, set security.protocol to sasl_ssl or sasl_plaintext",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signs_of_the_wrong_protocol_have_a_hint() {
        for (message, expected) in [
            (
                "k:9092/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 30ms in state APIVERSION_QUERY)",
                Some("to ssl or"),
            ),
            (
                "sasl_plaintext://k:9092/1: Disconnected (after 2ms in state APIVERSION_QUERY, 1 identical error(s) suppressed)",
                Some("to ssl or"),
            ),
            (
                "k:80/1: Receive failed: Invalid response size 1213486160 (0..100000000): increase receive.message.max.bytes (after 0ms in state APIVERSION_QUERY)",
                Some("see bootstrap.servers"),
            ),
            ("ssl://k:9092/1: Disconnected (after 2ms in state APIVERSION_QUERY)", None),
            (
                "ssl://k:9092/1: SSL handshake failed: Disconnected: SSL connection closed by peer: connecting to a PLAINTEXT broker listener? (after 6ms in state SSL_HANDSHAKE)",
                Some("to plaintext"),
            ),
            (
                "sasl_ssl://k:9092/1: SSL handshake failed: error:0A00010B:SSL routines::wrong version number (after 6ms in state SSL_HANDSHAKE)",
                Some("to plaintext"),
            ),
            (
                "ssl://k:9092/1: SSL handshake failed: certificate verify failed: broker certificate could not be verified (after 8ms in state SSL_HANDSHAKE)",
                None,
            ),
            (
                "ssl://k:9092/1: Disconnected: SSL connection closed by peer (after 3ms in state UP)",
                Some("to sasl_ssl"),
            ),
            (
                "k:9092/1: Disconnected: connection closed by peer: receive 0 after POLLIN (after 600000ms in state UP)",
                None,
            ),
            ("sasl_ssl://k:9092/1: Disconnected: connection reset by peer (after 3ms in state UP)", None),
            ("k:9092/1: Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)", None),
            ("k:9092/1: 3 request(s) timed out: disconnect (average rtt 2.5ms)", None),
            ("", None),
        ] {
            let hint = of(message);
            assert_eq!(hint.is_some(), expected.is_some(), "{message}: {hint:?}");
            assert!(hint.unwrap_or_default().contains(expected.unwrap_or_default()), "{message}: {hint:?}");
        }
    }
}
