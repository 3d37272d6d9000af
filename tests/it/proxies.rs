//! Behind real proxies, with the configurations of `deploy/proxy`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::load;
use crate::support::openssl::Pair;
use crate::support::ports;
use crate::support::process::Process;
use crate::support::real;
use crate::support::wait;

#[test]
fn nginx_passes_the_query_on_and_a_query_that_it_loses_is_refused() {
    if missing("nginx") {
        return;
    }
    let bridge = Bridge::light("");
    let good = nginx(&bridge, &|config| config);
    assert_eq!(post(&good), 200);
    for (losing, status) in [("/$1", 403), ("/$1?SdkAppid=1400000000", 400), ("/$1%3f$args", 403)] {
        let proxy = nginx(&bridge, &|config| {
            let config = config.replace("location /tencent/ {", "location ~ ^/tencent/(.*)$ {");
            config.replace("proxy_pass http://callbridge/;", &format!("proxy_pass http://callbridge{losing};"))
        });
        assert_eq!(post(&proxy), status, "{losing}");
    }
    let stopped = bridge.stop_in_order();
    assert_eq!((stopped.ledger["delivered"], stopped.ledger["refused"]), (1, 3), "{stopped:?}");
}

#[test]
fn haproxy_s_default_check_finds_it_up_and_counts_as_no_callback() {
    if missing("haproxy") {
        return;
    }
    // HAProxy's own checks come from 127.0.0.1, as the callbacks that it passes on do.
    let senders = "callbacks.senders = [\"127.0.0.1\"]\ncallbacks.proxies = [\"127.20.0.1\"]";
    let checks_callbacks = |config: String, words: &str| {
        let config = config.replace("    http-check send meth GET uri /readyz\n", "");
        let admin = config.lines().filter_map(|line| Some(line.split_once(" port ")?.1.to_owned())).collect::<Vec<_>>();
        let config = admin.iter().fold(config, |config, port| config.replace(&format!(" port {port}"), words));
        config.replace("inter 200ms", "inter 100ms")
    };
    let plain = |config| checks_callbacks(config, "");
    let from_proxy = |config| checks_callbacks(config, " source 127.20.0.1");
    let header = |config| checks_callbacks(config, " source 127.20.0.1 send-proxy-v2 check-send-proxy");
    let cases: [(&str, &dyn Fn(String) -> String); 3] =
        [("", &plain), (senders, &from_proxy), (&format!("{senders}\ncallbacks.proxy_protocol = true"), &header)];
    for (settings, change) in cases {
        let bridge = Bridge::light(settings);
        let proxy = haproxy(&bridge, change);
        bridge.metrics_until(|metrics| metrics["callbridge_probes_total"] >= 5.0);
        // A server that is down has no callbacks passed on.
        assert_eq!([post(&proxy), post(&proxy)], [200, 200], "{settings}");
        let stopped = bridge.stop_in_order();
        assert_eq!(stopped.ledger["received"], 2, "{settings}: {stopped:?}");
    }
}

#[test]
fn both_proxies_send_chosen_commands_to_a_server_of_ones_own() {
    if missing("nginx") || missing("haproxy") {
        return;
    }
    let bridge = Bridge::light("");
    // Another callbridge stands for that server; its ledger says what came.
    let own = Bridge::light("");
    let routed = |config: String| config.replace("#own ", "").replace("127.0.0.1:8090", &own.callbacks.to_string());
    for proxy in [nginx(&bridge, &routed), haproxy(&bridge, &routed)] {
        for command in
            ["Group.CallbackBeforeSendMsg", "C2C.CallbackBeforeSendMsg", load::COMMAND, "Group.CallbackAfterSendMsg"]
        {
            let target = callback_target(APP, command).replacen('/', "/tencent/in", 1);
            let body = format!("{{\"CallbackCommand\":\"{command}\"}}");
            let response = Client::connect(proxy.address).unwrap().post(&target, body.as_bytes()).unwrap();
            assert_eq!(response.status, 200, "{command}: {response:?}");
        }
    }
    let [others, own] = [bridge, own].map(|bridge| bridge.stop_in_order().ledger["received"]);
    assert_eq!((others, own), (4, 4));
}

