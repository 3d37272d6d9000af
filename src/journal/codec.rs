//! The encoding of a capture in the log, which later versions of the program can read.
//!
//! It has only what was received and what was answered. What can be derived, such as the index of the application and of the command, is
//! derived again by the version that reads it.
//!
//! | bytes | |
//! |---|---|
//! | 1 | 1, the version of this encoding |
//! | 1 | 0: accepted, 1: decided, 2: refused |
//! | 8 | when it was received, milliseconds since the Unix epoch |
//! | 1, 4 or 16, 2 | the peer: 4 or 6, its IP address, its port |
//! | 1, … | the SdkAppid: its length, its digits |
//! | 4, … | the outcome: its length, JSON |
//! | 4 | the length of the query |
//! | … | the query and the body |
//!
//! Numbers are little-endian.

use std::borrow::Cow;
use std::iter;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::auth::Apps;
use crate::auth::VerifiedApp;
use crate::capture::Capture;
use crate::capture::CaptureOutcome;
use crate::capture::Raw;
use crate::clock::UnixMillis;
use crate::command::Command;
use crate::decide;
use crate::decide::Decision;
use crate::decide::DecisiveRule;
use crate::refusal::Reason;
use crate::request::Query;

const VERSION: u8 = 1;
const HAPPENED: u8 = 0;
const DECIDED: u8 = 1;
const REFUSED: u8 = 2;

/// Why this process cannot decode a capture of the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// It was written by a newer version.
    #[error("it was written by a version of callbridge that this one does not know")]
    Unknown,
    /// Its application is not configured.
    #[error("it was sent for the SdkAppid {0}, which is not configured")]
    App(Box<str>),
}

/// The encoding of a decision.
#[derive(Debug, Serialize, Deserialize)]
struct KeptDecision<'a> {
    #[serde(borrow)]
    outcome: Cow<'a, str>,
    refused: Vec<Cow<'a, str>>,
    rules: Vec<Cow<'a, str>>,
    /// The source of each of `rules`. Older versions did not keep them.
    #[serde(default)]
    sources: Vec<Cow<'a, str>>,
    generation: u64,
    /// Omitted if true.
    #[serde(default = "enforced", skip_serializing_if = "is_enforced")]
    enforced: bool,
}

const fn enforced() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_enforced(enforced: &bool) -> bool {
    *enforced
}

/// The encoding of a refusal.
#[derive(Debug, Serialize, Deserialize)]
struct KeptRefusal<'a> {
    #[serde(borrow)]
    reason: Cow<'a, str>,
    detail: Cow<'a, str>,
}

/// Appends the encoding of a capture to `bytes`.
pub(crate) fn encode(capture: &Capture, apps: &Apps, bytes: &mut Vec<u8>) {
    let (outcome, detail) = match &capture.outcome {
        CaptureOutcome::Happened => (HAPPENED, Vec::new()),
        CaptureOutcome::Decided(decision) => (DECIDED, decision_json(decision)),
        CaptureOutcome::Refused { reason, detail } => {
            let kept = KeptRefusal { reason: reason.word().into(), detail: Cow::Borrowed(detail) };
            (REFUSED, serde_json::to_vec(&kept).unwrap_or_default())
        }
    };
    bytes.extend_from_slice(&[VERSION, outcome]);
    bytes.extend_from_slice(&capture.received.0.to_le_bytes());
    match capture.peer.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend_from_slice(&ip.octets());
        }
    }
    bytes.extend_from_slice(&capture.peer.port().to_le_bytes());
    // At most 20 digits.
    let app = apps.id(capture.app).as_bytes();
    bytes.push(u8::try_from(app.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(app);
    push_length(bytes, detail.len());
    bytes.extend_from_slice(&detail);
    push_length(bytes, capture.raw.query_bytes());
    bytes.extend_from_slice(capture.raw.bytes());
}

/// The key of a capture: a hash of its SdkAppid and its command, or of the kind of captures without one. It does not depend on the topic,
/// whose name may change with the configuration. The log stores keys, so later versions must compute the same ones.
pub(crate) fn kind_key(capture: &Capture, apps: &Apps) -> u32 {
    match capture.outcome {
        CaptureOutcome::Happened | CaptureOutcome::Decided(_) => {
            kind_key_of_command(capture.app, capture.command, apps)
        }
        CaptureOutcome::Refused { .. } => kind_key_of_dead_letters(capture.app, apps),
    }
}

/// The key of captures of a command; `None` stands for every command that is not in the table.
pub(super) fn kind_key_of_command(app: VerifiedApp, command: Option<Command>, apps: &Apps) -> u32 {
    kind_key_of(app, command.map_or("unknown", Command::name), apps)
}

/// The key of captures of refused callbacks.
pub(super) fn kind_key_of_dead_letters(app: VerifiedApp, apps: &Apps) -> u32 {
    kind_key_of(app, "rejected", apps)
}

fn kind_key_of(app: VerifiedApp, kind: &str, apps: &Apps) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(apps.id(app).as_bytes()), kind.as_bytes())
}

