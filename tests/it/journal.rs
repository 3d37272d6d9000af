//! The journal as an operator meets it: where it cannot live, what is said of damage, and what `callbridge journal` shows.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::fs::Permissions;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::full_disk::FullDisk;
use crate::support::http;
use crate::support::http::Client;
use crate::support::inspect;
use crate::support::inspect::Told;
use crate::support::journal;
use crate::support::journal::SEGMENT_BYTES;
use crate::support::kafka::Kafka;
use crate::support::ledger::Ledger;
use crate::support::load;
use crate::support::mounted;
use crate::support::mounted::mounted;
use crate::support::oracle;
use crate::support::ports;
use crate::support::powercut::PowerCut;
use crate::support::reader::Reader;
use crate::support::real;
use crate::support::wait;

/// What a frame of one small callback takes, and the header of a segment.
const BLOCK_BYTES: u64 = 4096;
const SECTOR_BYTES: u64 = 512;
const KEY: &str = "@TOA#_journal";

/// Posts one callback after the other, so that each has a frame of its own.
fn post(bridge: &Bridge, app: &str, sequences: std::ops::Range<u64>) {
    let mut client = Client::connect(bridge.callbacks).unwrap();
    for sequence in sequences {
        let answer = client.post(&http::callback_target(app, load::COMMAND), load::body(KEY, sequence).as_bytes());
        assert_eq!(answer.unwrap().status, 200);
    }
}

/// A journal with the callbacks 0, 1 and 2, which is not in use.
fn with_three() -> (TempDir, PathBuf) {
    let (folder, dir) = journal::folder();
    let bridge = journal::builder(&ports::nobody(), "journal", "").start_in(&dir);
    post(&bridge, APP, 0..3);
    assert_eq!(bridge.stop_and_wait().ledger["waiting"], 3);
    (folder, dir)
}

/// The files of that kind, sorted.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|it| it.unwrap().path());
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|it| it == extension)).collect();
    files.sort();
    files
}

/// What has come out of Kafka, in order.
fn delivered(kafka: &Kafka, prefix: &str) -> Vec<u64> {
    let topic = format!("{prefix}.{}", load::COMMAND);
    Reader::open(&kafka.client(), &[&topic]).collect_to_end().iter().map(oracle::sequence).collect()
}

/// The permission bits of the directory, and of each file in it.
fn modes(dir: &Path) -> (u32, BTreeSet<u32>) {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    (mode(dir), fs::read_dir(dir).unwrap().map(|entry| mode(&entry.unwrap().path())).collect())
}

