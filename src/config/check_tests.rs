//! Errors in the configuration, and their messages.

use crate::config;
use crate::config::problem::Origin;
use crate::config::problem::Problem;
use crate::config::tests::Given;
use crate::config::tests::LEAST;
use crate::config::tests::lines;
use crate::config::tests::properties;
use crate::config::tests::with_file;
use crate::config::tests::without;
use proptest::prelude::any;
use proptest::proptest;
use tempfile::TempDir;

/// For each kind of problem, a file with it, and the message.
const FAULTY_FILES: &[(&str, &str)] = &[
    ("ack = ", "callbridge.toml:1:7: string values must be quoted, expected literal string"),
    ("ack = \"broker\"\nack = \"memory\"", "callbridge.toml:2:1: duplicate key"),
    ("ak = 3", "callbridge.toml:1: ak: no such setting"),
    ("drain_second = 3", "callbridge.toml:1: drain_second: no such setting; did you mean drain_seconds?"),
    ("[nonsense]\n[]", "callbridge.toml:2:2: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`"),
    ("\"apps[].topic_prefix\" = \"x\"", "callbridge.toml:1: apps[].topic_prefix: no such setting"),
    ("ack = 3", "callbridge.toml:1:7: ack: must be text"),
    ("\ncallbacks = 3", "callbridge.toml:2: callbacks: must be a table"),
    ("callbacks.tls = [1]", "callbridge.toml:1: callbacks.tls: must be a table"),
    ("callbacks.tls = {}", "callbridge.toml:1: callbacks.tls.certificate_file: is missing: callbacks.tls needs it"),
    ("callbacks.apps = [{}]", "callbridge.toml:1: callbacks.apps: no such setting"),
    ("admin.listen = {}", "callbridge.toml:1:7: admin.listen: must be an IP address and a port, like 0.0.0.0:8080"),
    (
        "[nonsense.more]\nx = 1\n[]",
        "callbridge.toml:3:2: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`",
    ),
    ("\"apps.0\" = 1", "callbridge.toml:1: apps.0: no such setting"),
    ("ack = \"\"", "callbridge.toml:1: ack: must not be empty"),
    ("ack = \"disk\"", "callbridge.toml:1:7: ack: must be one of journal, broker, memory"),
    ("journal.segment_bytes = 2000000", "callbridge.toml:1: journal.segment_bytes: must be a multiple of 4096"),
    ("journal.segment_bytes = 4096", "callbridge.toml:1: journal.segment_bytes: must be from 1048576 to 1073741824"),
    (
        "callbacks.body_bytes_max = 8388608\nkafka.\"message.max.bytes\" = 8454144",
        "callbridge.toml:1: journal.segment_bytes: must be at least four times callbacks.body_bytes_max: a segment must \
         hold the longest bodies",
    ),
    (
        "journal.quota_bytes = 16777216",
        "callbridge.toml:1: journal.quota_bytes: must be at least four times journal.segment_bytes: one is written while others are delivered and compacted",
    ),
    ("journal.on_corruption = \"hope\"", "callbridge.toml:1:25: journal.on_corruption: must be one of refuse, salvage"),
    ("\nworkers = \"2\"", "callbridge.toml:2:11: workers: must be a whole number"),
    ("workers = 99999999999999999999", "callbridge.toml:1:11: workers: must be a number of 64 bits at most"),
    ("workers = 1.5", "callbridge.toml:1:11: workers: must be a whole number"),
    ("workers = -1", "callbridge.toml:1: workers: must be from 0 to 1024"),
    ("drain_seconds = 0", "callbridge.toml:1: drain_seconds: must be from 1 to 3600"),
    (
        "drain_seconds = 1",
        "callbridge.toml:1: callbacks.keep_accepting_ms: must be below drain_seconds: a stop would have no time left to \
         drain",
    ),
    (
        "admin.listen = \"127.0.0.1:8080\"",
        "callbridge.toml:1: admin.listen: must not be the address of callbacks.listen",
    ),
    ("embedded_broker = \"no\"", "callbridge.toml:1:19: embedded_broker: must be true or false"),
    (
        "callbacks.listen = \"localhost\"",
        "callbridge.toml:1:20: callbacks.listen: must be an IP address and a port, like 0.0.0.0:8080",
    ),
    (
        "callbacks.path = \"callbacks\"",
        "callbridge.toml:1:18: callbacks.path: must be the path of a URL: it begins with '/', and has no query and no spaces",
    ),
    (
        "callbacks.senders = [\"203.0.113.0/24\", \"localhost\"]",
        "callbridge.toml:1:21: callbacks.senders: \"localhost\": not an address or a network, like 203.0.113.7 or \
         2001:db8::/32",
    ),
    (
        "callbacks.proxies = [\"10.0.0.1/8\"]",
        "callbridge.toml:1:21: callbacks.proxies: \"10.0.0.1/8\": the address has bits set behind the prefix",
    ),
    (
        "callbacks.senders = []",
        "callbridge.toml:1:21: callbacks.senders: must be at least one network, like 203.0.113.0/24",
    ),
    (
        "callbacks.proxy_protocol = true",
        "callbridge.toml:1: callbacks.proxy_protocol: needs callbacks.proxies: the header must not be trusted from other peers",
    ),
    (
        "callbacks.tls.certificate_file = \"c\"",
        "callbridge.toml:1: callbacks.tls.key_file: is missing: callbacks.tls needs it",
    ),
    (
        "callbacks.tls.key_file = \"c\"",
        "callbridge.toml:1: callbacks.tls.certificate_file: is missing: callbacks.tls needs it",
    ),
    (
        "callbacks.tls.client_ca_file = \"c\"",
        "callbridge.toml:1: callbacks.tls.certificate_file: is missing: callbacks.tls needs it",
    ),
    ("callbacks.sign_window_seconds = 0", "callbridge.toml:1: callbacks.sign_window_seconds: must be from 1 to 86400"),
    (
        "callbacks.deadline_ms = 2000",
        "callbridge.toml:1: callbacks.deadline_ms: must be below 2000: the sender waits 2 seconds, and may never send the callback again",
    ),
    (
        "callbacks.body_bytes_max = 934465\njournal.segment_bytes = 16777216",
        "callbridge.toml:1: kafka.message.max.bytes: must be at least 65536 above callbacks.body_bytes_max: a callback that cannot be used is kept as one raw record",
    ),
    (
        "kafka.\"message.max.bytes\" = 327679",
        "callbridge.toml:1: kafka.message.max.bytes: must be at least 65536 above callbacks.body_bytes_max: a callback that cannot be used is kept as one raw record",
    ),
    ("callbacks.body_bytes_max = 16777217", "callbridge.toml:1: callbacks.body_bytes_max: must be from 1 to 16777216"),
    (
        "queue.captures_max = 281474976710657",
        "callbridge.toml:1: queue.captures_max: must be from 1 to 281474976710656",
    ),
    (
        "callbacks.bodies_bytes_max = 1048575",
        "callbridge.toml:1: callbacks.bodies_bytes_max: must be at least four times callbacks.body_bytes_max: a quarter is reserved for before-callbacks",
    ),
    (
        "queue.bytes_max = 262143",
        "callbridge.toml:1: queue.bytes_max: must not be below callbacks.body_bytes_max: the longest body would never \
         fit",
    ),
    (
        "topics.retention_ms = 0",
        "callbridge.toml:1: topics.retention_ms: 0 would delete records before anyone reads them",
    ),
    (
        "topics = { replication_factor = 1, min_insync_replicas = 2 }",
        "callbridge.toml:1: topics.min_insync_replicas: must not be above topics.replication_factor: no record could \
         ever be written",
    ),
    ("topics.commands = 3", "callbridge.toml:1:19: topics.commands: must be a list of commands"),
    ("topics.commands = \"\"", "callbridge.toml:1: topics.commands: must not be empty"),
    (
        "decide.commands = [\"Push.*\"]",
        "callbridge.toml:1:19: decide.commands: must be one of all, OfficialAccount.*, Sns.*, C2C.*, Group.*, \
         OfficialAccount.CallbackBeforeAddSubscriber, Sns.CallbackPrevFriendAdd, Sns.CallbackPrevFriendResponse, \
         C2C.CallbackBeforeSendMsg, Group.CallbackBeforeApplyJoinGroup, Group.CallbackBeforeInviteJoinGroup, \
         Group.CallbackBeforeSendMsg",
    ),
    (
        "admin.token_files = []",
        "callbridge.toml:1:21: admin.token_files: must be at least one file; leave it out if the API does not write the blocklist",
    ),
    ("blocklist.files = \"a.txt\"", "callbridge.toml:1:19: blocklist.files: must be a list of texts"),
    ("blocklist.files = [\"\"]", "callbridge.toml:1: blocklist.files: must not be empty"),
    ("blocklist.files = [1]", "callbridge.toml:1:19: blocklist.files: must be text"),
    (
        "log.filter = \"callbridge=loud\"",
        "callbridge.toml:1:14: log.filter: must be a filter of tracing, like info or callbridge=debug,info",
    ),
    ("kafka.linger.ms = 5.5", "callbridge.toml:1:19: kafka.linger.ms: must be text"),
    (
        "kafka.linger.ms = 5\nkafka.\"linger.ms\" = 6",
        "callbridge.toml:2: kafka.linger.ms: is given twice, first by callbridge.toml:1",
    ),
    (
        "kafka.no.such.thing = 1",
        "callbridge.toml:1: kafka.no.such.thing: No such configuration property: \"no.such.thing\"",
    ),
    (
        "embedded_broker = true",
        "callbridge.toml:3: kafka.bootstrap.servers: must not be set with embedded_broker: records go to one or the \
         other",
    ),
];

