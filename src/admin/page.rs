//! The status page as HTML: one page without scripts and without anything that is loaded from elsewhere. What comes from outside is escaped
//! by `maud`. It shows no token, no body and no peer.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::StatusCode;
use hyper::header;
use hyper::header::HeaderValue;
use maud::DOCTYPE;
use maud::Markup;
use maud::html;

use crate::admin::history::Rates;
use crate::admin::history::float;
use crate::admin::model::LookupAnswer;
use crate::admin::model::LookupDecision;
use crate::admin::sentence::Severity;
use crate::admin::sentence::Span;
use crate::admin::service;
use crate::admin::service::LookupForm;
use crate::admin::service::PageLookup;
use crate::admin::status::Figures;
use crate::admin::status::Status;
use crate::admin::status::label;
use crate::clock::UnixMillis;
use crate::decide::time;
use crate::metrics::build::COMMIT;
use crate::metrics::build::VERSION;
use crate::refusal::LedgerAccount;

/// Nothing is loaded and nothing runs.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'";
/// The page reloads itself so often, except where somebody may be typing.
const RELOAD_SECONDS: u32 = 5;
/// The rows of the table of topics.
const TOPICS_MAX: usize = 20;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.45 system-ui,sans-serif;overflow-wrap:anywhere;margin:0 auto;max-width:60rem;padding:.75rem}\
h1{font-size:1.25rem;margin:0 0 .5rem;padding:.75rem 1rem;border-radius:.5rem;color:#fff}\
.well{background:#1b6e3c}.warning{background:#8a5a00}.critical{background:#a51d2d}\
h2{font-size:1rem;margin:1.25rem 0 .25rem}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.2rem .75rem .2rem 0;border-bottom:1px solid #8884}\
th{font-weight:normal;opacity:.75;overflow-wrap:normal}td{font-variant-numeric:tabular-nums}\
p{margin:.25rem 0}.quiet{opacity:.75}.lost{color:#d33;font-weight:bold}\
meter{width:100%}label{display:block}input{font:inherit;width:100%;max-width:24rem;box-sizing:border-box}button{font:inherit;margin:.5rem 0}";

/// The response that shows `status`.
pub(super) fn response(status: &Status, lookup: &PageLookup) -> Response<Full<Bytes>> {
    let page = document(status, lookup).into_string();
    let mut response = service::json(StatusCode::OK, "text/html; charset=utf-8", page.into_bytes());
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The query may name a user.
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn document(status: &Status, lookup: &PageLookup) -> Markup {
    let severity = match status.severity {
        Severity::Well => "well",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    };
    let is_reloaded = matches!(lookup, PageLookup::Locked | PageLookup::Offered);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if is_reloaded { meta http-equiv="refresh" content=(RELOAD_SECONDS); }
                title { "callbridge: " (severity) }
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 class=(severity) { (status.sentence) "." }
                    @match lookup {
                        PageLookup::Locked | PageLookup::Offered => {}
                        PageLookup::Form(form) => (lookup_section(form, None)),
                        PageLookup::Found(form, answer) => (lookup_section(form, Some(answer))),
                    }
                    (ended_section(status))
                    (backlog_section(status))
                    (topics_section(status))
                    (kafka_section(&status.figures))
                    (blocklist_section(status, lookup))
                    (files_section(status))
                    (footer(status))
                }
            }
        }
    }
}

fn ended_section(status: &Status) -> Markup {
    html! {
        h2 { "Lost and refused since the start" }
        @if status.ended.is_empty() { p { "None." } } @else {
            table {
                tr { th { "reason" } th { "callbacks" } th { "last" } }
                @for (reason, count, ago) in &status.ended {
                    tr {
                        td {
                            (reason.word()) " "
                            @match reason.account() {
                                LedgerAccount::Lost => span class="lost" { "lost" },
                                LedgerAccount::Refused => span class="quiet" { "refused" },
                            }
                        }
                        td { (count) }
                        // A reading is taken once a second.
                        td { @match ago { Some(ago) => { (Span(*ago)) " ago" }, None => "now" } }
                    }
                }
            }
        }
    }
}

