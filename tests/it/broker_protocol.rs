//! A `security.protocol` that does not match the broker's port is logged with the setting to change.

use serde_json::Value;

use crate::support::bridge::Bridge;
use crate::support::journal;
use crate::support::kafka;
use crate::support::kafka::Kafka;
use crate::support::ports;
use crate::support::wait;

#[test]
fn a_wrong_security_protocol_is_logged_once_with_the_setting_to_change() {
    let Some(secure) = Kafka::with(kafka::Settings { nodes: 1, tls_and_scram: true }) else { return };
    let Some(plain) = Kafka::shared() else { return };
    let login = ["sasl.mechanism=SCRAM-SHA-256", "sasl.username=alice", "sasl.password=unused"];
    let unverified = "enable.ssl.certificate.verification=false";
    for (kafka, protocol, more, advice) in [
        (&secure, "plaintext", [].as_slice(), "if its port speaks TLS, set security.protocol to ssl or sasl_ssl"),
        (&secure, "sasl_plaintext", &login, "if its port speaks TLS, set security.protocol to ssl or sasl_ssl"),
        (&secure, "ssl", &[unverified], "if it requires SASL, set security.protocol to sasl_ssl or sasl_plaintext"),
        (plain, "ssl", &[], "if its port speaks without TLS, set security.protocol to plaintext or sasl_plaintext"),
        (
            plain,
            "sasl_ssl",
            &login,
            "if its port speaks without TLS, set security.protocol to plaintext or sasl_plaintext",
        ),
    ] {
        let protocol = format!("security.protocol={protocol}");
        let settings = journal::builder(&kafka.bootstrap(), "protocol", "").args(&["--kafka", &protocol]);
        let settings = more.iter().fold(settings, |settings, property| settings.args(&["--kafka", property]));
        let (_folder, dir) = journal::folder();
        let bridge = settings.start_in(&dir);
        wait::until("a hint is logged", || !hints(&bridge).is_empty());
        // The client connects again and again.
        wait::until("kafka does not answer", || bridge.stderr().contains("kafka does not answer"));
        let hints = hints(&bridge);
        assert!(hints.len() == 1 && hints[0].ends_with(advice), "{protocol}: {hints:?}");
    }
}

#[test]
fn a_log_line_about_a_connection_has_one_message() {
    let (_folder, dir) = journal::folder();
    let nobody = ports::nobody();
    let bridge = journal::builder(&nobody, "nobody", "").start_in(&dir);
    wait::until("librdkafka says something", || bridge.stderr().contains("Connection refused"));
    for line in bridge.stderr().lines() {
        assert_eq!(line.matches("\"message\":").count(), 1, "{line}");
    }
}

/// The warnings that name the setting.
fn hints(bridge: &Bridge) -> Vec<String> {
    let stderr = bridge.stderr();
    let lines = stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let warnings = lines.filter(|line| line["level"] == "WARN");
    let messages = warnings.map(|line| line["fields"]["message"].as_str().unwrap().to_owned());
    messages.filter(|message| message.contains("security.protocol")).collect()
}
