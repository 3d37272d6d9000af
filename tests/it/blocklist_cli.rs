//! `callbridge blocklist` as an operator runs it: real processes, through Kafka and through the admin API.

use std::fs;
use std::io;
use std::io::Write;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::support::real;
use crate::support::wait;

const TOPIC: &str = "tencent-chat.blocklist";
const MINUTE: Duration = Duration::from_secs(60);

/// A bridge with a topic, and the options of commands for that topic.
struct Setup {
    bridge: Bridge,
    files: Files,
    by_kafka: Vec<String>,
    by_admin: Vec<String>,
}

impl Setup {
    fn new() -> Self {
        Self::with(Files::new(), "")
    }

    /// With further settings, of one line each.
    fn with(files: Files, more: &str) -> Self {
        let tokens = files.write("tokens", "alice:0123456789abcdef-admin\n");
        let settings = format!("admin.token_files = [{tokens:?}]\nblocklist.topic = {TOPIC:?}\n{more}");
        let bridge = Bridge::light(&settings);
        let brokers = bridge.embedded_kafka().get("bootstrap.servers").unwrap().to_owned();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let by_kafka = words(&["--brokers", &brokers, "--topic", TOPIC]);
        let by_admin = words(&["--admin", &format!("http://{}", bridge.admin), "--token-file", &tokens]);
        Self { bridge, files, by_kafka, by_admin }
    }

    fn run(&self, target: &[String], args: &[&str]) -> Ran {
        let output = callbridge().arg("blocklist").args(args).args(target).output().unwrap();
        Ran::of(&output)
    }

    /// The exit code and stderr of a command whose stdout is closed.
    fn unread(&self, args: &[&str]) -> (i32, String) {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut command = callbridge();
        command.arg("blocklist").args(args).args(&self.by_kafka).stdout(writer);
        let ran = Ran::of(&command.output().unwrap());
        (ran.code, ran.stderr)
    }

