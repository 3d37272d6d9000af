//! The status page as HTML: one page without scripts and external resources. `maud` escapes values from outside. The page shows no token,
//! no body and no peer.

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
use crate::admin::service;
use crate::admin::service::LookupForm;
use crate::admin::service::PageLookup;
use crate::admin::status::MetricsSnapshot;
use crate::admin::status::Status;
use crate::admin::status::label;
use crate::admin::summary::Severity;
use crate::admin::summary::Span;
use crate::clock::UnixMillis;
use crate::decide::time;
use crate::metrics::build::COMMIT;
use crate::metrics::build::VERSION;
use crate::refusal::LedgerAccount;

/// Forbids scripts and external resources.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'";
/// The reload period. A page with the lookup form is not reloaded, as somebody may be typing.
const RELOAD_SECONDS: u32 = 5;
/// The most topics in the table of stuck topics.
const TOPICS_MAX: usize = 20;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.45 system-ui,sans-serif;overflow-wrap:anywhere;margin:0 auto;max-width:60rem;padding:.75rem}\
h1{font-size:1.25rem;margin:0 0 .5rem;padding:.75rem 1rem;border-radius:.5rem;color:#fff}\
.healthy{background:#1b6e3c}.warning{background:#8a5a00}.critical{background:#a51d2d}\
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
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // The query may contain a user id.
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn document(status: &Status, lookup: &PageLookup) -> Markup {
    let severity = match status.severity {
        Severity::Healthy => "healthy",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    };
    let is_reloaded = matches!(lookup, PageLookup::NeedsToken | PageLookup::Button);
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
                    h1 class=(severity) { (status.summary) "." }
                    @match lookup {
                        PageLookup::NeedsToken | PageLookup::Button => {}
                        PageLookup::Form(form) => (lookup_section(form, None)),
                        PageLookup::Answer(form, answer) => (lookup_section(form, Some(answer))),
                    }
                    (ended_section(status))
                    (backlog_section(status))
                    (topics_section(status))
                    (kafka_section(&status.metrics))
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
                        // `None` until the next sample, within a second.
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
            tr { th { "received" } td { (balance.received_total()) " and " (balance.recovered) " recovered from the journal at the start" } }
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
                        @if let Some(full_in) = status.journal_full_in { ", full in " (Span(full_in)) " at the current growth" }
                    }
                }
            }
        }
    }
}

fn topics_section(status: &Status) -> Markup {
    let unpublishable = status.metrics.unpublishable_bytes();
    html! {
        h2 { "Stuck topics and unpublishable callbacks" }
        @if status.stuck_topics.is_empty() && unpublishable <= 0.0 { p { "None." } }
        @if !status.stuck_topics.is_empty() {
            table {
                tr { th { "topic" } th { "oldest" } th { "in the journal" } th { "lost" } }
                @for topic in status.stuck_topics.iter().take(TOPICS_MAX) {
                    tr { td { (topic.name) } td { (Span(topic.oldest)) } td { (ByteSize(topic.bytes)) } td { (whole(topic.lost)) } }
                }
            }
        }
        @if status.stuck_topics.len() > TOPICS_MAX { p { "And " (status.stuck_topics.len() - TOPICS_MAX) " more." } }
        @if unpublishable > 0.0 { p { (ByteSize(unpublishable)) " in the journal cannot be published by this version or configuration." } }
    }
}

fn kafka_section(metrics: &MetricsSnapshot) -> Markup {
    let count = |name| whole(metrics.sum(name));
    let replaced = metrics.sum("callbridge_kafka_producer_rebuilds_total")
        + metrics.sum("callbridge_kafka_watchdog_restarts_total");
    html! {
        h2 { "Kafka" }
        table {
            tr { th { "brokers" } td { (count("callbridge_kafka_brokers_up")) " connected of " (count("callbridge_kafka_brokers")) " known" } }
            tr { th { "slowest p99 round trip" } td { (format!("{:.0} ms", metrics.sum("callbridge_kafka_round_trip_p99_seconds") * 1e3)) } }
            tr { th { "records without a delivery report" } td { (count("callbridge_records_unreported")) } }
            tr { th { "dead letters" } td { (count("callbridge_rejected_total")) } }
            tr { th { "producers replaced" } td { (whole(replaced)) } }
        }
    }
}

