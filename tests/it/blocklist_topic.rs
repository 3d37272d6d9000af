//! The blocklist topic with a real Kafka: changes, and the decisions after each kind of fault.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use callbridge::clock;
use rdkafka::ClientConfig;
use rdkafka::producer::Producer;
use rustix::process::Signal;
use serde_json::Value;

use crate::seeds::APP;
use crate::support::blocklist::Topic;
use crate::support::blocklist::VALUE;
use crate::support::blocklist::bridge;
use crate::support::blocklist::of_topic;
use crate::support::blocklist::refused_on;
use crate::support::blocklist::state;
use crate::support::blocklist::wait_for_state;
use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::http::Client;
use crate::support::kafka::Kafka;
use crate::support::kafka::Settings;
use crate::support::process;
use crate::support::reader::Reader;
use crate::support::real;
use crate::support::tools::number_of;
use crate::support::wait;

const REQUEST: Duration = Duration::from_secs(30);
const TOKEN: &str = "0123456789abcdef-admin";

/// Key, value and header `topic` of an invalid record.
type Poison<'p> = (&'p [u8], &'p [u8], &'p str);

fn refused(bridge: &Bridge) -> Vec<String> {
    refused_on(bridge, APP, "@a", &["alice", "bob", "carol", "dave"])
}

fn wait_until_refused(bridge: &Bridge, users: &[&str]) {
    wait::until(&format!("{users:?} are refused"), || refused(bridge) == users);
}

/// Waits until the bridge has applied everything up to this offset.
fn wait_for_generation(bridge: &Bridge, topic: &str, generation: f64) {
    wait::until("applied", || of_topic(bridge, "generation", topic) >= generation);
}

#[test]
fn each_kind_of_rule_takes_effect_and_ends_with_its_tombstone() {
    let Some(kafka) = Kafka::shared() else { return };
    let name = "blocklist-kinds";
    let bridge = bridge(kafka, name, "");
    assert_eq!(refused(&bridge), [""; 0]);
    let description = kafka.describe(name);
    assert_eq!(description.partitions.len(), 1);
    assert_eq!(description.configs["cleanup.policy"], "compact");
    let changes = kafka.describe(&format!("{name}-changes"));
    assert_eq!((changes.partitions.len(), &*changes.configs["cleanup.policy"]), (1, "delete"));

    let mut topic = Topic::at(kafka, name);
    topic.declare("00000000000000a1");
    topic.put("block\u{1f}bob");
    topic.put("block\u{1f}carol\u{1f}@a");
    wait_until_refused(&bridge, &["bob", "carol"]);
    topic.put("pardon\u{1f}bob\u{1f}@a");
    wait_until_refused(&bridge, &["carol"]);
    topic.delete("pardon\u{1f}bob\u{1f}@a");
    wait_until_refused(&bridge, &["bob", "carol"]);
    topic.put("allow\u{1f}dave\u{1f}@a");
    wait_until_refused(&bridge, &["alice", "bob", "carol"]);
    topic.put("close\u{1f}\u{1f}@a");
    wait_until_refused(&bridge, &["the account takes no new subscribers"]);
    for key in ["close\u{1f}\u{1f}@a", "allow\u{1f}dave\u{1f}@a", "block\u{1f}carol\u{1f}@a"] {
        topic.delete(key);
    }
    wait_until_refused(&bridge, &["bob"]);
    let past = r#"{"until":"2020-01-01T00:00:00Z","who":"alice","when":"2020-01-01T00:00:00Z"}"#;
    topic.write(Some("block\u{1f}bob"), Some(past.as_bytes()), Some(&topic.identity));
    wait_until_refused(&bridge, &[]);
    assert_eq!(bridge.metrics()["callbridge_blocklist_generation"], of_topic(&bridge, "generation", name));
    bridge.metrics_until(|metrics| {
        metrics[&format!("callbridge_blocklist_entries{{kind=\"block\",source=\"{name}\"}}")] == 1.0
    });
    bridge.stop_in_order();
}