/// Decodes a capture.
///
/// # Errors
///
/// See [`DecodeError`]. The capture then stays in the log.
pub(crate) fn decode(bytes: &[u8], apps: &Apps) -> Result<Capture, DecodeError> {
    let kept = Kept::read(bytes).ok_or(DecodeError::Unknown)?;
    let app = apps.find(kept.app).ok_or_else(|| DecodeError::App(kept.app.into()))?;
    let raw = Raw::restore(kept.raw.to_vec(), kept.query_bytes).ok_or(DecodeError::Unknown)?;
    let query = Query::parse(raw.query()).unwrap_or_default();
    let command = query.command.as_deref().and_then(Command::find);
    let outcome = kept.outcome().ok_or(DecodeError::Unknown)?;
    Ok(Capture { received: kept.received, peer: kept.peer, app, command, raw, outcome })
}

/// The parts of an encoded capture.
#[derive(Debug)]
pub(crate) struct Kept<'b> {
    kind: u8,
    pub(crate) received: UnixMillis,
    pub(crate) peer: SocketAddr,
    /// The SdkAppid.
    pub(crate) app: &'b str,
    detail: &'b [u8],
    query_bytes: usize,
    raw: &'b [u8],
}

impl<'b> Kept<'b> {
    /// Splits the encoding into its parts; `None` if this version does not know it.
    pub(crate) fn read(bytes: &'b [u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        if rest.byte()? != VERSION {
            return None;
        }
        let kind = rest.byte()?;
        let received = UnixMillis(i64::from_le_bytes(rest.array()?));
        let ip = match rest.byte()? {
            4 => IpAddr::from(rest.array::<4>()?),
            6 => IpAddr::from(rest.array::<16>()?),
            _ => return None,
        };
        let peer = SocketAddr::new(ip, u16::from_le_bytes(rest.array()?));
        let app_bytes = rest.byte()?;
        let app = str::from_utf8(rest.take(usize::from(app_bytes))?).ok()?;
        let detail_bytes = rest.length()?;
        let detail = rest.take(detail_bytes)?;
        let query_bytes = rest.length()?;
        (query_bytes <= rest.0.len()).then_some(Self { kind, received, peer, app, detail, query_bytes, raw: rest.0 })
    }

    /// The outcome, as a word.
    pub(crate) const fn outcome_word(&self) -> &'static str {
        match self.kind {
            HAPPENED => "happened",
            DECIDED => "decided",
            REFUSED => "refused",
            _ => "unknown",
        }
    }

    /// The decision or the refusal, as JSON; empty if there is neither.
    pub(crate) const fn detail(&self) -> &'b [u8] {
        self.detail
    }

    /// The query, as it is in the URL.
    pub(crate) fn query(&self) -> &'b str {
        str::from_utf8(self.raw.get(..self.query_bytes).unwrap_or_default()).unwrap_or_default()
    }

    /// The body, byte for byte.
    pub(crate) fn body(&self) -> &'b [u8] {
        self.raw.get(self.query_bytes..).unwrap_or_default()
    }

    fn outcome(&self) -> Option<CaptureOutcome> {
        match self.kind {
            HAPPENED => Some(CaptureOutcome::Happened),
            DECIDED => {
                let kept: KeptDecision<'_> = serde_json::from_slice(self.detail).ok()?;
                let sources = kept.sources.iter().map(|source| Arc::from(&**source)).chain(iter::repeat(Arc::from("")));
                Some(CaptureOutcome::Decided(Decision {
                    outcome: decide::Outcome::find(&kept.outcome)?,
                    refused: kept.refused.into_iter().map(|user| user.into()).collect(),
                    rules: kept.rules.into_iter().zip(sources).map(decisive_rule).collect(),
                    generation: kept.generation,
                    // Only the answer needed it, and that was given.
                    rejection: None,
                    enforced: kept.enforced,
                }))
            }
            REFUSED => {
                let kept: KeptRefusal<'_> = serde_json::from_slice(self.detail).ok()?;
                Some(CaptureOutcome::Refused { reason: Reason::find(&kept.reason)?, detail: kept.detail.into() })
            }
            _ => None,
        }
    }
}

