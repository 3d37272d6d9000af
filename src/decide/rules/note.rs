//! The provenance of a rule as a text, which a set stores once for all rules that share it.

use std::borrow::Cow;

use crate::decide::topic::value;
use crate::decide::topic::value::Provenance;

/// The prefix of a provenance that is more than a reason. No reason of a file begins with it, since a file has no control characters.
const MORE: char = '\u{1f}';

/// The text; `None` if nothing is known.
pub(super) fn text<'a>(provenance: &'a Provenance<'_>) -> Option<Cow<'a, str>> {
    match provenance {
        Provenance { because, who: None, when: None, source: None } => because.as_deref().map(Cow::Borrowed),
        provenance => {
            let mut text = value::encode_provenance(provenance);
            text.insert(0, MORE);
            Some(text.into())
        }
    }
}

/// Decodes a [`text`].
pub(super) fn read(text: &str) -> Provenance<'static> {
    let more = text.strip_prefix(MORE).and_then(|json| value::decode(json.as_bytes()).ok());
    more.map_or_else(|| Provenance::of_reason(Some(text)), |value| value.provenance).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::clock::UnixMillis;

    #[test]
    fn a_provenance_is_read_from_its_text() {
        let topic = Provenance {
            because: Some("\u{1f}{}".into()),
            who: Some("alice".into()),
            when: Some(UnixMillis(1_780_000_000_123)),
            source: Some("api".into()),
        };
        let silent = Provenance { because: None, source: None, ..topic.clone() };
        for provenance in [topic, silent, Provenance::of_reason(Some("spam")), Provenance::of_reason(Some(""))] {
            assert_eq!(text(&provenance).map(|text| read(&text)), Some(provenance));
        }
        assert_eq!(text(&Provenance::default()), None);
    }
}
