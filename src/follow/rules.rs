//! The contents of a blocklist file.

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::io::Read;

use crate::decide::file::BadLines;
use crate::decide::file::Reading;
use crate::decide::rules::Rules;
use crate::follow::file::Content;
use crate::follow::file::FileError;

/// The size of a read.
const PIECE_BYTES: usize = 256 * 1024;

/// The most bad lines that are logged.
const SHOWN_LINES_MAX: usize = 10;

impl Content for Rules {
    const KIND: &'static str = "blocklist";
    type Invalid = BadLines;

    /// Reads in chunks, so that a file takes no memory besides its rules.
    fn read(mut file: File) -> Result<Self, FileError<BadLines>> {
        let (mut piece, mut reading) = (vec![0; PIECE_BYTES], Reading::default());
        loop {
            match file.read(&mut piece) {
                Ok(0) => return reading.finish().map_err(FileError::Invalid),
                Ok(read) => reading.push(piece.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
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
    use std::io::Seek;
    use std::io::SeekFrom;
    use std::io::Write;

    use crate::decide::file;

    #[test]
    fn a_file_of_more_than_256_mebibytes_is_read_to_its_end() {
        let mut file = tempfile::tempfile().expect("a file");
        // One line of zeros, which takes no place on the disk; what is behind it shows that it was read.
        file.seek(SeekFrom::Start(257 << 20)).expect("sought");
        file.write_all(b"\nbob\nblock").expect("written");
        file.rewind().expect("rewound");
        let Err(FileError::Invalid(bad_lines)) = Rules::read(file) else { panic!("two lines are bad") };
        let first: Vec<String> = bad_lines.first.iter().map(ToString::to_string).collect();
        assert_eq!(
            first,
            [
                "line 1: more than 1048576 bytes in one line; expected one rule a line",
                "line 3: the line ends; expected a user",
            ]
        );
    }

    #[test]
    fn a_file_of_many_bad_lines_shows_ten() {
        let bad_lines = file::parse("block\n".repeat(1000).as_bytes()).expect_err("bad");
        let shown = bad_lines.to_string();
        assert!(shown.starts_with("line 1: the line ends; expected a user; line 2: "), "{shown}");
        assert!(shown.ends_with("; line 10: the line ends; expected a user; and 990 more bad lines"), "{shown}");
    }
}
