//! Journal mode while Kafka is away, frozen, or lacks a topic: every callback is taken, waits on disk, and comes out in order.

use std::env;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use callbridge::command::Command;

use crate::seeds;
use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http;
use crate::support::http::Client;
use crate::support::journal;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::ledger::Watch;
use crate::support::load;
use crate::support::load::Load;
use crate::support::load::Outcome;
use crate::support::oracle;
use crate::support::oracle::Tally;
use crate::support::ports;
use crate::support::reader::Reader;
use crate::support::samples;
use crate::support::torture;
use crate::support::wait;

const DELIVERED: &str = "callbridge_callbacks_delivered_total";
/// More of one topic than the publisher holds in memory, by far.
const MANY: u64 = 20_000;
/// What may be in memory of so many more on disk: much less than they are.
const GROWTH_BYTES: u64 = 12 << 20;
/// Older than that topic takes.
const AGE: Duration = Duration::from_secs(6);
/// What the client is told to wait for an answer, and for a connection.
const TIMEOUT: Duration = Duration::from_millis(1000);

/// All that was answered 200 has come out, in order for each key; nothing else was refused than what the disk took too long
/// for, and the last line says so.
fn assert_all_delivered(bridge: Bridge, kafka: &Kafka, prefix: &str, outcome: &Outcome) -> Ledger {
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    let topic = format!("{prefix}.{}", load::COMMAND);
    let judged = oracle::judge(outcome, &Reader::open(&kafka.client(), &[&topic]).collect_to_end());
    assert!(judged.unanswered.is_empty());
    let late = late(&bridge);
    let stopped = bridge.stop_and_wait();
    assert!(stopped.code == 0 && stopped.is_balanced(), "{stopped:?}");
    let ledger = Ledger::of_exit(&stopped.ledger);
    assert!((late - ledger.lost as f64).abs() < 0.5, "{ledger:?}");
    ledger
}

/// What was lost because the disk took too long for it, or would have.
fn late(bridge: &Bridge) -> f64 {
    bridge.lost("deadline")
}

fn wait_until_acknowledged(load: &Load, count: u64) {
    wait::until("callbacks are acknowledged", || load.acknowledged() >= count);
}

#[test]
fn a_start_without_kafka_is_ready_at_once_and_delivers_in_order_once_it_is_there() {
    let Some(mut kafka) = Kafka::start_alone() else { return };
    kafka.node(1).kill();
    let (_folder, dir) = journal::folder();
    let bridge = journal::builder(&kafka.bootstrap(), "away", "").start_in(&dir);
    assert_eq!(bridge.admin_page("/readyz"), (200, "ready\n".to_owned()));
    let watch = Watch::start(bridge.admin);
    let load = Load::start(bridge.callbacks, APP, 8, Duration::ZERO);
    wait_until_acknowledged(&load, MANY / 4);
    // The load goes on meanwhile: what is new must not overtake what is old.
    load.pause(Duration::from_millis(20));
    kafka.node(1).restart();
    bridge.metrics_until(|metrics| metrics[DELIVERED] >= (MANY / 4) as f64);
    let outcome = load.stop();
    let ledger = assert_all_delivered(bridge, &kafka, "away", &outcome);
    assert_eq!(ledger.delivered, outcome.acknowledged().count() as u64);
    watch.assert_balanced();
}

#[test]
fn records_too_old_for_their_topic_are_delivered_with_the_time_of_sending() {
    let Some(mut kafka) = Kafka::start_alone() else { return };
    let topic = format!("aged.{}", load::COMMAND);
    kafka.create_topic_with(&topic, 2, 1, &[("message.timestamp.before.max.ms", "5000")]);
    let (_folder, dir) = journal::folder();
    let bridge = journal::builder(&kafka.bootstrap(), "aged", "").start_in(&dir);
    kafka.node(1).kill();
    let load = Load::start(bridge.callbacks, APP, 2, Duration::from_millis(20));
    wait_until_acknowledged(&load, 100);
    let (outcome, ended) = (load.stop(), clock::monotonic());
    wait::until("the last of them is too old", || clock::monotonic().duration_since(ended) > AGE);
    kafka.node(1).restart();
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    assert!(bridge.metrics()["callbridge_records_total{outcome=\"failed\"}"] > 0.0, "none was too old");
    let ledger = assert_all_delivered(bridge, &kafka, "aged", &outcome);
    assert_eq!(ledger.delivered, outcome.acknowledged().count() as u64);
}