fn warnings_of_modes(stderr: &str) -> Vec<Value> {
    let lines = stderr.lines().filter(|line| line.contains("lets group or others in"));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_journal_is_for_its_owner_alone_whatever_the_umask() {
    for umask in ["000", "022", "277"] {
        let (_folder, dir) = journal::folder();
        let under_umask = ["sh", "-c", "umask $0 && exec \"$@\"", umask].map(str::to_owned);
        let settings = journal::builder(&ports::nobody(), "journal", "");
        let bridge = settings.clone().under(&under_umask).start_in(&dir);
        post(&bridge, APP, 0..2);
        let stopped = bridge.stop_and_wait();
        assert_eq!(modes(&dir), (0o700, [0o600].into()), "umask {umask}");
        assert_eq!(warnings_of_modes(&stopped.stderr), [Value::Null; 0], "{}", stopped.stderr);
        assert_eq!(inspect::undelivered(&dir), 2);
    }
}

#[test]
fn warns_once_of_an_existing_journal_that_others_can_read_and_narrows_its_files() {
    let (_folder, dir) = with_three();
    fs::set_permissions(&dir, Permissions::from_mode(0o2755)).unwrap();
    for file in files(&dir, "seg").iter().chain(&files(&dir, "spare")) {
        fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
    }
    let stopped = journal::builder(&ports::nobody(), "journal", "").start_in(&dir).stop_and_wait();
    let warnings = warnings_of_modes(&stopped.stderr);
    assert_eq!(warnings.len(), 1, "{}", stopped.stderr);
    assert_eq!((&warnings[0]["level"], &warnings[0]["fields"]["mode"]), (&"WARN".into(), &"2755".into()));
    assert_eq!(modes(&dir), (0o2755, [0o600].into()));
    assert_eq!(inspect::undelivered(&dir), 3);
}

#[test]
fn where_the_journal_cannot_live_is_told_with_the_reason_and_an_exit_code() {
    let (folder, dir) = journal::folder();
    let file = folder.path().join("file");
    File::create(&file).unwrap();
    let _first = journal::builder(&ports::nobody(), "journal", "").start_in(&dir);
    let cases = [
        (&file, String::new(), 78, format!("make {}", file.display())),
        (&file.join("below"), String::new(), 78, format!("make {}", file.join("below").display())),
        // Also root cannot write there. The system does not say that the place is wrong.
        (&PathBuf::from("/proc/callbridge"), String::new(), 1, "make /proc/callbridge".to_owned()),
        (&dir, String::new(), 1, format!("{} is locked by another callbridge that is running", dir.display())),
        (
            &folder.path().join("other"),
            format!("quota_bytes = {SEGMENT_BYTES}"),
            78,
            "journal.quota_bytes: must be at least four times journal.segment_bytes".to_owned(),
        ),
    ];
    for (dir, more, code, says) in cases {
        let stopped = journal::builder(&ports::nobody(), "journal", &more).launch_in(dir).wait();
        assert_eq!(stopped.code, code, "{}: {}", dir.display(), stopped.stderr);
        assert!(stopped.stderr.contains(&says), "{says} is not in\n{}", stopped.stderr);
    }
}

#[test]
fn a_disk_in_trouble_is_no_mistake_of_the_configuration() {
    let (Some(broken), Some(full)) = (PowerCut::mount(8), FullDisk::mount(16)) else { return };
    broken.cut();
    full.fill();
    for (dir, says) in [(broken.path(), "Input/output error"), (full.path(), "No space left on device")] {
        let stopped = journal::builder(&ports::nobody(), "journal", "").launch_in(&dir.join("journal")).wait();
        assert!(stopped.code == 1 && stopped.stderr.contains(says), "{stopped:?}");
    }
}

#[test]
fn a_disk_that_is_read_only_is_no_place_for_a_journal() {
    let Some(disk) = FullDisk::mount(16) else { return };
    let mount = disk.path().parent().unwrap();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(mount).status().unwrap();
    assert!(remounted.success());
    let stopped = journal::builder(&ports::nobody(), "journal", "").launch_in(disk.path()).wait();
    assert_eq!(stopped.code, 78, "{}", stopped.stderr);
    assert!(stopped.stderr.contains(&format!("write to {}", disk.path().display())), "{}", stopped.stderr);
}

#[test]
fn warns_of_a_journal_that_is_gone_with_the_machine_or_the_container() {
    if real::found_or_skipped(mounted::allowed()).is_none() {
        return;
    }
    let (_memory, in_memory) = mounted("tmpfs", "size=16m");
    let (below, layers) = mounted("tmpfs", "size=16m");
    let layer = |name| {
        fs::create_dir_all(layers.join(name)).unwrap();
        layers.join(name).display().to_string()
    };
    let options = format!("lowerdir={},upperdir={},workdir={}", layer("lower"), layer("upper"), layer("work"));
    let (_overlay, in_container) = mounted("overlay", &options);
    let (_folder, on_disk) = journal::folder();
    let cases =
        [(&in_memory, "survives this process, but not this machine"), (&in_container, "but not this container")];
    for (dir, says) in cases {
        let stopped = journal::builder(&ports::nobody(), "journal", "").start_in(dir).stop_and_wait();
        assert_eq!(stopped.stderr.matches(says).count(), 1, "{says} is not in\n{}", stopped.stderr);
    }
    let stopped = journal::builder(&ports::nobody(), "journal", "").start_in(&on_disk).stop_and_wait();
    assert!(!stopped.stderr.contains("survives"), "{}", stopped.stderr);
    drop(below);
}

#[test]
fn damage_is_refused_by_file_byte_and_captures_and_can_be_salvaged() {
    let Some(kafka) = Kafka::shared() else { return };
    let (_folder, dir) = with_three();
    let segment = files(&dir, "seg").remove(0);
    let name = segment.file_name().unwrap().to_str().unwrap();
    // In the second frame.
    let offset = 2 * BLOCK_BYTES;
    let file = File::options().read(true).write(true).open(&segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset + 100).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset + 100).unwrap();
    let damage = format!("{name} is damaged at byte {offset}: 1 captures (2 to 3, exclusive) cannot be read");

    let brokers = kafka.bootstrap();
    let stopped = journal::builder(&brokers, "damaged", "").launch_in(&dir).wait();
    assert_eq!(stopped.code, 78);
    assert!(stopped.stderr.contains(&damage), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("set journal.on_corruption to salvage"), "{}", stopped.stderr);
    let told = inspect::journal(&dir, &["verify"]);
    let lines = format!("{damage}\njournal damaged: 2 captures in 1 segments can be read\n");
    assert_eq!(told, Told { code: 1, stdout: lines, stderr: String::new() });
    let told = inspect::journal(&dir, &["export"]);
    assert_eq!((told.code, told.stdout.lines().count()), (1, 2));
    assert_eq!(told.stderr, format!("callbridge journal: {damage}\n"));

    let bridge = journal::builder(&brokers, "damaged", "on_corruption = \"salvage\"").start_in(&dir);
    wait::until("the rest is delivered", || Ledger::of_scrape(&bridge.metrics()).delivered == 2);
    assert!((bridge.metrics()["callbridge_journal_damaged_captures_total"] - 1.0).abs() < 0.1);
    wait::until("the damage is logged", || bridge.stderr().contains(&damage));
    // What comes goes to a segment of its own, and then the damaged one is set aside.
    post(&bridge, APP, 3..4);
    let aside = dir.join(name.replace(".seg", ".damaged"));
    wait::until("the segment is set aside", || aside.exists());
    let stopped = bridge.stop_and_wait();
    assert!(stopped.code == 0 && stopped.is_balanced(), "{stopped:?}");
    assert_eq!(delivered(kafka, "damaged"), [0, 2, 3]);
    let told = inspect::journal(&dir, &["verify"]);
    assert!(told.code == 0 && told.stdout.contains("was damaged, salvaged and set aside"), "{told:?}");
}

