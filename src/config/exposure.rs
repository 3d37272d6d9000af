//! Settings that are valid, and leave something open to strangers: told as warnings.

use crate::config::Config;
use crate::config::brokers::Broker;
use crate::config::kafka;
use crate::config::problem::Warning;

/// What the configuration leaves open, in the order of the settings.
pub(crate) fn warnings(config: &Config) -> Vec<Warning> {
    let admin = config.admin.listen;
    let admin = (!admin.ip().to_canonical().is_loopback()).then_some(Warning::AdminReachable(admin));
    let unsigned = config.apps.iter().filter(|app| app.token_files.is_empty());
    let unsigned = unsigned.map(|app| Warning::Unsigned(app.sdk_app_id));
    admin.into_iter().chain(unsigned).chain(of_kafka(config)).collect()
}

fn of_kafka(config: &Config) -> impl Iterator<Item = Warning> {
    let properties = &config.kafka.properties;
    let is = |name: &str, values: &[&str]| {
        properties.get(name).is_some_and(|given| values.iter().any(|value| value.eq_ignore_ascii_case(given)))
    };
    let protocol = kafka::security_protocol(properties).to_ascii_lowercase();
    let remote = kafka::servers(properties).find(|server| {
        // Those that cannot be parsed have been told as mistakes.
        Broker::parse(server, &protocol).is_ok_and(|broker| !broker.is_local())
    });
    let plaintext = remote.filter(|_broker| protocol.ends_with("plaintext"));
    let plaintext =
        plaintext.map(|broker| Warning::Plaintext { broker: broker.to_owned(), protocol: protocol.clone() });
    let unverified = is(kafka::VERIFICATION, kafka::FALSE).then_some(Warning::Unverified(kafka::VERIFICATION, "false"));
    let any_host = is(kafka::IDENTIFICATION, &["none"]).then_some(Warning::Unverified(kafka::IDENTIFICATION, "none"));
    [plaintext, unverified, any_host].into_iter().flatten()
}