#[test]
pub(crate) fn a_topic_that_is_deleted_fills_only_its_share_of_the_queue() {
    let Some(kafka) = Kafka::start_alone() else { return };
    let brokers = kafka.bootstrap();
    for ack in ["broker", "memory"] {
        let settings = "queue.captures_max = 500\ncallbacks.deadline_ms = 200\ndrain_seconds = 60";
        // So that the client notices soon that the topic is there again.
        let refresh = ["--kafka", "topic.metadata.refresh.interval.ms=1000"];
        let builder = Bridge::builder().brokers(&brokers).topics(ack).ack(ack).args(&refresh);
        let bridge = builder.settings(settings).start();
        let (stuck, other) = (&seeds::AFTER_ADD_SUBSCRIBER, &seeds::AFTER_INFO_CHANGED);
        let post = |seed: &seeds::Seed, times: u64| {
            let mut client = Client::connect(bridge.callbacks).unwrap();
            let target = http::callback_target(APP, seed.command);
            let statuses = (0..times).map(|_nth| client.post(&target, seed.body.as_bytes()).unwrap().status);
            statuses.collect::<Vec<_>>()
        };
        // A broker that has just started may take longer than this deadline for its first records.
        wait::until("both topics take records", || [post(stuck, 1), post(other, 1)] == [[200], [200]]);
        kafka.delete_topic(&format!("{ack}.{}", stuck.command));
        let refused = thread::scope(|scope| {
            let senders: Vec<_> = (0..20).map(|_nth| scope.spawn(|| post(stuck, 30))).collect();
            senders.into_iter().flat_map(|sender| sender.join().unwrap()).filter(|status| *status == 503).count()
        });
        assert!(post(other, 200).iter().all(|status| *status == 200), "{ack}: another topic");
        assert!(bridge.lost("topic_full") > 0.0 && refused >= 200 - 1, "{refused}");
        let by_topic = format!("callbridge_topic_full_total{{topic=\"{ack}.{}\"}}", stuck.command);
        assert!(bridge.metrics()[&by_topic] > 0.0);
        assert_eq!(bridge.admin_page("/readyz").0, 200);
        assert_eq!(bridge.lost("queue_full"), 0.0);

        kafka.create_topic(&format!("{ack}.{}", stuck.command), 6, 1);
        wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
        assert_eq!(post(stuck, 1), [200], "{ack}: it is there again");
        let stopped = bridge.stop_and_wait();
        assert!(stopped.is_balanced(), "{stopped:?}");
        assert!(stopped.stderr.contains("the share of a topic in the room"), "{}", stopped.stderr);
    }
}

/// Posts the same callback so often, over a connection of its own.
fn post_again_and_again(bridge: &Bridge, seed: &seeds::Seed, times: u64) {
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let target = http::callback_target(APP, seed.command);
    for _nth in 0..times {
        assert_eq!(client.post(&target, seed.body.as_bytes()).unwrap().status, 200);
    }
}

