//! A request as received: the fields of its query, not verified yet.

use std::borrow::Cow;

use memchr::memchr;
use memchr::memchr_iter;

/// The query parameters that callbridge uses, decoded. They borrow from the query if nothing was encoded.
///
/// Names are compared without case: Tencent's documents spell `SdkAppid` in several ways. Order does not matter, and other parameters are
/// ignored.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query<'a> {
    /// `SdkAppid`: the application, decimal digits.
    pub sdk_app_id: Option<Cow<'a, str>>,
    /// `CallbackCommand`: what happened. A blank one counts as absent.
    pub command: Option<Cow<'a, str>>,
    /// `ClientIP`: the end-user's address, not the sender's.
    pub client_ip: Option<Cow<'a, str>>,
    /// `OptPlatform`: where the action came from, such as `RESTAPI` or `iOS`.
    pub opt_platform: Option<Cow<'a, str>>,
    /// `RequestID`, also spelled `RequestId`: identifies Tencent's request. It is not documented; whether a repeated callback has the same
    /// one is not known.
    pub request_id: Option<Cow<'a, str>>,
    /// `Sign`: the signature, in hex digits.
    pub sign: Option<Cow<'a, str>>,
    /// `RequestTime`: when it was signed, Unix seconds in decimal digits.
    pub request_time: Option<Cow<'a, str>>,
}

/// Why a query cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A parameter that callbridge uses occurs twice, so its value is ambiguous.
    #[error("{0} is given more than once in the query")]
    Repeated(&'static str),
    /// A value that callbridge uses has a `%` without two hex digits behind it, or is not UTF-8.
    #[error("{0} has broken percent-encoding in the query")]
    Encoding(&'static str),
}

/// The names of the parameters, as Tencent's samples spell them.
const SDK_APP_ID: &str = "SdkAppid";
const COMMAND: &str = "CallbackCommand";
const CLIENT_IP: &str = "ClientIP";
const OPT_PLATFORM: &str = "OptPlatform";
const REQUEST_ID: &str = "RequestID";
const SIGN: &str = "Sign";
const REQUEST_TIME: &str = "RequestTime";

impl<'a> Query<'a> {
    /// Parses the part of a URL behind `?`. A `+` stands for itself: this is the query of a URL, not a form.
    ///
    /// # Errors
    ///
    /// A parameter in use occurs twice, or its value cannot be decoded.
    pub fn parse(raw: &'a str) -> Result<Self, QueryError> {
        let mut query = Self::default();
        // Most queries have nothing encoded, and one search in the whole is faster than one in each part.
        let decode = if memchr(b'%', raw.as_bytes()).is_none() { plain } else { decode };
        for (name, value) in pairs(raw) {
            // A name that cannot be decoded is not one in use.
            let Some((slot, name)) = decode(name).and_then(|name| query.slot(&name)) else { continue };
            if slot.is_some() {
                return Err(QueryError::Repeated(name));
            }
            *slot = Some(decode(value).ok_or(QueryError::Encoding(name))?);
        }
        if query.command.as_deref().is_some_and(|command| command.trim().is_empty()) {
            query.command = None;
        }
        Ok(query)
    }

    /// Whether the query names a command, valid or not. Distinguishes a callback from a health check.
    pub fn names_command(raw: &str) -> bool {
        pairs(raw).any(|(name, value)| {
            !value.is_empty() && decode(name).is_some_and(|name| name.eq_ignore_ascii_case(COMMAND))
        })
    }

    fn slot(&mut self, name: &str) -> Option<(&mut Option<Cow<'a, str>>, &'static str)> {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        if is(SDK_APP_ID) {
            Some((&mut self.sdk_app_id, SDK_APP_ID))
        } else if is(COMMAND) {
            Some((&mut self.command, COMMAND))
        } else if is(CLIENT_IP) {
            Some((&mut self.client_ip, CLIENT_IP))
        } else if is(OPT_PLATFORM) {
            Some((&mut self.opt_platform, OPT_PLATFORM))
        } else if is(REQUEST_ID) {
            Some((&mut self.request_id, REQUEST_ID))
        } else if is(SIGN) {
            Some((&mut self.sign, SIGN))
        } else if is(REQUEST_TIME) {
            Some((&mut self.request_time, REQUEST_TIME))
        } else {
            None
        }
    }
}

/// The names and values of a query, not decoded. A name without `=` has an empty value.
fn pairs(raw: &str) -> impl Iterator<Item = (&str, &str)> {
    let ends = memchr_iter(b'&', raw.as_bytes()).chain([raw.len()]);
    ends.scan(0, |start, end| {
        let pair = raw.get(*start..end);
        *start = end + 1;
        pair
    })
    .map(|pair| match memchr(b'=', pair.as_bytes()) {
        // `=` is one byte in UTF-8, so both cuts are between characters.
        Some(at) => (pair.get(..at).unwrap_or_default(), pair.get(at + 1..).unwrap_or_default()),
        None => (pair, ""),
    })
}

/// Decodes a text that has nothing encoded.
#[expect(clippy::unnecessary_wraps, reason = "it has the signature of `decode`")]
fn plain(raw: &str) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(raw))
}