#[test]
fn sources_and_applications_have_separate_lists() {
    let Some(kafka) = Kafka::shared() else { return };
    let folder = tempfile::TempDir::with_prefix_in("lists-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = folder.path().join("list");
    std::fs::write(&file, "alice\nblock\n").unwrap();
    let (common, own) = ("blocklist-common", "blocklist-own");
    let common_topic = Topic::make(kafka, common, "00000000000000a3", &[]);
    let own_topic = Topic::make(kafka, own, "00000000000000a4", &[]);
    common_topic.put("block\u{1f}bob");
    own_topic.put("block\u{1f}carol");
    let settings = format!(
        "callbacks.keep_accepting_ms = 0\nblocklist.topic = {common:?}\nblocklist.files = [{file:?}]\n\
         [[apps]]\nsdk_app_id = 1\n[[apps]]\nsdk_app_id = 2\nblocklist_topic = {own:?}\n"
    );
    let brokers = kafka.bootstrap();
    let args = ["--brokers", &brokers, "--ack", "memory", "--create-topics", "--topic-prefix", "blocklist-apps"];
    let bridge = Bridge::builder().settings(&settings).args(&args).start();
    let of = |app: &str| refused_on(&bridge, app, "@a", &["alice", "bob", "carol"]);
    // The invalid file does not affect the topic.
    assert_eq!((of("1"), of("2")), (vec!["bob".to_owned()], vec!["carol".to_owned()]));
    std::fs::write(folder.path().join("next"), "alice\n").unwrap();
    std::fs::rename(folder.path().join("next"), &file).unwrap();
    wait::until("the file is read", || of("1") == ["alice", "bob"]);
    own_topic.put("block\u{1f}alice");
    wait::until("the topic is followed", || of("2") == ["alice", "carol"]);
    assert_eq!(of("1"), ["alice", "bob"]);
    bridge.stop_in_order();
}

#[test]
fn an_invalid_record_removes_its_rule_and_is_logged_once_with_its_offset() {
    let Some(kafka) = Kafka::shared() else { return };
    let name = "blocklist-poison";
    let topic = Topic::make(kafka, name, "00000000000000a5", &[]);
    let live = bridge(kafka, name, "");
    let (ours, key, good) = (topic.identity.as_str(), &b"block\x1fbob"[..], VALUE.as_bytes());
    let needs = br#"{"who":"a","when":"2027-01-31T00:00:00Z","needs":["mode"]}"#;
    let (long, long_key) = (vec![b'x'; 70_000], [b"block\x1f".as_slice(), &[b'x'; 20_000]].concat());
    // A compacted topic takes no record without a key. Each as the last record of the log, for a replica that was there and for one that starts then.
    let poison: [Poison<'_>; 9] = [
        (key, b"{", ours),
        (key, br#"{"who":"a","when":"yesterday"}"#, ours),
        (key, needs, ours),
        (key, &long, ours),
        (key, good, "nonsense"),
        (b"block\x1fbob\x1f", good, ours),
        (b"ban\x1fbob", good, ours),
        (b"block\x1fbob\xff", good, ours),
        (&long_key, good, ours),
    ];
    let mut offset = 1.0;
    for (number, (key, value, identity)) in poison.into_iter().enumerate() {
        topic.put("block\u{1f}bob");
        wait_until_refused(&live, &["bob"]);
        topic.write_bytes(Some(key), Some(value), Some(identity));
        offset += 2.0;
        // A record without a valid rule removes none.
        let expected: &[&str] = if number < 5 { &[] } else { &["bob"] };
        wait_for_generation(&live, name, offset);
        assert_eq!(refused(&live), expected, "poison {number}");
        let fresh = bridge(kafka, name, "");
        assert_eq!(refused(&fresh), expected, "poison {number}, and a replica that starts then");
        assert!(state(&fresh, name, "live"));
        fresh.stop_in_order();
    }
    assert_eq!(of_topic(&live, "poison_records", name), 9.0);
    let stopped = live.stop_in_order();
    let told = |offset: i32| {
        let lines = stopped.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["level"] == "ERROR" && line["fields"]["offset"] == offset).count()
    };
    assert_eq!((1..=18).map(told).collect::<Vec<_>>(), [0, 1].repeat(9), "{}", stopped.stderr);
}

/// Kafka may acknowledge a change to a writer that does not know yet that the topic was recreated.
#[test]
fn a_record_takes_effect_whatever_topic_identity_it_names() {
    let Some(kafka) = Kafka::shared() else { return };
    let name = "blocklist-identities";
    let topic = Topic::make(kafka, name, "00000000000000a7", &[]);
    topic.put("block\u{1f}bob");
    topic.put("block\u{1f}carol");
    let live = bridge(kafka, name, "");
    assert_eq!(refused(&live), ["bob", "carol"]);
    topic.write(Some("block\u{1f}dave"), Some(VALUE.as_bytes()), Some("00000000000000ff"));
    topic.write(Some("block\u{1f}carol"), None, Some("00000000000000ff"));
    wait_until_refused(&live, &["bob", "dave"]);
    wait_for_state(&live, name, "live");
    let fresh = bridge(kafka, name, "");
    assert_eq!(refused(&fresh), ["bob", "dave"]);
    for bridge in [live, fresh] {
        assert_eq!(of_topic(&bridge, "poison_records", name), 0.0);
        bridge.stop_in_order();
    }
}

#[test]
fn open_and_aborted_transactions_do_not_delay_changes() {
    let Some(kafka) = Kafka::shared() else { return };
    let name = "blocklist-transactions";
    let mut topic = Topic::make(kafka, name, "00000000000000a6", &[]);
    let live = bridge(kafka, name, "");
    let mut config: ClientConfig = kafka.client();
    config.set("transactional.id", "blocklist-transactions");
    let plain = std::mem::replace(&mut topic.producer, config.create().unwrap());
    topic.producer.init_transactions(REQUEST).unwrap();
    topic.producer.begin_transaction().unwrap();
    topic.write(Some("block\u{1f}bob"), Some(VALUE.as_bytes()), Some("00000000000000a6"));
    wait_until_refused(&live, &["bob"]);
    let plain = Topic { name: name.to_owned(), producer: plain, identity: topic.identity.clone() };
    plain.put("block\u{1f}carol");
    wait_until_refused(&live, &["bob", "carol"]);
    assert!(state(&live, name, "live"), "the transaction is open");
    // The last record is the transaction marker, which consumers do not receive.
    topic.producer.abort_transaction(REQUEST).unwrap();
    let fresh = bridge(kafka, name, "");
    assert!(state(&fresh, name, "live"));
    // As documented: a record of an aborted transaction takes effect.
    assert_eq!(
        (refused(&fresh), refused(&live)),
        (vec!["bob".into(), "carol".into()], vec!["bob".into(), "carol".into()])
    );
    plain.delete("block\u{1f}bob");
    wait_until_refused(&live, &["carol"]);
    wait_until_refused(&fresh, &["carol"]);
    wait_for_state(&live, name, "live");
    live.stop_in_order();
    fresh.stop_in_order();
}

#[test]
fn a_topic_recreated_while_the_process_is_suspended_is_read_again() {
    let Some(kafka) = Kafka::shared() else { return };
    for (case, records) in [("fewer", 1), ("equal", 3), ("more", 6)] {
        let name = format!("blocklist-again-{case}");
        let topic = Topic::make(kafka, &name, "00000000000000b1", &[]);
        ["alice", "bob", "carol"].iter().for_each(|user| topic.put(&format!("block\u{1f}{user}")));
        let mut bridge = bridge(kafka, &name, "");
        assert_eq!(refused(&bridge), ["alice", "bob", "carol"]);
        bridge.signal(Signal::STOP);
        kafka.delete_topic(&name);
        let again = Topic::make(kafka, &name, "00000000000000b2", &[]);
        again.put("block\u{1f}dave");
        (1..records).for_each(|number| again.put(&format!("block\u{1f}other-{number}")));
        // Longer than an iteration of the follower may take.
        thread::sleep(Duration::from_millis(1200));
        bridge.signal(Signal::CONT);
        // Sooner than the periodic check, which runs each minute.
        wait::until_within(Duration::from_secs(30), "the new rules hold", || refused(&bridge) == ["dave"]);
        wait_for_state(&bridge, &name, "live");
        bridge.stop_in_order();
    }
}

/// A bridge in `journal` mode, which makes no topic of its own, and whose API takes [`TOKEN`].
fn writable(kafka: &Kafka, topic: &str, files: &Files, args: &[&str]) -> Bridge {
    let tokens = files.write("tokens", &format!("alice:{TOKEN}\n"));
    let settings =
        format!("callbacks.keep_accepting_ms = 0\nadmin.token_files = [{tokens:?}]\nblocklist.topic = {topic:?}\n");
    Bridge::builder().brokers(&kafka.bootstrap()).args(args).settings(&settings).start()
}

/// Blocks a user through the API of the bridge at this address. Returns the status.
fn block(admin: SocketAddr, user: &str) -> u16 {
    let bearer = format!("Bearer {TOKEN}");
    let target = format!("/blocklist/users/{user}");
    let headers = [("Authorization", bearer.as_str())];
    Client::connect(admin).unwrap().request("PUT", &target, &headers, b"").unwrap().status
}

#[test]
fn a_change_acknowledged_while_its_topic_is_recreated_takes_effect() {
    let Some(kafka) = Kafka::shared() else { return };
    let name = "blocklist-lost-change";
    let topic = Topic::make(kafka, name, "00000000000000c1", &[]);
    kafka.create_topic(&format!("{name}-changes"), 1, 1);
    (0..20).for_each(|number| topic.put(&format!("block\u{1f}other-{number}")));
    let files = Files::new();
    let bridge = writable(kafka, name, &files, &[]);
    wait::until("bob is blocked", || block(bridge.admin, "bob") == 200);
    assert_eq!(refused(&bridge), ["bob"]);
    kafka.delete_topic(name);
    wait_for_state(&bridge, name, "stale");
    let admin = bridge.admin;
    let asking = thread::spawn(move || wait::until("carol is blocked", || block(admin, "carol") == 200));
    kafka.create_topic_with(name, 1, 1, &[("cleanup.policy", "compact")]);
    asking.join().unwrap();
    wait_until_refused(&bridge, &["carol"]);
    wait_for_state(&bridge, name, "live");
    assert_eq!((refused(&bridge), of_topic(&bridge, "poison_records", name)), (vec!["carol".to_owned()], 0.0));
}

/// The topic is recreated, with more records, while an import waits for an answer on its terminal.
#[test]
fn a_change_written_to_a_topic_recreated_since_it_was_read_takes_effect() {
    let Some(kafka) = Kafka::shared() else { return };
    let version = Command::new("script").arg("--version").output();
    let version = version.map_err(|_missing| "there is no script of util-linux".to_owned());
    if real::found_or_skipped(version).is_none() {
        return;
    }
    let name = "blocklist-remade-import";
    let topic = Topic::make(kafka, name, "00000000000000c3", &[]);
    kafka.create_topic(&format!("{name}-changes"), 1, 1);
    ["alice", "bob"].iter().for_each(|user| topic.put(&format!("block\u{1f}{user}")));
    let files = Files::new();
    let file = files.write("list", "carol\n");
    let words = [env!("CARGO_BIN_EXE_callbridge"), "blocklist", "import", &file, "--brokers", &kafka.bootstrap()];
    let mut terminal = Command::new("script")
        .args(["-qec", &format!("{} --topic {name}", words.join(" ")), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut screen = terminal.stdout.take().unwrap();
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains("Continue?") {
        let mut byte = [0];
        screen.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&shown)));
        shown.extend(byte);
    }
    kafka.delete_topic(name);
    let again = Topic::make(kafka, name, "00000000000000c4", &[]);
    ["bob", "dave", "eve", "frank"].iter().for_each(|user| again.put(&format!("block\u{1f}{user}")));
    // Kept open, because closing it would close the terminal.
    let mut keyboard = terminal.stdin.take().unwrap();
    keyboard.write_all(b"y\n").unwrap();
    screen.read_to_end(&mut shown).unwrap();
    assert!(terminal.wait().unwrap().success(), "{}", String::from_utf8_lossy(&shown));
    let fresh = bridge(kafka, name, "");
    // The import's additions and removals are in force.
    assert_eq!((refused(&fresh), of_topic(&fresh, "poison_records", name)), (vec!["carol".into(), "dave".into()], 0.0));
    fresh.stop_in_order();
}

