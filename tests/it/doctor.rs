//! `callbridge check --live`: planted faults, each named with what to do.

use std::fs;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Lines;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStderr;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use callbridge::clock;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::BaseProducer;
use rdkafka::producer::BaseRecord;
use rdkafka::producer::Producer;
use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::seeds::APP;
use crate::support::commit_proxy::CommitProxy;
use crate::support::full_disk::FullDisk;
use crate::support::kafka::Kafka;
use crate::support::kafka::Settings;
use crate::support::mounted;
use crate::support::openssl;
use crate::support::openssl::Pair;
use crate::support::ports;
use crate::support::process::Process;
use crate::support::real;
use crate::support::wait;

type Properties = [(String, String)];

/// A fault that was planted, the command that finds it, and what that says.
struct Fault {
    name: &'static str,
    command: Command,
    code: i32,
    says: Vec<String>,
}

fn fault(name: &'static str, command: Command, code: i32, says: &[&str]) -> Fault {
    Fault { name, command, code, says: says.iter().map(|&line| line.to_owned()).collect() }
}

/// Runs every command, and fails with all faults that are not named. Below each line that fails there must be what to do.
fn assert_named(faults: Vec<Fault>) {
    let mut missed = String::new();
    for Fault { name, mut command, code, says } in faults {
        let (found, text) = run(&mut command);
        let unsaid: Vec<&String> = says.iter().filter(|line| !text.contains(*line)).collect();
        let mut lines = text.lines().peekable();
        let mut without_remedy = Vec::new();
        while let Some(line) = lines.next() {
            if line.starts_with("FAIL ") && !lines.peek().is_some_and(|next| next.starts_with("     ")) {
                without_remedy.push(line);
            }
        }
        if found != code || !unsaid.is_empty() || !without_remedy.is_empty() || text.contains("planted-secret") {
            missed += &format!("{name}: {found}, not said: {unsaid:#?}, no remedy: {without_remedy:#?}\n{text}\n");
        }
    }
    assert!(missed.is_empty(), "{missed}");
}

/// The exit code, and all that was printed.
fn run(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (status.code().unwrap(), text)
}

/// `callbridge check --live` with free ports.
fn check(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbridge"));
    command.args(["check", "--live", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]).args(args);
    command
}

/// The same beside a Kafka that is not there, without a journal.
fn alone(args: &[&str]) -> Command {
    check(&[&["--sdk-app-id", APP, "--brokers", &ports::nobody(), "--ack", "memory"], args].concat())
}

/// The same with a journal in `dir`.
fn journal(dir: &Path) -> Command {
    let mut command = check(&["--sdk-app-id", APP, "--brokers", &ports::nobody(), "--data-dir"]);
    command.arg(dir);
    command
}

/// For three topics of callbacks below `prefix`, of one replica.
fn with_kafka(properties: &Properties, prefix: &str, args: &[&str]) -> Command {
    let mut command = check(&[&["--sdk-app-id", APP, "--ack", "memory", "--topic-prefix", prefix], args].concat());
    command.env("CALLBRIDGE_TOPICS_COMMANDS", "State.StateChange");
    command.env("CALLBRIDGE_TOPICS_PARTITIONS", "1").env("CALLBRIDGE_TOPICS_REPLICATION_FACTOR", "1");
    for (name, value) in properties {
        command.env(format!("CALLBRIDGE_KAFKA_{}", name.to_uppercase().replace('.', "_")), value);
    }
    command
}

fn with_blocklist(mut command: Command, topic: &str) -> Command {
    command.env("CALLBRIDGE_BLOCKLIST_TOPIC", topic);
    command
}

/// The command as a user who may nothing: root may read every file.
fn as_nobody(command: &Command) -> Command {
    if !rustix::process::geteuid().is_root() {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args());
        return same;
    }
    let mut dropped = Command::new("setpriv");
    dropped.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(command.get_program());
    dropped.args(command.get_args());
    dropped
}

fn create_topics(kafka: &Kafka, prefix: &str) {
    for name in ["State.StateChange", "unknown", "rejected"] {
        kafka.create_topic(&format!("{prefix}.{name}"), 1, 1);
    }
}

fn replaced(properties: &Properties, changes: &[(&str, &str)]) -> Vec<(String, String)> {
    let is_kept = |(name, _value): &&(String, String)| !changes.iter().any(|(changed, _)| changed == name);
    let changes = changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    properties.iter().filter(is_kept).cloned().chain(changes.filter(|(_name, value)| !value.is_empty())).collect()
}

