//! Any query is read as a slow and simple reader reads it.

use callbridge::request::Query;

const NAMES: [&str; 7] = ["SdkAppid", "CallbackCommand", "ClientIP", "OptPlatform", "RequestID", "Sign", "RequestTime"];

/// Holds of any text.
pub fn check(input: &[u8]) {
    let Ok(raw) = str::from_utf8(input) else { return };
    let pairs: Vec<(String, &str)> = raw
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter_map(|(name, value)| Some((decoded(name)?.to_ascii_lowercase(), value)))
        .collect();
    let values = |name: &str| {
        let name = name.to_ascii_lowercase();
        pairs.iter().filter(move |(other, _)| *other == name).map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let is_readable =
        NAMES.iter().all(|name| values(name).len() <= 1 && values(name).iter().all(|value| decoded(value).is_some()));
    let command = values("CallbackCommand");
    assert_eq!(Query::names_command(raw), command.iter().any(|value| !value.is_empty()), "{raw:?}");
    let Ok(query) = Query::parse(raw) else {
        assert!(!is_readable, "refused: {raw:?}");
        return;
    };
    assert!(is_readable, "taken: {raw:?}");
    let Query { sdk_app_id, command, client_ip, opt_platform, request_id, sign, request_time } = query;
    let read = [sdk_app_id, command, client_ip, opt_platform, request_id, sign, request_time];
    for (name, read) in NAMES.iter().zip(read) {
        let expected = values(name).first().and_then(|value| decoded(value));
        let expected = expected.filter(|value| *name != "CallbackCommand" || !value.is_empty());
        assert_eq!(read.as_deref(), expected.as_deref(), "{name} of {raw:?}");
    }
}

/// Undoes percent-encoding; `None` where it is broken.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, behind @ ..] = rest {
        rest = behind;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let [high, low, behind @ ..] = rest else { return None };
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}
