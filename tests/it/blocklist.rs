//! The blocklist from outside: the effect of each rule, and decisions while files change, become invalid or are deleted.

use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::reader::Reader;

const COMMAND: &str = "OfficialAccount.CallbackBeforeAddSubscriber";
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn each_kind_of_rule_has_its_effect() {
    let lists = Lists::new();
    lists.replace(
        "list",
        concat!(
            "\u{feff}# A comment, and then a plain list of ids, with an empty line in it.\r\n",
            "mallory\r\n",
            "\t eve \n",
            "\n",
            "你好@x.example#1\n",
            "block #hash\n",
            "\"two words\"\n",
            "\"quo\\\"te\\\\\"\n",
            "\"block\"\n",
            "tom until 2020-01-31T00:00:00Z because it has passed\n",
            "tim until 2099-01-31T00:00:00+08:00\n",
            "block bob on @TOA#_news until 2099-01-31T00:00:00Z because spam # in May\n",
            "block ben on @TOA#_news until 2020-01-31T00:00:00Z\n",
            "block \"b b\" on \"@TOA#_two words\"\n",
            "close @TOA#_sports because moved\n",
            "close @TOA#_reopened until 2020-01-31T00:00:00Z\n",
            "allow carol on @TOA#_staff\n",
            "allow bob on @TOA#_staff\n",
            "allow eve on @TOA#_staff\n",
            "allow cem on @TOA#_staff until 2020-01-31T00:00:00Z\n",
            "allow dan on @TOA#_open until 2020-01-31T00:00:00Z\n",
        ),
    );
    let bridge = lists.start("", &["list"]);
    let mut sender = Sender::to(&bridge);
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("@TOA#_any", &["alice", "mallory", "eve", "Mallory", "mallory "], &["mallory", "eve"]),
        ("@TOA#_any", &["你好@x.example#1", "你好@x.example#2", "#hash", "hash"], &["你好@x.example#1", "#hash"]),
        ("@TOA#_any", &["two words", "two", "words", "quo\"te\\", "block", "on"], &["two words", "quo\"te\\", "block"]),
        ("@TOA#_any", &["tom", "tim", "bob", "ben", "carol"], &["tim"]),
        ("@TOA#_news", &["tom", "bob", "ben", "bob", "mallory", "b b"], &["bob", "mallory"]),
        ("@TOA#_NEWS", &["bob"], &[]),
        ("@TOA#_two words", &["b b", "b"], &["b b"]),
        ("@TOA#_reopened", &["alice"], &[]),
        ("@TOA#_staff", &["carol", "bob", "alice", "eve", "cem"], &["alice", "eve", "cem"]),
        ("@TOA#_open", &["alice", "dan"], &[]),
    ];
    for (account, users, refused) in cases {
        assert_eq!(sender.ask(account, users), Answer::listing(refused), "{account} {users:?}");
    }
    let closed = Answer { code: 1, info: "the account takes no new subscribers".to_owned(), refused: vec![] };
    assert_eq!(sender.ask("@TOA#_sports", &["alice"]), closed);
}

#[test]
fn if_all_users_are_refused_the_response_follows_all_refused() {
    let lists = Lists::new();
    lists.replace("list", "bob\nben\n");
    let listing = lists.start("", &["list"]);
    assert_eq!(Sender::to(&listing).ask("@a", &["bob", "ben"]), Answer::listing(&["bob", "ben"]));
    let rejecting = lists.start("decide.all_refused = \"reject\"", &["list"]);
    let rejected = Answer { code: 1, info: "none of these may subscribe".to_owned(), refused: vec![] };
    assert_eq!(Sender::to(&rejecting).ask("@a", &["bob", "ben"]), rejected);
    assert_eq!(Sender::to(&rejecting).ask("@a", &["bob", "alice"]), Answer::listing(&["bob"]));
}