#[test]
fn captures_beyond_the_send_budget_are_read_from_disk_once_and_in_order() {
    let Some(mut kafka) = Kafka::start_alone() else { return };
    let (_folder, dir) = journal::folder();
    let bridge = journal::builder(&kafka.bootstrap(), "parked", "").start_in(&dir);
    let watch = Watch::start(bridge.admin);
    let load = Load::start(bridge.callbacks, APP, 16, Duration::ZERO);
    bridge.metrics_until(|metrics| metrics[DELIVERED] >= 100.0);
    kafka.node(1).freeze();
    // Two topics, so that one of them is behind the other.
    let (seed, clients, times) = (&seeds::AFTER_ADD_SUBSCRIBER, 8, 1250);
    thread::scope(|scope| {
        for _client in 0..clients {
            scope.spawn(|| post_again_and_again(&bridge, seed, times));
        }
    });
    let acknowledged = load.acknowledged();
    wait_until_acknowledged(&load, acknowledged + MANY / 2);
    let resident_before = bridge.resident_bytes();
    wait_until_acknowledged(&load, acknowledged + MANY / 2 + MANY);
    let resident = bridge.resident_bytes();
    assert!(resident < resident_before + GROWTH_BYTES, "{resident_before} became {resident}");
    // It goes on meanwhile: what is new must not overtake what is old.
    load.pause(Duration::from_millis(20));
    kafka.node(1).thaw();
    bridge.metrics_until(|metrics| metrics[DELIVERED] >= MANY as f64);
    let outcome = load.stop();

    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    watch.assert_balanced();
    let topic = format!("parked.{}", seed.command);
    let records = Reader::open(&kafka.client(), &[&topic]).collect_to_end();
    assert_eq!(records.len() as u64, clients * times, "each once");
    let ledger = assert_all_delivered(bridge, &kafka, "parked", &outcome);
    assert_eq!(ledger.delivered, outcome.acknowledged().count() as u64 + clients * times);
}

/// Callbacks of each command while Kafka is frozen. All of them with the client take about 100 MiB.
const OF_EACH_COMMAND: u64 = 800;
/// And as long as the outage is told to last.
const OF_EACH_COMMAND_A_SECOND: u64 = 20;
/// What the process may grow by in an outage, whatever the number of topics.
const OUTAGE_BYTES_MAX: u64 = 48 << 20;
/// Each command's callbacks are sent by one of so many connections, so their order is known.
const SENDERS: usize = 8;

/// Posts `times` callbacks of each command, with their numbers from `first` on as the id of the request.
fn post_of_each_command(bridge: &Bridge, first: u64, times: u64) {
    let samples: Vec<_> = Command::all().map(samples::first_of).collect();
    thread::scope(|scope| {
        for samples in samples.chunks(samples.len().div_ceil(SENDERS)) {
            scope.spawn(move || {
                let mut client = Client::connect(bridge.callbacks).unwrap();
                for number in first..first + times {
                    for sample in samples {
                        let target = format!("{}&RequestID={number}", http::callback_target(APP, sample.command));
                        let answer = client.post(&target, sample.callback.get().as_bytes()).unwrap();
                        assert_eq!(answer.status, 200, "{}: {}", sample.command, answer.text());
                    }
                }
            });
        }
    });
}

