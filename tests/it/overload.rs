//! More than there is room or time for: after-callbacks are refused, and before-callbacks are decided all the same.

use std::time::Duration;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::http;
use crate::support::http::Client;
use crate::support::journal;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::ledger::Watch;
use crate::support::load;
use crate::support::load::Load;
use crate::support::oracle;
use crate::support::ports;
use crate::support::powercut::PowerCut;
use crate::support::reader::Reader;
use crate::support::wait;

const BEFORE: &str = "OfficialAccount.CallbackBeforeAddSubscriber";
const QUESTION: &str = r##"{"CallbackCommand":"OfficialAccount.CallbackBeforeAddSubscriber","Official_Account":"@TOA#_a",
    "Operator_Account":"o","SubscribeAccountList":[{"Subscriber_Account":"jared"},{"Subscriber_Account":"mallory"}]}"##;
const ANSWER: &str = r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0,"RefusedSubscribers_Account":["mallory"]}"#;

/// The bytes of bodies that are on their way.
const AWAITED: &str = "callbridge_bodies_awaited_bytes";
/// The longest body of the tests of the budget, which holds four of them.
const LONGEST: usize = 1000;
const CLIENTS: u64 = 8;

fn blocklist(files: &Files) -> String {
    files.write("blocklist.txt", "mallory\n")
}

/// A head that announces a body of so many bytes.
fn head(command: &str, length: &str) -> String {
    let target = http::callback_target(APP, command);
    format!("POST {target} HTTP/1.1\r\nHost: callbridge.test\r\n{length}\r\n\r\n")
}

/// Sends a head, and what is given of its body.
fn begin(bridge: &Bridge, command: &str, length: &str, begin: &str) -> Client {
    let mut client = Client::connect(bridge.callbacks).unwrap();
    client.write(format!("{}{begin}", head(command, length)).as_bytes()).unwrap();
    client
}

fn wait_until_awaited(bridge: &Bridge, bytes: usize) {
    bridge.metrics_until(|metrics| (metrics[AWAITED] - bytes as f64).abs() < 0.5);
}

/// Sends a body in two parts, the second once the first has been looked at: `is_seen` says so.
fn post_in_parts(bridge: &Bridge, command: &str, body: &str, is_seen: impl FnOnce()) -> (Client, http::Response) {
    let (first, second) = body.split_at(body.len() / 2);
    let mut client = begin(bridge, command, &format!("Content-Length: {}", body.len()), first);
    is_seen();
    client.write(second.as_bytes()).unwrap();
    let response = client.read().unwrap();
    (client, response)
}

fn assert_decides(bridge: &Bridge) {
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let response = client.post(&http::callback_target(APP, BEFORE), QUESTION.as_bytes()).unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, ANSWER));
}

#[test]
pub(crate) fn slow_bodies_have_a_budget_that_leaves_room_for_whole_ones_and_decisions() {
    let files = Files::new();
    let settings = format!(
        "callbacks.body_bytes_max = {LONGEST}\ncallbacks.bodies_bytes_max = {}\ncallbacks.body_timeout_ms = 60000\n\
         callbacks.deadline_ms = 1900\nblocklist.files = [{:?}]",
        4 * LONGEST,
        blocklist(&files)
    );
    let bridge = Bridge::light(&settings);
    let news = load::body("@a", 0);
    let target = http::callback_target(APP, load::COMMAND);
    let longest = format!("Content-Length: {LONGEST}");
    // One of them may be as long as any: it does not say.
    let slow = [&longest, &longest, "Transfer-Encoding: chunked"].map(|it| begin(&bridge, load::COMMAND, it, ""));
    wait_until_awaited(&bridge, 3 * LONGEST);

    let is_refused =
        |count: f64| move |bridge: &Bridge| wait::until("it is refused", || bridge.lost("bodies_full") >= count);
    let (mut client, response) = post_in_parts(&bridge, load::COMMAND, &news, || is_refused(1.0)(&bridge));
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")), "{}", response.text());
    assert!(response.text().contains("too many bodies"), "{}", response.text());
    let whole = client.post(&target, news.as_bytes()).unwrap();
    assert_eq!(whole.status, 200, "the connection goes on, and what is whole needs no room");
    let question = || wait_until_awaited(&bridge, 3 * LONGEST + QUESTION.len());
    let (_client, response) = post_in_parts(&bridge, BEFORE, QUESTION, question);
    assert_eq!((response.status, response.text().as_str()), (200, ANSWER), "questions have room of their own");

    let slow_question = begin(&bridge, BEFORE, &longest, "{");
    wait_until_awaited(&bridge, 4 * LONGEST);
    let (_client, response) = post_in_parts(&bridge, BEFORE, QUESTION, || is_refused(2.0)(&bridge));
    assert_eq!(response.status, 503, "which has an end, too");
    assert_decides(&bridge);

    drop((slow, slow_question));
    wait_until_awaited(&bridge, 0);
    let (_client, response) = post_in_parts(&bridge, load::COMMAND, &news, || wait_until_awaited(&bridge, news.len()));
    assert_eq!(response.status, 200);
    wait_until_awaited(&bridge, 0);
    let stderr = bridge.stderr();
    assert_eq!(stderr.matches("the budget for bodies that are being received is exhausted").count(), 1, "{stderr}");
    let stopped = bridge.stop_and_wait();
    let expected = Ledger { received: 10, refused: 4, lost: 2, delivered: 4, ..Ledger::default() };
    assert_eq!(Ledger::of_exit(&stopped.ledger), expected, "{}", stopped.stderr);
}

