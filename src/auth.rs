//! Authentication: a callback needs a configured `SdkAppid` and, if tokens are set, a valid signature.
//!
//! A signature proves only that its sender knew the token at that time. It covers neither the body nor the command, and within the window
//! it can be replayed by anybody who sees it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::Digest;
use sha2::Sha256;
use subtle::Choice;
use subtle::ConstantTimeEq;

use crate::clock::UnixMillis;
use crate::invisible::first_invisible;
use crate::refusal::Refusal;
use crate::request::Query;

/// The most tokens of a file or variable. Each costs every callback a hash.
pub const TOKENS_MAX: usize = 16;

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 1024;

/// A shorter token can be found by guessing: a signature shows whether a guess is right.
pub const TOKEN_BYTES_STRONG: usize = 16;

/// The longest `RequestTime`, in digits of a 64-bit number.
const TIME_DIGITS_MAX: usize = 20;

/// The configured applications.
#[derive(Debug, Default)]
pub struct Apps {
    by_id: HashMap<Box<str>, usize>,
    ids: Vec<Box<str>>,
    /// By application; those without an entry, or with `None`, are not signed.
    tokens: Vec<Option<Arc<ArcSwap<Tokens>>>>,
    window: Duration,
}

/// A configured application, by index.
///
/// A request gets one only from [`check`], so code that takes a `VerifiedApp` cannot be reached by an unauthenticated request. [`Apps`]
/// makes them too: for the configuration, and for captures of requests that were verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedApp(usize);

impl VerifiedApp {
    /// The index in the configuration.
    pub const fn index(self) -> usize {
        self.0
    }
}

impl Apps {
    /// Applications with these SdkAppids, in the order of the configuration. Their callbacks are not signed.
    pub fn new(ids: impl IntoIterator<Item = u64>) -> Self {
        let ids: Vec<Box<str>> = ids.into_iter().map(|id| id.to_string().into_boxed_str()).collect();
        let by_id = ids.iter().enumerate().map(|(index, id)| (id.clone(), index)).collect();
        Self { by_id, ids, tokens: Vec::new(), window: Duration::ZERO }
    }

    /// The same, but applications with tokens require signatures. A signature is valid for `window` before and after its `RequestTime`.
    /// Tokens can be replaced at any time through the `ArcSwap`.
    #[must_use]
    pub fn signed(self, tokens: Vec<Option<Arc<ArcSwap<Tokens>>>>, window: Duration) -> Self {
        Self { tokens, window, ..self }
    }

    /// All applications.
    pub fn iter(&self) -> impl Iterator<Item = VerifiedApp> {
        (0..self.ids.len()).map(VerifiedApp)
    }

    /// The application with this SdkAppid, for a callback that was verified before.
    pub fn find(&self, id: &str) -> Option<VerifiedApp> {
        self.by_id.get(id).copied().map(VerifiedApp)
    }

    /// The SdkAppid, in decimal digits.
    pub fn id(&self, app: VerifiedApp) -> &str {
        self.ids.get(app.0).map_or("", |id| id)
    }
}

/// The tokens that may sign the callbacks of an application; several during a rotation. Shows nothing of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Box<[u8]>>);

/// Why tokens cannot be used. Shows nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTokens {
    /// There is only white space.
    #[error("holds no token")]
    None,
    /// Probably not a token file.
    #[error("holds more than {TOKENS_MAX} tokens, one a line")]
    TooMany,
    /// Probably not a token.
    #[error("line {0}: the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong(usize),
    /// It looks like a comment. As a token, everybody could guess it.
    #[error("line {0}: begins with '#', which no token does; a token file has no comments")]
    Comment(usize),
    /// A space or an invisible character.
    #[error("line {line}: character U+{character:04X} in the token; expected one token a line, of visible characters", character = u32::from(*.character))]
    Invisible {
        /// The line number, from 1.
        line: usize,
        /// The character.
        character: char,
    },
    /// Tokens must be text.
    #[error("is not UTF-8")]
    NotText,
}

/// Tokens that are too short to be safe. Shows nothing of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{count} of {of} tokens are shorter than {TOKEN_BYTES_STRONG} bytes, so they can be guessed from one signature"
)]
pub struct WeakTokens {
    /// The number of short tokens.
    pub count: usize,
    /// The number of all tokens.
    pub of: usize,
}

