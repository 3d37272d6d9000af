//! What could not be used is kept, and can be posted again by the recipe that is shipped.

use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::time::Duration;

use crate::seeds;
use crate::seeds::APP;
use crate::support::bridge::Bridge;
use crate::support::files::Files;
use crate::support::http;
use crate::support::http::Client;
use crate::support::reader::Reader;
use crate::support::reader::Record;
use crate::support::real;

const MINUTE: Duration = Duration::from_secs(60);

const COMMAND: &str = seeds::AFTER_ADD_SUBSCRIBER.command;

#[test]
fn a_rejected_callback_is_posted_again_by_the_recipe_as_it_came_or_mended() {
    let Some(()) = tools() else { return };
    let bridge = Bridge::builder().embedded().start();
    let body = b"{\"Official_Account\": 5,\r\n \"SubscribeAccountList\": [], \"x\": \"\\u0000\xe6\x96\xb0%s\"}\n";
    let mut client = Client::connect(bridge.callbacks).unwrap();
    assert_eq!(client.post(&http::callback_target(APP, COMMAND), body).unwrap().status, 200);
    let rejected = Reader::open(&bridge.embedded_kafka(), &["tencent-chat.rejected"]);
    let record = rejected.collect(1, MINUTE).remove(0);

    let again = replay(&bridge, &record, &[]);
    let mended = replay(&bridge, &record, &[("MEND", "sed 's/5/\"@TOA#_mended\"/'")]);

    for output in [again, mended] {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer = String::from_utf8(output.stdout).unwrap();
        assert_eq!(answer, "{\"ActionStatus\":\"OK\",\"ErrorInfo\":\"\",\"ErrorCode\":0}\n");
    }
    assert_eq!(rejected.collect(1, MINUTE)[0].value, body);
    let topic = format!("tencent-chat.{COMMAND}");
    let taken = Reader::open(&bridge.embedded_kafka(), &[&topic]).collect(1, MINUTE).remove(0);
    assert_eq!(taken.key.as_deref(), Some(&b"@TOA#_mended"[..]));
    let mended = String::from_utf8(body.to_vec()).unwrap().replace('5', "\"@TOA#_mended\"");
    assert!(taken.value.ends_with(format!("\"callback\":{}}}}}", mended.trim()).as_bytes()));
}

#[test]
fn the_recipe_signs_where_callbacks_are_signed_and_posts_bytes_that_are_no_text() {
    let Some(()) = tools() else { return };
    let files = Files::new();
    let tokens = files.write("tokens", " bridge-test-token \nanother\n");
    let bridge = Bridge::builder().embedded().args(&["--token-file", &tokens]).start();
    let bytes = b"\0\xff\xfe nothing of JSON \n\n";
    let target = format!("{}{}", http::callback_target(APP, "Future.Com,mand"), crate::signature::signed("another"));
    let mut client = Client::connect(bridge.callbacks).unwrap();
    assert_eq!(client.post(&target, bytes).unwrap().status, 400);
    let rejected = Reader::open(&bridge.embedded_kafka(), &["tencent-chat.rejected"]);
    let record = rejected.collect(1, MINUTE).remove(0);

    let unsigned = replay(&bridge, &record, &[]);
    let signed = replay(&bridge, &record, &[("TOKEN_FILE", &tokens)]);

    assert!(String::from_utf8_lossy(&unsigned.stdout).contains("Sign is missing"));
    assert!(String::from_utf8_lossy(&signed.stdout).contains("the body is not JSON"));
    let again = rejected.collect(1, MINUTE).remove(0);
    assert_eq!(again.value, bytes);
    let header = |record: &Record, name: &str| record.headers.iter().find(|(header, _)| header == name).cloned();
    for name in ["callbridge-reason", "callbridge-detail", "callbridge-command", "callbridge-sdkappid"] {
        assert_eq!(header(&again, name), header(&record, name));
    }
}

#[test]
fn where_there_is_no_such_record_the_recipe_says_so() {
    let Some(()) = tools() else { return };
    let bridge = Bridge::builder().embedded().start();
    let nothing = Record {
        topic: "tencent-chat.rejected".to_owned(),
        partition: 0,
        offset: 0,
        key: None,
        headers: Vec::new(),
        value: Vec::new(),
    };
    let output = replay(&bridge, &nothing, &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    // kcat may have warned of something before.
    assert!(told.ends_with("there is no rejected callback at tencent-chat.rejected [0] 0\n"), "{told}");
}

fn tools() -> Option<()> {
    for tool in ["kcat", "curl"] {
        let found = Command::new(tool).arg("-V").output().map(drop);
        real::found_or_skipped(found.map_err(|_missing| format!("there is no {tool}: run make tools")))?;
    }
    Some(())
}

/// Runs the recipe for a record, in this environment.
fn replay(bridge: &Bridge, record: &Record, variables: &[(&str, &str)]) -> Output {
    let brokers = bridge.embedded_kafka().get("bootstrap.servers").unwrap().to_owned();
    Command::new("sh")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/replay.sh"))
        .args([&brokers, &record.topic, &record.partition.to_string(), &record.offset.to_string()])
        .arg(format!("http://{}/", bridge.callbacks))
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}
