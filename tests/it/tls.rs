//! TLS on the callback listener: who is served, with which certificate, and what happens when that changes.

use std::fs;
use std::io::Result;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use callbridge::clock;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::ProtocolVersion;
use rustls::RootCertStore;
use rustls::StreamOwned;
use rustls::SupportedProtocolVersion;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS12;
use rustls::version::TLS13;
use serde_json::Value;
use tempfile::TempDir;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::load;
use crate::support::openssl::Pair;
use crate::support::real;

const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

type TlsClient = Client<StreamOwned<ClientConnection, TcpStream>>;

#[test]
fn callbacks_come_in_over_tls_and_nothing_comes_in_without() {
    let Some(pair) = Pair::make("server") else { return };
    let files = Files::of(&pair);
    let bridge = Bridge::light(&files.settings());
    assert!(bridge.stdout().contains(&format!("callbacks on https://{}\n", bridge.callbacks)), "{}", bridge.stdout());
    for (version, expected) in [(&TLS13, ProtocolVersion::TLSv1_3), (&TLS12, ProtocolVersion::TLSv1_2)] {
        let mut client = connect(&bridge, &pair, None, &[version]).unwrap();
        for number in 0..20 {
            assert_eq!(client.post(&target(), load::body("@a", number).as_bytes()).unwrap().status, 200);
        }
        assert_eq!(client.inner().conn.protocol_version(), Some(expected));
    }
    let mut plain = Client::connect(bridge.callbacks).unwrap();
    assert!(plain.post(&target(), load::body("@a", 0).as_bytes()).is_err());
    let another = Pair::make("another").unwrap();
    assert!(connect(&bridge, &another, None, BOTH).is_err(), "a client that trusts somebody else");
    bridge.metrics_until(|metrics| metrics["callbridge_connections_unopened_total{reason=\"tls\"}"] == 2.0);
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["received"], stopped.ledger["delivered"]), (40, 40), "{stopped:?}");
}

#[test]
fn curl_posts_over_tls() {
    let Some(pair) = Pair::make("server") else { return };
    let found = Command::new("curl").arg("-V").output().map(drop).map_err(|_missing| "there is no curl".to_owned());
    let Some(()) = real::found_or_skipped(found) else { return };
    let files = Files::of(&pair);
    let bridge = Bridge::light(&files.settings());
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "30", "--data-binary", &load::body("@a", 0), "--cacert"])
        .arg(&pair.certificate)
        .args(["-w", " %{http_code} %{http_version}"])
        .arg(format!("https://{}{}", bridge.callbacks, target()))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(printed, r#"{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0} 200 1.1"#, "{output:?}");
}

#[test]
fn over_tls_too_bodies_may_be_long_and_refusals_can_be_read() {
    let Some(pair) = Pair::make("server") else { return };
    let files = Files::of(&pair);
    let bridge = Bridge::light(&format!("{}\ncallbacks.body_timeout_ms = 60000", files.settings()));
    let mut client = connect(&bridge, &pair, None, BOTH).unwrap();
    let padded = |bytes: usize| load::body("@a", 0) + &" ".repeat(bytes - load::body("@a", 0).len());
    assert_eq!(client.post(&target(), padded(262_144).as_bytes()).unwrap().status, 200);
    // Many in one piece, and one byte by byte.
    let body = load::body("@a", 1);
    let request =
        format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", target(), body.len()).into_bytes();
    client.write(&request.repeat(50)).unwrap();
    request.iter().for_each(|byte| client.write(&[*byte]).unwrap());
    for _request in 0..51 {
        assert_eq!(client.read().unwrap().status, 200);
    }
    let refused = client.post(&target(), padded(262_145).as_bytes()).unwrap();
    assert_eq!((refused.status, refused.header("connection")), (413, Some("close")));
    assert!(client.is_closed());
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["delivered"], stopped.ledger["refused"]), (52, 1), "{stopped:?}");
}

