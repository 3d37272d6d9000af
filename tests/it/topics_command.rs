//! `callbridge topics` beside a real Kafka.

use std::process::Command;

use callbridge::clock;
use serde_json::Value;

use crate::seeds::APP;
use crate::support::kafka::Kafka;
use crate::support::ports;

/// Three topics of callbacks.
const FEW: (&str, &str) = ("CALLBRIDGE_TOPICS_COMMANDS", "State.StateChange");

/// Exit code, stdout and stderr of `callbridge topics` with these arguments.
fn topics(brokers: &str, prefix: &str, args: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_callbridge"))
        .arg("topics")
        .args(args)
        .args(["--sdk-app-id", APP, "--brokers", brokers, "--topic-prefix", prefix])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code().unwrap(), stdout, stderr)
}

#[test]
fn topics_list_tells_ok_missing_wrong_and_superfluous_topics_apart() {
    let Some(kafka) = Kafka::shared() else { return };
    kafka.create_topic("listed.State.StateChange", 6, 1);
    kafka.create_topic_with("listed.rejected", 6, 1, &[("cleanup.policy", "compact"), ("max.message.bytes", "1000")]);
    kafka.create_topic("listed.Bot.OnC2CMessage", 1, 1);
    kafka.create_topic("listed-blocks", 2, 1);
    let variables = [FEW, ("CALLBRIDGE_BLOCKLIST_TOPIC", "listed-blocks")];
    let list = |output: &str| topics(&kafka.bootstrap(), "listed", &["list", "--output", output], &variables);

    let (code, stdout, stderr) = list("json");
    assert_eq!(code, 1, "{stderr}");
    let json: Value = serde_json::from_str(&stdout).unwrap();
    let states: Vec<String> = json["topics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|topic| format!("{} {}", topic["name"].as_str().unwrap(), topic["state"].as_str().unwrap()))
        .collect();
    let expected = [
        "listed.State.StateChange ok",
        "listed.unknown missing",
        "listed.rejected wrong",
        "listed-blocks wrong",
        "listed-blocks-changes missing",
        "listed.Bot.OnC2CMessage superfluous",
    ];
    assert_eq!(states, expected, "{stdout}");

    let (code, table, stderr) = list("table");
    assert_eq!(code, 1, "{stderr}");
    for said in [
        "listed.rejected: cleanup.policy is compact, and must be delete",
        "set cleanup.policy=delete on it",
        "max.message.bytes is 1000, and the longest callback makes a record of 327680 bytes",
        "listed-blocks: has 2 partitions, and must have exactly 1",
        "listed-blocks: cleanup.policy is delete, and must be compact: rules are deleted after a time",
        "listed.unknown, listed-blocks-changes: does not exist",
        "5 topics needed: 1 ok, 2 missing, 2 wrong; 1 superfluous",
    ] {
        assert!(table.contains(said), "{said}: {table}");
    }
}

#[test]
fn topics_create_makes_what_is_missing_and_a_dry_run_makes_nothing() {
    let Some(kafka) = Kafka::shared() else { return };
    kafka.create_topic("formed.unknown", 3, 1);
    let variables =
        [FEW, ("CALLBRIDGE_BLOCKLIST_TOPIC", "formed-blocks"), ("CALLBRIDGE_TOPICS_RETENTION_MS", "3600000")];
    let run = |args: &[&str]| topics(&kafka.bootstrap(), "formed", args, &variables);

    let (code, stdout, stderr) = run(&["create", "--dry-run", "--replicas", "2"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("formed.rejected: cannot be created"), "{stderr}");
    let (code, would, stderr) = run(&["create", "--dry-run", "--partitions", "2"]);
    assert_eq!((code, would.lines().count()), (0, 4), "{would}{stderr}");
    let of_rejected = "formed.rejected: 2 partitions, 1 replicas, min.insync.replicas=1, retention.ms=3600000";
    assert!(would.contains(&format!("would create {of_rejected}")), "{would}");
    assert_eq!(run(&["list"]).0, 1, "nothing is created yet");

    let (code, created, stderr) = run(&["create", "--partitions", "2", "--replicas", "1"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(created, would.replace("would create", "created"));
    let rejected = kafka.describe("formed.rejected");
    assert_eq!((rejected.partitions.len(), rejected.configs["retention.ms"].as_str()), (2, "3600000"));
    let rules = kafka.describe("formed-blocks");
    assert_eq!((rules.partitions.len(), rules.configs["cleanup.policy"].as_str()), (1, "compact"));
    let changes = kafka.describe("formed-blocks-changes");
    assert_eq!((changes.partitions.len(), changes.configs["retention.ms"].as_str()), (1, "31536000000"));
    assert_eq!(kafka.describe("formed.unknown").partitions.len(), 3, "it was there");
    let (code, stdout, stderr) = run(&["list"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let (code, stdout, _) = run(&["create"]);
    assert_eq!((code, stdout.as_str()), (0, "nothing to create: every topic is there\n"));
}

#[test]
fn topics_are_printed_for_strimzi_and_kafka_topics_also_without_kafka() {
    let nobody = ports::nobody();
    let began = clock::monotonic();
    let (code, yaml, stderr) = topics(&nobody, "Chat", &["list", "--output", "strimzi"], &[FEW]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("kafka does not answer: ") && stderr.contains("refused"), "{stderr}");
    assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
    assert_eq!(yaml.matches("kind: KafkaTopic").count(), 3);
    let first = r#"---
apiVersion: kafka.strimzi.io/v1
kind: KafkaTopic
metadata:
  name: "chat.state.statechange"
  labels:
    strimzi.io/cluster: my-cluster
spec:
  topicName: "Chat.State.StateChange"
  partitions: 6
  replicas: 3
  config:
    min.insync.replicas: "2"
"#;
    assert!(yaml.contains(first), "{yaml}");
    let tls = [FEW, ("CALLBRIDGE_KAFKA_SECURITY_PROTOCOL", "ssl")];
    let (_, lines, _) = topics(&nobody, "Chat", &["list", "--output", "kafka-topics"], &tls);
    let line = format!(
        "kafka-topics.sh --bootstrap-server '{nobody}' --command-config client.properties --create --if-not-exists \
         --topic Chat.unknown --partitions 6 --replication-factor 3 --config min.insync.replicas=2\n"
    );
    assert!(lines.contains(&line), "{lines}");
}

#[test]
fn topics_of_a_bad_configuration_or_the_embedded_broker_exit_with_78() {
    let (code, _, stderr) = topics("a:1", "p", &["list"], &[("CALLBRIDGE_TOPICS_PARTITIONS", "0")]);
    assert!(code == 78 && stderr.contains("TOPICS_PARTITIONS"), "{code}: {stderr}");
    let output = Command::new(env!("CARGO_BIN_EXE_callbridge"))
        .args(["topics", "create", "--embedded-broker", "--sdk-app-id", APP])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("embedded_broker: must not be set"));
}