/// Decodes percent-encoding; `None` if it is invalid or the result is not UTF-8.
pub(crate) fn decode(raw: &str) -> Option<Cow<'_, str>> {
    if memchr(b'%', raw.as_bytes()).is_none() {
        return Some(Cow::Borrowed(raw));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            decoded.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(raw: &str) -> Result<Option<String>, QueryError> {
        Query::parse(raw).map(|query| query.command.map(Cow::into_owned))
    }

    #[test]
    fn names_are_found_in_any_case_and_order() {
        let query =
            Query::parse("optplatform=iOS&CLIENTIP=::1&contenttype=json&RequestId=7-a&sdkappid=14&callbackcommand=A.b")
                .unwrap();
        assert_eq!(query.sdk_app_id.as_deref(), Some("14"));
        assert_eq!(query.command.as_deref(), Some("A.b"));
        assert_eq!(query.client_ip.as_deref(), Some("::1"));
        assert_eq!(query.opt_platform.as_deref(), Some("iOS"));
        assert_eq!(query.request_id.as_deref(), Some("7-a"));
    }

    #[test]
    fn values_and_names_are_percent_decoded() {
        assert_eq!(command("CallbackCommand=A%2Eb%e4%BD%a0"), Ok(Some("A.b你".into())));
        assert_eq!(command("Callback%43ommand=A"), Ok(Some("A".into())));
        assert_eq!(command("CallbackCommand=A+b"), Ok(Some("A+b".into())), "a plus is a plus");
    }

    #[test]
    fn broken_encoding_is_an_error_only_in_a_value_in_use() {
        for value in ["%", "%4", "%4g", "%zz", "a%", "%ff", "%+1"] {
            assert_eq!(
                command(&format!("CallbackCommand={value}")),
                Err(QueryError::Encoding("CallbackCommand")),
                "{value}"
            );
        }
        assert_eq!(command("token=%zz&%zz=1&CallbackCommand=A"), Ok(Some("A".into())));
    }

    #[test]
    fn a_name_in_use_must_not_come_twice() {
        for raw in ["SdkAppid=1&sdkappid=1", "SdkAppid=1&SdkAppid", "Sdk%41ppid=1&SdkAppid=2"] {
            assert_eq!(Query::parse(raw), Err(QueryError::Repeated("SdkAppid")), "{raw}");
        }
        assert_eq!(Query::parse("ClientIP=1&ClientIP=2"), Err(QueryError::Repeated("ClientIP")));
        assert_eq!(Query::parse("OptPlatform=1&OptPlatform=2"), Err(QueryError::Repeated("OptPlatform")));
        assert_eq!(command("x=1&x=2&CallbackCommand=A"), Ok(Some("A".into())), "others may");
    }

    #[test]
    fn an_empty_command_names_nothing() {
        for raw in ["", "&&", "=", "CallbackCommand", "CallbackCommand=", "SdkAppid=1"] {
            assert_eq!(command(raw), Ok(None), "{raw}");
            assert!(!Query::names_command(raw), "{raw}");
        }
    }

    #[test]
    fn a_command_is_seen_even_where_the_query_cannot_be_read() {
        for raw in ["CallbackCommand=%", "callbackcommand=A&CallbackCommand=B", "Callback%43ommand=A"] {
            assert!(Query::names_command(raw), "{raw}");
        }
    }
}