#[test]
fn a_new_certificate_is_shown_to_new_connections_and_the_old_ones_go_on() {
    let (Some(old), Some(new)) = (Pair::make("old"), Pair::make("new")) else { return };
    let files = Files::of(&old);
    let bridge = Bridge::light(&files.settings());
    let mut before = connect(&bridge, &old, None, BOTH).unwrap();
    assert_eq!(status(&mut before), 200);
    let now = Duration::from_millis(clock::wall().0.unsigned_abs()).as_secs_f64();
    let days = (bridge.metrics()["callbridge_tls_certificate_expires_timestamp_seconds"] - now) / 86_400.0;
    assert!((29.5..=30.1).contains(&days), "{days}");

    // One after the other: for a moment they do not fit together.
    for (name, from) in [("next-certificate", &new.certificate), ("next-key", &new.key)] {
        fs::copy(from, files.path(name)).unwrap();
    }
    fs::rename(files.path("next-certificate"), files.path("certificate")).unwrap();
    fs::rename(files.path("next-key"), files.path("key")).unwrap();
    bridge.metrics_until(|metrics| metrics["callbridge_tls_reloads_total"] == 1.0);

    assert_eq!(status(&mut connect(&bridge, &new, None, BOTH).unwrap()), 200);
    assert!(connect(&bridge, &old, None, BOTH).is_err());
    assert_eq!(status(&mut before), 200, "the connection from before");
    assert_eq!(bridge.metrics()["callbridge_tls_files_failing"], 0.0);
    let stopped = bridge.stop_in_order();
    assert_eq!(stopped.ledger["delivered"], 3);
    assert!(!stopped.stderr.contains("\"level\":\"ERROR\""), "{}", stopped.stderr);
}

#[test]
fn files_that_turn_bad_leave_the_old_certificate_in_force_and_are_told_once() {
    let (Some(old), Some(new)) = (Pair::make("old"), Pair::make("new")) else { return };
    let files = Files::of(&old);
    let bridge = Bridge::light(&format!("{}\nlog.filter = \"callbridge=trace,rustls=trace\"", files.settings()));
    let failing = |failing: f64, errors: f64| {
        bridge.metrics_until(|metrics| {
            metrics["callbridge_tls_files_failing"] == failing && metrics["callbridge_tls_file_errors_total"] == errors
        });
    };
    // The key of another certificate, then no certificate at all, then no file.
    files.replace("key", &new.key);
    failing(1.0, 1.0);
    assert_eq!(status(&mut connect(&bridge, &old, None, BOTH).unwrap()), 200);
    files.replace("certificate", &new.key);
    failing(1.0, 2.0);
    fs::remove_file(files.path("certificate")).unwrap();
    failing(1.0, 3.0);
    assert_eq!(status(&mut connect(&bridge, &old, None, BOTH).unwrap()), 200);
    files.replace("certificate", &new.certificate);
    failing(0.0, 3.0);
    assert_eq!(status(&mut connect(&bridge, &new, None, BOTH).unwrap()), 200);

    let stopped = bridge.stop_in_order();
    let errors = stopped.stderr.lines().filter(|line| line.contains("\"level\":\"ERROR\""));
    let errors: Vec<Value> = errors.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(
        errors[0]["fields"]["error"].as_str().unwrap().starts_with("use the certificate with the key"),
        "{errors:#?}"
    );
    for pair in [&old, &new] {
        let key = fs::read_to_string(&pair.key).unwrap();
        assert!(key.lines().all(|line| !stopped.stderr.contains(line)), "a key in the log");
    }
}

