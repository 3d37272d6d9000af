//! A pipe that is full: a stream of callbridge that nobody reads until the test does.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use tempfile::TempDir;

/// A named pipe, without a place for one more byte until [`Self::read`] is called. Closed when dropped.
pub(crate) struct FullPipe {
    /// Both ends, so that no open of the other waits.
    file: File,
    path: PathBuf,
    _folder: TempDir,
}

impl FullPipe {
    /// Makes it, and fills it with empty lines.
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix_in("pipe-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let non_blocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let mut file = OpenOptions::new().read(true).write(true).custom_flags(non_blocking).open(&path).unwrap();
        for lines in [&[b'\n'; 4096][..], b"\n"] {
            while file.write_all(lines).is_ok() {}
        }
        Self { file, path, _folder: folder }
    }

    /// What makes it the stderr of the program that is written behind it.
    pub(crate) fn as_stderr(&self) -> [String; 4] {
        self.redirected("2")
    }

    /// The same for stdout.
    pub(crate) fn as_stdout(&self) -> [String; 4] {
        self.redirected("1")
    }

    fn redirected(&self, stream: &str) -> [String; 4] {
        let script = format!(r#"exec "$@" {stream}>"$0""#);
        ["sh".to_owned(), "-c".to_owned(), script, self.path.to_str().unwrap().to_owned()]
    }

    /// Takes what is in it, which makes room.
    pub(crate) fn read(&mut self) -> String {
        let mut bytes = Vec::new();
        let end = self.file.read_to_end(&mut bytes).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::WouldBlock);
        String::from_utf8(bytes).unwrap()
    }
}