/// The list of generation n blocks only user `n`, and each callback has all users: the response shows which list decided.
#[test]
fn a_list_replaced_a_hundred_times_under_load_gives_no_wrong_decision() {
    const LAST: usize = 101;
    let users: Vec<String> = (1..=LAST).map(|number| number.to_string()).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let lists = Lists::new();
    lists.replace("list", "1\n");
    let bridge = lists.start("", &["list"]);
    // The generation that is known to be in force, and the newest that may be.
    let (seen, written) = (AtomicUsize::new(1), AtomicUsize::new(1));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let ask = || {
            let mut sender = Sender::to(&bridge);
            let mut answers = 0;
            while !is_over.load(Ordering::SeqCst) {
                let oldest = seen.load(Ordering::SeqCst);
                let answer = sender.ask("@TOA#_news", &users);
                let possible: RangeInclusive<usize> = oldest..=written.load(Ordering::SeqCst);
                assert_eq!((answer.code, answer.refused.len()), (0, 1), "{answer:?}");
                let generation = answer.refused[0].parse().unwrap();
                assert!(possible.contains(&generation), "{generation} is not of {possible:?}");
                answers += 1;
                // Leaves CPU time to other tests.
                thread::sleep(Duration::from_millis(1));
            }
            answers
        };
        let clients: Vec<_> = (0..4).map(|_nth| scope.spawn(ask)).collect();
        // Also when a wait fails: the clients must end before the scope does.
        let end = EndOnDrop(&is_over);
        for generation in 2..=LAST {
            written.store(generation, Ordering::SeqCst);
            lists.replace("list", &format!("{generation}\n"));
            wait_for_generation(&bridge, generation);
            seen.store(generation, Ordering::SeqCst);
        }
        drop(end);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
    });
    let metrics = bridge.metrics();
    assert_eq!(metrics["callbridge_blocklist_file_errors_total"], 0.0);
    assert_eq!(metrics["callbridge_blocklist_rules"], 1.0);
}

#[test]
fn a_list_swapped_by_a_symlink_as_in_kubernetes_is_loaded() {
    let lists = Lists::new();
    let version = |number: usize, text: &str| {
        let folder = format!("..{number}");
        fs::create_dir(lists.path(&folder)).unwrap();
        fs::write(lists.path(&format!("{folder}/list")), text).unwrap();
        symlink(&folder, lists.path("..data_tmp")).unwrap();
        fs::rename(lists.path("..data_tmp"), lists.path("..data")).unwrap();
    };
    version(1, "alice\n");
    symlink("..data/list", lists.path("list")).unwrap();
    let bridge = lists.start("", &["list"]);
    let mut sender = Sender::to(&bridge);
    assert_eq!(sender.blocked(), ["alice"]);
    for (number, user) in [(2, "bob"), (3, "carol")] {
        version(number, user);
        fs::remove_dir_all(lists.path(&format!("..{}", number - 1))).unwrap();
        wait_for_generation(&bridge, number);
        assert_eq!(sender.blocked(), [user]);
    }
    assert_eq!(bridge.metrics()["callbridge_blocklist_file_errors_total"], 0.0);
}

#[test]
fn a_list_rewritten_in_place_is_loaded_once_it_is_stable() {
    let lists = Lists::new();
    lists.replace("list", "alice\n");
    let bridge = lists.start("", &["list"]);
    fs::write(lists.path("list"), "bob\ncarol\n").unwrap();
    wait_for_generation(&bridge, 2);
    assert_eq!(Sender::to(&bridge).blocked(), ["bob", "carol"]);
}

#[test]
fn an_invalid_list_is_logged_once_and_the_last_good_one_stays_in_force() {
    let lists = Lists::new();
    lists.replace("list", "alice\n");
    let bridge = lists.start("", &["list"]);
    let mut sender = Sender::to(&bridge);
    lists.replace("list", "bob\nblock carol on\n");
    bridge.metrics_until(|metrics| metrics["callbridge_blocklist_files_failing"] == 1.0);
    assert_eq!(sender.blocked(), ["alice"]);
    // The same failure is not logged again.
    lists.replace("list", "carol\nblock carol on\n");
    lists.replace("list", "bob\n");
    wait_for_generation(&bridge, 2);
    assert_eq!(sender.blocked(), ["bob"]);
    let metrics = bridge.metrics_until(|metrics| metrics["callbridge_blocklist_files_failing"] == 0.0);
    assert_eq!(metrics["callbridge_blocklist_file_errors_total"], 1.0);

    let errors = errors(&bridge.stop_and_wait().stderr);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert_eq!(errors[0]["file"], lists.path("list").to_str().unwrap());
    assert_eq!(errors[0]["failure"], "line 2: the line ends; expected an account");
}

#[test]
fn a_deleted_list_stays_in_force_until_it_is_replaced() {
    let lists = Lists::new();
    lists.replace("list", "alice\n");
    let bridge = lists.start("", &["list"]);
    let mut sender = Sender::to(&bridge);
    fs::remove_file(lists.path("list")).unwrap();
    bridge.metrics_until(|metrics| metrics["callbridge_blocklist_files_failing"] == 1.0);
    assert_eq!(sender.blocked(), ["alice"]);
    lists.replace("list", "bob\n");
    wait_for_generation(&bridge, 2);
    assert_eq!(sender.blocked(), ["bob"]);
    assert_eq!(bridge.metrics()["callbridge_blocklist_file_errors_total"], 1.0);
    assert_eq!(errors(&bridge.stop_and_wait().stderr).len(), 1);
}