#[test]
fn both_proxies_end_tls_and_say_who_sent_a_callback() {
    if missing("nginx") || missing("haproxy") {
        return;
    }
    let Some(pair) = Pair::make("proxy") else { return };
    let both = TempDir::with_prefix_in("pem-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let pem = both.path().join("callbridge.pem");
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    fs::write(&pem, read(&pair.certificate) + &read(&pair.key)).unwrap();
    let bridge = Bridge::light("callbacks.senders = [\"127.0.0.2\"]\ncallbacks.proxies = [\"127.0.0.1\"]");
    let [port] = ports::free();
    let tls = |config: String| {
        config
            .replace("#tls ", "")
            .replace("127.0.0.1:8443", &format!("127.0.0.1:{port}"))
            .replace("/etc/haproxy/callbridge.pem", pem.to_str().unwrap())
            .replace("/etc/nginx/callbridge.crt", pair.certificate.to_str().unwrap())
            .replace("/etc/nginx/callbridge.key", pair.key.to_str().unwrap())
    };
    let url = format!("https://127.0.0.1:{port}");
    for start in [nginx, haproxy] {
        let _proxy = start(&bridge, &tls);
        assert_eq!(["127.0.0.2", "127.0.0.3"].map(|from| post_from(from, &url, &pair.certificate)), [200, 403]);
    }
}

#[test]
fn haproxy_passes_bytes_through_with_the_sender_in_a_proxy_header() {
    if missing("haproxy") {
        return;
    }
    let Some(pair) = Pair::make("bridge") else { return };
    let settings = format!(
        "callbacks.senders = [\"127.0.0.2\"]\ncallbacks.proxies = [\"127.0.0.1\"]\ncallbacks.proxy_protocol = true\n\
         callbacks.tls.certificate_file = {:?}\ncallbacks.tls.key_file = {:?}",
        pair.certificate, pair.key
    );
    let bridge = Bridge::light(&settings);
    let [port] = ports::free();
    let _proxy =
        haproxy(&bridge, &|config| config.replace("#tcp ", "").replace("127.0.0.1:8444", &format!("127.0.0.1:{port}")));
    let url = format!("https://127.0.0.1:{port}");
    assert_eq!(["127.0.0.2", "127.0.0.3"].map(|from| post_from(from, &url, &pair.certificate)), [200, 403]);
}

/// Posts a callback from an address of this machine by curl.
fn post_from(from: &str, url: &str, authority: &Path) -> u16 {
    let url = format!("{url}{}", tencent_target());
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "30", "--interface", from, "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
        .arg(authority)
        .args(["-d", &load::body("@a", 0), &url])
        .output()
        .unwrap();
    let status = String::from_utf8(output.stdout).unwrap();
    status.parse().unwrap_or_else(|_none| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// Whether a program is missing, so that the test is skipped.
pub(crate) fn missing(program: &str) -> bool {
    let found = Command::new(program).arg("-v").output();
    real::found_or_skipped(found.map(drop).map_err(|_missing| format!("there is no {program}"))).is_none()
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

/// The two callbridges behind a proxy: where they take callbacks and probes.
#[derive(Clone, Copy)]
pub(crate) struct Upstreams {
    pub(crate) callbacks: [SocketAddr; 2],
    pub(crate) admin: [SocketAddr; 2],
}

impl Upstreams {
    /// One callbridge, which stands for both.
    fn only(bridge: &Bridge) -> Self {
        Self { callbacks: [bridge.callbacks; 2], admin: [bridge.admin; 2] }
    }
}

fn nginx(bridge: &Bridge, change: &dyn Fn(String) -> String) -> Proxy {
    start_nginx(Upstreams::only(bridge), change)
}

fn haproxy(bridge: &Bridge, change: &dyn Fn(String) -> String) -> Proxy {
    start_haproxy(Upstreams::only(bridge), change)
}

/// Runs nginx, as one process so that none is left behind, with the configuration of `deploy/proxy`, changed by `change`.
pub(crate) fn start_nginx(upstreams: Upstreams, change: impl Fn(String) -> String) -> Proxy {
    start("nginx.conf", upstreams, change, |folder, config| {
        let words = ["nginx", "-p", folder, "-c", config, "-g", "daemon off; master_process off;"];
        words.map(str::to_owned).to_vec()
    })
}

/// The same for HAProxy.
pub(crate) fn start_haproxy(upstreams: Upstreams, change: impl Fn(String) -> String) -> Proxy {
    start("haproxy.cfg", upstreams, change, |_folder, config| ["haproxy", "-f", config].map(str::to_owned).to_vec())
}

/// Runs a proxy with a configuration of `deploy/proxy`, on a port of its own.
fn start(
    name: &str,
    upstreams: Upstreams,
    change: impl Fn(String) -> String,
    command: impl Fn(&str, &str) -> Vec<String>,
) -> Proxy {
    let folder = TempDir::with_prefix_in("proxy-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [port] = ports::free();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/proxy").join(name);
    let shipped = fs::read_to_string(shipped).unwrap();
    let Upstreams { callbacks, admin } = upstreams;
    let config = shipped
        .replace("127.0.0.1:8000", &address.to_string())
        .replace("127.0.0.1:8080", &callbacks[0].to_string())
        .replace("127.0.0.1:8081", &callbacks[1].to_string())
        .replace("port 9464", &format!("port {}", admin[0].port()))
        .replace("port 9465", &format!("port {}", admin[1].port()));
    let path = folder.path().join(name);
    fs::write(&path, change(config)).unwrap();
    let words = command(folder.path().to_str().unwrap(), path.to_str().unwrap());
    let mut process = Process::start(folder.path(), &words[0], &words[1..]);
    wait::until("the proxy listens", || {
        assert_eq!(process.exit_code(), None, "{}", process.stderr());
        Client::connect(address).is_ok()
    });
    Proxy { address, _process: process, _folder: folder }
}

fn post(proxy: &Proxy) -> u16 {
    Client::connect(proxy.address).unwrap().post(&tencent_target(), load::body("@a", 0).as_bytes()).unwrap().status
}

fn tencent_target() -> String {
    callback_target(APP, load::COMMAND).replacen('/', "/tencent/in", 1)
}