#[test]
fn a_missing_audit_topic_is_created_at_the_start() {
    let Some(kafka) = Kafka::shared() else { return };
    let name = "blocklist-audit-alone";
    let _topic = Topic::make(kafka, name, "00000000000000c2", &[]);
    let files = Files::new();
    let bridge = writable(kafka, name, &files, &["--topic-prefix", name, "--create-topics"]);
    wait::until("bob is blocked", || block(bridge.admin, "bob") == 200);
    assert_eq!(refused(&bridge), ["bob"]);
    let changes = kafka.describe(&format!("{name}-changes"));
    assert_eq!((changes.partitions.len(), &*changes.configs["retention.ms"]), (1, "31536000000"));
    // Its topics may still be made; what is in the journal would be left to the next start.
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_delivered_total"] >= 1.0);
    bridge.stop_in_order();
}

#[test]
fn a_change_without_an_audit_topic_is_refused_and_names_what_is_missing() {
    let Some(kafka) = Kafka::shared() else { return };
    let name = "blocklist-no-audit";
    let _topic = Topic::make(kafka, name, "00000000000000c5", &[]);
    let files = Files::new();
    let bridge = writable(kafka, name, &files, &["--topic-prefix", name]);
    wait_for_state(&bridge, name, "live");
    let headers = [("Authorization", &*format!("Bearer {TOKEN}"))];
    let why = format!("topic {name}-changes: it does not exist: create it with `callbridge topics create`");
    // On a busy machine the cluster may not say in time that there is none.
    wait::until("the answer names the topic", || {
        let mut client = Client::connect(bridge.admin).unwrap();
        let answer = client.request("PUT", "/blocklist/users/bob", &headers, b"").unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
        answer.text().contains(&why)
    });
    assert_eq!(refused(&bridge), [""; 0]);
    // The topics of callbacks are not there.
    assert_eq!(bridge.stop_and_wait().code, 0);
}