#[test]
fn a_mistake_in_the_file_is_told_with_its_line() {
    for (text, expected) in FAULTY_FILES {
        let file = &format!("{text}\n{LEAST}");
        assert_eq!(Given { file, ..Given::default() }.problems(), [*expected], "{text}");
    }
}

#[test]
fn a_mistake_about_applications_is_told_with_its_line() {
    let servers = "[kafka]\n\"bootstrap.servers\" = \"kafka-1:9092\"";
    for (text, expected) in [
        ("", "apps: is missing: add an [[apps]] with its sdk_app_id, or --sdk-app-id"),
        ("apps = []", "apps: is missing: add an [[apps]] with its sdk_app_id, or --sdk-app-id"),
        ("apps = 3", "callbridge.toml:1: apps: must be tables, each under its own [[apps]]"),
        ("apps = [[1]]", "callbridge.toml:1: apps: must be tables, each under its own [[apps]]"),
        ("apps = [3]", "callbridge.toml:1: apps: must be tables, each under its own [[apps]]"),
        ("apps = { sdk_app_id = 3 }", "callbridge.toml:1: apps: must be tables, each under its own [[apps]]"),
        ("apps = [{ sdk_app_id = 1 }, 3]", "callbridge.toml:1: apps: must be tables, each under its own [[apps]]"),
        ("\n[[apps]]", "callbridge.toml:2: apps[0].sdk_app_id: is missing: every application has one"),
        ("[[apps]]\nsdk_app_id = 0", "callbridge.toml:2: apps[0].sdk_app_id: must be from 1 to 9223372036854775807"),
        (
            "[[apps]]\nsdk_app_id = 1\n[[apps]]\nsdk_app_id = 1",
            "callbridge.toml:4: apps[1].sdk_app_id: application 1 is given twice",
        ),
        (
            "[[apps]]\nsdk_app_id = 1\nsdkappid = 1",
            "callbridge.toml:3: apps[0].sdkappid: no such setting; did you mean apps[0].sdk_app_id?",
        ),
        (
            "[[apps]]\nsdk_app_id = 1\ntopic_prefix = \"a b\"",
            "callbridge.toml:3:16: apps[0].topic_prefix: must be at most 150 of the characters a-z A-Z 0-9 . _ -",
        ),
        (
            "[[apps]]\nsdk_app_id = 1\ntoken_files = []",
            "callbridge.toml:3:15: apps[0].token_files: must be at least one file; leave it out if callbacks are not signed",
        ),
        (
            "[[apps]]\nsdk_app_id = 1\nblocklist_files = []",
            "callbridge.toml:3:19: apps[0].blocklist_files: must be at least one file; leave it out to share the common \
             blocklist",
        ),
        (
            "[[apps]]\nsdk_app_id = 1\nblocklist_topic = \"a b\"",
            "callbridge.toml:3:19: apps[0].blocklist_topic: must be at most 241 of the characters a-z A-Z 0-9 . _ -",
        ),
        (
            "blocklist.topic = \"tencent-chat.unknown\"\napps = [{ sdk_app_id = 1 }]",
            "callbridge.toml:1: blocklist.topic: must not be a topic of callbacks, and neither may it be with -changes \
             behind it",
        ),
        (
            "blocklist.topic = \"a\"\napps = [{ sdk_app_id = 1, blocklist_topic = \"a-changes\" }]",
            "callbridge.toml:1: blocklist.topic: must not be a: a-changes, another blocklist topic, holds its changes",
        ),
    ] {
        let problems = Given { file: &format!("{text}\n{servers}"), ..Given::default() }.problems();
        assert_eq!(problems, [expected], "{text}");
    }
}