fn decisive_rule((rule, source): (Cow<'_, str>, Arc<str>)) -> DecisiveRule {
    DecisiveRule { rule: rule.into(), source }
}

fn decision_json(decision: &Decision) -> Vec<u8> {
    let kept = KeptDecision {
        outcome: decision.outcome.as_str().into(),
        refused: decision.refused.iter().map(|user| Cow::Borrowed(&**user)).collect(),
        rules: decision.rules.iter().map(|decisive| Cow::Borrowed(&*decisive.rule)).collect(),
        sources: decision.rules.iter().map(|decisive| Cow::Borrowed(&*decisive.source)).collect(),
        generation: decision.generation,
        enforced: decision.enforced,
    };
    serde_json::to_vec(&kept).unwrap_or_default()
}

fn push_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

/// The bytes that are not decoded yet.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::log::format::FrameBuilder;
    use proptest::prelude::*;

    fn apps() -> Apps {
        Apps::new([14, 1_400_000_000])
    }

    fn capture(query: &str, body: &[u8], outcome: CaptureOutcome, peer: &str) -> Capture {
        let mut raw = Raw::begin(query, body.len());
        raw.push(body);
        let app = apps().find("1400000000").unwrap();
        Capture {
            received: UnixMillis(1_800_000_000_123),
            peer: peer.parse().unwrap(),
            app,
            command: Command::find("OfficialAccount.CallbackAfterAddSubscriber"),
            raw: raw.end(),
            outcome,
        }
    }

    fn restored(capture: &Capture) -> Capture {
        let mut bytes = Vec::new();
        encode(capture, &apps(), &mut bytes);
        decode(&bytes, &apps()).unwrap()
    }

    #[test]
    fn a_capture_comes_back_as_it_went() {
        let query = "SdkAppid=1400000000&CallbackCommand=OfficialAccount.CallbackAfterAddSubscriber&ClientIP=1.2.3.4";
        let decision = Decision {
            outcome: decide::Outcome::Partial,
            refused: vec!["mallory \"x\"".into()],
            rules: vec![DecisiveRule { rule: "block mallory".into(), source: "file:/etc/list \"1\"".into() }],
            generation: 7,
            rejection: None,
            enforced: true,
        };
        let dry_run = Decision { enforced: false, ..decision.clone() };
        let outcomes = [
            CaptureOutcome::Happened,
            CaptureOutcome::Decided(decision),
            CaptureOutcome::Decided(dry_run),
            CaptureOutcome::Refused { reason: Reason::NotJson, detail: "not \u{1} JSON \\u00e9".into() },
        ];
        for (outcome, peer) in
            outcomes.into_iter().zip(["127.0.0.1:80", "[2001:db8::1]:65535", "[2001:db8::2]:2", "[::1]:1"])
        {
            let before = capture(query, b"{\"a\": \xff\x00}", outcome, peer);
            assert_eq!(format!("{:?}", restored(&before)), format!("{before:?}"));
        }
    }

    #[test]
    fn a_decision_kept_without_sources_is_read_with_empty_ones() {
        let kept = br#"{"outcome":"refuse","refused":["bob"],"rules":["block bob"],"generation":7}"#;
        let kept: KeptDecision<'_> = serde_json::from_slice(kept).unwrap();
        let rules: Vec<DecisiveRule> =
            kept.rules.into_iter().zip(iter::repeat(Arc::from(""))).map(decisive_rule).collect();
        assert_eq!(
            (kept.sources.len(), rules),
            (0, vec![DecisiveRule { rule: "block bob".into(), source: "".into() }])
        );
    }

    #[test]
    fn what_this_process_does_not_know_is_told_apart() {
        let mut bytes = Vec::new();
        encode(&capture("SdkAppid=1400000000", b"{}", CaptureOutcome::Happened, "127.0.0.1:80"), &apps(), &mut bytes);
        assert_eq!(decode(&bytes, &Apps::new([14])).unwrap_err(), DecodeError::App("1400000000".into()));
        bytes[0] = 2;
        assert_eq!(decode(&bytes, &apps()).unwrap_err(), DecodeError::Unknown);
    }

    fn outcomes() -> impl Strategy<Value = CaptureOutcome> {
        // With all that JSON escapes.
        let text = || "[\u{0}-\u{7f}\u{e9}]{0,40}".prop_map(Box::from);
        let texts = || prop::collection::vec(text(), 0..20);
        let rules = || prop::collection::vec((text(), "[\u{0}-\u{7f}\u{e9}]{0,40}"), 0..20);
        let decided =
            (texts(), rules(), any::<u64>(), any::<bool>()).prop_map(|(refused, rules, generation, enforced)| {
                let rules = rules.into_iter().map(|(rule, source)| DecisiveRule { rule, source: source.into() });
                CaptureOutcome::Decided(Decision {
                    outcome: decide::Outcome::Partial,
                    refused,
                    rules: rules.collect(),
                    generation,
                    rejection: None,
                    enforced,
                })
            });
        let reason = prop::sample::select(&Reason::ALL[..]);
        let refused = (reason, text()).prop_map(|(reason, detail)| CaptureOutcome::Refused { reason, detail });
        prop_oneof![Just(()).prop_map(|()| CaptureOutcome::Happened), decided, refused]
    }

    proptest! {
        #[test]
        fn a_capture_takes_no_more_in_the_journal_than_its_cost(
            outcome in outcomes(),
            query in "[a-z]{0,40}",
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let capture = capture(&query, &body, outcome, "[2001:db8::1]:65535");
            let mut builder = FrameBuilder::new();
            let empty = builder.bytes();
            builder.push(true, kind_key(&capture, &apps()), |bytes| encode(&capture, &apps(), bytes));
            prop_assert!(builder.bytes() - empty <= capture.cost_bytes());
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _either = decode(&bytes, &apps());
            let mut versioned = bytes;
            versioned.insert(0, VERSION);
            let _either = decode(&versioned, &apps());
        }
    }
}