#[test]
fn a_deleted_topic_is_named_and_not_created_again_by_who_still_has_its_rules() {
    let Some(kafka) = Kafka::shared() else { return };
    let name = "blocklist-deleted";
    Topic::make(kafka, name, "00000000000000c3", &[]).put("block\u{1f}bob");
    let files = Files::new();
    let bridge = writable(kafka, name, &files, &["--topic-prefix", name, "--create-topics"]);
    wait_until_refused(&bridge, &["bob"]);
    kafka.delete_topic(name);
    wait::until("it is named", || bridge.stderr().contains("the topic no longer exists"));
    wait_for_state(&bridge, name, "stale");
    // By then it has a new client, which at a start would create the topic.
    thread::sleep(Duration::from_secs(8));
    assert!(!bridge.stderr().contains("kafka has not answered about the topic"), "{}", bridge.stderr());
    assert_eq!(refused(&bridge), ["bob"]);
    // Which fails if it is there.
    Topic::make(kafka, name, "00000000000000c4", &[]).put("block\u{1f}carol");
    wait_until_refused(&bridge, &["carol"]);
    wait_for_state(&bridge, name, "live");
    bridge.stop_in_order();
}

#[test]
fn added_partitions_are_logged_and_remove_no_rule() {
    let Some(kafka) = Kafka::shared() else { return };
    let name = "blocklist-partitions";
    let topic = Topic::make(kafka, name, "00000000000000b3", &[]);
    topic.put("block\u{1f}bob");
    let live = bridge(kafka, name, "");
    kafka.add_partitions(name, 3);
    topic.put("block\u{1f}carol");
    wait_until_refused(&live, &["bob", "carol"]);
    let fresh = bridge(kafka, name, "");
    assert_eq!(refused(&fresh), ["bob", "carol"]);
    for bridge in [&live, &fresh] {
        wait_for_state(bridge, name, "live");
    }
    live.stop_in_order();
    let stderr = fresh.stop_in_order().stderr;
    assert!(stderr.contains("must have exactly 1 partition"), "{stderr}");
}