impl Tokens {
    /// Parses tokens, one a line. Spaces and tabs around them, blank lines and a BOM at the beginning are ignored.
    ///
    /// # Errors
    ///
    /// There is no token, or a line is invalid.
    pub fn parse(text: &[u8]) -> Result<Self, BadTokens> {
        let text = str::from_utf8(text).map_err(|_not_text| BadTokens::NotText)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().map(|line| line.trim_matches([' ', '\t', '\r'])).enumerate();
        let mut tokens = Vec::new();
        for (index, line) in lines.filter(|(_, line)| !line.is_empty()) {
            if line.starts_with('#') {
                return Err(BadTokens::Comment(index + 1));
            }
            if let Some(character) = first_invisible(line) {
                return Err(BadTokens::Invisible { line: index + 1, character });
            }
            if line.len() > TOKEN_BYTES_MAX {
                return Err(BadTokens::TooLong(index + 1));
            }
            if tokens.len() == TOKENS_MAX {
                return Err(BadTokens::TooMany);
            }
            tokens.push(line.as_bytes().into());
        }
        if tokens.is_empty() { Err(BadTokens::None) } else { Ok(Self(tokens)) }
    }

    /// The tokens of several sources.
    pub fn union<'t>(sources: impl IntoIterator<Item = &'t Self>) -> Self {
        Self(sources.into_iter().flat_map(|tokens| tokens.0.iter().cloned()).collect())
    }

    /// The number of tokens.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether valid tokens are too weak.
    pub fn weakness(&self) -> Option<WeakTokens> {
        let count = self.0.iter().filter(|token| token.len() < TOKEN_BYTES_STRONG).count();
        (count > 0).then_some(WeakTokens { count, of: self.0.len() })
    }

    /// Whether there are none, so that no signature is valid.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `Sign` for a callback with the `RequestTime` `time`, made with the first token: for `callbridge send` and tests.
    pub fn signature(&self, time: &str) -> Option<String> {
        let digest = |token: &[u8]| Sha256::new().chain_update(token).chain_update(time).finalize();
        self.0.first().map(|token| digest(token).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Whether a token makes this `sign` for `time`. Takes the same time for every signature, valid or not.
    fn sign(&self, time: &str, sign: &[u8; 32]) -> bool {
        let matches = |token: &[u8]| {
            let digest: [u8; 32] = Sha256::new().chain_update(token).chain_update(time).finalize().into();
            digest.ct_eq(sign)
        };
        self.0.iter().fold(Choice::from(0), |any, token| any | matches(token)).into()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} tokens", self.0.len())
    }
}

/// Finds the application of `query`, and checks the signature if it has tokens. The SdkAppid must be exactly the configured digits, without
/// a sign or a leading zero.
///
/// # Errors
///
/// `SdkAppid` is missing or unknown; or the signature is missing, wrong or stale. The signature is checked before the time, so a stale one
/// was valid.
pub fn check(query: &Query<'_>, apps: &Apps, now: UnixMillis) -> Result<VerifiedApp, Refusal> {
    let app = app_of(query, apps)?;
    if let Some(Some(tokens)) = apps.tokens.get(app.0) {
        check_signature(query, &tokens.load(), apps.window, now)?;
    }
    Ok(app)
}

/// Checks that `query` names a configured application, without authentication.
///
/// # Errors
///
/// `SdkAppid` is missing or unknown.
pub(crate) fn check_app(query: &Query<'_>, apps: &Apps) -> Result<(), Refusal> {
    app_of(query, apps).map(|_unverified| ())
}

fn app_of(query: &Query<'_>, apps: &Apps) -> Result<VerifiedApp, Refusal> {
    let id = query.sdk_app_id.as_deref().ok_or(Refusal::AppMissing)?;
    apps.find(id).ok_or(Refusal::AppUnknown)
}

fn check_signature(query: &Query<'_>, tokens: &Tokens, window: Duration, now: UnixMillis) -> Result<(), Refusal> {
    let sign = query.sign.as_deref().ok_or(Refusal::SignMissing("Sign"))?;
    let time = query.request_time.as_deref().ok_or(Refusal::SignMissing("RequestTime"))?;
    // Digits only: SHA-256 allows length extension, so from one signature others can be made for the same text with a suffix.
    let is_time = (1..=TIME_DIGITS_MAX).contains(&time.len()) && time.bytes().all(|byte| byte.is_ascii_digit());
    let is_signed = is_time && digest(sign).is_some_and(|sign| tokens.sign(time, &sign));
    if !is_signed {
        return Err(Refusal::SignWrong);
    }
    let now = now.0.div_euclid(1000).unsigned_abs();
    // A number above 64 bits counts as infinitely far away.
    let seconds_off = time.parse::<u64>().map_or(u64::MAX, |time| time.abs_diff(now));
    if seconds_off > window.as_secs() {
        return Err(Refusal::SignStale { seconds_off, window: window.as_secs() });
    }
    Ok(())
}

