//! The blocklist API over HTTP against the real process: each route and each status.

use std::fs;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use serde_json::Value;
use serde_json::json;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::http::Client;
use crate::support::http::Response;
use crate::support::http::callback_target;
use crate::support::kafka::Kafka;
use crate::support::reader::Reader;
use crate::support::schema;
use crate::support::wait;

const COMMAND: &str = "OfficialAccount.CallbackBeforeAddSubscriber";
const TOPIC: &str = "tencent-chat.blocklist";
const MINUTE: Duration = Duration::from_secs(60);
const TOKEN: &str = "0123456789abcdef-admin";
const LIST: &str = "bob because spam\nblock \"a/b?\" on @TOA#_news\nclose @TOA#_sports until 2020-01-01T00:00:00Z\nallow carol on @TOA#_staff\npardon dave\ndave\n";

/// Sends one request, with or without a token.
fn request(bridge: &Bridge, method: &str, target: &str, token: Option<&str>, body: &str) -> Response {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
    Client::connect(bridge.admin).unwrap().request(method, target, &headers, body.as_bytes()).unwrap()
}

fn get(bridge: &Bridge, target: &str) -> (u16, Value) {
    let response = request(bridge, "GET", target, None, "");
    (response.status, json_of(&response))
}

fn json_of(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

/// The invalid fields in a response.
fn wrong_fields(response: &Response) -> Vec<Value> {
    let problem = json_of(response);
    problem["errors"].as_array().unwrap().iter().map(|error| error["field"].clone()).collect()
}

fn with_files(files: &Files) -> Bridge {
    let list = files.write("list", LIST);
    Bridge::light(&format!("blocklist.files = [{list:?}]"))
}

fn with_tokens(files: &Files) -> Bridge {
    let list = files.write("list", LIST);
    let tokens = files.write("tokens", &format!("alice:{TOKEN}\n"));
    Bridge::light(&format!("admin.token_files = [{tokens:?}]\nblocklist.files = [{list:?}]"))
}

/// A bridge with a topic on its embedded broker and two tokens.
fn with_topic(files: &Files) -> Bridge {
    let list = files.write("list", "mallory\n");
    let tokens = files.write("tokens", &format!("alice:{TOKEN}\nbob:another-token-of-bob\n"));
    let settings =
        format!("admin.token_files = [{tokens:?}]\nblocklist.files = [{list:?}]\nblocklist.topic = {TOPIC:?}");
    Bridge::light(&settings)
}

/// Writes with the token of alice. The response is 200.
fn write(bridge: &Bridge, method: &str, target: &str, body: &str) -> Value {
    let response = request(bridge, method, target, Some(TOKEN), body);
    assert_eq!(response.status, 200, "{method} {target}: {}", response.text());
    json_of(&response)
}

/// Whether a before-subscribe callback of `user` for `account` is refused.
fn is_refused(bridge: &Bridge, user: &str, account: &str) -> bool {
    let body = json!({"CallbackCommand": COMMAND, "Official_Account": account, "SubscribeAccountList": [{"Subscriber_Account": user}]});
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let answer = client.post(&callback_target(APP, COMMAND), body.to_string().as_bytes()).unwrap();
    let answer = json_of(&answer);
    answer["ErrorCode"] == 1 || answer["RefusedSubscribers_Account"] == json!([user])
}

#[test]
fn each_kind_of_rule_can_be_put_and_deleted_and_takes_effect_at_once() {
    let bridge = with_topic(&Files::new());
    for (path, rule, user, account, is_refusal) in [
        ("users/eve%2F1", "block eve/1", "eve/1", "@TOA#_a", true),
        ("accounts/%40TOA%23_a/blocked/%40RBT%23001", "block @RBT#001 on @TOA#_a", "@RBT#001", "@TOA#_a", true),
        ("pardoned/mallory", "pardon mallory", "mallory", "@TOA#_a", false),
        ("accounts/%40TOA%23_a/pardoned/mallory", "pardon mallory on @TOA#_a", "mallory", "@TOA#_a", false),
        ("accounts/%40TOA%23_b/closed", "close @TOA#_b", "carol", "@TOA#_b", true),
        ("accounts/%40TOA%23_c/allowed/dave", "allow dave on @TOA#_c", "carol", "@TOA#_c", true),
    ] {
        let target = format!("/blocklist/{path}");
        assert_eq!(is_refused(&bridge, user, account), !is_refusal, "{rule}");
        let first = write(&bridge, "PUT", &target, "");
        assert_eq!((&first["rule"]["rule"], &first["replaced"]), (&json!(rule), &Value::Null));
        assert_eq!((&first["rule"]["who"], &first["rule"]["via"]), (&json!("alice"), &json!("api")));
        assert_eq!(is_refused(&bridge, user, account), is_refusal, "{rule}");
        let again = write(&bridge, "PUT", &target, r#"{"until":"2999-01-01T00:00:00Z","because":"spam"}"#);
        assert_eq!((&again["rule"]["because"], &again["replaced"]["rule"]), (&json!("spam"), &json!(rule)));
        let found = write(&bridge, "GET", &target, "");
        assert_eq!(
            (&found["rule"]["until"], &found["rule"]["source"]),
            (&json!("2999-01-01T00:00:00Z"), &json!(format!("topic:{TOPIC}")))
        );
        let gone = write(&bridge, "DELETE", &target, r#"{"because":"moved"}"#);
        assert_eq!(gone["replaced"]["because"], json!("spam"));
        assert_eq!(write(&bridge, "DELETE", &target, "")["replaced"], Value::Null, "deleting again changes nothing");
        assert_eq!(request(&bridge, "GET", &target, Some(TOKEN), "").status, 404);
        assert_eq!(is_refused(&bridge, user, account), !is_refusal, "{rule}");
    }
}

#[test]
fn a_write_returns_the_first_generation_with_the_change() {
    let bridge = with_topic(&Files::new());
    let response = request(&bridge, "PUT", "/blocklist/users/eve", Some(TOKEN), "");
    let generation = json_of(&response)["generation"].as_u64().unwrap();
    assert!(generation > 0);
    let header: u64 = response.header("blocklist-generation").unwrap().parse().unwrap();
    assert!(header >= generation);
    let acknowledged = write(&bridge, "PUT", "/blocklist/users/eve?wait=acknowledged", "");
    let generation = acknowledged["generation"].as_u64().unwrap();
    wait::until("it is applied", || write(&bridge, "GET", "/blocklist", "")["generation"].as_u64() >= Some(generation));
    let status = write(&bridge, "GET", "/blocklist", "");
    assert_eq!((&status["state"], &status["topic"]["name"]), (&json!("live"), &json!(TOPIC)));
    assert_eq!(status["topic"]["identity"].as_str().unwrap().len(), 16);
    assert_eq!(status["entries"], json!(2));
}

#[test]
fn each_change_is_in_the_audit_topic_with_author_and_reason() {
    let bridge = with_topic(&Files::new());
    let headers = [("Authorization", "Bearer another-token-of-bob"), ("X-Request-Id", "r-1")];
    let mut client = Client::connect(bridge.admin).unwrap();
    let put = client.request("PUT", "/blocklist/users/eve", &headers, br#"{"because":"spam"}"#).unwrap();
    assert_eq!(put.status, 200, "{}", put.text());
    write(&bridge, "DELETE", "/blocklist/users/eve", r#"{"because":"known"}"#);
    let changes = format!("{TOPIC}-changes");
    let records = Reader::open(&bridge.embedded_kafka(), &[&changes]).collect(2, MINUTE);
    let events: Vec<Value> = records.iter().map(|record| serde_json::from_slice(&record.value).unwrap()).collect();
    for event in &events {
        assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("callbridge.blocklist.changed")));
        assert_eq!(event["time"], event["data"]["when"]);
    }
    let (first, second) = (&events[0]["data"], &events[1]["data"]);
    let shown =
        |data: &Value| ["who", "via", "rule", "why", "request"].map(|name| data[name].as_str().map(str::to_owned));
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(shown(first), [some("bob"), some("api"), some("block eve"), some("spam"), some("r-1")]);
    assert_eq!(shown(second), [some("alice"), some("api"), some("block eve"), some("known"), None]);
    assert_eq!((&first["before"], &second["after"]), (&Value::Null, &Value::Null));
    let rule = json!({"because": "spam", "who": "bob", "when": first["when"], "source": "api"});
    assert_eq!((&first["after"], &second["before"]), (&rule, &rule));
}

#[test]
fn metrics_and_records_show_the_rules_and_decisions_of_a_topic() {
    let files = Files::new();
    let bridge = with_topic(&files);
    for path in ["users/eve", "users/mallory", "pardoned/dave", "accounts/@TOA%23_b/closed"] {
        write(&bridge, "PUT", &format!("/blocklist/{path}"), "");
    }
    let generation = write(&bridge, "PUT", "/blocklist/accounts/@a/allowed/eve", "")["generation"].as_f64().unwrap();
    let of_topic = |metric: &str| format!("callbridge_blocklist_topic_{metric}{{topic=\"{TOPIC}\"}}");
    let entries =
        |kind: &str, source: &str| format!("callbridge_blocklist_entries{{kind=\"{kind}\",source=\"{source}\"}}");
    let metrics = bridge.metrics_until(|metrics| metrics[&entries("allow", TOPIC)] == 1.0);
    let counts = ["block", "pardon", "allow", "close"]
        .map(|kind| [metrics[&entries(kind, TOPIC)], metrics[&entries(kind, "files")]]);
    assert_eq!(counts, [[2.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]);
    for source in [TOPIC, "files"] {
        assert!(metrics[&format!("callbridge_blocklist_bytes{{source=\"{source}\"}}")] > 0.0);
    }
    assert_eq!(
        (metrics[&of_topic("generation")], metrics["callbridge_blocklist_generation"]),
        (generation, generation)
    );
    assert!(metrics[&of_topic("age_seconds")] < 5.0 && metrics[&of_topic("full_reads_total")] == 1.0);
    assert_eq!(metrics[&of_topic("poison_records")], 0.0);
    assert_eq!(metrics[&format!("callbridge_blocklist_topic_state{{state=\"live\",topic=\"{TOPIC}\"}}")], 1.0);

    assert!(is_refused(&bridge, "eve", "@c") && is_refused(&bridge, "mallory", "@c"));
    let decisions = |source: &str| format!("callbridge_decisions_total{{outcome=\"refuse\",source=\"{source}\"}}");
    let metrics = bridge.metrics();
    assert_eq!([metrics[&decisions("topic")], metrics[&decisions("both")]], [1.0, 1.0]);
    let records = Reader::open(&bridge.embedded_kafka(), &[&format!("tencent-chat.{COMMAND}")]).collect(2, MINUTE);
    let mut decided: Vec<Value> = records
        .iter()
        .map(|record| {
            let decision = serde_json::from_slice::<Value>(&record.value).unwrap()["data"]["decision"].take();
            assert_eq!(decision["generation"].as_f64(), Some(generation));
            decision["rules"].clone()
        })
        .collect();
    // In any order, because they may be in different partitions.
    decided.sort_by_key(ToString::to_string);
    let by = |rule: &str, source: &str| json!({"rule": rule, "source": source});
    let (topic, file) = (format!("topic:{TOPIC}"), format!("file:{}", files.write("list", "mallory\n")));
    let both = json!([by("block mallory", &file), by("block mallory", &topic)]);
    assert_eq!(decided, [json!([by("block eve", &topic)]), both]);
}

#[test]
fn a_batch_of_changes_is_applied_in_order_and_can_be_a_dry_run() {
    let bridge = with_topic(&Files::new());
    let lines = concat!(
        r#"{"put":{"kind":"block","user":"eve","because":"spam"}}"#,
        "\n",
        r#"{"put":{"kind":"close","account":"@TOA#_a"}}"#,
        "\n\n",
        r#"{"delete":{"kind":"block","user":"nobody"}}"#,
        "\n",
        r#"{"put":{"kind":"block","user":"eve","because":"spam"}}"#,
        "\n",
        r#"{"delete":{"kind":"close","account":"@TOA#_a"}}"#,
    );
    let explained = write(&bridge, "POST", "/blocklist/changes?dry_run=true", lines);
    let counts =
        |answer: &Value| ["added", "changed", "removed", "unchanged"].map(|name| answer[name].as_u64().unwrap());
    assert_eq!((counts(&explained), &explained["dry_run"]), ([2, 0, 1, 2], &json!(true)));
    assert!(!is_refused(&bridge, "eve", "@TOA#_a"));
    let made = write(&bridge, "POST", "/blocklist/changes", lines);
    assert_eq!(
        (counts(&made), &made["dry_run"], &made["results"]),
        ([2, 0, 1, 2], &json!(false), &explained["results"])
    );
    assert_eq!(made["results"][3]["line"], json!(5), "blank lines count");
    assert!(is_refused(&bridge, "eve", "@TOA#_a") && !is_refused(&bridge, "carol", "@TOA#_a"));

    let bad =
        request(&bridge, "POST", "/blocklist/changes", Some(TOKEN), &format!("{lines}\n{{\"put\":{{}}}}\nblock bob"));
    assert_eq!(bad.status, 422);
    let problem = json_of(&bad);
    let lines = problem["errors"].as_array().unwrap().iter().map(|error| error["line"].as_u64().unwrap());
    assert_eq!(lines.collect::<Vec<_>>(), [7, 8], "{problem}");
    let many = "{\"put\":{\"kind\":\"block\",\"user\":\"u\"}}\n".repeat(10_001);
    assert_eq!(request(&bridge, "POST", "/blocklist/changes", Some(TOKEN), &many).status, 413);
    assert_eq!(write(&bridge, "POST", "/blocklist/changes", "")["results"], json!([]));
}

#[test]
fn an_invalid_write_names_the_error_and_changes_nothing() {
    let bridge = with_topic(&Files::new());
    for (method, target, body, field) in [
        ("PUT", "/blocklist/users/eve", r#"{"until":"tomorrow"}"#, "until"),
        ("POST", "/blocklist/changes?import=", "", "import"),
        ("PUT", "/blocklist/users/eve", r#"{"because":"a\nb"}"#, "because"),
        ("PUT", "/blocklist/users/eve", r#"{"mode":"x"}"#, "mode"),
        ("DELETE", "/blocklist/users/eve", r#"{"until":"2027-01-31T00:00:00Z"}"#, "until"),
        ("PUT", "/blocklist/users/a%1Fb", "", "user"),
        ("PUT", "/blocklist/accounts/%zz/closed", "", "account"),
        ("PUT", "/blocklist/users/eve?wait=none", "", "wait"),
        ("POST", "/blocklist/changes?dry_run=yes", "", "dry_run"),
    ] {
        let response = request(&bridge, method, target, Some(TOKEN), body);
        assert_eq!((response.status, wrong_fields(&response)), (422, vec![json!(field)]), "{method} {target} {body}");
    }
    let long = format!("{{\"because\":\"{}\"}}", "a".repeat(70_000));
    assert_eq!(request(&bridge, "PUT", "/blocklist/users/eve", Some(TOKEN), &long).status, 413);
    for token in [None, Some("wrong")] {
        assert_eq!(request(&bridge, "PUT", "/blocklist/users/eve", token, "").status, 401);
    }
    assert_eq!(write(&bridge, "GET", "/blocklist", "")["entries"], json!(1));
}

#[test]
fn without_token_files_the_topic_is_read_only() {
    let bridge = Bridge::light(&format!("blocklist.topic = {TOPIC:?}"));
    assert_eq!(get(&bridge, "/blocklist").0, 200);
    let response = request(&bridge, "PUT", "/blocklist/users/eve", Some(TOKEN), "");
    assert_eq!((response.status, &json_of(&response)["type"]), (403, &json!("urn:callbridge:problem:forbidden")));
}

#[test]
fn a_write_that_kafka_does_not_acknowledge_is_503_and_probes_are_answered_meanwhile() {
    let Some(mut kafka) = Kafka::start(1) else { return };
    let files = Files::new();
    let tokens = files.write("tokens", &format!("alice:{TOKEN}\n"));
    let settings =
        format!("callbacks.keep_accepting_ms = 0\nadmin.token_files = [{tokens:?}]\nblocklist.topic = {TOPIC:?}");
    let bridge = Bridge::builder()
        .brokers(&kafka.bootstrap())
        .ack("memory")
        .topics("unacknowledged")
        .settings(&settings)
        .start();
    // A new topic cannot be read at once.
    wait::until("it is written", || request(&bridge, "PUT", "/blocklist/users/eve", Some(TOKEN), "").status == 200);
    kafka.node(1).freeze();
    let began = clock::monotonic();
    thread::scope(|scope| {
        let bridge = &bridge;
        let write = |nth: i32| request(bridge, "PUT", &format!("/blocklist/users/bob-{nth}"), Some(TOKEN), "");
        let writing: Vec<_> = (0..4).map(|nth| scope.spawn(move || write(nth))).collect();
        while writing.iter().any(|one| !one.is_finished()) {
            assert_eq!(bridge.admin_page("/livez").0, 200);
            thread::sleep(Duration::from_millis(100));
        }
        for one in writing {
            let response = one.join().unwrap();
            assert_eq!((response.status, response.header("retry-after")), (503, Some("1")), "{}", response.text());
        }
    });
    // They time out concurrently, not one after the other.
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert!(is_refused(&bridge, "eve", "@a"), "the list stays in force");
    kafka.node(1).thaw();
    wait::until("it is written", || request(&bridge, "PUT", "/blocklist/users/bob", Some(TOKEN), "").status == 200);
}

#[test]
fn a_list_of_files_can_be_read_through_the_api() {
    let files = Files::new();
    let bridge = with_files(&files);
    let source = format!("file:{}", files.write("list", LIST));
    let response = request(&bridge, "GET", "/blocklist", None, "");
    assert_eq!((response.status, response.header("blocklist-generation")), (200, Some("1")));
    assert_eq!(response.header("content-type"), Some("application/json"));
    let status = json_of(&response);
    assert_eq!((&status["generation"], &status["state"], &status["entries"]), (&json!(1), &json!("live"), &json!(6)));
    let entries = json!({"block": 3, "pardon": 1, "allow": 1, "close": 1});
    assert_eq!((&status["sources"][0]["source"], &status["sources"][0]["entries"]), (&json!(source), &entries));

    let block = json!({"rule": "block bob", "kind": "block", "user": "bob", "because": "spam", "source": source, "expired": false});
    let mut shown = block.clone();
    shown.as_object_mut().unwrap().remove("expired");
    assert_eq!(get(&bridge, "/blocklist/users/bob"), (200, json!({"rule": shown, "generation": 1})));
    let (_, found) = get(&bridge, "/blocklist/accounts/%40TOA%23_news/blocked/a%2Fb%3F");
    assert_eq!(found["rule"]["rule"], json!("block a/b? on @TOA#_news"));
    let (_, closed) = get(&bridge, "/blocklist/accounts/%40TOA%23_sports/closed");
    assert_eq!((&closed["rule"]["expired"], &closed["rule"]["until"]), (&json!(true), &json!("2020-01-01T00:00:00Z")));
    assert_eq!(get(&bridge, "/blocklist/accounts/%40TOA%23_staff/allowed/carol").0, 200);
    assert_eq!(get(&bridge, "/blocklist/pardoned/dave").0, 200);
    for missing in
        ["users/eve", "pardoned/bob", "accounts/@a/blocked/bob", "accounts/@a/pardoned/bob", "accounts/@a/closed"]
    {
        let (status, problem) = get(&bridge, &format!("/blocklist/{missing}"));
        assert_eq!((status, &problem["type"]), (404, &json!("urn:callbridge:problem:no-such-rule")), "{missing}");
    }
}

#[test]
fn the_status_has_the_age_and_the_last_error_of_every_source() {
    let files = Files::new();
    let (good, bad) = (files.write("good", "bob\n"), files.write("bad", "block\n"));
    let settings = format!("blocklist.files = [{good:?}, {bad:?}]\nblocklist.topic = {TOPIC:?}");
    let bridge = Bridge::light(&settings);
    let source = |name: String| {
        let (_, status) = get(&bridge, "/blocklist");
        let sources = status["sources"].as_array().unwrap().iter();
        sources.clone().find(|source| source["source"] == name).unwrap_or_else(|| panic!("{status}")).clone()
    };
    let [good, bad, topic] = [format!("file:{good}"), format!("file:{bad}"), format!("topic:{TOPIC}")];
    let shown = |source: &Value| (source["age_seconds"].is_u64(), source["error"].as_str().map(str::to_owned));
    let mistake = Some("line 1: the line ends; expected a user".to_owned());
    assert_eq!(shown(&source(good.clone())), (true, None));
    assert_eq!(
        (shown(&source(bad.clone())), &source(bad.clone())["entries"]["block"]),
        ((false, mistake.clone()), &json!(0))
    );
    assert_eq!(shown(&source(topic)), (true, None));
    // Once the file is invalid, the age is that of the rules in force.
    files.write("good", "block\n");
    wait::until("the error is shown", || shown(&source(good.clone())) == (true, mistake.clone()));
    assert_eq!(source(good.clone())["entries"]["block"], json!(1));
    wait::until("it grows older", || source(good.clone())["age_seconds"].as_u64() >= Some(2));
    for (name, source_name) in [("good", &good), ("bad", &bad)] {
        files.write(name, "eve\ncarol\n");
        wait::until("it is mended", || shown(&source(source_name.clone())) == (true, None));
        let mended = source(source_name.clone());
        assert!(mended["age_seconds"].as_u64() < Some(60) && mended["entries"]["block"] == json!(2), "{mended}");
    }
}

#[test]
fn a_lookup_returns_every_rule_that_applies() {
    let bridge = with_files(&Files::new());
    let lookup = |query: &str| get(&bridge, &format!("/blocklist/lookup?{query}")).1;
    let refused = lookup("user=bob&account=%40TOA%23_news");
    assert_eq!((&refused["decision"], &refused["generation"]), (&json!("refuse"), &json!(1)));
    assert_eq!((&refused["rules"][0]["rule"], &refused["rules"][0]["decided"]), (&json!("block bob"), &json!(true)));
    let pardoned = lookup("user=dave");
    let rules = pardoned["rules"].as_array().unwrap();
    let shown: Vec<_> = rules.iter().map(|rule| (rule["rule"].as_str().unwrap(), rule["decided"] == true)).collect();
    assert_eq!((&pardoned["decision"], shown), (&json!("allow"), vec![("pardon dave", true), ("block dave", false)]));
    let left_out = lookup("user=eve&account=%40TOA%23_staff");
    assert_eq!((&left_out["decision"], &left_out["rules"]), (&json!("refuse"), &json!([])));
    assert!(
        left_out["because"].as_str().unwrap().starts_with("only those allowed on @TOA#_staff (file:"),
        "{left_out}"
    );
    let expired = lookup("user=eve&account=%40TOA%23_sports");
    assert_eq!((&expired["decision"], &expired["rules"][0]["expired"]), (&json!("allow"), &json!(true)));
}

#[test]
fn rules_are_listed_in_pages_sorted_by_key() {
    let bridge = with_files(&Files::new());
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let (_, page) = get(&bridge, &format!("/blocklist/rules?limit=2{after}"));
        listed.extend(page["rules"].as_array().unwrap().iter().map(|rule| rule["rule"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        let encoded: String = next.bytes().map(|byte| format!("%{byte:02x}")).collect();
        after = format!("&after={encoded}");
    }
    let expected = [
        "allow carol on @TOA#_staff",
        "block a/b? on @TOA#_news",
        "block bob",
        "block dave",
        "close @TOA#_sports",
        "pardon dave",
    ];
    assert_eq!(listed, expected);
    let (_, page) = get(&bridge, "/blocklist/rules?kind=block&prefix=b");
    assert_eq!(page["rules"].as_array().unwrap().len(), 1);
}

#[test]
fn a_list_of_files_cannot_be_changed_through_the_api() {
    let files = Files::new();
    let (open, closed) = (with_files(&files), with_tokens(&files));
    for (bridge, token) in [(&open, None), (&closed, Some(TOKEN))] {
        for (method, path) in [
            ("PUT", "/blocklist/users/eve"),
            ("DELETE", "/blocklist/users/bob"),
            ("PUT", "/blocklist/pardoned/eve"),
            ("PUT", "/blocklist/accounts/@a/blocked/eve"),
            ("PUT", "/blocklist/accounts/@a/allowed/eve"),
            ("DELETE", "/blocklist/accounts/@a/pardoned/eve"),
            ("PUT", "/blocklist/accounts/@a/closed"),
            ("POST", "/blocklist/changes"),
            ("POST", "/blocklist/changes?dry_run=true"),
        ] {
            let response = request(bridge, method, path, token, "");
            assert_eq!((response.status, response.header("content-type")), (409, Some("application/problem+json")));
            let detail = json_of(&response)["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains("no blocklist.topic is configured"), "{method} {path}: {detail}");
        }
    }
    assert_eq!(get(&open, "/blocklist").1["entries"], json!(6));
}

#[test]
fn with_token_files_reading_requires_a_valid_token() {
    let files = Files::new();
    let bridge = with_tokens(&files);
    let targets = ["/blocklist", "/blocklist/lookup?user=bob", "/blocklist/rules", "/blocklist/users/bob"];
    for target in targets {
        for token in [None, Some(""), Some("wrong"), Some("alice"), Some("alice:0123456789abcdef-admin")] {
            let response = request(&bridge, "GET", target, token, "");
            assert_eq!(
                (response.status, response.header("www-authenticate")),
                (401, Some("Bearer")),
                "{target} {token:?}"
            );
            assert_eq!(response.header("blocklist-generation"), None);
        }
        assert_eq!(request(&bridge, "GET", target, Some(TOKEN), "").status, 200, "{target}");
    }
    let basic = [("Authorization", "Basic MDEyMzQ1Njc4OWFiY2RlZi1hZG1pbg==")];
    assert_eq!(Client::connect(bridge.admin).unwrap().request("GET", "/blocklist", &basic, b"").unwrap().status, 401);
    let lower = [("authorization", format!("bearer {TOKEN}"))];
    let lower = lower.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_eq!(Client::connect(bridge.admin).unwrap().request("GET", "/blocklist", &lower, b"").unwrap().status, 200);
    // Probes, metrics and the OpenAPI document require no token.
    for target in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(request(&bridge, "GET", target, None, "").status, 200, "{target}");
    }
    assert!(!bridge.stderr().contains(TOKEN));
}

#[test]
fn a_replaced_token_file_takes_effect_without_a_restart() {
    let files = Files::new();
    let bridge = with_tokens(&files);
    let next = files.write("tokens.next", "bob:another-token-of-bob\n");
    fs::rename(&next, next.trim_end_matches(".next")).unwrap();
    wait::until("the new token is known", || {
        request(&bridge, "GET", "/blocklist", Some("another-token-of-bob"), "").status == 200
    });
    assert_eq!(request(&bridge, "GET", "/blocklist", Some(TOKEN), "").status, 401);
}

#[test]
fn an_invalid_request_is_422_and_names_the_field() {
    let bridge = with_files(&Files::new());
    for (target, field) in [
        ("/blocklist?x=1", "x"),
        ("/blocklist/lookup", "user"),
        ("/blocklist/lookup?user=", "user"),
        ("/blocklist/lookup?user=bob&account=", "account"),
        ("/blocklist/lookup?user=bob&user=eve", "user"),
        ("/blocklist/lookup?user=%ff", "user"),
        ("/blocklist/lookup?user=bob&at=now", "at"),
        ("/blocklist/rules?kind=blocks", "kind"),
        ("/blocklist/rules?limit=0", "limit"),
        ("/blocklist/rules?limit=1001", "limit"),
        ("/blocklist/rules?limit=many", "limit"),
        ("/blocklist/rules?after=allow%20bob", "after"),
        ("/blocklist/users/", "user"),
        ("/blocklist/users/%zz", "user"),
        ("/blocklist/accounts//blocked/bob", "account"),
        ("/blocklist/users/bob?wait=applied", "wait"),
    ] {
        let response = request(&bridge, "GET", target, None, "");
        assert_eq!((response.status, wrong_fields(&response)), (422, vec![json!(field)]), "{target}");
    }
}

#[test]
fn other_paths_are_404_and_other_methods_405() {
    let bridge = with_files(&Files::new());
    for path in ["/blocklist/", "/blocklist/user/bob", "/blocklist/accounts/@a", "/blocklist/users/a/b"] {
        let (status, problem) = get(&bridge, path);
        assert_eq!((status, &problem["type"]), (404, &json!("urn:callbridge:problem:no-such-path")), "{path}");
    }
    for (method, path, allow) in [
        ("POST", "/blocklist", "GET, HEAD"),
        ("GET", "/blocklist/changes", "POST"),
        ("POST", "/blocklist/users/bob", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/blocklist/accounts/@a/closed", "GET, HEAD, PUT, DELETE"),
    ] {
        let response = request(&bridge, method, path, None, "");
        assert_eq!((response.status, response.header("allow")), (405, Some(allow)), "{method} {path}");
    }
    let head = request(&bridge, "HEAD", "/blocklist/users/bob", None, "");
    assert_eq!((head.status, head.header("blocklist-generation")), (200, Some("1")));
}

#[test]
fn every_operation_responds_as_its_openapi_document_says() {
    let (of_files, of_topic) = (Files::new(), Files::new());
    for bridge in [with_tokens(&of_files), with_topic(&of_topic)] {
        assert_answers_as_described(&bridge);
    }
}

fn assert_answers_as_described(bridge: &Bridge) {
    let document = json_of(&request(bridge, "GET", "/openapi.json", None, ""));
    assert_eq!(document["openapi"], json!("3.1.0"));
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let required = parameters.iter().filter(|parameter| parameter["required"] == true);
            let query: Vec<String> =
                required.map(|parameter| format!("{}=bob", parameter["name"].as_str().unwrap())).collect();
            let path = path.replace("{user}", "bob").replace("{account}", "%40TOA%23_news");
            let target = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
            for token in [None, Some(TOKEN)] {
                let response = request(bridge, &method.to_uppercase(), &target, token, "");
                assert_as_described(&document, operation, &response, &format!("{method} {target}"));
            }
            tried += 1;
        }
    }
    assert_eq!(tried, 27);
}

/// Checks that the document has this status, and that the body matches its schema.
fn assert_as_described(document: &Value, operation: &Value, response: &Response, what: &str) {
    let described = &operation["responses"][response.status.to_string()];
    assert!(described.is_object(), "{what}: {} is not described", response.status);
    let described = match described["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => described,
    };
    let (kind, content) = described["content"].as_object().unwrap().iter().next().unwrap();
    assert!(response.header("content-type").is_none_or(|found| found.starts_with(kind.as_str())), "{what}");
    if kind.ends_with("json") {
        let schema = json!({"allOf": [content["schema"]], "components": document["components"]});
        let body = json_of(response);
        let validator = schema::compile(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(&body).map(|error| error.to_string()).collect();
        assert_eq!(errors, [""; 0], "{what}: {body}");
    }
}

#[test]
fn a_body_that_is_never_sent_blocks_no_connection_for_long() {
    let files = Files::new();
    let bridge = with_topic(&files);
    let head = format!(
        "PUT /blocklist/users/bob HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\nhalf"
    );
    let mut clients: Vec<Client> = (0..64)
        .map(|_nth| {
            let mut client = Client::over(TcpStream::connect(bridge.admin).unwrap()).unwrap();
            client.write(head.as_bytes()).unwrap();
            client
        })
        .collect();
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(bridge.admin_page(path).0, 200, "{path}");
    }
    // Each is answered or has been closed to make room.
    for client in &mut clients {
        assert!(client.read().is_ok_and(|response| response.status == 408) || client.is_closed());
    }
}