/// A revoked right is logged and changes no decision; once it is granted again, the follower recovers.
#[test]
fn rules_stay_without_the_right_to_read_and_follow_once_it_is_back() {
    let Some(kafka) = Kafka::with(Settings { nodes: 1, tls_and_scram: true }) else { return };
    let name = "blocklist-rights";
    let topic = Topic::make(&kafka, name, "00000000000000b6", &[]);
    topic.put("block\u{1f}bob");
    let properties: Vec<String> = kafka.properties().iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut args = vec!["--sdk-app-id", APP, "--ack", "memory", "--create-topics", "--topic-prefix", name];
    properties.iter().for_each(|property| args.extend(["--kafka", property]));
    let settings = format!("callbacks.keep_accepting_ms = 0\nblocklist.topic = {name:?}\n");
    let bridge = Bridge::builder().settings(&settings).args(&args).start();
    assert_eq!(refused(&bridge), ["bob"]);
    kafka.forbid_reading(name);
    wait_for_state(&bridge, name, "stale");
    topic.put("block\u{1f}carol");
    assert_eq!(refused(&bridge), ["bob"]);
    kafka.permit_reading(name);
    wait_until_refused(&bridge, &["bob", "carol"]);
    wait_for_state(&bridge, name, "live");
    let stderr = bridge.stop_in_order().stderr;
    assert!(stderr.contains("the right"), "{stderr}");
}

