//! The pure stages of callbridge, and what must hold of them whatever is sent.

// What the checks call callbridge: here these modules, in `cargo test` the library itself.
extern crate self as callbridge;

#[path = "../../src/auth.rs"]
pub mod auth;
#[path = "../../src/body.rs"]
pub mod body;
#[path = "../../src/capture.rs"]
pub mod capture;
#[path = "../../src/clock.rs"]
pub mod clock;
#[path = "../../src/command.rs"]
pub mod command;
#[path = "../../src/decide/mod.rs"]
pub mod decide;
#[path = "../../src/invisible.rs"]
pub mod invisible;
#[path = "../../src/normalise/mod.rs"]
pub mod normalise;
#[path = "../../src/parse.rs"]
pub mod parse;
#[path = "../../src/question.rs"]
pub mod question;
#[path = "../../src/record.rs"]
pub mod record;
#[path = "../../src/refusal.rs"]
pub mod refusal;
#[path = "../../src/request.rs"]
pub mod request;

pub mod checks;

#[path = "../../tests/it/support/schema.rs"]
mod schema;

mod support {
    pub(crate) use crate::schema;
}