#[test]
fn a_sector_that_cannot_be_read_holds_up_its_own_callbacks_only() {
    let Some(disk) = PowerCut::mount(6) else { return };
    let Some(mut kafka) = Kafka::start(1) else { return };
    let dir = disk.path().join("journal");
    let settings = |brokers: &str| journal::builder(brokers, "bad-sector", "");
    let bridge = settings(&ports::nobody()).start_in(&dir);
    post(&bridge, APP, 0..3);
    assert_eq!(bridge.stop_and_wait().ledger["waiting"], 3);
    let segment = files(&dir, "seg").remove(0);
    let second = 2 * BLOCK_BYTES;
    let damage = format!("{} is damaged at byte {second}: ", segment.file_name().unwrap().to_str().unwrap());

    // While it runs.
    kafka.node(1).freeze();
    let bridge = settings(&kafka.bootstrap()).start_in(&dir);
    disk.spoil(&segment, second..second + SECTOR_BYTES);
    kafka.node(1).thaw();
    post(&bridge, APP, 3..4);
    wait::until("the others are delivered", || Ledger::of_scrape(&bridge.metrics()).delivered == 3);
    assert!((bridge.metrics()["callbridge_journal_read_errors_total"] - 1.0).abs() < 0.1);
    wait::until("the damage is logged", || bridge.stderr().contains(&damage));
    let stopped = bridge.stop_and_wait();
    assert!(stopped.code == 0 && stopped.is_balanced() && stopped.ledger["waiting"] == 1, "{stopped:?}");

    // At the start.
    let damage = format!("{damage}1 captures (2 to 3, exclusive) cannot be read (Input/output error (os error 5))");
    let stopped = settings(&kafka.bootstrap()).launch_in(&dir).wait();
    assert!(stopped.code == 78 && stopped.stderr.contains(&damage), "{stopped:?}");
    let told = inspect::journal(&dir, &["verify"]);
    assert!(told.code == 1 && told.stdout.contains(&damage), "{told:?}");

    disk.heal();
    let bridge = settings(&kafka.bootstrap()).start_in(&dir);
    wait::until("the last is delivered", || Ledger::of_scrape(&bridge.metrics()).delivered == 1);
    assert_eq!(bridge.stop_and_wait().code, 0);
    assert_eq!(delivered(&kafka, "bad-sector"), [0, 2, 3, 1]);
}