    /// Runs a command, which must end with 0.
    fn done(&self, target: &[String], args: &[&str]) -> String {
        let ran = self.run(target, args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        ran.stdout
    }

    /// The rules in force at a bridge.
    fn in_force(&self) -> Vec<String> {
        self.done(&self.by_admin, &["export"]).lines().map(str::to_owned).collect()
    }
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code().unwrap(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

fn callbridge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbridge"));
    command.env_remove("CALLBRIDGE_REQUIRE_REAL").env("USER", "olga").env_remove("SUDO_USER");
    command
}

#[test]
fn rules_are_added_looked_up_listed_and_removed_through_kafka_and_the_api() {
    let setup = Setup::new();
    for (target, who, via) in [(&setup.by_kafka, "olga", "cli"), (&setup.by_admin, "alice", "api")] {
        assert_eq!(setup.run(target, &["lookup", "bob"]).code, 0);
        let added =
            setup.done(target, &["add", "bob", "block eve on @TOA#_news until 2999-01-01T00:00:00Z because spam"]);
        assert_eq!(added, "added block bob\nadded block eve on @TOA#_news\n");
        let one_sentence = setup.done(target, &["add", "close", "@TOA#_sports", "because", "moved", "away"]);
        assert_eq!(one_sentence, "added close @TOA#_sports\n");
        assert_eq!(setup.done(target, &["add", "bob"]), "set block bob\n");

        let refused = setup.run(target, &["lookup", "bob"]);
        assert_eq!((refused.code, refused.stdout.lines().next()), (3, Some("bob: refused")), "{}", refused.stderr);
        assert_eq!(setup.run(target, &["lookup", "eve"]).code, 0);
        assert_eq!(setup.run(target, &["lookup", "eve", "--account", "@TOA#_news"]).code, 3);
        assert_eq!(setup.run(target, &["lookup", "carol", "--account", "@TOA#_sports"]).code, 3);
        let json = setup.run(target, &["lookup", "bob", "--output", "json"]).stdout;
        let json: Value = serde_json::from_str(&json).unwrap();
        let rule = &json["rules"][0];
        assert_eq!((&json["decision"], &rule["who"], &rule["via"]), (&json!("refuse"), &json!(who), &json!(via)));
        let table = setup.run(target, &["lookup", "bob", "--output", "table"]).stdout;
        assert!(table.contains("RULE") && table.contains("decided  block bob"), "{table}");

        let expected = [
            "block bob",
            "block eve on @TOA#_news until 2999-01-01T00:00:00Z because spam",
            "close @TOA#_sports because moved away",
        ];
        assert_eq!(setup.done(target, &["list"]).lines().collect::<Vec<_>>(), expected);
        assert_eq!(setup.done(target, &["list", "--kind", "close"]).lines().collect::<Vec<_>>(), expected[2..]);
        assert_eq!(setup.done(target, &["list", "--prefix", "e", "--account", "@TOA#_news"]).lines().count(), 1);
        let first = setup.run(target, &["list", "--limit", "1"]);
        assert_eq!((first.code, first.stdout.as_str()), (0, "block bob\n"));
        assert!(first.stderr.contains("there are more rules"), "{}", first.stderr);
        assert_eq!(setup.done(target, &["export"]).lines().collect::<Vec<_>>(), expected);

        let removed = setup.done(target, &["remove", "bob", "block eve on @TOA#_news", "close @TOA#_sports", "nobody"]);
        let expected = [
            "removed block bob",
            "removed block eve on @TOA#_news (before: until 2999-01-01T00:00:00Z because spam)",
            "removed close @TOA#_sports (before: because moved away)",
            "there was no block nobody",
        ];
        assert_eq!(removed.lines().collect::<Vec<_>>(), expected);
        assert_eq!(setup.done(target, &["export"]), "");
        // The change is visible through the other target too.
        wait::until("the bridge has applied it", || setup.in_force().is_empty());
    }
}

#[test]
fn a_command_whose_output_is_closed_still_makes_its_changes() {
    let setup = Setup::new();
    let file = setup.files.write("list.txt", "bob\neve\n");
    let done = (0, String::new());
    assert_eq!(setup.unread(&["diff", &file]), (1, String::new()));
    assert_eq!(setup.unread(&["import", &file]), done);
    assert_eq!(setup.done(&setup.by_kafka, &["export"]), "block bob\nblock eve\n");
    assert_eq!(setup.unread(&["diff", &file]), done);
    assert_eq!(setup.unread(&["lookup", "bob"]), (3, String::new()));
    assert_eq!(setup.unread(&["lookup", "carol"]), done);
    for args in [&["add", "carol"][..], &["list"], &["export"], &["remove", "carol"]] {
        assert_eq!(setup.unread(args), done, "{args:?}");
    }
    assert_eq!(setup.done(&setup.by_kafka, &["export"]), "block bob\nblock eve\n");
}

#[test]
fn an_invalid_sentence_ends_with_2_and_writes_nothing() {
    let setup = Setup::new();
    for target in [&setup.by_kafka, &setup.by_admin] {
        for args in [
            &["add", "bob", "block"][..],
            &["add", "block"],
            &["add", "bob", "eve until tomorrow"],
            &["add", "allow carol"],
            &["remove", "bob until 2027-01-31T00:00:00Z"],
            &["add"],
            &["list", "--kind", "blocks"],
            &["list", "--limit", "0"],
            &["lookup", ""],
        ] {
            let ran = setup.run(target, args);
            assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}: {}", ran.stderr);
            assert!(!ran.stderr.is_empty());
        }
    }
    assert_eq!(setup.in_force(), [""; 0]);
}

#[test]
fn an_import_writes_the_difference_and_makes_the_list_equal_to_the_file() {
    let setup = Setup::new();
    for target in [&setup.by_kafka, &setup.by_admin] {
        let users: Vec<String> = (0..25_000).map(|nth| format!("user-{nth:05}")).collect();
        let file = setup.files.write("list.txt", &format!("# A list\n{}\n", users.join("\n")));
        let imported = setup.done(target, &["import", &file]);
        assert!(imported.starts_with("added 25000, changed 0, removed 0\n+ block user-00000\n"), "{imported}");
        wait::until("all are in force", || {
            setup.done(target, &["diff", &file, &file]).is_empty() && setup.in_force().len() == 25_000
        });
        assert_eq!(setup.done(target, &["import", &file]), "added 0, changed 0, removed 0\n");
        assert_eq!(setup.run(target, &["diff", &file]).code, 0);

        let changed = format!("{}\nuser-00000 because spam\nnew\n", users[1..24_999].join("\n"));
        let file = setup.files.write("list.txt", &changed);
        let difference = setup.run(target, &["diff", &file]);
        assert_eq!(
            (difference.code, difference.stdout.as_str()),
            (1, "- block user-24999\n~ block user-00000 because spam\n+ block new\n")
        );
        let dry = setup.done(target, &["import", &file, "--dry-run"]);
        assert!(dry.starts_with("added 1, changed 1, removed 1\n"), "{dry}");
        assert_eq!(setup.run(target, &["diff", &file]).code, 1, "a dry run writes nothing");
        setup.done(target, &["import", &file]);
        wait::until("it is in force", || setup.run(target, &["diff", &file]).code == 0);

        // More than a tenth would be removed.
        let few = setup.files.write("few.txt", "new\n");
        let refused = setup.run(target, &["import", &few]);
        assert_eq!(refused.code, 1);
        assert!(
            refused.stderr.contains("24999 of 25000 rules would be removed: confirm with --yes"),
            "{}",
            refused.stderr
        );
        assert_eq!(setup.run(target, &["diff", &file]).code, 0, "nothing was written");
        setup.done(target, &["import", &few, "--yes"]);
        wait::until("it is in force", || setup.in_force() == ["block new"]);
        setup.done(target, &["remove", "new"]);
        wait::until("it is in force", || setup.in_force().is_empty());
    }
}

#[test]
fn an_import_is_in_the_audit_topic_with_its_name_and_author() {
    let setup = Setup::new();
    let (list, none) = (setup.files.write("list.txt", "eve\n"), setup.files.write("none.txt", "# nobody\n"));
    for (target, who) in [(&setup.by_kafka, "olga"), (&setup.by_admin, "alice")] {
        setup.done(target, &["import", &list]);
        wait::until("it is in force", || setup.in_force() == ["block eve"]);
        let lookup: Value =
            serde_json::from_str(&setup.run(target, &["lookup", "eve", "--output", "json"]).stdout).unwrap();
        assert_eq!((&lookup["rules"][0]["who"], &lookup["rules"][0]["via"]), (&json!(who), &json!("import:list.txt")));
        setup.done(target, &["import", &none, "--yes"]);
        wait::until("it is in force", || setup.in_force().is_empty());
    }
    let records = Reader::open(&setup.bridge.embedded_kafka(), &[&format!("{TOPIC}-changes")]).collect(4, MINUTE);
    let by = |record: &Record| {
        let data = serde_json::from_slice::<Value>(&record.value).unwrap()["data"].take();
        ["who", "via"].map(|field| data[field].as_str().unwrap().to_owned())
    };
    let expected = [
        ["olga", "import:list.txt"],
        ["olga", "import:none.txt"],
        ["alice", "import:list.txt"],
        ["alice", "import:none.txt"],
    ];
    assert_eq!(records.iter().map(by).collect::<Vec<_>>(), expected);
}

#[test]
fn on_a_terminal_an_import_asks_before_removing_more_than_a_tenth() {
    let version = Command::new("script").arg("--version").output();
    let version = version.map_err(|_missing| "there is no script of util-linux".to_owned());
    if real::found_or_skipped(version).is_none() {
        return;
    }
    let setup = Setup::new();
    setup.done(&setup.by_kafka, &["add", "bob", "eve"]);
    let file = setup.files.write("one.txt", "bob\n");
    let words =
        [&[env!("CARGO_BIN_EXE_callbridge"), "blocklist", "import", &file].map(str::to_owned)[..], &setup.by_kafka];
    for (answer, code, left) in [("n\n", 1, &["block bob", "block eve"][..]), ("y\n", 0, &["block bob"])] {
        let mut terminal = Command::new("script")
            .args(["-qec", &words.concat().join(" "), "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Kept open, because closing it would close the terminal.
        let mut keyboard = terminal.stdin.take().unwrap();
        keyboard.write_all(answer.as_bytes()).unwrap();
        let ran = Ran::of(&terminal.wait_with_output().unwrap());
        drop(keyboard);
        assert_eq!(ran.code, code, "{}", ran.stdout);
        assert!(ran.stdout.contains("1 of 2 rules would be removed. Continue?"), "{}", ran.stdout);
        wait::until("the bridge has what is left", || setup.in_force() == left);
    }
}

#[test]
fn an_invalid_file_ends_with_1_names_its_lines_and_writes_nothing() {
    let setup = Setup::new();
    let bad = setup.files.write("bad.txt", "bob\nblock\neve\nclose\n");
    for target in [&setup.by_kafka, &setup.by_admin] {
        let ran = setup.run(target, &["import", &bad]);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
        assert!(ran.stderr.contains("line 2: ") && ran.stderr.contains("line 4: "), "{}", ran.stderr);
        assert_eq!(setup.run(target, &["import", "/nowhere/list.txt"]).code, 1);
        assert_eq!(setup.run(target, &["diff", &bad]).code, 2, "not 1, which is a difference");
    }
    assert_eq!(setup.in_force(), [""; 0]);
}

#[test]
fn an_import_with_a_rule_that_cannot_be_written_writes_nothing() {
    let setup = Setup::new();
    let users: String = (0..10_001).map(|nth| format!("user-{nth:05}\n")).collect();
    // Rules are sorted, so these are in the second batch.
    for (line, shown) in [
        (format!("zoe because {}", "x".repeat(9000)), "block zoe: because "),
        (format!("z{}", "o".repeat(20_000)), "ooo...: user "),
        (r#""zo\u001fe""#.to_owned(), r#"block "zo\u001fe": user "#),
    ] {
        let file = setup.files.write("list.txt", &format!("{users}{line}\n"));
        for target in [&setup.by_kafka, &setup.by_admin] {
            for args in [&["import", &file][..], &["import", &file, "--dry-run"]] {
                let ran = setup.run(target, args);
                assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{shown}");
                assert!(ran.stderr.contains(shown) && ran.stderr.contains("nothing was written"), "{}", ran.stderr);
                assert!(ran.stderr.len() < 1000, "{}", ran.stderr);
            }
        }
    }
    assert_eq!(setup.in_force(), [""; 0]);
}

#[test]
fn an_import_of_ids_with_json_escapes_is_split_into_accepted_bodies() {
    let setup = Setup::new();
    let line = |nth: usize| format!("\"{nth:03}{}\"\n", "\\u0001".repeat(8000));
    let file = setup.files.write("list.txt", &(0..100).map(line).collect::<String>());
    let imported = setup.done(&setup.by_admin, &["import", &file]);
    assert!(imported.starts_with("added 100, "));
    wait::until("it is in force", || setup.in_force().len() == 100);
}

#[test]
fn two_files_are_compared_without_kafka() {
    let files = Files::new();
    let (one, other) =
        (files.write("one", "bob\neve because spam\n"), files.write("other", "eve because loud\npardon bob\n"));
    let diff =
        |one: &str, other: &str| Ran::of(&callbridge().args(["blocklist", "diff", one, other]).output().unwrap());
    let ran = diff(&one, &other);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, "- block bob\n~ block eve because loud\n+ pardon bob\n"));
    let ran = diff(&one, &one);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert_eq!(diff(&one, "/nowhere/list").code, 2);
}

#[test]
fn an_exported_file_imports_as_the_same_rules() {
    let setup = Setup::new();
    let rules = [
        "allow carol on @TOA#_staff",
        "block a/b?#c until 2999-01-01T00:00:00Z",
        r#"block "on" on "a b""#,
        "close @TOA#_x because it, moved",
        r#"pardon "\u200b""#,
    ];
    setup.done(&setup.by_kafka, &[&["add"][..], &rules].concat());
    let exported = setup.done(&setup.by_kafka, &["export"]);
    assert_eq!(exported.lines().collect::<Vec<_>>(), rules);
    let file = setup.files.write("exported.txt", &exported);
    wait::until("the bridge has it", || setup.run(&setup.by_admin, &["diff", &file]).code == 0);
    assert_eq!(setup.done(&setup.by_admin, &["export"]), exported);
}

#[test]
fn without_a_blocklist_the_error_says_how_to_select_one() {
    let ran = Command::new(env!("CARGO_BIN_EXE_callbridge")).env_clear().args(["blocklist", "list"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.code() == Some(2) && stderr.contains("give --config FILE, --brokers"), "{stderr}");
}

#[test]
fn an_unreachable_or_forbidden_target_ends_with_1_and_the_reason() {
    let setup = Setup::new();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let admin = format!("http://{}", setup.bridge.admin);
    let wrong = setup.files.write("wrong", "not-a-known-token\n");
    for (target, why) in [
        (words(&["--admin", &admin]), "the header Authorization is missing"),
        (words(&["--admin", &admin, "--token-file", &wrong]), "unknown token"),
        (words(&["--admin", "http://127.0.0.1:1"]), "refused"),
        (words(&["--brokers", &setup.by_kafka[1], "--topic", "no-such-topic"]), "does not exist"),
    ] {
        let ran = setup.run(&target, &["add", "bob"]);
        assert_eq!(ran.code, 1, "{target:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
        assert!(!ran.stderr.contains("not-a-known-token"));
    }
    for target in [
        words(&["--admin", "127.0.0.1:1"]),
        words(&["--admin", &admin, "--token-file", "/nowhere/token"]),
        words(&["--admin", &admin, "--brokers", "a:1", "--topic", "t"]),
        words(&["--brokers", "a:1"]),
    ] {
        assert_eq!(setup.run(&target, &["list"]).code, 2, "{target:?}");
    }
}

#[test]
fn the_config_file_selects_the_topic() {
    let setup = Setup::new();
    let config = format!(
        "[[apps]]\nsdk_app_id = 1\n[kafka]\n\"bootstrap.servers\" = {:?}\n[blocklist]\ntopic = {TOPIC:?}\n",
        setup.by_kafka[1]
    );
    let path = setup.files.write("callbridge.toml", &config);
    let target = ["--config".to_owned(), path.clone()];
    setup.done(&target, &["add", "bob"]);
    assert_eq!(setup.done(&target, &["list"]), "block bob\n");
    fs::write(&path, config.replace("[blocklist]\ntopic", "# topic")).unwrap();
    let ran = setup.run(&target, &["list"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("no topic, and no files: set blocklist.topic"), "{}", ran.stderr);
    fs::write(&path, "nonsense = 1\n").unwrap();
    assert_eq!(setup.run(&target, &["list"]).code, 78);
    let list = setup.files.write("list.txt", "bob\n");
    assert_eq!(setup.run(&target, &["diff", &list]).code, 78);
    let help = setup.done(&[], &["diff", "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("with 78 if the configuration is wrong"), "{help}");
}

#[test]
fn a_list_of_files_is_read_without_kafka_and_not_written() {
    let files = Files::new();
    let (common, own) = (files.write("common.txt", "mallory\n"), files.write("own.txt", "block bob because spam\n"));
    let more = files.write("more.txt", "bob\neve until 2127-01-31T00:00:00Z\n");
    let text = format!(
        "blocklist.files = [{common:?}]\n[kafka]\n\"bootstrap.servers\" = \"127.0.0.1:1\"\n[[apps]]\nsdk_app_id = 1\n\
         [[apps]]\nsdk_app_id = 2\nblocklist_files = [{own:?}, {more:?}]\n"
    );
    let config = files.write("callbridge.toml", &text);
    let run = |args: &[&str]| {
        let ran = callbridge().arg("blocklist").args(args).args(["--config", &config]).output().unwrap();
        let [stdout, stderr] = [ran.stdout, ran.stderr].map(|text| String::from_utf8(text).unwrap());
        (ran.status.code().unwrap(), stdout, stderr)
    };
    for (args, expected) in [
        (&["lookup", "mallory"][..], 3),
        (&["lookup", "mallory", "--app", "1"], 3),
        (&["lookup", "bob", "--app", "1"], 0),
        (&["lookup", "mallory", "--app", "2"], 0),
        (&["lookup", "bob", "--app", "2"], 3),
    ] {
        let (code, _stdout, stderr) = run(args);
        assert_eq!(code, expected, "{args:?}: {stderr}");
    }
    assert_eq!(run(&["list"]).1, "block mallory\n");
    assert_eq!(run(&["export", "--app", "2"]).1.lines().count(), 2);
    assert_eq!(run(&["diff", &common, "--app", "2"]).1.lines().count(), 3);
    assert_eq!(run(&["diff", &common]).0, 0);
    for args in [&["add", "dave"][..], &["remove", "bob", "--app", "2"], &["import", &own, "--yes", "--app", "1"]] {
        let (code, _stdout, stderr) = run(args);
        assert!(
            code == 2 && stderr.contains("the blocklist consists of files, which this command does not change: edit "),
            "{stderr}"
        );
    }
}

#[test]
fn a_lookup_with_a_config_file_decides_like_a_replica_with_that_file() {
    for dry_run in [false, true] {
        let files = Files::new();
        let list = files.write("list.txt", "mallory because spam\nallow carol on @TOA#_staff\npardon bob\n");
        let more = format!("blocklist.files = [{list:?}]\ndecide.dry_run = {dry_run}");
        let setup = Setup::with(files, &more);
        setup.done(&setup.by_admin, &["add", "bob", "eve", "mallory"]);
        let kafka = format!("kafka.\"bootstrap.servers\" = {:?}", setup.by_kafka[1]);
        let config = format!("{more}\nblocklist.topic = {TOPIC:?}\n{kafka}\napps = [{{ sdk_app_id = 1 }}]\n");
        let target = ["--config".to_owned(), setup.files.write("callbridge.toml", &config)];
        for args in [
            &["lookup", "mallory"][..],
            &["lookup", "bob"],
            &["lookup", "eve"],
            &["lookup", "eve", "--account", "@TOA#_staff"],
            &["lookup", "carol", "--account", "@TOA#_staff"],
            &["lookup", "dave", "--account", "@TOA#_staff"],
            &["list"],
        ] {
            let args = [args, &["--output", "json"]].concat();
            let [of_config, of_bridge] = [&target[..], &setup.by_admin].map(|target| setup.run(target, &args));
            assert_eq!(
                (of_config.code, &of_config.stdout),
                (of_bridge.code, &of_bridge.stdout),
                "{}",
                of_config.stderr
            );
        }
        assert_eq!(setup.run(&target, &["lookup", "mallory"]).code, 3);
        setup.files.write("list.txt", "block\n");
        let bad = setup.run(&target, &["lookup", "eve"]);
        assert_eq!((bad.code, bad.stdout.as_str()), (1, ""));
        assert!(bad.stderr.contains("list.txt: line 1: "), "{}", bad.stderr);
    }
}