fn unreadable_file(folder: &TempDir) -> Vec<Problem> {
    let flags = with_file(&folder.path().join("callbridge.toml"), &[]);
    config::load(&flags, std::iter::empty()).unwrap_err()
}

#[test]
fn of_a_file_that_cannot_be_read_nothing_is_called_missing() {
    let folder = TempDir::new().unwrap();
    let problems: Vec<String> = lines(&unreadable_file(&folder)).iter().map(|line| without(&folder, line)).collect();
    assert_eq!(problems, ["callbridge.toml: cannot be read: No such file or directory (os error 2)"]);
}

#[test]
fn all_mistakes_of_all_sources_are_told_together() {
    let given = Given {
        file: "drain_seconds = 0\n[admin]\nlisten = 1\nlistn = 2",
        variables: &[("CALLBRIDGE_WORKERS", "many"), ("CALLBRIDGE_LOG_FORMAT", "xml")],
        flags: &[("ack", "never"), ("kafka", "acks=1"), ("kafka", "linger.ms")],
    };
    assert_eq!(
        given.problems(),
        [
            "callbridge.toml:1: drain_seconds: must be from 1 to 3600",
            "callbridge.toml:3:10: admin.listen: must be an IP address and a port, like 0.0.0.0:8080",
            "callbridge.toml:4: admin.listn: no such setting; did you mean admin.listen?",
            "CALLBRIDGE_LOG_FORMAT: must be one of auto, text, json",
            "CALLBRIDGE_WORKERS: must be a whole number",
            "--kafka: must be NAME=VALUE",
            "--ack: must be one of journal, broker, memory",
            "--kafka acks: must be all: with fewer replicas a record that was acknowledged could be lost with one broker",
            "apps: is missing: add an [[apps]] with its sdk_app_id, or --sdk-app-id",
            "kafka.bootstrap.servers: is missing: set it in [kafka], or with --brokers; or try --embedded-broker",
        ]
    );
}