fn folder() -> TempDir {
    TempDir::with_prefix_in("doctor-", env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Whether the process has a handler for `signal`.
fn handles(pid: Pid, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
    u64::from_str_radix(mask, 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

fn write(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    shown(&path).to_owned()
}

#[test]
fn doctor_names_faults_of_the_configuration_and_of_its_files() {
    let folder = folder();
    let file = |name: &str, text: &str| write(&folder, name, text);
    let path = |name: &str| shown(&folder.path().join(name)).to_owned();
    symlink(path("nowhere"), path("dangling")).unwrap();
    let (empty, secret) = (file("empty", "\n"), file("secret", "planted-secret-planted-secret\n"));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let config = |name: &str, text: &str| {
        let config = format!("ack = \"memory\"\n{text}\n[kafka]\n\"bootstrap.servers\" = \"{}\"\n", ports::nobody());
        ["--config".to_owned(), file(name, &config)]
    };
    let (unknown, wrong_id) =
        (config("unknown.toml", "sdk_app_ids = 1"), config("id.toml", "[[apps]]\nsdk_app_id = \"abc\""));
    let absent = config("absent.toml", "");
    let with = |[flag, file]: &[String; 2]| check(&[flag, file]);
    let tokens = |file: &str| alone(&["--token-file", file]);
    let blocklist = |file: &str| alone(&["--blocklist", file]);
    assert_named(vec![
        fault(
            "a setting that there is not",
            with(&unknown),
            78,
            &["FAIL ", ":2: sdk_app_ids: no such setting", "correct it there"],
        ),
        fault("an SdkAppid that is no number", with(&wrong_id), 78, &["FAIL ", "sdk_app_id: ", "correct it there"]),
        fault("no application", with(&absent), 78, &["FAIL apps: is missing", "add it to the configuration"]),
        fault(
            "a config file that is not there",
            check(&["--config", &path("nowhere")]),
            78,
            &["FAIL ", "cannot be read"],
        ),
        fault(
            "a flag that is wrong",
            check(&["--sdk-app-id", "1", "--ack", "never"]),
            78,
            &["FAIL --ack: ", "correct the flag"],
        ),
        fault(
            "no token file",
            tokens(&path("nowhere")),
            78,
            &["nowhere: No such file", "create the file, or correct its path"],
        ),
        fault(
            "a directory as token file",
            tokens(shown(folder.path())),
            78,
            &["not a regular file", "set the path to the right file"],
        ),
        fault(
            "a dangling link as token file",
            tokens(&path("dangling")),
            78,
            &["dangling: No such file", "create the file"],
        ),
        fault(
            "a token file of another user",
            as_nobody(&tokens(&secret)),
            78,
            &["Permission denied", "let the user that callbridge runs as"],
        ),
        fault("a token file without a token", tokens(&empty), 78, &["empty: holds no token", "write one token a line"]),
        fault("no blocklist file", blocklist(&path("nowhere")), 1, &["nowhere: No such file", "create the file"]),
        fault(
            "a bad line in a blocklist",
            blocklist(&file("list", "block\n")),
            1,
            &["list: line 1: ", "docs/blocklist.md has the grammar"],
        ),
    ]);
}

#[test]
fn doctor_names_faults_of_certificates_and_keys() {
    let (Some(pair), Some(other)) = (Pair::make("doctor"), Pair::make("other")) else { return };
    let folder = folder();
    let key = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=old -keyout old.key -out old.csr";
    openssl::run(folder.path(), key);
    write(&folder, "extensions", "basicConstraints=critical,CA:FALSE\n");
    let certify = "x509 -req -in old.csr -signkey old.key -days -1 -extfile extensions -out old.pem";
    openssl::run(folder.path(), certify);
    let tls = |certificate: &Path, key: &Path| {
        let mut command = alone(&[]);
        command
            .env("CALLBRIDGE_CALLBACKS_TLS_CERTIFICATE_FILE", certificate)
            .env("CALLBRIDGE_CALLBACKS_TLS_KEY_FILE", key);
        command
    };
    let nowhere = folder.path().join("nowhere");
    let soon = "x509 -req -in old.csr -signkey old.key -days 10 -extfile extensions -out soon.pem";
    openssl::run(folder.path(), soon);
    let soon = tls(&folder.path().join("soon.pem"), &folder.path().join("old.key"));
    let expired = tls(&folder.path().join("old.pem"), &folder.path().join("old.key"));
    assert_named(vec![
        fault("all well", tls(&pair.certificate, &pair.key), 1, &["ok   tls ok: "]),
        fault(
            "no certificate",
            tls(&nowhere, &pair.key),
            78,
            &["FAIL callbacks.tls: ", "nowhere: No such file", "create the file"],
        ),
        fault(
            "the key of another certificate",
            tls(&pair.certificate, &other.key),
            78,
            &["the key is not that of", "set key_file to the key"],
        ),
        fault(
            "a key as certificate",
            tls(&pair.key, &pair.key),
            78,
            &["FAIL callbacks.tls: read the certificate", "certificate_file must hold"],
        ),
        fault(
            "a certificate as key",
            tls(&pair.certificate, &pair.certificate),
            78,
            &["read the key", "key_file must hold the key in PEM"],
        ),
        fault(
            "a certificate of which ten days are left",
            soon,
            1,
            &["warn ", "soon.pem: a certificate in the file expires soon, at ", "replace certificate and key before"],
        ),
        fault(
            "an expired certificate",
            expired,
            1,
            &["FAIL ", "a certificate in the file has expired", "replace certificate and key"],
        ),
    ]);
}

#[test]
fn doctor_names_ports_that_are_taken_or_forbidden_and_brokers_out_of_reach() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let nobody = ports::nobody();
    let servers = |servers: &str| check(&["--sdk-app-id", APP, "--ack", "memory", "--brokers", servers]);
    let here = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callbridge"));
        command.args(["check", "--live", "--sdk-app-id", APP, "--brokers", &nobody, "--ack", "memory"]).args(args);
        command
    };
    let no_kafka = "skip TLS, SASL and the producer's id: not tried: no bootstrap server takes connections";
    let mut faults = vec![
        fault(
            "a port that is taken",
            here(&["--listen", &address, "--admin-listen", "127.0.0.1:0"]),
            1,
            &[
                &format!("FAIL callbacks.listen: cannot listen on {address}: Address already in use"),
                "ss -ltnp 'sport = :",
            ],
        ),
        fault(
            "an admin port that is taken",
            here(&["--listen", "127.0.0.1:0", "--admin-listen", &address]),
            1,
            &[&format!("FAIL admin.listen: cannot listen on {address}"), "ss -ltnp"],
        ),
        fault(
            "an address of another machine",
            here(&["--listen", "192.0.2.1:8080", "--admin-listen", "127.0.0.1:0"]),
            1,
            &["FAIL callbacks.listen: cannot listen on 192.0.2.1:8080", "set an address of this machine"],
        ),
        fault(
            "a name that is none",
            servers("callbridge.invalid:9092"),
            1,
            &["FAIL callbridge.invalid:9092 cannot be resolved: ", "correct bootstrap.servers, or the DNS", no_kafka],
        ),
        fault(
            "a port that is closed",
            servers(&nobody),
            1,
            &[
                "ok   ",
                &format!("FAIL {nobody} takes no connections: Connection refused"),
                "see whether the broker runs",
                no_kafka,
            ],
        ),
        fault(
            "one server of two that is wrong",
            servers(&format!("{address},callbridge.invalid")),
            1,
            &[
                "warn callbridge.invalid cannot be resolved",
                &format!("ok   {address} takes connections"),
                &format!("FAIL no broker answers: {address}: no answer within 6 s"),
                "see whether the broker is frozen",
            ],
        ),
    ];
    let unprivileged = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if unprivileged.trim().parse::<u16>().unwrap() > 81 {
        let command = as_nobody(&here(&["--listen", "127.0.0.1:81", "--admin-listen", "127.0.0.1:0"]));
        let says =
            ["FAIL callbacks.listen: cannot listen on 127.0.0.1:81: Permission denied", "grant CAP_NET_BIND_SERVICE"];
        faults.push(fault("a port that is forbidden", command, 1, &says));
    }
    assert_named(faults);
}

#[test]
fn doctor_names_a_broker_that_is_out_of_reach_or_frozen_and_ends_in_time() {
    let Some(kafka) = Kafka::shared() else { return };
    create_topics(kafka, "advertised");
    let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
    let (frozen, nobody) = (frozen.local_addr().unwrap().to_string(), ports::nobody());
    let advertising = |address: &str| {
        let proxy = CommitProxy::advertising(&kafka.bootstrap(), Some(address));
        with_kafka(
            &replaced(&kafka.properties(), &[("bootstrap.servers", &proxy.address())]),
            "advertised",
            &["--write"],
        )
    };
    // The server that named it may be forgotten before it has answered all that the client asks.
    for (address, what, remedy) in [
        (&nobody, "Connection refused", "correct advertised.listeners"),
        (&frozen, "no answer within 6 s", "see whether the broker is frozen"),
    ] {
        let is_named = |line: &str| line.starts_with("FAIL ") && line.contains(address.as_str()) && line.contains(what);
        let began = clock::monotonic();
        let (code, text) = run(&mut advertising(address));
        let took = began.elapsed();
        assert!(code == 1 && text.lines().any(is_named) && text.contains(remedy), "{text}");
        assert!(took < Duration::from_secs(10) && !text.contains("allow WRITE"), "{took:?}: {text}");
    }
}

#[test]
fn doctor_checks_the_lists_and_missing_topics_of_many_applications_in_time() {
    let Some(kafka) = Kafka::shared() else { return };
    let folder = folder();
    let apps = (1..=40).map(|id| {
        format!("[[apps]]\nsdk_app_id = {id}\ntopic_prefix = \"many-{id}\"\nblocklist_topic = \"many-list-{id}\"\n")
    });
    let text = format!(
        "ack = \"memory\"\nkafka.\"bootstrap.servers\" = {:?}\n{}",
        kafka.bootstrap(),
        apps.collect::<String>()
    );
    let config = write(&folder, "many.toml", &text);
    for id in 1..=40 {
        kafka.create_topic(&format!("many-list-{id}"), 1, 1);
    }
    let began = clock::monotonic();
    let (code, text) = run(&mut check(&["--config", &config]));
    let took = began.elapsed();
    assert_eq!((code, text.matches(": readable, up to offset 0").count()), (1, 40), "{text}");
    assert!(text.contains("more: does not exist") && took < Duration::from_secs(15), "{took:?}: {text}");
}

#[test]
fn doctor_names_journals_in_files_in_memory_taken_and_on_full_disks() {
    let folder = folder();
    let (file, missing, link) =
        (folder.path().join("file"), folder.path().join("missing/journal"), folder.path().join("link"));
    fs::write(&file, "").unwrap();
    symlink(folder.path().join("nowhere"), &link).unwrap();
    let taken = TempDir::new_in(&folder).unwrap();
    let held = File::open(taken.path()).unwrap();
    held.lock().unwrap();
    let locked = TempDir::new_in(&folder).unwrap();
    fs::set_permissions(locked.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let mut large = journal(taken.path());
    large.env("CALLBRIDGE_JOURNAL_QUOTA_BYTES", (1_u64 << 60).to_string());
    let before = fs::read_dir(folder.path()).unwrap().count();
    let mut faults = vec![
        fault(
            "a file",
            journal(&file),
            1,
            &["FAIL journal.dir: open ", "not a directory", "set journal.dir to a directory"],
        ),
        fault("a path below a file", journal(&file.join("journal")), 1, &["FAIL journal.dir: ", "Not a directory"]),
        fault("a dangling link", journal(&link), 1, &["FAIL journal.dir: ", "No such file"]),
        fault(
            "a directory that the start makes",
            journal(&missing),
            1,
            &["ok   ", "does not exist yet; the start makes it in", " is on ", "is writable; one fsync took"],
        ),
        fault(
            "a journal of another process",
            journal(taken.path()),
            1,
            &["belongs to another callbridge", "stop the other process"],
        ),
        fault(
            "a quota above what is free",
            large,
            1,
            &["warn ", "too little for the journal's quota of", "lower journal.quota_bytes"],
        ),
        fault("a directory of another user", as_nobody(&journal(locked.path())), 1, &["FAIL ", "Permission denied"]),
    ];
    if mounted::allowed().is_ok() {
        let (point, dir) = mounted::mounted("tmpfs", "size=256m");
        let memory =
            fault("memory", journal(&dir), 1, &["warn ", "is in memory (tmpfs)", "journal.persistent = false if"]);
        let small = mounted::mounted("tmpfs", "size=16m");
        let says = ["FAIL journal.dir: the journal needs 67108864 bytes", "room for four segments"];
        assert_named(vec![memory, fault("a disk that is too small", journal(&small.1), 1, &says)]);
        drop(point);
    }
    let disk = FullDisk::mount(16);
    if let Some(disk) = &disk {
        disk.fill();
        let mut command = journal(disk.path());
        command.env("CALLBRIDGE_JOURNAL_SEGMENT_BYTES", "1048576");
        command.env("CALLBRIDGE_CALLBACKS_BODY_BYTES_MAX", "65536");
        let says =
            ["not more than journal.free_bytes_min", "free some space", "cannot be written: No space left on device"];
        faults.push(fault("a full disk", command, 1, &says));
    }
    assert_named(faults);
    assert!(!missing.exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before, "nothing is left behind");
}

/// Writes a record with a time so far from now, in seconds.
fn write_record(kafka: &Kafka, topic: &str, seconds: i64) {
    let producer: BaseProducer = kafka.client().create().unwrap();
    let time = clock::wall().0 + 1000 * seconds;
    producer.send(BaseRecord::<(), str>::to(topic).payload("{}").timestamp(time)).unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
}

#[test]
fn doctor_names_wrong_passwords_protocols_certificates_and_missing_rights() {
    let Some(kafka) = Kafka::with(Settings { nodes: 1, tls_and_scram: true }) else { return };
    for prefix in ["secure", "mute", "deaf", "blind"] {
        create_topics(&kafka, prefix);
    }
    kafka.create_topic_with("secure-list", 1, 1, &[("cleanup.policy", "compact")]);
    kafka.create_topic("secure-list-changes", 1, 1);
    assert_all_well(&kafka);
    assert_named(wrong_connections(&kafka));
    assert_missing_rights_are_named(&kafka);
}

fn assert_all_well(kafka: &Kafka) {
    let (properties, folder) = (kafka.properties(), folder());
    let token = write(&folder, "token", "planted-secret-planted-secret\n");
    let list = write(&folder, "list", "mallory\n");
    let all_well = ["--token-file", &token, "--blocklist", &list, "--write"];
    let began = clock::monotonic();
    let (code, text) = run(&mut with_blocklist(with_kafka(&properties, "secure", &all_well), "secure-list"));
    let took = clock::monotonic() - began;
    // Past the capture of the test's output.
    let line = format!("callbridge check --live: all well in {took:?}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
    assert!(code == 0 && !text.contains("FAIL "), "{text}");
    for line in [
        "ok   application 1400000000: a callback signed with the first token of ",
        "ok   TLS: the handshake succeeds",
        "ok   SASL: the login by SCRAM-SHA-256 succeeds",
        "ok   brokers that answer: 127.0.0.1:",
        "ok   Kafka gives an idempotent producer its id",
        "ok   secure.State.StateChange, secure.unknown, secure.rejected: set right",
        "ok   secure-list: readable, up to offset 0",
        "ok   secure.rejected: a record was written",
        "ok   this client may write to 2 more topics",
        "ok   no record in Kafka is more than 60 s ahead of it",
        "skip whether it is ahead of the broker's: not tried",
        "Status check results are ok",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

/// A connection that is not as the broker has it.
fn wrong_connections(kafka: &Kafka) -> Vec<Fault> {
    let properties = kafka.properties();
    let secure = |changes: &[(&str, &str)]| with_kafka(&replaced(&properties, changes), "secure", &[]);
    let internal = kafka.plaintext_address();
    let plain = |changes: &[(&str, &str)]| secure(&[&[("bootstrap.servers", &*internal)], changes].concat());
    vec![
        fault(
            "a wrong password",
            secure(&[("sasl.password", "planted-secret")]),
            1,
            &["ok   TLS: ", "FAIL SASL: ", "correct sasl.username, sasl.password", "skip not tried: no broker answers"],
        ),
        fault(
            "another mechanism",
            secure(&[("sasl.mechanism", "SCRAM-SHA-512")]),
            1,
            &["FAIL SASL: ", "set sasl.mechanism in [kafka]"],
        ),
        fault(
            "plain text to a port with TLS",
            secure(&[("security.protocol", "sasl_plaintext")]),
            1,
            &[
                "skip TLS: not used: security.protocol is sasl_plaintext",
                "FAIL protocol: ",
                "set security.protocol to ssl or sasl_ssl",
            ],
        ),
        fault(
            "TLS to a port without",
            plain(&[]),
            1,
            &["FAIL TLS: ", "set security.protocol to plaintext or sasl_plaintext"],
        ),
        fault(
            "a login to a port without",
            plain(&[("security.protocol", "sasl_plaintext")]),
            1,
            &["FAIL SASL: ", "set security.protocol"],
        ),
        fault(
            "a certificate that is not trusted",
            secure(&[("ssl.ca.location", "")]),
            1,
            &["FAIL TLS: ", "set ssl.ca.location in [kafka]"],
        ),
        fault(
            "no CA file",
            secure(&[("ssl.ca.location", "/nowhere")]),
            1,
            &["FAIL the Kafka client cannot be made", "correct its path in [kafka]"],
        ),
    ]
}

fn assert_missing_rights_are_named(kafka: &Kafka) {
    let properties = kafka.properties();
    kafka.forbid_writing("mute.rejected");
    kafka.forbid_writing("mute.State.StateChange");
    kafka.forbid_describing("deaf.unknown");
    kafka.forbid_reading("secure-list");
    let once = |name: &'static str, command: &mut dyn FnMut() -> Command, says: &[&str]| {
        // A rule is not in force at once.
        wait::until(name, || run(&mut command()).1.contains(says[0]));
        assert_named(vec![fault(name, command(), 1, says)]);
    };
    let mut mute = || with_kafka(&properties, "mute", &["--write"]);
    let says = [
        "FAIL mute.State.StateChange: may not be written",
        "FAIL mute.rejected: a record cannot be written",
        "allow WRITE",
    ];
    once("no right to write", &mut mute, &says);
    let says = ["FAIL deaf.unknown: this client may not DESCRIBE it", "allow DESCRIBE"];
    once("no right to describe", &mut || with_kafka(&properties, "deaf", &[]), &says);
    let says = ["FAIL secure-list: cannot be read: the right to READ", "allow READ"];
    once("no right to read", &mut || with_blocklist(with_kafka(&properties, "secure", &[]), "secure-list"), &says);
    kafka.forbid_describing_topics();
    let blind = || with_kafka(&properties, "blind", &[]);
    wait::until("the settings are hidden", || run(&mut blind()).1.contains("its settings cannot be read"));
    assert_named(vec![fault(
        "no right to describe settings",
        blind(),
        0,
        &["warn blind.", "allow DESCRIBE_CONFIGS on it"],
    )]);
}

#[test]
fn doctor_names_missing_and_wrong_topics_and_what_to_set() {
    let Some(kafka) = Kafka::shared() else { return };
    let properties = kafka.properties();
    create_topics(kafka, "one");
    kafka.create_topic_with("doctor-list", 2, 1, &[("cleanup.policy", "delete")]);
    kafka.create_topic_with("doctor-list-changes", 1, 1, &[("cleanup.policy", "compact")]);
    let check = |prefix: &str, args: &[&str]| with_kafka(&properties, prefix, args);
    let mut one = check("one", &[]);
    one.env_remove("CALLBRIDGE_TOPICS_REPLICATION_FACTOR");
    let mut three = check("one", &[]);
    three.env("CALLBRIDGE_TOPICS_REPLICATION_FACTOR", "3").env("CALLBRIDGE_TOPICS_PARTITIONS", "6");
    let with_list = |topic: &str| with_blocklist(check("one", &[]), topic);
    let says_of_list = [
        "FAIL doctor-list: has 2 partitions, and must have exactly 1",
        "FAIL doctor-list: cleanup.policy is delete, and must be compact",
        "FAIL doctor-list-changes: cleanup.policy is compact, and must be delete",
        "create it anew with 1 partition",
    ];
    let absent = "FAIL absent.State.StateChange, absent.unknown, absent.rejected: does not exist";
    let one_says = ["warn one.", "has 1 replicas, because the cluster has 1 brokers", "add brokers and replicas"];
    let three_says = ["has 1 replicas, fewer than 3", "add replicas", "has 1 partitions, fewer than"];
    let to_be = ["warn absent.", "the start creates it"];
    assert_named(vec![
        fault("no topic", check("absent", &[]), 1, &[absent, "\"callbridge topics create\""]),
        fault("no topic, and the start creates it", check("absent", &["--create-topics"]), 0, &to_be),
        fault("one replica", one, 0, &one_says),
        fault("fewer replicas than configured", three, 1, &three_says),
        fault("a blocklist topic that is wrong", with_list("doctor-list"), 1, &says_of_list),
        fault("no blocklist topic", with_list("no-list"), 1, &["FAIL no-list, no-list-changes: does not exist"]),
    ]);
    assert_named(wrong_settings(kafka));
}

/// A setting of a topic with which records are lost or refused.
fn wrong_settings(kafka: &Kafka) -> Vec<Fault> {
    let settings = [
        ("a compacted topic", 1, "cleanup.policy", "compact", "cleanup.policy is compact", "set cleanup.policy=delete"),
        ("records that are deleted soon", 0, "retention.ms", "60000", "retention.ms is 60000", "set retention.ms="),
        (
            "a topic that is too small",
            0,
            "retention.bytes",
            "1000000",
            "retention.bytes is 1000000",
            "set retention.bytes=",
        ),
        (
            "records that are too large",
            1,
            "max.message.bytes",
            "1000",
            "max.message.bytes is 1000",
            "set max.message.bytes=",
        ),
        ("too many replicas in sync", 1, "min.insync.replicas", "2", "it takes no record", "set min.insync.replicas=1"),
    ];
    let faults = settings.into_iter().map(|(name, code, setting, value, what, remedy)| {
        create_topics(kafka, setting);
        let topic = format!("{setting}.unknown");
        kafka.alter_topic(&topic, &[(setting, value)]);
        fault(name, with_kafka(&kafka.properties(), setting, &[]), code, &[&format!("{topic}: "), what, remedy])
    });
    faults.collect()
}

#[test]
fn doctor_names_a_clock_that_is_behind_or_ahead_of_the_brokers() {
    let Some(kafka) = Kafka::shared() else { return };
    ["early", "appended"].iter().for_each(|prefix| create_topics(kafka, prefix));
    kafka.alter_topic("appended.rejected", &[("message.timestamp.type", "LogAppendTime")]);
    write_record(kafka, "early.unknown", 1800);
    let properties = kafka.properties();
    let check = |prefix: &str, args: &[&str]| with_kafka(&properties, prefix, args);
    let ahead = "FAIL records in early.unknown are more than 60 s ahead of it";
    let right = "ok   it is right: no more than 5 s off that of the broker of appended.rejected";
    assert_named(vec![
        fault("a record of the future", check("early", &[]), 1, &[ahead, "by NTP"]),
        fault("a right clock", check("appended", &["--write"]), 0, &[right]),
    ]);
    // It gives each record the same time.
    let cluster = MockCluster::new(1).unwrap();
    ["State.StateChange", "unknown", "rejected"]
        .iter()
        .for_each(|name| cluster.create_topic(&format!("mock.{name}"), 1, 1).unwrap());
    let mock = [("bootstrap.servers".to_owned(), cluster.bootstrap_servers())];
    let says = ["ok   mock.rejected: a record was written", "skip whether it is ahead of the broker's: not tried"];
    assert_named(vec![fault("a broker of tests", with_kafka(&mock, "mock", &["--write"]), 1, &says)]);
    for (seconds, says) in
        [(-90, "s behind that of the broker of appended"), (90, "s ahead of that of the broker of appended")]
    {
        let Some((shim, _folder)) = clock_shim(seconds) else { return };
        let mut command = check("appended", &["--write"]);
        command.env("LD_PRELOAD", shim);
        assert_named(vec![fault("a clock that is 90 s off", command, 1, &["FAIL it is ", says, "by NTP"])]);
    }
}

/// A library that puts the wall clock of the program that loads it so many seconds off, and its folder: while that holds the file `clock-is-off`.
/// Nothing where there is no C compiler: the test shall return.
fn clock_shim(seconds: i64) -> Option<(PathBuf, TempDir)> {
    let folder = folder();
    let source = format!(
        "#define _GNU_SOURCE\n#include <time.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         int clock_gettime(clockid_t clock, struct timespec *now) {{\n\
         int failed = syscall(SYS_clock_gettime, clock, now);\n\
         if (!failed && clock == CLOCK_REALTIME && !access(\"{}\", F_OK)) now->tv_sec += {seconds};\n\
         return failed;\n}}\n",
        write(&folder, "clock-is-off", "")
    );
    let (source, shim) = (write(&folder, "clock.c", &source), folder.path().join("clock.so"));
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o", shown(&shim), &source]).output();
    let output = real::found_or_skipped(compiled.map_err(|_missing| "there is no C compiler".to_owned()))?;
    assert!(output.status.success(), "{output:?}");
    Some((shim, folder))
}

#[test]
fn doctor_waits_until_nothing_fails_and_prints_json_where_asked() {
    let Some(kafka) = Kafka::shared() else { return };
    let properties = kafka.properties();
    let dir: PathBuf = folder().keep();
    let token = dir.join("token");
    let mut command = with_kafka(&properties, "awaited", &["--json", "--wait", "2m", "--token-file", shown(&token)]);
    let waiting = command.stdout(Stdio::piped()).spawn().unwrap();
    create_topics(kafka, "awaited");
    fs::write(&token, "0123456789abcdef").unwrap();
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["success"], true);
    let titles = |json: &Value| {
        let sections = json["sections"].as_array().unwrap().iter();
        sections.map(|it| it["title"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let expected = [
        "configuration",
        "blocklist files",
        "files",
        "signature",
        "ports",
        "journal",
        "kafka",
        "topics",
        "blocklist topics",
        "write",
        "clock",
    ];
    assert_eq!(titles(&json), expected);
    fs::remove_dir_all(dir).unwrap();

    // The same shape when there is no Kafka, and when the wait is over.
    let (code, text) = run(&mut alone(&["--json", "--wait", "1"]));
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["success"], titles(&json)), (1, &Value::Bool(false), expected.map(str::to_owned).to_vec()));
    let failed = json["sections"].as_array().unwrap().iter().flat_map(|section| section["checks"].as_array().unwrap());
    let failed = failed.filter(|check| check["outcome"] == "failed").collect::<Vec<_>>();
    assert!(!failed.is_empty() && failed.iter().all(|check| check["remedy"].is_string()), "{text}");

    let (code, text) = run(&mut check(&["--json"]));
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, titles(&json)), (78, vec!["configuration".to_owned()]));
    assert_eq!(run(&mut alone(&["--wait", "soon"])).0, 2);
}

#[test]
fn doctor_prints_what_it_found_last_when_a_signal_ends_its_wait() {
    for signal in [Signal::TERM, Signal::INT] {
        let child = alone(&["--json", "--wait", "1h"]).stdout(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        wait::until("it handles the signal", || handles(pid, signal));
        rustix::process::kill_process(pid, signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &json["success"]), (Some(1), &Value::Bool(false)));
        assert_eq!(json["sections"].as_array().unwrap().len(), 11);
    }
}

/// A configuration that hangs when it is opened, as a file on a disk that stands still: nobody writes into the pipe.
fn hanging_config(folder: &TempDir) -> String {
    let config = folder.path().join("callbridge.toml");
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    shown(&config).to_owned()
}

#[test]
fn the_second_signal_ends_a_doctor_that_hangs() {
    let folder = folder();
    let args = ["check", "--live", "--wait", "1h", "--config", &hanging_config(&folder)].map(str::to_owned);
    let mut doctor = Process::start(folder.path(), env!("CARGO_BIN_EXE_callbridge"), &args);
    wait::until("it handles the signal", || handles(doctor.pid(), Signal::TERM));
    // Two of them at once may be one.
    wait::until("the second signal ends it", || {
        doctor.signal(Signal::TERM);
        doctor.exit_code().is_some()
    });
    assert_eq!(doctor.exit_code(), Some(1));
}

#[test]
fn a_doctor_that_hangs_says_so_when_its_wait_is_over() {
    let folder = folder();
    let (code, text) = run(&mut check(&["--wait", "1", "--config", &hanging_config(&folder)]));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the check does not end"), "{text}");
}

#[test]
fn doctor_writes_no_record_and_creates_no_topic_unless_asked() {
    let Some(kafka) = Kafka::shared() else { return };
    let properties = kafka.properties();
    create_topics(kafka, "untouched");
    let ends = || ["State.StateChange", "unknown", "rejected"].map(|name| end(kafka, &format!("untouched.{name}")));
    assert_eq!(run(&mut with_kafka(&properties, "untouched", &[])).0, 0);
    assert_eq!(ends(), [0, 0, 0]);
    assert_eq!(run(&mut with_kafka(&properties, "untouched", &["--write"])).0, 0);
    assert_eq!(ends(), [0, 0, 1], "only the dead-letter topic has a record");
    assert_eq!(run(&mut with_kafka(&properties, "uncreated", &["--write", "--create-topics"])).0, 0);
    let metadata = kafka.client().create::<BaseProducer>().unwrap();
    let metadata = metadata.client().fetch_metadata(None, Duration::from_secs(30)).unwrap();
    assert!(!metadata.topics().iter().any(|topic| topic.name().starts_with("uncreated")));
}

#[test]
fn doctor_writes_one_record_however_often_it_tries() {
    let Some(kafka) = Kafka::shared() else { return };
    let properties = kafka.properties();
    let folder = folder();
    let token = folder.path().join("token");
    ["unknown", "rejected"].iter().for_each(|name| kafka.create_topic(&format!("patient.{name}"), 1, 1));
    let args = ["--write", "--wait", "2m", "--token-file", shown(&token)];
    let mut waiting = Waiting::start(with_kafka(&properties, "patient", &args));
    waiting.until_said("No such file");
    fs::write(&token, "0123456789abcdef").unwrap();
    waiting.until_said("patient.State.StateChange: does not exist");
    assert_eq!(end(kafka, "patient.rejected"), 0, "nothing is written while something else fails");
    kafka.create_topic("patient.State.StateChange", 1, 1);
    assert_eq!((waiting.end(), end(kafka, "patient.rejected")), (0, 1));

    // Only the record itself shows this failure.
    let Some((shim, off)) = clock_shim(90) else { return };
    create_topics(kafka, "set-clock");
    kafka.alter_topic("set-clock.rejected", &[("message.timestamp.type", "LogAppendTime")]);
    let mut command = with_kafka(&properties, "set-clock", &["--write", "--wait", "2m"]);
    command.env("LD_PRELOAD", shim);
    let mut waiting = Waiting::start(command);
    waiting.until_said("s ahead of that of the broker of set-clock.rejected");
    fs::remove_file(off.path().join("clock-is-off")).unwrap();
    assert_eq!((waiting.end(), end(kafka, "set-clock.rejected")), (0, 1));
}

/// A check with `--wait`, and what it says meanwhile.
struct Waiting {
    process: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Waiting {
    fn start(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, said }
    }

    fn until_said(&mut self, text: &str) {
        assert!(self.said.any(|line| line.unwrap().contains(text)), "it never says: {text}");
    }

    fn end(mut self) -> i32 {
        self.process.wait().unwrap().code().unwrap()
    }
}

/// The end of the only partition of a topic.
fn end(kafka: &Kafka, topic: &str) -> i64 {
    let producer: BaseProducer = kafka.client().create().unwrap();
    producer.client().fetch_watermarks(topic, 0, Duration::from_secs(30)).unwrap().1
}

#[test]
fn doctor_finds_a_bridge_that_runs_with_the_same_configuration() {
    let [callbacks, admin] = ports::free::<2>().map(|port| format!("127.0.0.1:{port}"));
    let dir = folder();
    let args = ["--sdk-app-id", APP, "--brokers", &ports::nobody(), "--listen", &callbacks, "--admin-listen", &admin];
    let binary = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callbridge"));
        command.env("CALLBRIDGE_JOURNAL_DIR", dir.path());
        command
    };
    let mut bridge = binary().arg("serve").args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait::until("the bridge is alive", || {
        binary().args(["healthcheck", "--admin", &admin]).stderr(Stdio::null()).status().unwrap().success()
    });
    let (code, text) = run(binary().args(["check", "--live"]).args(args));
    bridge.kill().unwrap();
    bridge.wait().unwrap();
    assert_eq!(code, 1, "{text}");
    for said in [
        format!("ok   callbacks.listen: {callbacks} is in use, and callbridge runs here"),
        format!("ok   {} is in use by the callbridge that runs here", dir.path().display()),
    ] {
        assert!(text.contains(&said), "{said}\n{text}");
    }
}
