//! The harnesses that the tests stand on.

pub(crate) mod alone;
pub(crate) mod bridge;
pub(crate) mod curl;
pub(crate) mod errno;
pub(crate) mod files;
pub(crate) mod foreign;
pub(crate) mod full_disk;
pub(crate) mod http;
pub(crate) mod inspect;
pub(crate) mod java;
pub(crate) mod journal;
pub(crate) mod kafka;
pub(crate) mod ledger;
pub(crate) mod load;
pub(crate) mod mounted;
pub(crate) mod openssl;
pub(crate) mod oracle;
pub(crate) mod ports;
pub(crate) mod powercut;
pub(crate) mod process;
pub(crate) mod reader;
pub(crate) mod real;
pub(crate) mod settings;
pub(crate) mod tls;
pub(crate) mod torture;
pub(crate) mod wait;