fn backlog_section(status: &Status) -> Markup {
    let (balance, room) = (&status.balance, &status.room);
    let [ten, minute] = status.rates;
    let rate = |rates: Option<Rates>, of: fn(&Rates) -> f64| {
        rates.map_or_else(|| "–".to_owned(), |rates| format!("{:.1}", of(&rates)))
    };
    html! {
        h2 { "Callbacks" }
        table {
            tr { th { "a second, over the last" } th { "10 s" } th { "minute" } }
            tr { td { "received" } td { (rate(ten, |rates| rates.received)) } td { (rate(minute, |rates| rates.received)) } }
            tr { td { "delivered" } td { (rate(ten, |rates| rates.delivered)) } td { (rate(minute, |rates| rates.delivered)) } }
        }
        table {
            tr { th { "received" } td { (balance.received_total()) " and " (balance.recovered) " found in the journal at the start" } }
            tr { th { "delivered" } td { (balance.delivered) } }
            tr {
                th { "waiting" }
                td {
                    (balance.waiting_request) " in requests, " (balance.waiting_queue) " in the queue, "
                    (balance.waiting_journal) " in the journal"
                }
            }
            tr { th { "oldest undelivered" } td { (Span(status.oldest)) } }
            tr {
                th { "last delivery" }
                td { @match status.delivered_ago { Some(ago) => { (Span(ago)) " ago" }, None => "none since the start" } }
            }
            @if room.quota_bytes > 0 {
                tr {
                    th { "journal" }
                    td {
                        meter min="0" max=(room.undelivered_bytes + room.free_bytes()) value=(room.undelivered_bytes) {}
                        " " (ByteSize(float(room.undelivered_bytes))) " undelivered, " (ByteSize(float(room.free_bytes()))) " free"
                        @if let Some(lasts) = status.journal_lasts { ", full in " (Span(lasts)) " at the present growth" }
                    }
                }
            }
        }
    }
}

fn topics_section(status: &Status) -> Markup {
    let set_aside = status.figures.set_aside_bytes();
    html! {
        h2 { "Topics held up or set aside" }
        @if status.held_up.is_empty() && set_aside <= 0.0 { p { "None." } }
        @if !status.held_up.is_empty() {
            table {
                tr { th { "topic" } th { "oldest" } th { "in the journal" } th { "lost" } }
                @for topic in status.held_up.iter().take(TOPICS_MAX) {
                    tr { td { (topic.name) } td { (Span(topic.oldest)) } td { (ByteSize(topic.bytes)) } td { (whole(topic.lost)) } }
                }
            }
        }
        @if status.held_up.len() > TOPICS_MAX { p { "And " (status.held_up.len() - TOPICS_MAX) " more." } }
        @if set_aside > 0.0 { p { (ByteSize(set_aside)) " of applications or commands that are not configured." } }
    }
}

fn kafka_section(figures: &Figures) -> Markup {
    let count = |name| whole(figures.sum(name));
    let replaced = figures.sum("callbridge_kafka_producer_rebuilds_total")
        + figures.sum("callbridge_kafka_watchdog_restarts_total");
    html! {
        h2 { "Kafka" }
        table {
            tr { th { "brokers" } td { (count("callbridge_kafka_brokers_up")) " connected of " (count("callbridge_kafka_brokers")) " known" } }
            tr { th { "slowest p99 round trip" } td { (format!("{:.0} ms", figures.sum("callbridge_kafka_round_trip_p99_seconds") * 1e3)) } }
            tr { th { "records without a report" } td { (count("callbridge_records_unreported")) } }
            tr { th { "dead letters" } td { (count("callbridge_rejected_total")) } }
            tr { th { "producers replaced" } td { (whole(replaced)) } }
        }
    }
}

fn blocklist_section(status: &Status, lookup: &PageLookup) -> Markup {
    let figures = &status.figures;
    let bytes = figures.by("callbridge_blocklist_bytes", "source");
    let (ages, poison) = (
        figures.by("callbridge_blocklist_topic_age_seconds", "topic"),
        figures.by("callbridge_blocklist_topic_poison_records", "topic"),
    );
    let states = figures.rows("callbridge_blocklist_topic_state").filter(|(_, value)| *value > 0.0);
    let loaded = figures.sum("callbridge_blocklist_loaded_timestamp_seconds");
    html! {
        h2 { "Blocklist" }
        table {
            tr { th { "source" } th { "rules" } th { "memory" } }
            @for (source, rules) in figures.by("callbridge_blocklist_entries", "source") {
                tr { td { (source) } td { (whole(rules)) } td { (ByteSize(bytes.get(source).copied().unwrap_or_default())) } }
            }
        }
        @for (state, topic) in states.map(|(metric, _)| (label(metric, "state"), label(metric, "topic"))) {
            p {
                "Topic " (topic) " is " (state)
                @if let Some(age) = ages.get(topic).and_then(|age| Duration::try_from_secs_f64(*age).ok()) {
                    ", complete as of " (Span(age)) " ago"
                }
                @if let Some(unusable) = poison.get(topic).filter(|unusable| **unusable > 0.0) {
                    "; " (whole(*unusable)) " of its records cannot be used"
                }
                "."
            }
        }
        p class="quiet" {
            @if loaded > 0.0 { "Generation " (whole(figures.sum("callbridge_blocklist_generation"))) ", in force for " (since(status, loaded)) "." }
            @else { "No list has been loaded." }
        }
        @match lookup {
            PageLookup::Locked => p class="quiet" { "A lookup needs a token of admin.token_files: " code { "callbridge blocklist lookup USER --admin URL --token-file FILE" } },
            PageLookup::Offered => form action="/" method="get" { button name="user" value="" { "Look up a user" } },
            PageLookup::Form(_) | PageLookup::Found(..) => {}
        }
    }
}

