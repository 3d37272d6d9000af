//! The connections of the callback listener: who makes room at the cap, and which connections end.

use std::net::SocketAddr;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use callbridge::clock;

use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::http::Client;
use crate::support::http::callback_target;
use crate::support::load;
use crate::support::wait;

#[test]
fn a_new_connection_takes_the_place_of_a_silent_one_and_then_of_the_longest_idle() {
    let bridge = Bridge::light("callbacks.connections_max = 4\ncallbacks.head_timeout_ms = 60000");
    let mut older = connect(&bridge);
    assert_eq!(post(&mut older), 200);
    // That it is idle is noted a moment after the response is here, and nobody can ask for it.
    thread::sleep(Duration::from_millis(200));
    let mut newer = connect(&bridge);
    assert_eq!(post(&mut newer), 200);
    let mut silent = [connect(&bridge), connect(&bridge)];

    let mut third = connect(&bridge);
    assert_eq!(post(&mut third), 200);
    let mut fourth = connect(&bridge);
    assert_eq!(post(&mut fourth), 200);
    assert!(silent.iter_mut().all(Client::is_closed));
    let mut fifth = connect(&bridge);
    assert_eq!(post(&mut fifth), 200);
    assert!(older.is_closed());
    assert_eq!([&mut newer, &mut third, &mut fourth, &mut fifth].map(post), [200; 4]);

    let metrics = bridge.metrics();
    assert_eq!(metrics["callbridge_connections_evicted_total"], 3.0);
    assert_eq!(metrics["callbridge_connections_refused_total"], 0.0);
    assert_eq!(metrics["callbridge_connections"], 4.0);
}

#[test]
fn a_connection_beyond_a_busy_cap_gets_503_and_ended_ones_free_their_slot() {
    let settings =
        "callbacks.connections_max = 3\ncallbacks.body_timeout_ms = 60000\ncallbacks.head_timeout_ms = 60000";
    let bridge = Bridge::light(settings);
    let mut inside: Vec<Client> = (0..3).map(|_nth| connect(&bridge)).collect();
    for client in &mut inside {
        client.write(half()).unwrap();
    }
    bridge.metrics_until(|metrics| metrics["callbridge_callbacks_waiting{where=\"request\"}"] == 3.0);
    for _repeat in 0..20 {
        let mut beyond = connect(&bridge);
        // With a request under way, a close would be a reset, which takes the answer away.
        let response = beyond.post(&target(), load::body("@a", 0).as_bytes()).unwrap();
        assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
        assert_eq!(response.header("connection"), Some("close"));
        assert!(response.text().contains("too many connections"), "{}", response.text());
        assert!(beyond.is_closed());
    }
    assert_eq!(bridge.metrics()["callbridge_connections_refused_total"], 20.0);

    inside.pop();
    bridge.metrics_until(|metrics| metrics["callbridge_connections"] == 2.0);
    assert_eq!(post(&mut connect(&bridge)), 200);
    for client in &mut inside {
        client.write(b"{}").unwrap();
        // Two bytes of a body that is no callback's.
        assert_eq!(client.read().unwrap().status, 200);
    }
}

#[test]
fn idle_connections_without_a_callback_make_room_before_new_ones_do() {
    let bridge = Bridge::light("callbacks.connections_max = 10\ncallbacks.head_timeout_ms = 60000");
    let mut used = connect(&bridge);
    assert_eq!(post(&mut used), 200);
    let mut looks: Vec<Client> = (0..9).map(|_nth| connect(&bridge)).collect();
    for look in &mut looks {
        assert_eq!(look.request("GET", "/", &[], b"").unwrap().status, 200);
    }
    // Another connection comes between each and its first byte.
    let mut new: Vec<Client> = (0..5).map(|_nth| connect(&bridge)).collect();
    assert!(new.iter_mut().all(|client| post(client) == 200));
    assert_eq!(post(&mut used), 200);
    assert_eq!(bridge.metrics()["callbridge_connections_evicted_total"], 5.0);
}

#[test]
fn a_slow_head_makes_room_when_nothing_else_can() {
    let bridge = Bridge::light("callbacks.connections_max = 2\ncallbacks.head_timeout_ms = 60000");
    let mut slow: Vec<Client> = (0..2).map(|_nth| connect(&bridge)).collect();
    for client in &mut slow {
        client.write(b"POST / HTTP/1.1\r\nHos").unwrap();
    }
    wait::until("a head is given up", || Client::connect(bridge.callbacks).is_ok_and(|mut new| post(&mut new) == 200));
    // And not because its time was over.
    assert!(bridge.metrics()["callbridge_connections_evicted_total"] >= 1.0);
    assert!(slow.iter_mut().any(Client::is_closed));
}