/// Waits until some were refused at their deadline, asks meanwhile, and looks at what else must hold.
fn wait_until_overloaded(bridge: &Bridge, load: &Load) {
    wait::until("callbacks are refused at their deadline", || {
        assert_decides(bridge);
        bridge.lost("deadline") + bridge.lost("topic_full") >= 5.0 * CLIENTS as f64
    });
    let acknowledged = load.acknowledged();
    assert_decides(bridge);
    assert_eq!(load.acknowledged(), acknowledged, "nothing is acknowledged that is not safe");
}

fn wait_until_acknowledged(load: &Load, more: u64) {
    let goal = load.acknowledged() + more;
    wait::until("callbacks are acknowledged", || load.acknowledged() >= goal);
}

#[test]
pub(crate) fn a_frozen_broker_and_a_full_queue_cost_503s_and_no_decision() {
    let Some(mut kafka) = Kafka::start_alone() else { return };
    let files = Files::new();
    let settings = format!(
        "ack = \"broker\"\nqueue.captures_max = 4\ncallbacks.deadline_ms = 500\nblocklist.files = [{:?}]",
        blocklist(&files)
    );
    let brokers = kafka.bootstrap();
    let bridge = Bridge::builder().brokers(&brokers).topics("overload").settings(&settings).start();
    let watch = Watch::start(bridge.admin);
    let load = Load::start(bridge.callbacks, APP, CLIENTS, Duration::from_millis(5));
    wait_until_acknowledged(&load, 100);
    kafka.node(1).freeze();
    wait_until_overloaded(&bridge, &load);
    kafka.node(1).thaw();
    wait_until_acknowledged(&load, 100);
    let outcome = load.stop();
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    watch.assert_balanced();
    let topic = format!("overload.{}", load::COMMAND);
    let judged = oracle::judge(&outcome, &Reader::open(&kafka.client(), &[&topic]).collect_to_end());
    assert!(!judged.unavailable.is_empty());
    let stopped = bridge.stop_and_wait();
    assert!(stopped.code == 0 && stopped.is_balanced(), "{stopped:?}");
}

/// A process whose disk is frozen cannot even be killed.
struct Thaw<'d>(&'d PowerCut);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        self.0.thaw_syncs();
        self.0.thaw_reads();
    }
}

/// Waits until a load balancer would send nothing more here. A disk that hangs is no reason to restart the process.
fn wait_until_unready(bridge: &Bridge) {
    wait::until("it is not ready", || {
        let (status, why) = bridge.admin_page("/readyz");
        status == 503 && why.starts_with("the disk has not synced for ")
    });
    assert_eq!(bridge.admin_page("/livez").0, 200);
}

