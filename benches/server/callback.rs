//! The callbacks that the load is made of.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use callbridge::auth::Tokens;
use callbridge::send::callbacks;
use callbridge::send::callbacks::Requests;
use callbridge::send::destination::Destination;
use clap::ValueEnum;

use crate::options::OUTPUT;

/// What signs the callbacks of the load, where they are signed.
pub(crate) const TOKEN: &str = "the-token-of-the-benchmark";

/// The file that holds it, in the output folder.
pub(crate) fn token_file() -> io::Result<PathBuf> {
    let path = Path::new(OUTPUT).join("token");
    fs::write(&path, TOKEN)?;
    Ok(path)
}

/// The application of the load.
pub(crate) const APP: u64 = 1_400_000_000;

/// Of both commands. Each connection has an account of its own, so that the records spread over partitions, and each callback a time.
const BODY: &str = r#"{"Official_Account":"@TOA#_bench","Operator_Account":"107867","SubscribeAccountList":[{"Subscriber_Account":"jared"},
    {"Subscriber_Account":"leckie"},{"Subscriber_Account":"subscriber-000107"},{"Subscriber_Account":"subscriber-000108"}]}"#;

/// Which of the commands is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Command {
    /// Tells of a subscription.
    After,
    /// Asks for one.
    Before,
}

impl Command {
    /// Its name on the command line.
    pub(crate) const fn argument(self) -> &'static str {
        match self {
            Self::After => "after",
            Self::Before => "before",
        }
    }

    /// The `CallbackCommand`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::After => "OfficialAccount.CallbackAfterAddSubscriber",
            Self::Before => "OfficialAccount.CallbackBeforeAddSubscriber",
        }
    }

    /// What is sent to `server`.
    pub(crate) fn requests(self, server: SocketAddr, is_signed: bool) -> io::Result<Requests> {
        let body = BODY.replacen('{', &format!("{{\"CallbackCommand\":\"{}\",", self.name()), 1);
        let callback = callbacks::varied(self.name(), &body)?;
        let tokens = is_signed.then(|| Tokens::parse(TOKEN.as_bytes())).transpose().map_err(io::Error::other)?;
        Ok(Requests::new(&Destination::of_address(server), APP, tokens, &[callback], true))
    }
}

/// The time of the event in a callback, or in whatever holds it as it came.
pub(crate) fn event_time(bytes: &[u8]) -> Option<u64> {
    const MEMBER: &[u8] = br#""EventTime":"#;
    let rest = bytes.get(memchr::memmem::find(bytes, MEMBER)? + MEMBER.len()..)?;
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
}