#[test]
fn an_outage_with_callbacks_of_all_commands_takes_at_most_48_mib_of_memory() {
    let Some(mut kafka) = Kafka::start_alone() else { return };
    let names = Command::all().map(Command::name).chain(["unknown", "rejected"]);
    let topics: Vec<String> = names.map(|name| format!("every.{name}")).collect();
    topics.iter().for_each(|topic| kafka.create_topic(topic, 1, 1));
    let (_folder, dir) = journal::folder();
    let settings = journal::builder_without_topics(&kafka.bootstrap(), "every", "");
    let bridge = settings.variable("CALLBRIDGE_TOPICS_COMMANDS", "all").start_in(&dir);
    let watch = Watch::start(bridge.admin);
    post_of_each_command(&bridge, 0, 2);
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    let idle = bridge.resident_bytes();
    kafka.node(1).freeze();
    let (began, mut count, mut resident) = (clock::monotonic(), 2 + OF_EACH_COMMAND, 0);
    post_of_each_command(&bridge, 2, OF_EACH_COMMAND);
    bridge.metrics_until(|metrics| metrics["callbridge_records_unreported"] >= 5000.0);
    loop {
        resident = bridge.resident_bytes().max(resident);
        if began.elapsed() >= outage(Duration::ZERO) {
            break;
        }
        let next = clock::monotonic() + Duration::from_secs(1);
        post_of_each_command(&bridge, count, OF_EACH_COMMAND_A_SECOND);
        count += OF_EACH_COMMAND_A_SECOND;
        thread::sleep(next.saturating_duration_since(clock::monotonic()));
    }
    torture::say(&format!(
        "Kafka frozen for {} s, {count} callbacks of each of {} commands: memory grew from {idle} to at most {resident} bytes",
        began.elapsed().as_secs(),
        Command::COUNT
    ));
    assert!(resident < idle + OUTAGE_BYTES_MAX, "{idle} became {resident}");
    let metrics = bridge.metrics();
    for topic in &topics[..Command::COUNT] {
        let age = metrics[&format!("callbridge_topic_oldest_undelivered_seconds{{topic=\"{topic}\"}}")];
        assert!(age > 0.0, "{topic}");
    }
    kafka.node(1).thaw();
    let limit = Duration::from_secs(90) + began.elapsed();
    wait::until_within(limit, "nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    watch.assert_balanced();
    for topic in &topics[..Command::COUNT] {
        let delivered = Reader::open(&kafka.client(), &[topic]).request_numbers();
        assert_eq!(delivered, (0..count).collect::<Vec<_>>(), "{topic}");
    }
    let count = count * Command::COUNT as u64;
    let expected = Ledger { received: count, delivered: count, ..Ledger::default() };
    let stopped = bridge.stop_and_wait();
    assert_eq!((stopped.code, Ledger::of_exit(&stopped.ledger)), (0, expected), "{}", stopped.stderr);
}

#[test]
fn stopped_while_kafka_is_away_it_says_what_waits_and_the_next_start_delivers_it() {
    let Some(kafka) = Kafka::shared() else { return };
    let (_folder, dir) = journal::folder();
    let bridge = journal::builder(&ports::nobody(), "stopped", "").start_in(&dir);
    let load = Load::start(bridge.callbacks, APP, 8, Duration::ZERO);
    wait_until_acknowledged(&load, 500);
    let outcome = load.stop();
    let (count, acknowledged) = (outcome.issued.len() as u64, outcome.acknowledged().count() as u64);
    let stopped = bridge.stop_and_wait();
    let lost = count - acknowledged;
    let expected = Ledger { received: count, lost, waiting: acknowledged, ..Ledger::default() };
    assert_eq!((stopped.code, Ledger::of_exit(&stopped.ledger)), (0, expected), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("the next start delivers them"), "{}", stopped.stderr);

    let bridge = journal::builder(&kafka.bootstrap(), "stopped", "").start_in(&dir);
    let ledger = assert_all_delivered(bridge, kafka, "stopped", &outcome);
    // What was 503 only because the disk was slow may be there, too.
    assert!((acknowledged..=count).contains(&ledger.recovered), "{ledger:?} of {count}, {acknowledged} acknowledged");
    assert_eq!(ledger, Ledger { recovered: ledger.recovered, delivered: ledger.recovered, ..Ledger::default() });
}

#[test]
fn a_node_that_is_frozen_and_then_killed_for_longer_than_the_timeouts_costs_nothing() {
    let Some(mut kafka) = Kafka::start_alone() else { return };
    let (_folder, dir) = journal::folder();
    let timeout = TIMEOUT.as_millis();
    let properties = [
        format!("socket.timeout.ms={timeout}"),
        format!("request.timeout.ms={timeout}"),
        format!("socket.connection.setup.timeout.ms={timeout}"),
    ];
    let settings = properties.iter().fold(journal::builder(&kafka.bootstrap(), "frozen", ""), |settings, property| {
        settings.args(&["--kafka", property])
    });
    let bridge = settings.start_in(&dir);
    let watch = Watch::start(bridge.admin);
    let load = Load::start(bridge.callbacks, APP, 8, Duration::from_millis(5));
    let flows = || {
        let before = bridge.metrics()[DELIVERED];
        bridge.metrics_until(|metrics| metrics[DELIVERED] >= before + 100.0);
    };
    let outlasts_the_timeouts = || {
        let (began, acknowledged) = (clock::monotonic(), load.acknowledged());
        wait::until("the timeouts have passed", || clock::monotonic().duration_since(began) > 3 * TIMEOUT);
        assert!(load.acknowledged() > acknowledged, "callbacks are taken meanwhile");
    };
    flows();
    kafka.node(1).freeze();
    outlasts_the_timeouts();
    kafka.node(1).thaw();
    flows();
    kafka.node(1).kill();
    outlasts_the_timeouts();
    kafka.node(1).restart();
    flows();
    let outcome = load.stop();
    assert_all_delivered(bridge, &kafka, "frozen", &outcome);
    watch.assert_balanced();
}

#[test]
fn a_topic_that_does_not_exist_holds_up_only_its_own_callbacks_until_it_is_made() {
    let Some(kafka) = Kafka::shared() else { return };
    let lacking = seeds::AFTER_ADD_SUBSCRIBER.command;
    let missing = format!("lacking.{lacking}");
    let others: Vec<&str> = seeds::ALL.iter().map(|seed| seed.command).filter(|it| *it != lacking).collect();
    for suffix in others.iter().chain(&["unknown", "rejected"]) {
        kafka.create_topic(&format!("lacking.{suffix}"), 1, 1);
    }
    let (_folder, dir) = journal::folder();
    let bridge = journal::builder_without_topics(&kafka.bootstrap(), "lacking", "").start_in(&dir);
    let watch = Watch::start(bridge.admin);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let (rounds, count) = (20, seeds::ALL.len() as u64);
    for _round in 0..rounds {
        for seed in &seeds::ALL {
            let answer = client.post(&http::callback_target(APP, seed.command), seed.body.as_bytes()).unwrap();
            assert_eq!(answer.status, 200, "{}", seed.command);
        }
    }
    let delivered = (rounds * (count - 1)) as f64;
    bridge.metrics_until(|metrics| metrics[DELIVERED] >= delivered);
    assert_eq!(Ledger::of_scrape(&bridge.metrics()).waiting, rounds);
    kafka.create_topic(&missing, 1, 1);
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    let records = Reader::open(&kafka.client(), &[&missing]).collect_to_end();
    assert_eq!(records.len() as u64, rounds);
    watch.assert_balanced();
    let stopped = bridge.stop_and_wait();
    let expected = Ledger { received: rounds * count, delivered: rounds * count, ..Ledger::default() };
    assert_eq!((stopped.code, Ledger::of_exit(&stopped.ledger)), (0, expected), "{}", stopped.stderr);
}

/// As long as a head lets it be, nearly.
const CLIENT_IP_BYTES: usize = 15_000;
/// For one POST with a body of 75 KB at most: a thousand records with their envelopes, in the client's queue.
const POST_BYTES_MAX: u64 = 4 << 20;

#[test]
fn one_push_post_takes_little_memory_while_kafka_is_away() {
    let Some(mut kafka) = Kafka::start_alone() else { return };
    let (_folder, dir) = journal::folder();
    let bridge = journal::builder(&kafka.bootstrap(), "pushed", "").start_in(&dir);
    bridge.warm_up(APP);
    kafka.node(1).freeze();
    let client_ip = "9".repeat(CLIENT_IP_BYTES);
    let target = format!("/?SdkAppid={APP}&CallbackCommand=Push.OfflinePush&ClientIP={client_ip}");
    let mut unreported = 0.0;
    // Threads take memory for themselves when they first have something to do: the first of each is not measured.
    for (events, records, is_measured) in
        [(1000, 1000.0, false), (25_000, 1.0, false), (1000, 1000.0, true), (25_000, 1.0, true)]
    {
        let before = bridge.resident_bytes();
        let body = format!(r#"{{"Events":[{}]}}"#, vec!["{}"; events].join(","));
        let answer = Client::connect(bridge.callbacks).unwrap().post(&target, body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        unreported += records;
        bridge.metrics_until(|metrics| metrics["callbridge_records_unreported"] >= unreported);
        let after = bridge.resident_bytes();
        assert!(!is_measured || after < before + POST_BYTES_MAX, "{events} events: {before} became {after}");
    }
    kafka.node(1).thaw();
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    assert_eq!(bridge.metrics()["callbridge_rejected_total{reason=\"too_many_events\"}"], 2.0);
    bridge.stop_in_order();
}

#[test]
fn a_missing_topic_takes_its_own_bytes_only_while_others_write_ten_times_the_quota() {
    let Some(kafka) = Kafka::shared() else { return };
    let (lacking, busy) = (seeds::AFTER_ADD_SUBSCRIBER, seeds::AFTER_INFO_CHANGED);
    for suffix in [busy.command, "unknown", "rejected"] {
        kafka.create_topic(&format!("quiet.{suffix}"), 1, 1);
    }
    let (_folder, dir) = journal::folder();
    let quota_bytes = 8 * journal::SEGMENT_BYTES;
    let settings =
        journal::builder_without_topics(&kafka.bootstrap(), "quiet", &format!("quota_bytes = {quota_bytes}"));
    let bridge = settings.start_in(&dir);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let long = format!("{}{}", busy.body, " ".repeat(60_000));
    let rounds = 10 * quota_bytes / (20 * 60_000);
    for round in 1..=rounds {
        for _ in 0..20 {
            let answer = client.post(&http::callback_target(APP, busy.command), long.as_bytes()).unwrap();
            assert_eq!(answer.status, 200, "round {round}: {}", bridge.metrics()["callbridge_journal_files_bytes"]);
        }
        let answer = client.post(&http::callback_target(APP, lacking.command), lacking.body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "round {round}");
        bridge.metrics_until(|metrics| metrics[DELIVERED] >= (20 * round) as f64);
    }
    let metrics = bridge.metrics();
    assert_eq!(Ledger::of_scrape(&metrics).waiting, rounds);
    let [copied, won] =
        ["copied", "won"].map(|what| metrics[&format!("callbridge_journal_compaction_{what}_bytes_total")]);
    assert!(won > quota_bytes as f64 && copied < won, "{copied} bytes were copied for {won}");
    let missing = format!("quiet.{}", lacking.command);
    kafka.create_topic(&missing, 1, 1);
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    assert_eq!(Reader::open(&kafka.client(), &[&missing]).collect_to_end().len() as u64, rounds);
    let stopped = bridge.stop_and_wait();
    let expected = Ledger { received: rounds * 21, delivered: rounds * 21, ..Ledger::default() };
    assert_eq!((stopped.code, Ledger::of_exit(&stopped.ledger)), (0, expected), "{}", stopped.stderr);
}

/// How long Kafka shall be away instead of [`AWAY`], in seconds.
const OUTAGE_VARIABLE: &str = "CALLBRIDGE_OUTAGE_SECONDS";
const AWAY: Duration = Duration::from_secs(10);

/// How long Kafka is away.
fn outage(default: Duration) -> Duration {
    let told = env::var(OUTAGE_VARIABLE).ok();
    told.map_or(default, |told| Duration::from_secs(told.parse().expect("a number of seconds")))
}

/// The load of an outage.
const RATE: u32 = 2000;
const CONNECTIONS: u64 = 40;
const KEYS_EACH: u64 = 5;
/// From this length on, peak memory may grow by a tenth at most; before, it is still filling what it may.
const FLAT_FROM: Duration = Duration::from_secs(60);
/// Between two looks at its memory.
const LOOK: Duration = Duration::from_millis(200);

/// Looks at its memory for as long as `away`. Returns the peak of each quarter but the first, in bytes.
fn watch_memory(bridge: &Bridge, away: Duration) -> [u64; 3] {
    let began = clock::monotonic();
    thread::sleep(away / 4);
    [2, 3, 4].map(|quarter| {
        let mut peak = 0;
        while began.elapsed() < away * quarter / 4 {
            peak = bridge.resident_bytes().max(peak);
            thread::sleep(LOOK);
        }
        peak
    })
}

/// Kafka is killed, and comes back; the load goes on all the while.
#[test]
fn an_outage_at_2000_a_second_loses_nothing_and_leaves_memory_flat() {
    let Some(mut kafka) = Kafka::start_alone() else { return };
    let away = outage(AWAY);
    let (_folder, dir) = journal::folder();
    // Files of the size that is shipped.
    let settings = journal::builder(&kafka.bootstrap(), "outage", "");
    let bridge = settings.variable("CALLBRIDGE_JOURNAL_SEGMENT_BYTES", "16777216").start_in(&dir);
    let watch = Watch::start(bridge.admin);
    let load = Load::start_at_rate(bridge.callbacks, APP, CONNECTIONS, KEYS_EACH, RATE);
    bridge.metrics_until(|metrics| metrics[DELIVERED] >= 100.0);

    kafka.node(1).kill();
    let acknowledged = load.acknowledged();
    let [second, third, last] = watch_memory(&bridge, away);
    let taken = load.acknowledged() - acknowledged;
    assert!(taken > 0, "callbacks are taken meanwhile");
    let delivered = bridge.metrics()[DELIVERED];
    kafka.node(1).restart();
    let back = clock::monotonic();
    // What is new must not overtake what is old.
    bridge.metrics_until(|metrics| metrics[DELIVERED] >= delivered + 100.0);
    let outcome = load.stop();
    let nothing_waits = || Ledger::of_scrape(&bridge.metrics()).waiting == 0;
    wait::until_within(Duration::from_secs(90) + away, "nothing waits", nothing_waits);
    let drain = back.elapsed();
    let scrapes = watch.assert_balanced();
    let late = late(&bridge);

    let topic = format!("outage.{}", load::COMMAND);
    let mut tally = Tally::of(&outcome);
    Reader::open(&kafka.client(), &[&topic]).pass_to_end(Duration::from_secs(120) + away, |record| tally.see(&record));
    let missing = outcome.acknowledged().filter(|sent| !tally.seen.contains(&sent.sequence)).count();
    let stopped = bridge.stop_and_wait();
    let ledger = Ledger::of_exit(&stopped.ledger);
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    torture::say(&format!(
        "Kafka away for {} s, {taken} callbacks taken meanwhile; {} issued in all, {} answered 200\n\
         peak memory of the second, third and last quarter: {:.1}, {:.1} and {:.1} MiB\n\
         {scrapes} scrapes, all balanced; all delivered {:.1} s after Kafka answered again\n\
         {missing} missing, {} repeats, {} out of order; {late} answered 503 for a disk that was slow\n\
         {ledger:?}",
        away.as_secs(),
        outcome.issued.len(),
        outcome.acknowledged().count(),
        mebibytes(second),
        mebibytes(third),
        mebibytes(last),
        drain.as_secs_f64(),
        tally.repeats,
        tally.disorder.len(),
    ));
    assert_eq!((missing, tally.disorder.as_slice()), (0, [].as_slice()));
    assert!(stopped.code == 0 && ledger.is_balanced(), "{stopped:?}");
    assert_eq!(ledger.received, outcome.issued.len() as u64, "every callback had an answer");
    assert_eq!(ledger.received, ledger.delivered + ledger.lost);
    assert!((late - ledger.lost as f64).abs() < 0.5, "{ledger:?}");
    let growth = if away >= FLAT_FROM { second / 10 } else { 4 * GROWTH_BYTES };
    assert!(third.max(last) <= second + growth, "{second} became {third} and {last}");
}