#[test]
fn a_disk_that_stands_still_costs_503s_and_no_decision() {
    let Some(disk) = PowerCut::mount(11) else { return };
    let files = Files::new();
    let nobody = ports::nobody();
    let settings = journal::builder(&nobody, "overload", "").args(&["--blocklist", &blocklist(&files)]);
    let settings = settings.variable("CALLBRIDGE_CALLBACKS_DEADLINE_MS", "500");
    let bridge = settings.start_in(&disk.path().join("journal"));
    let load = Load::start(bridge.callbacks, APP, CLIENTS, Duration::from_millis(5));
    wait_until_acknowledged(&load, 100);
    disk.freeze_syncs();
    let thaw = Thaw(&disk);
    wait_until_overloaded(&bridge, &load);
    wait_until_unready(&bridge);
    drop(thaw);
    wait_until_acknowledged(&load, 100);
    wait::until("it is ready again", || bridge.admin_page("/readyz").0 == 200);
    let outcome = load.stop();
    assert!(outcome.issued.iter().all(|sent| matches!(sent.status, Some(200 | 503))));
    let stopped = bridge.stop_and_wait();
    assert!(stopped.code == 0 && stopped.is_balanced(), "{stopped:?}");
    assert!(Ledger::of_exit(&stopped.ledger).waiting >= outcome.acknowledged().count() as u64, "{stopped:?}");
}

#[test]
fn a_disk_that_does_not_read_takes_it_out_of_rotation_and_does_not_kill_it() {
    let (Some(disk), Some(mut kafka)) = (PowerCut::mount(13), Kafka::start(1)) else { return };
    let dir = disk.path().join("journal");
    let nobody = ports::nobody();
    let bridge = journal::builder(&nobody, "reads", "").start_in(&dir);
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let target = http::callback_target(APP, load::COMMAND);
    assert_eq!(client.post(&target, load::body("@a", 0).as_bytes()).unwrap().status, 200);
    assert_eq!(bridge.stop_and_wait().ledger["waiting"], 1);

    kafka.node(1).freeze();
    let bridge = journal::builder(&kafka.bootstrap(), "reads", "").start_in(&dir);
    disk.freeze_reads();
    let thaw = Thaw(&disk);
    kafka.node(1).thaw();
    // Longer than a thread may stand still that does not wait for the disk.
    wait::until("reads have hung for 12 s", || {
        let (status, why) = bridge.admin_page("/readyz");
        let seconds = why.strip_prefix("the disk has not read for ").and_then(|it| it.strip_suffix(" s\n"));
        status == 503 && seconds.is_some_and(|it| it.parse::<u64>().unwrap() >= 12)
    });
    assert_eq!(bridge.admin_page("/livez"), (200, "alive\n".to_owned()));
    drop(thaw);
    wait::until("it is delivered", || Ledger::of_scrape(&bridge.metrics()).delivered == 1);
    assert_eq!(bridge.admin_page("/readyz").0, 200);
    bridge.stop_in_order();
}

#[test]
fn news_whose_sender_goes_before_it_is_on_disk_is_delivered_all_the_same() {
    let Some(disk) = PowerCut::mount(12) else { return };
    let Some(kafka) = Kafka::shared() else { return };
    let settings = journal::builder(&kafka.bootstrap(), "gone", "");
    let settings = settings.variable("CALLBRIDGE_CALLBACKS_DEADLINE_MS", "1900");
    let bridge = settings.start_in(&disk.path().join("journal"));
    let body = |sequence| load::body("@a", sequence);
    let length = format!("Content-Length: {}", body(1).len());
    let post = |sequence| begin(&bridge, load::COMMAND, &length, &body(sequence));
    assert_eq!(post(1).read().unwrap().status, 200);
    disk.freeze_syncs();
    let thaw = Thaw(&disk);
    // The first is written and cannot be synced; the second lines up behind it.
    let leaving = [post(2), post(3)];
    bridge.metrics_until(|metrics| (metrics["callbridge_callbacks_waiting{where=\"queue\"}"] - 2.0).abs() < 0.5);
    // Not noticed before the response is written: a sender that has closed may still read.
    drop(leaving);
    drop(thaw);
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    let topic = format!("gone.{}", load::COMMAND);
    let records = Reader::open(&kafka.client(), &[&topic]).collect_to_end();
    let values: Vec<_> = records.iter().map(|record| String::from_utf8_lossy(&record.value)).collect();
    let times = [1, 2, 3].map(|sequence| values.iter().filter(|value| value.contains(&body(sequence))).count());
    assert_eq!(times, [1, 1, 1]);
    let stopped = bridge.stop_and_wait();
    let expected = Ledger { received: 3, delivered: 3, ..Ledger::default() };
    assert_eq!(Ledger::of_exit(&stopped.ledger), expected, "{}", stopped.stderr);
}
