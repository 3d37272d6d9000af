//! The blocklist's Kafka topic, with a real Kafka: logs that are replaced or truncated while a bridge reads them.

use std::time::Duration;

use rustix::process::Signal;

use crate::seeds::APP;
use crate::support::blocklist::Topic;
use crate::support::blocklist::VALUE;
use crate::support::blocklist::bridge;
use crate::support::blocklist::refused_on;
use crate::support::blocklist::state;
use crate::support::blocklist::wait_for_state;
use crate::support::bridge::Bridge;
use crate::support::kafka::Kafka;
use crate::support::kafka::Partition;
use crate::support::wait;

/// Shorter than the client's period of refreshing metadata.
const SOON: Duration = Duration::from_secs(30);

const USERS: [&str; 5] = ["alice", "bob", "carol", "dave", "eve"];

fn refused(bridge: &Bridge, app: &str) -> Vec<String> {
    refused_on(bridge, app, "@a", &USERS)
}

fn wait_until_refused(bridge: &Bridge, users: &[&str]) {
    wait::until(&format!("{users:?} are refused"), || refused(bridge, APP) == users);
}

/// Blocks users by records in a topic, with this identity in their headers, if any.
fn fill(topic: &mut Topic, identity: Option<&str>, users: &[&str]) {
    if let Some(identity) = identity {
        topic.declare(identity);
    }
    for user in users {
        topic.write(Some(&format!("block\u{1f}{user}")), Some(VALUE.as_bytes()), identity);
    }
}

#[test]
fn a_topic_recreated_during_operation_is_read_again() {
    let Some(kafka) = Kafka::shared() else { return };
    let (one, other) = (Some("00000000000000d1"), Some("00000000000000d2"));
    let more = ["dave", "u1", "u2", "u3", "u4", "u5"];
    // The identities before and after, and the users after; before there are three.
    let cases = [
        (one, other, &more[..1]),
        (one, other, &more[..3]),
        (one, other, &more[..]),
        (one, one, &more[..]),
        (one, None, &more[..]),
        (None, None, &more[..3]),
        (None, None, &more[..]),
    ];
    let name = |case: usize| format!("blocklist-remade-{case}");
    let make = |case: usize, identity, users: &[&str]| {
        kafka.create_topic_with(&name(case), 1, 1, &[("cleanup.policy", "compact")]);
        fill(&mut Topic::at(kafka, &name(case)), identity, users);
    };
    let mut settings = "callbacks.keep_accepting_ms = 0\n".to_owned();
    for (case, (before, ..)) in cases.iter().enumerate() {
        make(case, *before, &USERS[..3]);
        settings += &format!("[[apps]]\nsdk_app_id = {}\nblocklist_topic = {:?}\n", case + 1, name(case));
    }
    let brokers = kafka.bootstrap();
    let args = ["--brokers", &brokers, "--ack", "memory", "--create-topics", "--topic-prefix", "blocklist-remade"];
    let bridge = Bridge::builder().settings(&settings).args(&args).start();
    for (case, (before, after, users)) in cases.into_iter().enumerate() {
        let app = (case + 1).to_string();
        assert_eq!(refused(&bridge, &app), USERS[..3], "{case}");
        kafka.delete_topic(&name(case));
        make(case, after, users);
        let what = format!("after {before:?}, {after:?} with {} users", users.len());
        wait::until_within(SOON, &what, || refused(&bridge, &app) == ["dave"]);
        wait_for_state(&bridge, &name(case), "live");
    }
    bridge.stop_in_order();
}

/// One bridge runs meanwhile, the other is suspended.
#[test]
fn a_log_truncated_by_an_unclean_leader_election_is_read_again() {
    let Some(mut kafka) = Kafka::start(3) else { return };
    let name = "blocklist-unclean";
    let settings = [("cleanup.policy", "compact"), ("unclean.leader.election.enable", "true")];
    kafka.create_topic_with(name, 1, 2, &settings);
    let mut topic = Topic::at(&kafka, name);
    fill(&mut topic, Some("00000000000000d3"), &["alice"]);
    let live = bridge(&kafka, name, "");
    let mut still = bridge(&kafka, name, "");
    kafka.wait_until_in_sync(name);

    let Partition { leader, replicas, .. } = kafka.partition(name);
    let follower = replicas.into_iter().find(|node| *node != leader).unwrap();
    kafka.node(follower).kill();
    wait::until("the follower is out of sync", || kafka.partition(name).in_sync == [leader]);
    topic.put("block\u{1f}bob");
    for bridge in [&live, &still] {
        wait_until_refused(bridge, &["alice", "bob"]);
        assert!(state(bridge, name, "live"));
    }
    still.signal(Signal::STOP);
    kafka.node(leader).kill();
    kafka.node(follower).restart();
    wait::until("the follower leads", || kafka.partition(name).leader == follower);
    wait_until_refused(&live, &["alice"]);
    wait_for_state(&live, name, "live");
    topic.put("block\u{1f}carol");
    topic.put("block\u{1f}dave");
    wait_until_refused(&live, &["alice", "carol", "dave"]);
    still.signal(Signal::CONT);
    wait_until_refused(&still, &["alice", "carol", "dave"]);
    wait_for_state(&still, name, "live");

    // The leader epoch of a recreated topic is lower than the one that the bridges know.
    kafka.node(leader).restart();
    kafka.wait_until_in_sync(name);
    kafka.delete_topic(name);
    kafka.create_topic_with(name, 1, 2, &settings);
    fill(&mut Topic::at(&kafka, name), Some("00000000000000d4"), &["eve", "u1", "u2", "u3", "u4", "u5"]);
    for bridge in [&live, &still] {
        wait_until_refused(bridge, &["eve"]);
        wait_for_state(bridge, name, "live");
    }
    live.stop_in_order();
    still.stop_in_order();
}
