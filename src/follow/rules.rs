//! What a blocklist file holds.

use std::fmt;

use crate::decide::blocklist::Rules;
use crate::decide::file;
use crate::decide::file::BadLines;
use crate::follow::file::Content;

/// How many bad lines a log shows.
const SHOWN_LINES_MAX: usize = 10;

impl Content for Rules {
    const KIND: &'static str = "blocklist";
    /// Some millions of rules.
    const BYTES_MAX: u64 = 256 * 1024 * 1024;
    type Bad = BadLines;

    fn parse(bytes: &[u8]) -> Result<Self, BadLines> {
        file::parse(bytes)
    }
}

impl std::error::Error for BadLines {}

impl fmt::Display for BadLines {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, bad_line) in self.first.iter().take(SHOWN_LINES_MAX).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(formatter, "{separator}{bad_line}")?;
        }
        match self.count.saturating_sub(SHOWN_LINES_MAX) {
            0 => Ok(()),
            more => write!(formatter, "; and {more} more bad lines"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_many_bad_lines_shows_ten() {
        let bad_lines = <Rules as Content>::parse("block\n".repeat(1000).as_bytes()).expect_err("bad");
        let shown = bad_lines.to_string();
        assert!(shown.starts_with("line 1: the line ends; expected a user; line 2: "), "{shown}");
        assert!(shown.ends_with("; line 10: the line ends; expected a user; and 990 more bad lines"), "{shown}");
    }
}