#[test]
fn an_end_that_cannot_be_read_is_damage_and_its_numbers_do_not_come_again() {
    let (Some(disk), Some(kafka)) = (PowerCut::mount(7), Kafka::shared()) else { return };
    let dir = disk.path().join("journal");
    let bridge = journal::builder(&ports::nobody(), "bad-end", "").start_in(&dir);
    post(&bridge, APP, 0..3);
    assert_eq!(bridge.kill9().code, 128 + 9);
    let segment = files(&dir, "seg").remove(0);
    let third = 3 * BLOCK_BYTES;
    disk.spoil(&segment, third..third + SECTOR_BYTES);
    let name = segment.file_name().unwrap().to_str().unwrap();
    let damage = format!("{name} is damaged at byte {third}: how many captures from 3 on cannot be read is not known");
    let stopped = journal::builder(&kafka.bootstrap(), "bad-end", "").launch_in(&dir).wait();
    assert!(stopped.code == 78 && stopped.stderr.contains(&damage), "{stopped:?}");

    let salvage = "on_corruption = \"salvage\"";
    let bridge = journal::builder(&kafka.bootstrap(), "bad-end", salvage).start_in(&dir);
    wait::until("the damage is logged", || bridge.stderr().contains(&damage));
    post(&bridge, APP, 3..4);
    wait::until("the rest is delivered", || Ledger::of_scrape(&bridge.metrics()).delivered == 3);
    let aside = segment.with_extension("damaged");
    wait::until("the segment is set aside", || aside.exists());
    assert_eq!(bridge.stop_and_wait().code, 0);
    assert_eq!(delivered(kafka, "bad-end"), [0, 1, 3]);
    // What the disk gives again does not meet what has come since.
    disk.heal();
    fs::rename(aside, &segment).unwrap();
    let bridge = journal::builder(&kafka.bootstrap(), "bad-end", "").start_in(&dir);
    wait::until("the third is delivered", || delivered(kafka, "bad-end").contains(&2));
    let stopped = bridge.stop_and_wait();
    assert!(stopped.code == 0 && stopped.is_balanced(), "{stopped:?}");
}