/// Decodes a digest from 64 hex digits of either case.
fn digest(hex: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut digest = [0; 32];
    if hex.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of Tencent's documents: `xxxxyyyy` at 1669872112.
    const OFFICIAL: &str = "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061";
    /// `bridge-test-token` at 1751360400.
    const OWN: &str = "23225aeb7042de620d44fe41c65cc1cd9e52c7608538b7d0a19af240ac2ff297";

    fn checked(raw: &str) -> Result<usize, Refusal> {
        let apps = Apps::new([14, 15]);
        check(&Query::parse(raw).unwrap(), &apps, UnixMillis(0)).map(VerifiedApp::index)
    }

    /// Application 14 is signed with `tokens`, and 15 is not.
    fn signed(tokens: &str, raw: &str, now: i64) -> Result<usize, Refusal> {
        let tokens = Arc::new(ArcSwap::from_pointee(Tokens::parse(tokens.as_bytes()).unwrap()));
        let apps = Apps::new([14, 15]).signed(vec![Some(tokens), None], Duration::from_secs(60));
        check(&Query::parse(raw).unwrap(), &apps, UnixMillis(now)).map(VerifiedApp::index)
    }

    #[test]
    fn only_a_configured_application_passes() {
        assert_eq!(checked("SdkAppid=14"), Ok(0));
        assert_eq!(checked("SdkAppid=15"), Ok(1));
        assert_eq!(checked("CallbackCommand=A"), Err(Refusal::AppMissing));
        for wrong in ["16", "", "014", "+14", "14 ", "1", "140", "１４"] {
            assert_eq!(checked(&format!("SdkAppid={wrong}")), Err(Refusal::AppUnknown), "{wrong:?}");
        }
    }

    #[test]
    fn the_official_vector_and_our_own_pass_in_either_case() {
        for (token, time, sign) in [("xxxxyyyy", 1_669_872_112, OFFICIAL), ("bridge-test-token", 1_751_360_400, OWN)] {
            let made = Tokens::parse(token.as_bytes()).unwrap().signature(&time.to_string());
            assert_eq!(made.as_deref(), Some(sign));
            for sign in [sign.to_owned(), sign.to_uppercase()] {
                let query = format!("SdkAppid=14&Sign={sign}&RequestTime={time}");
                assert_eq!(signed(token, &query, time * 1000), Ok(0));
                assert_eq!(signed(&format!("first\n{token}\nthird"), &query, time * 1000), Ok(0), "one of several");
                assert_eq!(signed("other", &query, time * 1000), Err(Refusal::SignWrong));
                // As an older page of the documents prints it.
                assert_eq!(signed("xxxyyy", &query, time * 1000), Err(Refusal::SignWrong));
            }
        }
    }

    #[test]
    fn a_signature_is_good_for_its_window_and_no_longer() {
        let query = format!("SdkAppid=14&Sign={OFFICIAL}&RequestTime=1669872112");
        for off in [-60, -59, 0, 59, 60] {
            assert_eq!(signed("xxxxyyyy", &query, (1_669_872_112 + off) * 1000), Ok(0), "{off}");
        }
        for off in [-1_669_872_112_i64, -61, 61, 1 << 40] {
            let stale = Refusal::SignStale { seconds_off: off.unsigned_abs(), window: 60 };
            assert_eq!(signed("xxxxyyyy", &query, (1_669_872_112 + off) * 1000), Err(stale), "{off}");
        }
        assert_eq!(signed("xxxxyyyy", &query, 1_669_872_172_999), Ok(0), "whole seconds count");
    }

    #[test]
    fn what_is_missing_is_told_apart_from_what_is_wrong_and_wrong_comes_before_stale() {
        let refused = |raw: &str| signed("xxxxyyyy", raw, 0).unwrap_err();
        assert_eq!(refused("SdkAppid=14"), Refusal::SignMissing("Sign"));
        assert_eq!(refused("SdkAppid=14&RequestTime=1"), Refusal::SignMissing("Sign"));
        assert_eq!(refused(&format!("SdkAppid=14&Sign={OFFICIAL}")), Refusal::SignMissing("RequestTime"));
        for wrong in [
            "Sign=&RequestTime=1669872112",
            "Sign=17773bc39a&RequestTime=1669872112",
            &format!("Sign={OFFICIAL}&RequestTime=1669872113"),
            &format!("Sign={OFFICIAL}&RequestTime="),
            &format!("Sign={OFFICIAL}0&RequestTime=1669872112"),
            &format!("Sign=g{}&RequestTime=1669872112", &OFFICIAL[1..]),
            &format!("Sign=é{}&RequestTime=1669872112", &OFFICIAL[2..]),
        ] {
            assert_eq!(refused(&format!("SdkAppid=14&{wrong}")), Refusal::SignWrong, "{wrong}");
        }
        assert!(matches!(
            refused(&format!("SdkAppid=14&Sign={OFFICIAL}&RequestTime=1669872112")),
            Refusal::SignStale { .. }
        ));
    }

    #[test]
    fn a_time_that_is_no_number_is_wrong_however_it_is_signed() {
        for (time, expected_stale) in
            [("-5", false), ("+5", false), ("5x", false), ("5\u{0}", false), ("99999999999999999999", true)]
        {
            let sign: [u8; 32] = Sha256::digest(format!("t{time}")).into();
            let sign: String = sign.iter().map(|byte| format!("{byte:02x}")).collect();
            let refusal = signed("t", &format!("SdkAppid=14&Sign={sign}&RequestTime={time}"), 5000).unwrap_err();
            assert_eq!(matches!(refusal, Refusal::SignStale { .. }), expected_stale, "{time}");
            assert_eq!(refusal == Refusal::SignWrong, !expected_stale, "{time}");
        }
    }

    #[test]
    fn an_application_without_tokens_is_not_asked_for_a_signature() {
        assert_eq!(signed("xxxxyyyy", "SdkAppid=15", 0), Ok(1));
        assert_eq!(signed("xxxxyyyy", "SdkAppid=15&Sign=1&RequestTime=x", 0), Ok(1));
    }

    #[test]
    fn tokens_are_lines_and_never_shown() {
        let tokens = Tokens::parse("\u{feff} one \r\n\n\ttwo#2\r\nthr你\n\n".as_bytes()).unwrap();
        assert_eq!(tokens, Tokens(["one", "two#2", "thr你"].map(|token| token.as_bytes().into()).to_vec()));
        assert_eq!(format!("{tokens:?}"), "3 tokens");
        assert_eq!(Tokens::union([&tokens, &tokens]).len(), 6);
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        for (text, expected) in [
            (Vec::new(), BadTokens::None),
            (b" \n\r\n\t".to_vec(), BadTokens::None),
            ("t\n".repeat(17).into_bytes(), BadTokens::TooMany),
            (format!("a\n\n{long}").into_bytes(), BadTokens::TooLong(3)),
            (b"a\xff".to_vec(), BadTokens::NotText),
            (b"a\n# tencent token\n".to_vec(), BadTokens::Comment(2)),
            (b" #".to_vec(), BadTokens::Comment(1)),
            (b"a\n\nb c\n".to_vec(), BadTokens::Invisible { line: 3, character: ' ' }),
            (b"a\tb".to_vec(), BadTokens::Invisible { line: 1, character: '\t' }),
            (b"a\rb\n".to_vec(), BadTokens::Invisible { line: 1, character: '\r' }),
            (b"a\nb\0".to_vec(), BadTokens::Invisible { line: 2, character: '\0' }),
            (b"a\nb\x1b[0m".to_vec(), BadTokens::Invisible { line: 2, character: '\x1b' }),
            ("a\n\u{feff}b".into(), BadTokens::Invisible { line: 2, character: '\u{feff}' }),
            ("a\u{200b}".into(), BadTokens::Invisible { line: 1, character: '\u{200b}' }),
            ("a\u{a0}".into(), BadTokens::Invisible { line: 1, character: '\u{a0}' }),
            ("a\u{85}b".into(), BadTokens::Invisible { line: 1, character: '\u{85}' }),
        ] {
            assert_eq!(Tokens::parse(&text), Err(expected));
        }
        assert_eq!(Tokens::parse("t\n".repeat(16).as_bytes()).unwrap().len(), TOKENS_MAX);
    }

    #[test]
    fn tokens_under_16_bytes_are_weak() {
        let weakness = |text: &str| Tokens::parse(text.as_bytes()).unwrap().weakness();
        assert_eq!(weakness("0123456789abcdef\n你好你好你好"), None);
        let expected = "2 of 3 tokens are shorter than 16 bytes, so they can be guessed from one signature";
        assert_eq!(weakness("0123456789abcde\n0123456789abcdef\nx").unwrap().to_string(), expected);
    }
}