#[test]
fn before_the_blocklist_is_loaded_decisions_follow_before_loaded() {
    let refusal = Answer { code: 1, info: "the blocklist is not loaded yet".to_owned(), refused: vec![] };
    for (policy, before) in [("allow", Answer::listing(&[])), ("refuse", refusal)] {
        let lists = Lists::new();
        let bridge = lists.start(&format!("decide.before_loaded = \"{policy}\""), &["list"]);
        let mut sender = Sender::to(&bridge);
        assert_eq!(sender.ask("@TOA#_news", &["alice"]), before, "{policy}");
        let metrics = bridge.metrics();
        assert_eq!(metrics["callbridge_blocklist_generation"], 0.0);
        assert_eq!(metrics["callbridge_blocklist_loaded_timestamp_seconds"], 0.0);
        assert_eq!(metrics["callbridge_blocklist_files_failing"], 1.0);

        lists.replace("list", "alice\n");
        wait_for_generation(&bridge, 1);
        assert_eq!(sender.blocked(), ["alice"], "{policy}");
        let errors = errors(&bridge.stop_and_wait().stderr);
        assert_eq!(errors.len(), 1, "{errors:#?}");
        assert_eq!(errors[0]["failure"], "No such file or directory (os error 2)");
    }
}

#[test]
fn several_files_are_one_list_and_fail_independently() {
    let lists = Lists::new();
    lists.replace("users", "alice\nbob\n");
    lists.replace("more", "bob until 2020-01-31T00:00:00Z\nblock carol on @TOA#_news\n");
    lists.replace("staff", "close @TOA#_staff\n");
    let bridge = lists.start("", &["users", "more", "staff"]);
    let mut sender = Sender::to(&bridge);
    assert_eq!(sender.blocked(), ["alice", "bob", "carol"], "of two ends the later counts");
    assert_eq!(sender.ask("@TOA#_staff", &["dave"]).code, 1);

    lists.replace("users", "block\n");
    bridge.metrics_until(|metrics| metrics["callbridge_blocklist_files_failing"] == 1.0);
    lists.replace("more", "");
    wait_for_generation(&bridge, 2);
    assert_eq!(sender.blocked(), ["alice", "bob"], "of the bad one its last good rules");
    assert_eq!(sender.ask("@TOA#_staff", &["dave"]).code, 1);
}

#[test]
fn a_record_has_the_generation_and_the_decisive_rules() {
    let lists = Lists::new();
    lists.replace("list", "bob because spam\n");
    let bridge = lists.start("topics.partitions = 1", &["list"]);
    let mut sender = Sender::to(&bridge);
    sender.ask("@TOA#_news", &["alice", "bob"]);
    lists.replace("list", "allow alice on @TOA#_news\nblock bob on @TOA#_news\n");
    wait_for_generation(&bridge, 2);
    sender.ask("@TOA#_news", &["alice"]);
    sender.ask("@TOA#_news", &["bob", "carol"]);

    let records = Reader::open(&bridge.embedded_kafka(), &[&format!("tencent-chat.{COMMAND}")]).collect(3, MINUTE);
    let decision = |value: &[u8]| serde_json::from_slice::<Value>(value).unwrap()["data"]["decision"].clone();
    let decisions: Vec<Value> = records.iter().map(|record| decision(&record.value)).collect();
    let source = format!("file:{}", lists.path("list").display());
    let rules = |rules: &[&str]| rules.iter().map(|rule| json!({"rule": rule, "source": source})).collect::<Vec<_>>();
    let expected = [
        json!({"outcome": "partial", "refused": ["bob"], "rules": rules(&["block bob"]), "generation": 1}),
        json!({"outcome": "allow", "refused": [], "rules": [], "generation": 2}),
        json!({
            "outcome": "refuse",
            "refused": ["bob", "carol"],
            "rules": rules(&["block bob on @TOA#_news", "only those allowed on @TOA#_news"]),
            "generation": 2,
        }),
    ];
    assert_eq!(decisions, expected);
}

#[test]
fn a_pardon_overrides_the_block_of_another_file() {
    let lists = Lists::new();
    lists.replace("theirs", "alice\nbob\nblock carol on @TOA#_news\nblock dave on @TOA#_news\n");
    lists.replace("ours", "pardon alice because known\npardon bob on @TOA#_staff\npardon carol on @TOA#_news\n");
    let bridge = lists.start("", &["theirs", "ours"]);
    let mut sender = Sender::to(&bridge);
    assert_eq!(sender.blocked(), ["bob", "dave"]);
    assert_eq!(sender.ask("@TOA#_staff", &["alice", "bob"]), Answer::listing(&[]));
    lists.replace("ours", "pardon alice\nclose @TOA#_news\n");
    wait_for_generation(&bridge, 2);
    assert_eq!(sender.ask("@TOA#_news", &["alice"]).code, 1, "close wins");
    assert_eq!(sender.ask("@TOA#_staff", &["alice", "bob"]), Answer::listing(&["bob"]));
}

