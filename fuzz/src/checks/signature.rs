//! Nobody gets in but who knows a token and is in time.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use callbridge::auth;
use callbridge::auth::Apps;
use callbridge::auth::Tokens;
use callbridge::clock::UnixMillis;
use callbridge::refusal::Reason;
use callbridge::request::Query;
use sha2::Digest;
use sha2::Sha256;

const APP: u64 = 1_400_000_000;
const TOKENS: [&str; 2] = ["bridge-test-token", "xxxxyyyy"];
/// The `RequestTime` of the corpus, and how far from it is still good.
const NOW_SECONDS: i64 = 1_751_360_400;
const WINDOW_SECONDS: i64 = 60;

/// Holds of any text.
pub fn check(input: &[u8]) {
    let Ok(raw) = str::from_utf8(input) else { return };
    let Ok(query) = Query::parse(raw) else { return };
    let tokens = Tokens::parse(TOKENS.join("\n").as_bytes()).unwrap();
    let window = Duration::from_secs(WINDOW_SECONDS.unsigned_abs());
    let apps = Apps::new([APP, APP + 1]).signed(vec![Some(Arc::new(ArcSwap::from_pointee(tokens)))], window);
    let verdict = auth::check(&query, &apps, UnixMillis(NOW_SECONDS * 1000)).map_err(|refusal| refusal.reason());

    let app = query.sdk_app_id.as_deref();
    let expected = match app {
        None => Err(Reason::AppMissing),
        // Its callbacks are not signed.
        Some("1400000001") => Ok(()),
        Some("1400000000") => signature(query.sign.as_deref(), query.request_time.as_deref()),
        Some(_) => Err(Reason::AppUnknown),
    };
    assert_eq!(
        verdict.map(|app| apps.id(app).to_owned()),
        expected.map(|()| app.unwrap_or_default().to_owned()),
        "{raw:?}"
    );
}

fn signature(sign: Option<&str>, time: Option<&str>) -> Result<(), Reason> {
    let (Some(sign), Some(time)) = (sign, time) else { return Err(Reason::SignMissing) };
    let is_time = !time.is_empty() && time.len() <= 20 && time.chars().all(|digit| digit.is_ascii_digit());
    let is_signed = TOKENS.iter().any(|token| {
        let digest = Sha256::digest(format!("{token}{time}"));
        let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        sign.eq_ignore_ascii_case(&digits)
    });
    if !is_time || !is_signed {
        return Err(Reason::SignWrong);
    }
    let is_in_time =
        time.parse::<i64>().is_ok_and(|seconds| seconds.abs_diff(NOW_SECONDS) <= WINDOW_SECONDS.unsigned_abs());
    if is_in_time { Ok(()) } else { Err(Reason::SignStale) }
}