#[test]
fn the_journal_can_be_looked_at_while_it_is_in_use_and_while_it_is_not() {
    let (_folder, dir) = with_three();
    let look = |state: &str, captures: u64| {
        let told = inspect::journal(&dir, &["inspect"]);
        assert_eq!((told.code, told.stderr.as_str()), (0, ""));
        let first = format!("{}: {state}\n", dir.display());
        assert!(told.stdout.starts_with(&first), "{}", told.stdout);
        let count = format!("captures {captures}, of which {captures} are not known to be in kafka\n");
        assert!(told.stdout.contains(&count), "{}", told.stdout);
        assert!(told.stdout.contains("oldest of those: number 1, received 20"), "{}", told.stdout);

        let told = inspect::journal(&dir, &["verify"]);
        assert_eq!((told.code, told.stderr.as_str()), (0, ""));
        assert!(told.stdout.contains(&format!("journal ok: {captures} captures in ")), "{}", told.stdout);

        let told = inspect::journal(&dir, &["export"]);
        assert_eq!((told.code, told.stderr.as_str()), (0, ""));
        let lines: Vec<Value> = told.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len() as u64, captures);
        for (nth, line) in (0..).zip(&lines) {
            assert_eq!(line["body"], load::body(KEY, nth));
            assert_eq!((&line["seq"], &line["delivered"]), (&(nth + 1).into(), &false.into()));
            assert_eq!(line["sdkappid"], APP);
            assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        }
        let told = inspect::journal(&dir, &["export", "--form", "envelopes"]);
        let lines: Vec<Value> = told.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((told.code, lines.len() as u64), (0, captures));
        for (nth, line) in (0..).zip(&lines) {
            assert_eq!(
                (&line["topic"], &line["key"]),
                (&format!("tencent-chat.{}", load::COMMAND).into(), &KEY.into())
            );
            let value = line["value"].as_str().unwrap();
            assert!(value.contains(&load::body(KEY, nth)), "{value}");
        }
    };
    look("not in use", 3);
    let bridge = journal::builder(&ports::nobody(), "journal", "").start_in(&dir);
    post(&bridge, APP, 3..5);
    look("in use by a running callbridge", 5);
    drop(bridge);

    let (nowhere, parent) = (dir.join("nowhere"), dir.parent().unwrap());
    for what in ["inspect", "verify", "export"] {
        let told = inspect::journal(parent, &[what]);
        let says = format!(
            "callbridge journal: there is no journal in {}: the directory holds other files\n",
            parent.display()
        );
        assert_eq!(told, Told { code: 1, stdout: String::new(), stderr: says }, "{what}");
        let told = inspect::journal(&nowhere, &[what]);
        let says =
            format!("callbridge journal: there is no journal in {}: the directory does not exist\n", nowhere.display());
        assert_eq!(told, Told { code: 1, stdout: String::new(), stderr: says }, "{what}");
        for variable in ["CALLBRIDGE_DATA_DIR", "CALLBRIDGE_JOURNAL_DIR"] {
            assert_eq!(inspect::journal_of(variable, &nowhere, what), told, "{variable}");
        }
    }
}

#[test]
fn callbacks_of_an_application_that_is_not_configured_stay_until_it_is_again() {
    const OTHER: &str = "1400000001";
    let Some(kafka) = Kafka::shared() else { return };
    let (_folder, dir) = journal::folder();
    let with_both = |brokers: &str| journal::builder(brokers, "unknown-app", "").args(&["--sdk-app-id", OTHER]);
    let bridge = with_both(&ports::nobody()).start_in(&dir);
    post(&bridge, APP, 0..1);
    post(&bridge, OTHER, 1..3);
    let stopped = bridge.stop_and_wait();
    assert_eq!(stopped.ledger["waiting"], 3);
    assert!(stopped.stderr.contains("the next start delivers them"), "{}", stopped.stderr);

    for _start in 0..2 {
        let bridge = journal::builder(&kafka.bootstrap(), "unknown-app", "").start_in(&dir);
        wait::until("the known one is delivered", || Ledger::of_scrape(&bridge.metrics()).waiting == 2);
        bridge.metrics_until(|metrics| metrics["callbridge_journal_held_total"] >= 2.0);
        wait::until("that is recorded", || inspect::undelivered(&dir) == 2);
        let stopped = bridge.stop_and_wait();
        assert!(stopped.code == 0 && stopped.is_balanced() && stopped.ledger["waiting"] == 2, "{stopped:?}");
        for said in ["it stays in the journal", "the next start delivers those that its configuration can publish"] {
            assert!(stopped.stderr.contains(said), "{said}: {}", stopped.stderr);
        }
    }
    let bridge = with_both(&kafka.bootstrap()).start_in(&dir);
    wait::until("nothing waits", || Ledger::of_scrape(&bridge.metrics()).waiting == 0);
    let stopped = bridge.stop_and_wait();
    assert_eq!(Ledger::of_exit(&stopped.ledger), Ledger { recovered: 2, delivered: 2, ..Ledger::default() });
    assert_eq!(delivered(kafka, "unknown-app"), [0, 1, 2]);
}