fn lookup_section(form: &LookupForm, answer: Option<&LookupAnswer>) -> Markup {
    html! {
        h2 { "Blocklist lookup" }
        form action="/" method="get" {
            label { "User " input name="user" value=(form.user) required autofocus autocomplete="off"; }
            label { "Account, or empty for one without rules " input name="account" value=(form.account) autocomplete="off"; }
            @if let Some(app) = &form.app {
                label { "SdkAppid, or empty for the common blocklist " input name="app" value=(app) autocomplete="off"; }
            }
            button { "Look up" }
        }
        @if let Some(answer) = answer { (answer_of(form, answer)) }
        p { a href="/" { "Back to the page that reloads itself" } }
    }
}

fn answer_of(form: &LookupForm, answer: &LookupAnswer) -> Markup {
    let named = |id: &str| (!id.is_empty()).then(|| id.to_owned());
    html! {
        p {
            b { (form.user) } @match answer.decision { LookupDecision::Allow => " may", LookupDecision::Refuse => " may not" } " subscribe"
            @if let Some(account) = named(&form.account) { " to " b { (account) } }
            @if let Some(app) = form.app.as_deref().and_then(named) { " in application " b { (app) } }
            @if let Some(because) = &answer.because { ": " (because) }
            @if !answer.enforced { " (a dry run: everybody may)" }
            "."
        }
        @for rule in &answer.rules {
            p {
                code { (rule.rule.rule) } " in " (rule.rule.source)
                @if let Some(until) = &rule.rule.until { ", until " (until) }
                @if let Some(because) = &rule.rule.because { ", because " (because) }
                @if rule.rule.expired { ", expired" }
                @if rule.decided { ": " b { "decides" } }
            }
        }
    }
}

fn files_section(status: &Status) -> Markup {
    let figures = &status.figures;
    let expires = figures.sum("callbridge_tls_certificate_expires_timestamp_seconds");
    html! {
        h2 { "Files that cannot be used" }
        p class="quiet" { "The last good ones stay in force; the log says what is wrong." }
        table {
            @for (what, name) in [
                ("token files", "callbridge_token_files_failing"),
                ("TLS files", "callbridge_tls_files_failing"),
                ("blocklist files", "callbridge_blocklist_files_failing"),
            ] { tr { th { (what) } td { (whole(figures.sum(name))) } } }
            @if expires > 0.0 {
                tr { th { "certificate ends" } td { (time::written(millis(expires))) } }
            }
        }
    }
}

fn footer(status: &Status) -> Markup {
    html! {
        p class="quiet" {
            "callbridge " (VERSION) " (" (COMMIT) "), up for " (Span(status.uptime)) ", as of " (time::written(status.now)) ". "
            a href="/metrics" { "/metrics" } " " a href="/readyz" { "/readyz" } " " a href="/openapi.json" { "/openapi.json" }
        }
    }
}

/// A count as it stands in the metrics.
fn whole(count: f64) -> String {
    format!("{count:.0}")
}

/// How long ago that was, in seconds since the Unix epoch.
fn since(status: &Status, seconds: f64) -> Span {
    Span(status.now.since(millis(seconds)))
}

fn millis(seconds: f64) -> UnixMillis {
    let since_epoch = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    UnixMillis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// A number of bytes.
#[derive(Debug, Clone, Copy)]
struct ByteSize(f64);

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut size, mut units) = (self.0, ["KiB", "MiB", "GiB", "TiB"].into_iter());
        if size < 1024.0 {
            return write!(formatter, "{size:.0} B");
        }
        let mut unit = "B";
        while let (true, Some(larger)) = (size >= 1024.0, units.next()) {
            (size, unit) = (size / 1024.0, larger);
        }
        write!(formatter, "{size:.1} {unit}")
    }
}