#[test]
fn tombstones_compacted_during_a_suspension_remove_their_rules() {
    let Some(kafka) = Kafka::shared() else { return };
    let name = "blocklist-compacted";
    let settings = [
        ("segment.ms", "100"),
        ("delete.retention.ms", "1500"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("min.compaction.lag.ms", "0"),
        ("max.compaction.lag.ms", "100"),
    ];
    let topic = Topic::make(kafka, name, "00000000000000b4", &settings);
    topic.put("block\u{1f}bob");
    topic.put("block\u{1f}carol");
    let mut bridge = bridge(kafka, name, "");
    assert_eq!(refused(&bridge), ["bob", "carol"]);
    bridge.signal(Signal::STOP);
    // Waits until the fetch in flight has been answered, which would return the tombstone.
    thread::sleep(Duration::from_secs(1));
    topic.delete("block\u{1f}bob");
    // Compaction skips the active segment, so each record begins a new one.
    wait::until("the tombstone is compacted away", || {
        topic.put("block\u{1f}dave");
        let records = Reader::open(&kafka.client(), &[name]).collect_to_end();
        !records.iter().any(|record| record.key.as_deref() == Some(b"block\x1fbob"))
    });
    bridge.signal(Signal::CONT);
    wait::until_within(Duration::from_secs(30), "bob is free", || refused(&bridge) == ["carol", "dave"]);
    bridge.stop_in_order();
}

/// `CALLBRIDGE_BLOCKLIST_FROZEN_SECONDS` sets the least time for which the broker is frozen.
#[test]
fn an_unreachable_frozen_or_killed_broker_changes_no_decision() {
    let Some(mut kafka) = Kafka::start(1) else { return };
    let name = "blocklist-outage";
    let topic = Topic::make(&kafka, name, "00000000000000b5", &[]);
    topic.put("block\u{1f}bob");
    kafka.node(1).stop();
    let settings = format!(
        "callbacks.keep_accepting_ms = 0\nblocklist.topic = {name:?}\nblocklist.ready_after_seconds = 1\n\
         decide.before_loaded = \"refuse\"\n"
    );
    let brokers = kafka.bootstrap();
    let began = clock::monotonic();
    let bridge = Bridge::builder().brokers(&brokers).args(&["--create-topics"]).settings(&settings).start();
    let waited = clock::monotonic().duration_since(began);
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    assert_eq!(refused(&bridge), ["the blocklist is not loaded yet"]);
    assert!(state(&bridge, name, "reading"));
    kafka.node(1).restart();
    wait_until_refused(&bridge, &["bob"]);
    wait_for_state(&bridge, name, "live");

    kafka.node(1).freeze();
    let frozen = clock::monotonic();
    wait_for_state(&bridge, name, "stale");
    stale_after(frozen);
    let thawed = frozen + Duration::from_secs(number_of("CALLBRIDGE_BLOCKLIST_FROZEN_SECONDS", 0));
    while clock::monotonic() < thawed {
        assert_eq!(refused(&bridge), ["bob"]);
        thread::sleep(process::POLL);
    }
    kafka.node(1).thaw();
    topic.put("block\u{1f}carol");
    wait_until_refused(&bridge, &["bob", "carol"]);
    wait_for_state(&bridge, name, "live");

    kafka.node(1).kill();
    wait_for_state(&bridge, name, "stale");
    assert_eq!(refused(&bridge), ["bob", "carol"]);
    kafka.node(1).restart();
    topic.delete("block\u{1f}bob");
    wait_until_refused(&bridge, &["carol"]);
    wait_for_state(&bridge, name, "live");
    // In `journal` mode a stop does not wait for a Kafka that has just come back.
    let stopped = bridge.stop_and_wait();
    assert!(stopped.code == 0 && stopped.is_balanced(), "{stopped:?}");
}

fn stale_after(frozen: Instant) {
    let took = clock::monotonic().duration_since(frozen);
    assert!(took >= Duration::from_secs(4), "{took:?}");
}
