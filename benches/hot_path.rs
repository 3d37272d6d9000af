//! The work on one callback without I/O: what stands before the answer, and what is done behind it.
//!
//! `baseline/scan` is serde_json walking over the same body and keeping nothing: nothing that looks at a body at all costs less.

#![expect(clippy::expect_used, reason = "fixed inputs; a benchmark that cannot be set up must end")]

use std::borrow::Cow;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use callbridge::auth;
use callbridge::auth::Apps;
use callbridge::auth::Tokens;
use callbridge::capture::Capture;
use callbridge::capture::CaptureOutcome;
use callbridge::capture::Raw;
use callbridge::clock::UnixMillis;
use callbridge::command::Command;
use callbridge::command::Shape;
use callbridge::decide;
use callbridge::decide::Policy;
use callbridge::decide::Question;
use callbridge::decide::answer;
use callbridge::decide::blocklist::Blocklist;
use callbridge::decide::blocklist::Source;
use callbridge::decide::blocklist::SourceKind;
use callbridge::decide::file;
use callbridge::normalise::Normaliser;
use callbridge::normalise::envelope::Mode;
use callbridge::parse;
use callbridge::record::Topics;
use callbridge::request::Query;
use criterion::Criterion;
use criterion::criterion_group;
use criterion::criterion_main;
use serde::de::IgnoredAny;

const NAME: &str = "OfficialAccount.CallbackAfterAddSubscriber";
const BODY: &str = r#"{"CallbackCommand":"OfficialAccount.CallbackAfterAddSubscriber","Official_Account":"@TOA#_test_for_penn","Operator_Account":"107867","SubscribeAccountList":[{"Subscriber_Account":"jared"},{"Subscriber_Account":"leckie"},{"Subscriber_Account":"someone-with-a-longer-id"}],"EventTime":1670574414123}"#;
const QUERY: &str = "SdkAppid=1400000000&CallbackCommand=OfficialAccount.CallbackAfterAddSubscriber&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI";
const SIGNED_QUERY: &str = "SdkAppid=1400000000&CallbackCommand=OfficialAccount.CallbackAfterAddSubscriber&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI&Sign=17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061&RequestTime=1669872112";
const SIGNED_AT: UnixMillis = UnixMillis(1_669_872_112_000);
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

/// A list of a hundred thousand users, every tenth for one account only.
fn blocklist() -> Blocklist {
    let mut text = String::new();
    for user in 0..100_000 {
        let rule = if user % 10 == 0 {
            format!("block user-{user} on @TOA#_test_for_penn\n")
        } else {
            format!("user-{user}\n")
        };
        text.push_str(&rule);
    }
    let rules = file::parse(text.as_bytes()).expect("a good list");
    Blocklist::of([Source::new(SourceKind::File, "list", Arc::new(rules))], 1)
}

fn before_the_answer(criterion: &mut Criterion) {
    let apps = Apps::new([1_400_000_000]);
    let mut group = criterion.benchmark_group("before the answer");
    group.bench_function("baseline/scan", |bencher| {
        bencher.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(BODY.as_bytes())).map(|_| ()));
    });
    group.bench_function("query and application", |bencher| {
        bencher.iter(|| auth::check(&Query::parse(black_box(QUERY)).expect("a good query"), &apps, NOW));
    });
    let tokens = Tokens::parse(b"xxxxyyyy").expect("a good token");
    let signed =
        Apps::new([1_400_000_000]).signed(vec![Some(Arc::new(ArcSwap::from_pointee(tokens)))], Duration::from_secs(60));
    group.bench_function("query, application and signature", |bencher| {
        bencher.iter(|| auth::check(&Query::parse(black_box(SIGNED_QUERY)).expect("a good query"), &signed, SIGNED_AT));
    });
    group.bench_function("command by its name", |bencher| bencher.iter(|| Command::find(black_box(NAME))));
    group.bench_function("check_body", |bencher| {
        bencher.iter(|| parse::check_body(black_box(BODY.as_bytes()), NAME).map(|checked| checked.json().len()));
    });
    group.finish();
}

fn decisions(criterion: &mut Criterion) {
    let blocklist = blocklist();
    let mut group = criterion.benchmark_group("decide, 100000 rules");
    for (name, asked) in [("1 user, allowed", 1), ("100 users, allowed", 100)] {
        let subscribers: Vec<Cow<'_, str>> = (0..asked).map(|user| format!("nobody-{user}").into()).collect();
        let question = Question { account: "@TOA#_test_for_penn", users: &subscribers };
        group.bench_function(name, |bencher| {
            bencher.iter(|| decide::decide(black_box(&question), &blocklist, Policy::default(), NOW).outcome);
        });
    }
    let subscribers = ["user-10".into(), "user-11".into(), "nobody".into()];
    let question = Question { account: "@TOA#_test_for_penn", users: &subscribers };
    group.bench_function("3 users, 2 refused, with the answer", |bencher| {
        bencher.iter(|| {
            answer::body(
                Shape::RefusedSubscribers,
                &decide::decide(black_box(&question), &blocklist, Policy::default(), NOW),
            )
        });
    });
    group.finish();
}

fn behind_the_answer(criterion: &mut Criterion) {
    let apps = Arc::new(Apps::new([1_400_000_000]));
    let app = apps.iter().next().expect("one application");
    let mut raw = Raw::begin(QUERY, BODY.len());
    raw.push(BODY.as_bytes());
    let capture = Capture {
        received: NOW,
        peer: SocketAddr::from(([127, 0, 0, 1], 4711)),
        app,
        command: Command::find(NAME),
        raw,
        outcome: CaptureOutcome::Happened,
    };
    let mut group = criterion.benchmark_group("behind the answer");
    for (name, mode) in [("normalise, structured", Mode::Structured), ("normalise, binary", Mode::Binary)] {
        let normaliser = Normaliser::new(Arc::clone(&apps), Arc::new(Topics::new(["tencent-chat"])), mode);
        group.bench_function(name, |bencher| {
            bencher.iter(|| normaliser.record(black_box(&capture)).value.len());
        });
    }
    group.finish();
}

criterion_group!(benches, before_the_answer, decisions, behind_the_answer);
criterion_main!(benches);
