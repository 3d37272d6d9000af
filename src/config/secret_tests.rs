//! Tests that secrets are not printed, and that insecure settings cause warnings.

use crate::config::layers::Layers;
use crate::config::tests::Given;
use crate::config::tests::LEAST;
use crate::config::tests::flags;
use crate::config::tests::variables;

#[test]
fn a_secret_on_the_command_line_is_warned_of_and_not_repeated() {
    for name in [
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.assertion.private.key.pem",
        "sasl.oauthbearer.assertion.private.key.passphrase",
    ] {
        let pair = format!("{name}=hidden");
        let mut layers = Layers::default();
        layers.flags(&flags(&[("kafka", &pair)]));
        let warning = "a secret on a command line can be read by every user of the machine";
        assert_eq!(layers.warnings, [format!("--kafka {name}: {warning}")]);
    }
    assert!(!format!("{:?}", flags(&[("kafka", "sasl.password=hidden")])).contains("hidden"));
}

#[test]
fn warns_of_what_is_open_to_strangers_and_of_nothing_else() {
    let warnings = |flags: &[(&'static str, &str)]| {
        let closed = [("sdk-app-id", "1"), ("token-file", "t"), ("admin-listen", "127.0.0.1:0")];
        let flags = &[&closed[..], flags].concat();
        Given { flags, ..Given::default() }.config().warnings
    };
    for closed in [
        &[("brokers", "localhost:9092,127.0.0.1:1,[::1]:2")][..],
        &[("brokers", "kafka:9093"), ("kafka", "security.protocol=SSL")],
        &[
            ("brokers", "kafka:9093"),
            ("kafka", "security.protocol=sasl_ssl"),
            ("kafka", "ssl.endpoint.identification.algorithm=https"),
        ],
        &[("embedded-broker", "")],
    ] {
        assert_eq!(warnings(closed), [""; 0], "{closed:?}");
    }
    for (open, expected) in [
        (
            &[("brokers", "127.0.0.1:1,kafka:9092")][..],
            "kafka.security.protocol: plaintext to kafka:9092: the traffic is not encrypted; use ssl or sasl_ssl",
        ),
        (
            &[("brokers", "10.0.0.1"), ("kafka", "security.protocol=SASL_PLAINTEXT")],
            "kafka.security.protocol: sasl_plaintext to 10.0.0.1: the traffic is not encrypted; use ssl or sasl_ssl",
        ),
        (
            &[("brokers", "a"), ("kafka", "security.protocol=ssl"), ("kafka", "enable.ssl.certificate.verification=F")],
            "kafka.enable.ssl.certificate.verification is false: a man in the middle can impersonate a broker",
        ),
        (
            &[
                ("brokers", "a"),
                ("kafka", "security.protocol=ssl"),
                ("kafka", "ssl.endpoint.identification.algorithm=None"),
            ],
            "kafka.ssl.endpoint.identification.algorithm is none: a man in the middle can impersonate a broker",
        ),
    ] {
        assert_eq!(warnings(open), [expected], "{open:?}");
    }
}

#[test]
fn an_admin_listener_on_any_address_but_loopback_is_a_warning() {
    for (listen, is_reachable) in
        [("0.0.0.0:1", true), ("[::]:1", true), ("10.0.0.1:1", true), ("127.0.0.2:1", false), ("[::1]:1", false)]
    {
        let given = Given { file: LEAST, flags: &[("admin-listen", listen)], ..Given::default() };
        let has_warning = given.config().warnings.iter().any(|warning| warning.starts_with("admin.listen: "));
        assert_eq!(has_warning, is_reachable, "{listen}");
    }
}

#[test]
fn an_empty_variable_of_a_security_setting_is_a_mistake_and_of_others_is_not() {
    let refused: Vec<String> = variables()
        .into_iter()
        .filter(|name| Given { file: LEAST, variables: &[(name, "")], ..Given::default() }.load().is_err())
        .collect();
    assert_eq!(
        refused,
        [
            "CALLBRIDGE_ADMIN_TOKEN_FILES",
            "CALLBRIDGE_CALLBACKS_PATH",
            "CALLBRIDGE_CALLBACKS_SENDERS",
            "CALLBRIDGE_CALLBACKS_TLS_CERTIFICATE_FILE",
            "CALLBRIDGE_CALLBACKS_TLS_CLIENT_CA_FILE",
            "CALLBRIDGE_CALLBACKS_TLS_KEY_FILE",
            "CALLBRIDGE_TOKEN_FILE",
        ]
    );
    let variables = &[("CALLBRIDGE_TOKEN_FILE", ""), ("CALLBRIDGE_CALLBACKS_SENDERS", "")];
    let why = "is empty: set a value, or unset it to disable this check of senders";
    assert_eq!(
        Given { file: LEAST, variables, ..Given::default() }.problems(),
        variables.map(|(name, _)| format!("{name}: {why}")).iter().rev().cloned().collect::<Vec<_>>()
    );
}

#[test]
fn a_value_of_the_wrong_type_is_not_repeated_as_it_may_be_a_secret() {
    for text in [
        "apps = [{ sdk_app_id = 1, token_files = \"hidden\" }]",
        "apps = [{ sdk_app_id = 1, token_files = [[\"hidden\"]] }]",
        "apps = [\"hidden\"]",
        "callbacks.path = \"hidden\"",
        "callbacks.path = [\"hidden, expected `hidden\"]",
        "callbacks = \"hidden\"",
        "ack = \"hidden`, expected hidden\"",
        "kafka.\"sasl.password\" = [\"hidden\"]",
        "kafka = \"hidden\"",
    ] {
        let problems = Given { file: text, ..Given::default() }.problems();
        assert!(!problems.concat().contains("hidden"), "{problems:?}");
    }
}