#[test]
fn where_clients_must_show_a_certificate_only_the_right_one_is_served() {
    let pairs = (Pair::make("server"), Pair::make("client"), Pair::make("next"));
    let (Some(server), Some(client), Some(next)) = pairs else { return };
    let files = Files::of(&server);
    files.replace("clients", &client.certificate);
    let bridge =
        Bridge::light(&format!("{}\ncallbacks.tls.client_ca_file = {:?}", files.settings(), files.path("clients")));
    let served = |with: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]| {
        // In TLS 1.3 the client learns only when it reads that its certificate was not taken.
        let client = connect(&bridge, &server, with, versions);
        client.and_then(|mut client| client.post(&target(), load::body("@a", 0).as_bytes())).is_ok()
    };
    for version in [&TLS12, &TLS13] {
        assert!(served(Some(&client), &[version]));
        assert!(!served(None, &[version]) && !served(Some(&next), &[version]));
    }
    let mut before = connect(&bridge, &server, Some(&client), BOTH).unwrap();
    assert_eq!(status(&mut before), 200);

    files.replace("clients", &next.certificate);
    bridge.metrics_until(|metrics| metrics["callbridge_tls_reloads_total"] == 1.0);
    assert!(served(Some(&next), BOTH) && !served(Some(&client), BOTH));
    // Whose certificate was checked against the old authorities ends with one of its next responses.
    let mut answered = 0;
    loop {
        let response = before.post(&target(), load::body("@a", 0).as_bytes()).unwrap();
        assert_eq!(response.status, 200);
        answered += 1;
        if response.header("connection") == Some("close") {
            break;
        }
    }
    assert!(before.is_closed());
    let stopped = bridge.stop_in_order();
    assert_eq!(stopped.ledger["received"], 2 + 1 + 1 + answered, "{stopped:?}");
}

#[test]
fn a_handshake_that_does_not_come_to_its_end_ends_the_connection() {
    let Some(pair) = Pair::make("server") else { return };
    let files = Files::of(&pair);
    let bridge = Bridge::light(&format!("{}\ncallbacks.head_timeout_ms = 300", files.settings()));
    let mut used = connect(&bridge, &pair, None, BOTH).unwrap();
    assert_eq!(status(&mut used), 200);
    for begin in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut client = Client::connect(bridge.callbacks).unwrap();
        client.write(begin).unwrap();
        assert!(client.is_closed());
    }
    bridge.metrics_until(|metrics| metrics["callbridge_connections_unopened_total{reason=\"late\"}"] == 3.0);
    assert_eq!(status(&mut used), 200, "an idle connection is not slow");
    bridge.stop_in_order();
}

#[test]
fn a_stop_does_not_wait_for_handshakes_and_answers_what_has_come() {
    let Some(pair) = Pair::make("server") else { return };
    let files = Files::of(&pair);
    let patient = "callbacks.head_timeout_ms = 60000\ncallbacks.body_timeout_ms = 60000\ndrain_seconds = 50";
    let mut bridge = Bridge::light(&format!("{}\n{patient}", files.settings()));
    let mut silent = Client::connect(bridge.callbacks).unwrap();
    let mut half = connect(&bridge, &pair, None, BOTH).unwrap();
    let body = load::body("@a", 0);
    let (length, target) = (body.len(), target());
    half.write(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").as_bytes()).unwrap();
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_waiting{where=\"request\"}"] == 1.0);
    bridge.signal(rustix::process::Signal::TERM);
    assert!(silent.is_closed());
    half.write(body.as_bytes()).unwrap();
    let answer = half.read().unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    let stopped = bridge.wait();
    assert_eq!((stopped.code, stopped.ledger["delivered"]), (0, 1), "{stopped:?}");
}

#[test]
fn a_proxy_s_header_comes_before_tls() {
    let Some(pair) = Pair::make("server") else { return };
    let files = Files::of(&pair);
    let networks = "callbacks.senders = [\"203.0.113.7\"]\ncallbacks.proxies = [\"127.0.0.1\"]";
    let bridge = Bridge::light(&format!("{}\n{networks}\ncallbacks.proxy_protocol = true", files.settings()));
    for (source, expected) in [("203.0.113.7", 200), ("203.0.113.8", 403)] {
        let header = format!("PROXY TCP4 {source} 127.0.0.1 4660 443\r\n");
        let mut client = shake_hands(&bridge, &pair, None, BOTH, header.as_bytes()).unwrap();
        assert_eq!(status(&mut client), expected);
    }
}

