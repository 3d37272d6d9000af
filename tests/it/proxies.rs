//! Behind real proxies, with the configurations of `deploy/proxy`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::load;
use crate::support::ports;
use crate::support::process::Process;
use crate::support::real;
use crate::support::wait;

const APP: &str = "1400000000";

#[test]
fn nginx_passes_the_query_on_and_a_query_that_it_loses_is_refused() {
    if missing("nginx") {
        return;
    }
    let bridge = Bridge::start_light(APP, "");
    let good = nginx(&bridge, |config| config);
    assert_eq!(post(&good), 200);
    for (losing, status) in [("/$1", 403), ("/$1?SdkAppid=1400000000", 400), ("/$1%3f$args", 403)] {
        let proxy = nginx(&bridge, |config| {
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
    let from_proxy = |config: String| config.replace(" check inter 1s", " source 127.20.0.1 check inter 100ms");
    let header = |config: String| from_proxy(config).replace(" check ", " send-proxy-v2 check-send-proxy check ");
    let cases: [(&str, &dyn Fn(String) -> String); 3] = [
        ("", &|config| config.replace("inter 1s", "inter 100ms")),
        (senders, &from_proxy),
        (&format!("{senders}\ncallbacks.proxy_protocol = true"), &header),
    ];
    for (settings, change) in cases {
        let bridge = Bridge::start_light(APP, settings);
        let proxy = haproxy(&bridge, change);
        bridge.metrics_until(|metrics| metrics["callbridge_probes_total"] >= 5.0);
        // A server that is down has no callbacks passed on.
        assert_eq!([post(&proxy), post(&proxy)], [200, 200], "{settings}");
        let stopped = bridge.stop_in_order();
        assert_eq!(stopped.ledger["received"], 2, "{settings}: {stopped:?}");
    }
}

/// Whether a program is missing, so that the test is skipped.
fn missing(program: &str) -> bool {
    let found = Command::new(program).arg("-v").output();
    real::found_or_skipped(found.map(drop).map_err(|_missing| format!("there is no {program}"))).is_none()
}

/// A running proxy.
struct Proxy {
    address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

fn nginx(bridge: &Bridge, change: impl Fn(String) -> String) -> Proxy {
    start("nginx.conf", bridge, change, |folder, config| {
        let words = ["nginx", "-p", folder, "-c", config, "-g", "daemon off; user root;"];
        words.map(str::to_owned).to_vec()
    })
}

fn haproxy(bridge: &Bridge, change: impl Fn(String) -> String) -> Proxy {
    start("haproxy.cfg", bridge, change, |_folder, config| ["haproxy", "-f", config].map(str::to_owned).to_vec())
}

/// Runs a proxy with a configuration of `deploy/proxy`, on a port of its own and in front of `bridge`.
fn start(
    name: &str,
    bridge: &Bridge,
    change: impl Fn(String) -> String,
    command: impl Fn(&str, &str) -> Vec<String>,
) -> Proxy {
    let folder = TempDir::with_prefix_in("proxy-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [port] = ports::free();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/proxy").join(name);
    let shipped = fs::read_to_string(shipped).unwrap();
    let config = shipped
        .replace("127.0.0.1:8000", &address.to_string())
        .replace("127.0.0.1:8080", &bridge.callbacks.to_string());
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
    let target = callback_target(APP, load::COMMAND).replacen('/', "/tencent/in", 1);
    Client::connect(proxy.address).unwrap().post(&target, load::body("@a", 0).as_bytes()).unwrap().status
}