#[test]
fn rejects_bootstrap_servers_that_are_no_addresses() {
    let told = |servers: &str, protocol: &str| {
        let flags = &[("brokers", servers), ("kafka", &format!("security.protocol={protocol}"))];
        let load = Given { file: LEAST, flags, ..Given::default() }.load();
        load.map(|config| config.kafka.properties["bootstrap.servers"].clone()).map_err(|problems| lines(&problems))
    };
    assert_eq!(
        told("kafka-1:9092,127.0.0.1:99999, http://kafka:9092 ,,me:secret@kafka:1", "plaintext").unwrap_err(),
        [
            "--brokers: \"127.0.0.1:99999\": the port must be a number from 1 to 65535",
            "--brokers: \"http://kafka:9092\": expected HOST:PORT; the only prefixes are plaintext://, ssl://, \
             sasl_plaintext:// and sasl_ssl://",
            "--brokers: \"\": is empty; expected HOST:PORT, with commas between",
            "--brokers: \"...@kafka:1\": the host must be a name or an IP address; addresses are separated by commas",
        ]
    );
    assert_eq!(
        told("SSL://kafka:9093", "plaintext").unwrap_err(),
        [
            "--brokers: \"SSL://kafka:9093\": its protocol is not that of security.protocol, so the client would ignore it"
        ]
    );
    assert_eq!(told("SSL://kafka:9093", "Ssl").unwrap(), "SSL://kafka:9093");
    assert_eq!(told(" a:1 ,\tb\n, [::1]:3", "ssl").unwrap(), "a:1,b,[::1]:3");
}