#[test]
fn a_dry_run_allows_everyone_and_publishes_the_decision() {
    let lists = Lists::new();
    lists.replace("list", "bob\nclose @TOA#_sports\n");
    let settings = "decide.dry_run = true\ndecide.all_refused = \"reject\"\ntopics.partitions = 1";
    let bridge = lists.start(settings, &["list"]);
    let mut sender = Sender::to(&bridge);
    for (account, users) in
        [("@TOA#_news", &["alice", "bob"][..]), ("@TOA#_sports", &["bob"]), ("@TOA#_news", &["alice"])]
    {
        assert_eq!(sender.ask(account, users), Answer::listing(&[]), "{account} {users:?}");
    }

    let records = Reader::open(&bridge.embedded_kafka(), &[&format!("tencent-chat.{COMMAND}")]).collect(3, MINUTE);
    let decisions = records.iter().map(|record| {
        let value: Value = serde_json::from_slice(&record.value).unwrap();
        (value["decision"].clone(), value["data"]["decision"].clone())
    });
    let source = format!("file:{}", lists.path("list").display());
    let rules_of = |rule: &str| json!([{"rule": rule, "source": source}]);
    let decided = |outcome: &str, refused: Value, rules: Value| {
        let decision =
            json!({"outcome": outcome, "refused": refused, "rules": rules, "generation": 1, "enforced": false});
        (json!(outcome), decision)
    };
    let expected = [
        decided("partial", json!(["bob"]), rules_of("block bob")),
        decided("refuse", json!(["bob"]), rules_of("close @TOA#_sports")),
        decided("allow", json!([]), json!([])),
    ];
    assert_eq!(decisions.collect::<Vec<_>>(), expected);
}

/// A directory of blocklist files.
struct Lists(TempDir);

impl Lists {
    fn new() -> Self {
        Self(TempDir::with_prefix_in("lists-", env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces a file by a rename.
    fn replace(&self, name: &str, text: &str) {
        fs::write(self.path(".new"), text).unwrap();
        fs::rename(self.path(".new"), self.path(name)).unwrap();
    }

    /// Starts a bridge with these files.
    fn start(&self, settings: &str, names: &[&str]) -> Bridge {
        let files: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        Bridge::light(&format!("blocklist.files = {files:?}\n{settings}"))
    }
}

/// The response to a before-subscribe callback.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    code: u64,
    info: String,
    refused: Vec<String>,
}

impl Answer {
    /// Everyone is allowed except these users.
    fn listing(refused: &[&str]) -> Self {
        let refused = refused.iter().map(|user| (*user).to_owned()).collect();
        Self { code: 0, info: String::new(), refused }
    }
}

/// Sends before-subscribe callbacks over one connection.
struct Sender(Client);

impl Sender {
    fn to(bridge: &Bridge) -> Self {
        Self(Client::connect(bridge.callbacks).unwrap())
    }

    fn ask(&mut self, account: &str, users: &[&str]) -> Answer {
        let users: Vec<Value> = users.iter().map(|user| json!({"Subscriber_Account": user})).collect();
        let body = json!({"CallbackCommand": COMMAND, "Official_Account": account, "SubscribeAccountList": users});
        let response = self.0.post(&callback_target(APP, COMMAND), body.to_string().as_bytes()).unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        let answer: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(answer["ActionStatus"], "OK");
        let refused = answer["RefusedSubscribers_Account"].as_array().into_iter().flatten();
        Answer {
            code: answer["ErrorCode"].as_u64().unwrap(),
            info: answer["ErrorInfo"].as_str().unwrap().to_owned(),
            refused: refused.map(|user| user.as_str().unwrap().to_owned()).collect(),
        }
    }

    /// The refused ones of the usual users, on the account of the news.
    fn blocked(&mut self) -> Vec<String> {
        self.ask("@TOA#_news", &["alice", "bob", "carol", "dave"]).refused
    }
}

/// Stops the clients of a load when dropped, even if the test panics.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn wait_for_generation(bridge: &Bridge, generation: usize) {
    let generation = f64::from(u32::try_from(generation).unwrap());
    bridge.metrics_until(|metrics| metrics["callbridge_blocklist_generation"] >= generation);
}

/// The fields of every error in a log.
fn errors(stderr: &str) -> Vec<Value> {
    let lines = stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["level"] == "ERROR").map(|line| line["fields"].clone()).collect()
}