fn blocklist_section(status: &Status, lookup: &PageLookup) -> Markup {
    let metrics = &status.metrics;
    let bytes = metrics.by("callbridge_blocklist_bytes", "source");
    let (ages, poison) = (
        metrics.by("callbridge_blocklist_topic_age_seconds", "topic"),
        metrics.by("callbridge_blocklist_topic_poison_records", "topic"),
    );
    let states = metrics.series("callbridge_blocklist_topic_state").filter(|(_, value)| *value > 0.0);
    let loaded = metrics.sum("callbridge_blocklist_loaded_timestamp_seconds");
    html! {
        h2 { "Blocklist" }
        table {
            tr { th { "source" } th { "rules" } th { "memory" } }
            @for (source, rules) in metrics.by("callbridge_blocklist_entries", "source") {
                tr { td { (source) } td { (whole(rules)) } td { (ByteSize(bytes.get(source).copied().unwrap_or_default())) } }
            }
        }
        @for (state, topic) in states.map(|(metric, _)| (label(metric, "state"), label(metric, "topic"))) {
            p {
                "Topic " (topic) " is " (state)
                @if let Some(age) = ages.get(topic).and_then(|age| Duration::try_from_secs_f64(*age).ok()) {
                    ", up to date as of " (Span(age)) " ago"
                }
                @if let Some(unusable) = poison.get(topic).filter(|unusable| **unusable > 0.0) {
                    "; " (whole(*unusable)) " of its records cannot be used"
                }
                "."
            }
        }
        p class="quiet" {
            @if loaded > 0.0 { "Generation " (whole(metrics.sum("callbridge_blocklist_generation"))) ", loaded " (since(status, loaded)) " ago." }
            @else { "Not loaded." }
        }
        @match lookup {
            PageLookup::NeedsToken => p class="quiet" { "A lookup requires a token of admin.token_files: " code { "callbridge blocklist lookup USER --admin URL --token-file FILE" } },
            PageLookup::Button => form action="/" method="get" { button name="user" value="" { "Look up a user" } },
            PageLookup::Form(_) | PageLookup::Answer(..) => {}
        }
    }
}

fn lookup_section(form: &LookupForm, answer: Option<&LookupAnswer>) -> Markup {
    html! {
        h2 { "Blocklist lookup" }
        form action="/" method="get" {
            label { "User " input name="user" value=(form.user) required autofocus autocomplete="off"; }
            label { "Account (empty: an account without rules) " input name="account" value=(form.account) autocomplete="off"; }
            @if let Some(app) = &form.app {
                label { "SdkAppid (empty: the common blocklist) " input name="app" value=(app) autocomplete="off"; }
            }
            button { "Look up" }
        }
        @if let Some(answer) = answer { (answer_section(form, answer)) }
        p { a href="/" { "Close the lookup" } }
    }
}

fn answer_section(form: &LookupForm, answer: &LookupAnswer) -> Markup {
    let given = |id: &str| (!id.is_empty()).then(|| id.to_owned());
    html! {
        p {
            b { (form.user) } @match answer.decision { LookupDecision::Allow => " may", LookupDecision::Refuse => " may not" } " subscribe"
            @if let Some(account) = given(&form.account) { " to " b { (account) } }
            @if let Some(app) = form.app.as_deref().and_then(given) { " in application " b { (app) } }
            @if let Some(because) = &answer.because { ": " (because) }
            @if !answer.enforced { " (dry run: not enforced)" }
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
    let metrics = &status.metrics;
    let expires = metrics.sum("callbridge_tls_certificate_expires_timestamp_seconds");
    html! {
        h2 { "Files that cannot be used" }
        p class="quiet" { "The last good contents stay in force; the log has the errors." }
        table {
            @for (what, name) in [
                ("token files", "callbridge_token_files_failing"),
                ("TLS files", "callbridge_tls_files_failing"),
                ("blocklist files", "callbridge_blocklist_files_failing"),
            ] { tr { th { (what) } td { (whole(metrics.sum(name))) } } }
            @if expires > 0.0 {
                tr { th { "certificate expires" } td { (time::written(millis(expires))) } }
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

/// A count from the metrics.
fn whole(count: f64) -> String {
    format!("{count:.0}")
}

/// The time since `seconds`, which counts from the Unix epoch.
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