#[test]
fn tls_files_that_cannot_be_used_at_the_start_are_78_and_check_tells_them_too() {
    let (Some(pair), Some(another)) = (Pair::make("server"), Pair::make("another")) else { return };
    let files = Files::of(&pair);
    let config = files.path("callbridge.toml");
    fs::write(&config, files.settings()).unwrap();
    let run = |command: &str| {
        let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--sdk-app-id", APP];
        let output = Command::new(env!("CARGO_BIN_EXE_callbridge"))
            .args([command, "--embedded-broker", "--config", &config])
            .args(flags)
            .env_remove("CALLBRIDGE_REQUIRE_REAL")
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, stdout, _stderr) = run("check");
    assert_eq!(code, Some(0));
    assert!(stdout.ends_with(&format!("\ntls ok: {}: any client\n", files.path("certificate"))), "{stdout}");

    files.replace("key", &another.key);
    let pair_is_wrong = "use the certificate with the key";
    files.replace("missing", &another.key);
    for (name, says) in [("key", pair_is_wrong), ("certificate", "read the certificate")] {
        if name == "certificate" {
            files.replace(name, &another.key);
        }
        for command in ["serve", "check"] {
            let (code, _stdout, stderr) = run(command);
            assert!(code == Some(78) && stderr.contains(says), "{command}: {code:?} {stderr}");
        }
    }
    fs::remove_file(files.path("key")).unwrap();
    for command in ["serve", "check"] {
        let (code, _stdout, stderr) = run(command);
        assert!(code == Some(78) && stderr.contains(&files.path("key")), "{command}: {code:?} {stderr}");
    }
}

/// The files that callbridge reads, in a folder of their own.
struct Files {
    folder: TempDir,
}

impl Files {
    fn of(pair: &Pair) -> Self {
        let files = Self { folder: TempDir::with_prefix_in("tls-files-", env!("CARGO_TARGET_TMPDIR")).unwrap() };
        files.replace("certificate", &pair.certificate);
        files.replace("key", &pair.key);
        files
    }

    fn path(&self, name: &str) -> String {
        Path::join(self.folder.path(), name).display().to_string()
    }

    fn replace(&self, name: &str, with: &Path) {
        fs::copy(with, self.path("next")).unwrap();
        fs::rename(self.path("next"), self.path(name)).unwrap();
    }

    fn settings(&self) -> String {
        let (certificate, key) = (self.path("certificate"), self.path("key"));
        format!("callbacks.tls.certificate_file = {certificate:?}\ncallbacks.tls.key_file = {key:?}")
    }
}

fn target() -> String {
    callback_target(APP, load::COMMAND)
}

fn status(client: &mut TlsClient) -> u16 {
    client.post(&target(), load::body("@a", 0).as_bytes()).unwrap().status
}

/// A client that trusts `server` and shows the certificate of `client`, after the handshake.
fn connect(
    bridge: &Bridge,
    server: &Pair,
    client: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<TlsClient> {
    shake_hands(bridge, server, client, versions, b"")
}

/// The same with bytes that are sent before everything else.
fn shake_hands(
    bridge: &Bridge,
    server: &Pair,
    client: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
    before: &[u8],
) -> Result<TlsClient> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&server.certificate).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&pair.key).unwrap()).unwrap()
        }
    };
    let mut connection = ClientConnection::new(Arc::new(config), bridge.callbacks.ip().into()).unwrap();
    let mut stream = TcpStream::connect(bridge.callbacks)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    std::io::Write::write_all(&mut stream, before)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(Client::of(StreamOwned::new(connection, stream)))
}