#[test]
fn thousands_of_silent_connections_keep_no_sender_out() {
    let bridge = Bridge::light("callbacks.connections_max = 50\ncallbacks.head_timeout_ms = 60000");
    let mut good = connect(&bridge);
    assert_eq!(post(&mut good), 200);
    let mut silent = Vec::new();
    for number in 0..2000 {
        silent.push(TcpStream::connect(bridge.callbacks).unwrap());
        if number % 100 == 0 {
            assert_eq!(post(&mut connect(&bridge)), 200, "a new connection beside {number} silent ones");
        }
    }
    assert_eq!(post(&mut good), 200, "the connection that was there before them");
    assert_eq!(bridge.metrics()["callbridge_connections_refused_total"], 0.0);
}

#[test]
fn a_connection_of_which_no_byte_comes_has_the_time_of_a_head() {
    let bridge = Bridge::light("callbacks.head_timeout_ms = 300\ncallbacks.idle_timeout_seconds = 3600");
    let mut used = connect(&bridge);
    assert_eq!(post(&mut used), 200);
    assert!(connect(&bridge).is_closed());
    // Empty lines begin no head.
    let mut blank = connect(&bridge);
    blank.write(b"\r\n\r\n").unwrap();
    assert!(blank.is_closed());
    assert_eq!(post(&mut used), 200);
}

#[test]
fn empty_lines_between_requests_are_ignored() {
    let bridge = Bridge::light("callbacks.head_timeout_ms = 300");
    let mut ended = connect(&bridge);
    let mut client = connect(&bridge);
    for blank in ["\r\n", "\n", "\r\n\r\n", "\r"] {
        let body = load::body("@a", 0);
        let head = format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", target(), body.len());
        // With the body, and behind it.
        client.write(format!("{head}{body}\r\n").as_bytes()).unwrap();
        assert_eq!(client.read().unwrap().status, 200);
        client.write(blank.as_bytes()).unwrap();
        let mut probe = connect(&bridge);
        probe.write(b"P").unwrap();
        assert!(probe.is_closed(), "longer than a head may take");
        if blank == "\r" {
            client.write(b"\n").unwrap();
        }
        assert_eq!(post(&mut client), 200, "behind {blank:?}");
    }
    assert!(ended.is_closed());
}

#[test]
fn a_connection_ends_with_a_response_once_it_has_reached_its_age() {
    let bridge = Bridge::light("callbacks.connection_age_max_seconds = 1");
    let began = clock::monotonic();
    let mut client = connect(&bridge);
    let mut answered = 0_u64;
    loop {
        let response = client.post(&target(), load::body("@a", 0).as_bytes()).unwrap();
        assert_eq!(response.status, 200);
        answered += 1;
        if response.header("connection") == Some("close") {
            break;
        }
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(client.is_closed());
    assert_eq!(bridge.stop_in_order().ledger["delivered"], answered);
}

#[test]
fn one_peer_has_a_quarter_of_all_connections_where_no_proxies_are_configured() {
    let busy = "callbacks.connections_max = 440\ncallbacks.body_timeout_ms = 60000";
    for (settings, places) in [("", 110), ("\ncallbacks.proxies = [\"127.20.0.1\"]", 440)] {
        let bridge = Bridge::light(&format!("{busy}{settings}"));
        let mut inside: Vec<Client> = (0..places).map(|_nth| connect(&bridge)).collect();
        for client in &mut inside {
            client.write(half()).unwrap();
        }
        let all = f64::from(places);
        bridge.metrics_until(|metrics| metrics["callbridge_callbacks_waiting{where=\"request\"}"] == all);
        assert_eq!(post(&mut connect(&bridge)), 503);
    }
}

fn connect(bridge: &Bridge) -> Client {
    connect_to(bridge.callbacks)
}

fn connect_to(address: SocketAddr) -> Client {
    Client::connect(address).unwrap()
}

fn target() -> String {
    callback_target(APP, load::COMMAND)
}

/// A head, and nothing of its body.
fn half() -> &'static [u8] {
    b"POST /?SdkAppid=1400000000&CallbackCommand=Made.Up HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
}

fn post(client: &mut Client) -> u16 {
    client.post(&target(), load::body("@a", 0).as_bytes()).map_or(0, |response| response.status)
}