/// What `callbridge check` says of that journal, and its exit code.
fn check(ack: &str, dir: &Path) -> (Option<i32>, String) {
    let mut check = Command::new(env!("CARGO_BIN_EXE_callbridge"));
    check.args(["check", "--sdk-app-id", APP, "--brokers", &ports::nobody(), "--ack", ack, "--data-dir"]).arg(dir);
    let output = check.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn another_ack_does_not_start_while_captures_wait_in_the_journal() {
    let Some(kafka) = Kafka::shared() else { return };
    let (folder, dir) = with_three();
    let settings = |ack| journal::builder(&kafka.bootstrap(), "other-ack", "").args(&["--ack", ack]);
    let says = format!("3 captures wait in {}", dir.display());
    for ack in ["broker", "memory"] {
        let stopped = settings(ack).launch_in(&dir).wait();
        assert_eq!(stopped.code, 78, "{}", stopped.stderr);
        assert!(stopped.stderr.contains(&says) && stopped.stderr.contains("`--ack journal`"), "{}", stopped.stderr);
        let (code, stderr) = check(ack, &dir);
        assert!(code == Some(78) && stderr.contains(&says), "{stderr}");
    }
    assert_eq!(check("journal", &dir).0, Some(0));

    let bridge = settings("journal").start_in(&dir);
    wait::until("all are delivered", || Ledger::of_scrape(&bridge.metrics()).delivered == 3);
    assert_eq!(bridge.stop_and_wait().code, 0);
    assert!(!files(&dir, "seg").is_empty());
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let file = folder.path().join("file");
    File::create(&file).unwrap();
    let absent = folder.path().join("absent");
    for dir in [&dir, &empty, &file, &absent, &file.join("below")] {
        assert_eq!(settings("memory").start_in(dir).stop_and_wait().code, 0, "{}", dir.display());
        assert_eq!(check("memory", dir).0, Some(0), "{}", dir.display());
    }
    assert!(!absent.exists(), "it is only looked at");
}

#[test]
fn another_ack_starts_beside_the_journal_of_a_running_callbridge() {
    let Some(kafka) = Kafka::shared() else { return };
    let (_folder, dir) = with_three();
    let first = journal::builder(&ports::nobody(), "journal", "").start_in(&dir);
    let second = journal::builder(&kafka.bootstrap(), "other-ack", "").args(&["--ack", "broker"]).start_in(&dir);
    let stopped = second.stop_and_wait();
    assert_eq!(stopped.code, 0);
    assert_eq!(stopped.stderr.matches("is locked by another callbridge that is running").count(), 1, "{stopped:?}");
    assert_eq!(first.stop_and_wait().ledger["waiting"], 3);
}

#[test]
fn another_ack_does_not_pass_over_a_damaged_journal() {
    let (_folder, dir) = with_three();
    let segment = files(&dir, "seg").remove(0);
    // The header, and so how far it went; and all frames.
    File::options().write(true).open(&segment).unwrap().write_all_at(&[0; 4 * 4096], 0).unwrap();
    let (code, stderr) = check("memory", &dir);
    assert!(code == Some(78) && stderr.contains("is damaged"), "{stderr}");
}