#[test]
fn kafka_properties_are_taken_quoted_and_as_dotted_keys() {
    let text = "[kafka]\nbootstrap.servers = \"a:1\"\n\"linger.ms\" = 0x5\nsocket.keepalive.enable = true\n\
                [[apps]]\nsdk_app_id = 1";
    let config = Given { file: text, ..Given::default() }.config();
    let expected = [("bootstrap.servers", "a:1"), ("linger.ms", "5"), ("socket.keepalive.enable", "true")];
    assert_eq!(config.kafka.properties, properties(&expected));
}

#[test]
fn kafka_properties_that_break_a_promise_are_refused() {
    for (property, refused, taken) in [
        ("acks", &["0", "1", "2"][..], &["all", "-1", "ALL"][..]),
        ("request.required.acks", &["1"], &["all"]),
        ("delivery.report.only.error", &["true", "t", "1"], &["false"]),
        ("enable.idempotence", &["false", "f", "0"], &["true"]),
        ("enable.gapless.guarantee", &["false"], &["true"]),
        ("transactional.id", &["t"], &[]),
        ("metadata.broker.list", &["a:1"], &[]),
        ("test.mock.num.brokers", &["3"], &[]),
        ("statistics.interval.ms", &["0", "60000"], &["500", "5000"]),
        ("topic.metadata.propagation.max.ms", &["2147484", "3600000"], &["2147483", "0"]),
    ] {
        let load = |value: &str| {
            let pair = format!("{property}={value}");
            Given { file: LEAST, flags: &[("kafka", &pair)], ..Given::default() }.load()
        };
        for value in refused {
            let problems = load(value).expect_err(property);
            assert_eq!(problems[0].origin, Some(Origin::Flag(format!("kafka {property}"))), "{property}={value}");
        }
        for value in taken {
            assert_eq!(load(value).unwrap().kafka.properties[property], *value);
        }
    }
}

#[test]
fn an_embedded_broker_needs_no_other() {
    let given = Given { flags: &[("sdk-app-id", "1"), ("embedded-broker", "")], ..Given::default() };
    let config = given.config();
    assert!(config.embedded_broker);
    assert!(config.kafka.properties.is_empty());
}

#[test]
fn only_mistakes_of_flags_alone_are_of_usage() {
    let is_of_usage = |given: Given<'_>| given.load().unwrap_err().iter().all(Problem::is_of_usage);
    assert!(is_of_usage(Given { file: LEAST, flags: &[("ack", "x"), ("workers", "x")], ..Given::default() }));
    assert!(!is_of_usage(Given { flags: &[("ack", "x")], ..Given::default() }));
    assert!(!is_of_usage(Given { file: LEAST, variables: &[("CALLBRIDGE_ACK", "x")], ..Given::default() }));
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(text in "[a-z\\[\\]{}=.,\"'\\-0-9 \n]{0,80}", value in any::<i64>()) {
        for text in [text.clone(), format!("{text}\n{LEAST}"), format!("callbacks.{text} = {value}")] {
            let _ = Given { file: &text, ..Given::default() }.load();
        }
    }
}
