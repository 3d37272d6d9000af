//! The nesting depth of JSON.

/// The greatest depth of a callback that becomes an event, in brackets. The envelope adds two; common parsers have limits of 1000 (Python,
/// Jackson) or 512 (PHP).
pub(super) const DEPTH_MAX: usize = 500;

/// Whether valid JSON is nested deeper than [`DEPTH_MAX`].
pub(super) fn is_too_deep(json: &str) -> bool {
    // Counts brackets in strings too: if even these are few, no exact count is needed.
    let brackets = json.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    brackets > DEPTH_MAX && depth(json) > DEPTH_MAX
}

fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut is_in_string) = (0_usize, 0, false);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_in_string = !is_in_string,
            // Escapes occur only in strings.
            b'\\' => drop(bytes.next()),
            b'[' | b'{' if !is_in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !is_in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_open_brackets_outside_of_strings() {
        for (json, expected) in [
            ("1", 0),
            ("{}", 1),
            (r#"{"a":[],"b":[{}],"c":{}}"#, 3),
            (r#"{"[[[":"{{{\"[\\"}"#, 1),
            (r#"["\\",["\""],"]",[[]]]"#, 3),
        ] {
            assert_eq!(depth(json), expected, "{json}");
        }
    }

    #[test]
    fn many_brackets_beside_each_other_are_not_deep() {
        let wide = format!("[{}]", vec!["[]"; 10_000].join(","));
        let text = format!("[\"{}\"]", "[".repeat(10_000));
        assert!(!is_too_deep(&wide) && !is_too_deep(&text));
    }

    #[test]
    fn the_limit_is_the_last_that_is_taken() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!([499, 500, 501, 100_000].map(|depth| is_too_deep(&nested(depth))), [false, false, true, true]);
    }
}
