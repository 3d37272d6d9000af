//! The status page at `/` of the admin listener: what it says, what it never shows, and how a browser takes it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use callbridge::clock;
use serde_json::Value;

use crate::seeds::APP;
use crate::support::alone::Alone;
use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::http::Client;
use crate::support::http::Response;
use crate::support::http::callback_target;
use crate::support::journal;
use crate::support::load;
use crate::support::load::Load;
use crate::support::ports;
use crate::support::real;
use crate::support::tools;
use crate::support::wait;

/// A user whose name is HTML, as a list has it and as a page must show it.
const USER: &str = r#"<i>&"bob'"#;
const SHOWN: &str = "&lt;i&gt;&amp;&quot;bob'";
const TOKEN: &str = "0123456789abcdef-admin";

fn get(admin: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Response {
    Client::connect(admin).unwrap().request("GET", target, headers, b"").unwrap()
}

fn page(bridge: &Bridge) -> String {
    let response = get(bridge.admin, "/", &[]);
    assert_eq!(response.status, 200, "{}", response.text());
    response.text()
}

/// The summary at the top of the page.
fn summary(page: &str) -> String {
    let heading = page.split_once("<h1").unwrap().1;
    heading.split_once('>').unwrap().1.split_once("</h1>").unwrap().0.to_owned()
}

/// Waits until the page is as it should be, and returns it.
fn page_until(bridge: &Bridge, mut is_so: impl FnMut(&str) -> bool) -> String {
    wait::until_ok("the page says so", || {
        let page = page(bridge);
        if is_so(&page) { Ok(page) } else { Err(page) }
    })
}

fn with_list(files: &Files, settings: &str) -> Bridge {
    let list =
        files.write("list", &format!("{} because spam\nblock carol on \"@TOA#_a+b c\"\n", serde_json::json!(USER)));
    Bridge::light(&format!("{settings}\nblocklist.files = [{list:?}]"))
}

#[test]
fn the_page_has_no_scripts_and_reloads_itself() {
    let bridge = Bridge::light("");
    assert_eq!(
        Client::connect(bridge.callbacks).unwrap().post(&callback_target("1", "A.B"), b"{}").unwrap().status,
        403
    );
    let page = page_until(&bridge, |page| page.contains("app_unknown") && page.contains(" of 1 known"));
    assert!(summary(&page).starts_with("Accepting callbacks; "), "{}", summary(&page));
    assert!(page.contains(r#"<meta http-equiv="refresh" content="5">"#), "{page}");
    assert!(page.contains(env!("CARGO_PKG_VERSION")));
    for elsewhere in ["<script", "src=", "://", "url(", "@import", "<link"] {
        assert!(!page.contains(elsewhere), "{elsewhere} in {page}");
    }
    let response = get(bridge.admin, "/", &[]);
    let policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'";
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", policy),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(response.header(name), Some(value));
    }
    let mut client = Client::connect(bridge.admin).unwrap();
    assert_eq!(client.request("POST", "/", &[], b"").unwrap().status, 405);
}

#[test]
fn the_page_shows_no_token_body_query_or_peer() {
    const MARK: &str = "xyzzy-never-to-be-shown";
    let files = Files::new();
    let tokens = files.write("tokens", &format!("alice:{MARK}-token\n"));
    let signing = files.write("signing", &format!("{MARK}-signing\n"));
    let settings = format!(
        "admin.token_files = [{tokens:?}]\ncallbacks.proxies = [\"127.0.0.0/8\"]\n\
         [kafka]\n\"sasl.password\" = \"{MARK}\"\n\"sasl.username\" = \"{MARK}\"\n"
    );
    let builder = Bridge::builder().embedded().ack("memory").args(&["--token-file", &signing]);
    let bridge = builder.settings(&settings).start();
    let mut client = Client::connect(bridge.callbacks).unwrap();
    let headers = [("X-Forwarded-For", "203.0.113.77"), ("Authorization", MARK), (MARK, MARK)];
    for (target, body) in [
        (format!("{}&Sign={MARK}&RequestTime=1", callback_target(APP, load::COMMAND)), load::body(MARK, 1)),
        (callback_target(MARK, load::COMMAND), MARK.to_owned()),
        (callback_target(APP, MARK), format!("{{\"a\":\"{MARK}\"}}")),
    ] {
        client.request("POST", &target, &headers, body.as_bytes()).unwrap();
    }
    let bearer = format!("Bearer {MARK}-token");
    let locked = page_until(&bridge, |page| page.contains("sign_wrong") && page.contains("app_unknown"));
    let open = get(bridge.admin, "/?user=bob", &[("Authorization", &bearer)]);
    assert_eq!(open.status, 200);
    let wrong = get(bridge.admin, "/?user=bob", &[("Authorization", MARK)]);
    assert_eq!(wrong.status, 401);
    for bytes in [locked, open.text(), wrong.text()] {
        for secret in [MARK, "203.0.113.", "127.0.0."] {
            assert!(!bytes.contains(secret), "{secret} in {bytes}");
        }
    }
}

#[test]
fn the_summary_mentions_a_lost_callback_with_its_reason_and_time() {
    let [callbacks, admin, kafka] = ports::free().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let builder = Bridge::builder().brokers(&kafka.to_string()).ack("broker").listening_on(callbacks, admin);
    let bridge = builder.settings("callbacks.deadline_ms = 100").launch();
    wait::until("callbacks are accepted", || Client::connect(callbacks).is_ok());
    let target = callback_target(APP, load::COMMAND);
    let lost = Client::connect(callbacks).unwrap().post(&target, load::body("@a", 1).as_bytes()).unwrap();
    assert_eq!(lost.status, 503);
    let page = page_until(&bridge, |page| summary(page).contains("1 lost since the start, the last "));
    assert!(summary(&page).starts_with("Not accepting callbacks yet: "), "{}", summary(&page));
    assert!(page.contains(r#"deadline <span class="lost">lost</span></td><td>1</td><td>"#), "{page}");
    assert!(page.contains(r#"<h1 class="critical">"#));
}

#[test]
fn without_kafka_the_summary_says_since_when_and_when_the_journal_is_full() {
    let [kafka] = ports::free();
    let (_folder, dir) = journal::folder();
    let brokers = format!("127.0.0.1:{kafka}");
    let bridge = journal::builder_without_topics(&brokers, "away", "quota_bytes = 67108864").start_in(&dir);
    let load = Load::start_at_rate(bridge.callbacks, APP, 2, 5, 100);
    let topic = format!("<td>away.{}</td>", load::COMMAND);
    let page = page_until(&bridge, |page| {
        let summary = summary(page);
        let is_stuck = summary.contains("; Kafka has acknowledged nothing for ");
        is_stuck && summary.contains("; the journal will be full in ") && page.contains(&topic)
    });
    let summary = summary(&page);
    assert!(summary.starts_with("Accepting callbacks; "), "{summary}");
    let (_, full_in) = summary.rsplit_once("; the journal will be full in ").unwrap();
    assert!([" s.", " min.", " h.", " d."].iter().any(|unit| full_in.ends_with(unit)), "{summary}");
    for text in ["0 connected of 0 known", " at the current growth", "none since the start"] {
        assert!(page.contains(text), "{text} in {page}");
    }
    load.stop();
}

#[test]
fn a_lookup_on_the_page_decides_like_the_api_and_escapes_html() {
    let files = Files::new();
    let bridge = with_list(&files, "");
    assert!(page(&bridge).contains(r#"<button name="user" value="">"#));
    let answer = |query: &str| {
        let response = get(bridge.admin, &format!("/?{query}"), &[]);
        assert_eq!(response.status, 200, "{query}: {}", response.text());
        let page = response.text();
        assert!(
            !page.contains("http-equiv") && page.contains(r#"<input name="user""#),
            "it keeps what is typed: {page}"
        );
        page
    };
    let refused = answer("user=%3Ci%3E%26%22bob%27&account=");
    assert!(refused.contains(&format!("<b>{SHOWN}</b> may not subscribe")), "{refused}");
    assert!(refused.contains("because spam") && !refused.contains("<i>"), "{refused}");
    // A form sends a blank as `+`.
    let refused = answer("user=carol&account=%40TOA%23_a%2Bb+c");
    assert!(refused.contains("<b>carol</b> may not subscribe to <b>@TOA#_a+b c</b>"), "{refused}");
    assert!(answer("user=dave&account=").contains("<b>dave</b> may subscribe"));
    assert!(!answer("user=&account=").contains(" subscribe"));
    for wrong in ["user=%ff", "user=a&user=b", "who=bob"] {
        assert_eq!(get(bridge.admin, &format!("/?{wrong}"), &[]).status, 422, "{wrong}");
    }
}

#[test]
fn a_lookup_on_the_page_can_select_an_application() {
    let files = Files::new();
    let (common, own) = (files.write("common", "bob\n"), files.write("own", "carol\n"));
    let settings = format!(
        "callbacks.keep_accepting_ms = 0\nblocklist.files = [{common:?}]\n[[apps]]\nsdk_app_id = 1\n\
         [[apps]]\nsdk_app_id = 2\nblocklist_files = [{own:?}]\n"
    );
    let bridge = Bridge::builder().args(&["--embedded-broker", "--ack", "memory"]).settings(&settings).start();
    let answer = |query: &str| get(bridge.admin, &format!("/?{query}"), &[]).text();
    assert!(answer("user=bob&account=&app=").contains("<b>bob</b> may not subscribe."));
    assert!(answer("user=bob&account=&app=1").contains("<b>bob</b> may not subscribe in application <b>1</b>"));
    let own = answer("user=carol&account=&app=2");
    assert!(own.contains("<b>carol</b> may not subscribe in application <b>2</b>"), "{own}");
    assert!(own.contains(r#"<input name="app" value="2""#), "{own}");
    assert!(answer("user=bob&app=2").contains("<b>bob</b> may subscribe"));
    assert_eq!(get(bridge.admin, "/?user=bob&app=3", &[]).status, 404);
}

#[test]
fn a_lookup_on_the_page_requires_a_token_if_the_api_does() {
    let files = Files::new();
    let tokens = files.write("tokens", &format!("alice:{TOKEN}\n"));
    let bridge = with_list(&files, &format!("admin.token_files = [{tokens:?}]"));
    let closed = page(&bridge);
    assert!(closed.contains("requires a token") && !closed.contains("<form"), "{closed}");
    let refused = get(bridge.admin, "/?user=carol", &[]);
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    assert!(!refused.text().contains("carol"));
    let bearer = format!("Bearer {TOKEN}");
    let open = get(bridge.admin, "/?user=carol", &[("Authorization", &bearer)]);
    assert!(open.status == 200 && open.text().contains("<b>carol</b> may subscribe"));
}

#[test]
fn the_page_loads_within_50_ms_while_all_workers_are_busy() {
    let _alone = Alone::take();
    let bridge = Bridge::builder().embedded().ack("memory").args(&["--workers", "1"]).start();
    let load = Load::start(bridge.callbacks, APP, 32, Duration::ZERO);
    wait::until("the workers are busy", || load.acknowledged() > 500);
    let mut took: Vec<Duration> = (0..40)
        .map(|_nth| {
            let begin = clock::monotonic();
            page(&bridge);
            clock::monotonic().duration_since(begin)
        })
        .collect();
    assert!(load.acknowledged() > 500 && !load.stop().issued.is_empty());
    took.sort();
    // Not the slowest: the load and other programs have the same cores.
    assert!(took[10] < Duration::from_millis(50), "{took:?}");
}

#[test]
fn chromium_renders_the_page_on_a_phone_with_and_without_javascript() {
    let python = tools::repository("target/venv/bin/python");
    let found = Command::new(&python).args(["-c", "import playwright"]).output();
    let playwright = found.is_ok_and(|output| output.status.success()).then_some(());
    let playwright = playwright.ok_or_else(|| "there is no playwright: run make tools".to_owned());
    let chromium = playwright.and_then(|()| tools::in_path("chromium"));
    let Some(chromium) = real::found_or_skipped(chromium) else { return };
    let files = Files::new();
    let bridge = with_list(&files, "");
    let url = format!("http://{}/", bridge.admin);
    let user = format!("{USER}{}", "x".repeat(300));
    let mut visit = Command::new(python);
    visit.arg(tools::repository("tests/foreign/page.py")).arg(chromium).args([&url, &user]);
    let visits: Vec<Value> =
        tools::output(&mut visit).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(visits.len(), 2);
    for visit in visits {
        assert!(visit["summary"].as_str().unwrap().starts_with("Accepting callbacks; "), "{visit}");
        assert_eq!(visit["answer"], format!("{user} may subscribe to @TOA#_a+b c."), "{visit}");
        assert_eq!((&visit["elements"], &visit["width"]), (&0.into(), &390.into()), "{visit}");
        assert_eq!(
            (&visit["too_wide"], &visit["complaints"]),
            (&Value::Array(vec![]), &Value::Array(vec![])),
            "{visit}"
        );
        let asked = visit["asked"].as_array().unwrap();
        assert!(asked.iter().all(|asked| asked.as_str().unwrap().starts_with(&url)), "{visit}");
    }
}
