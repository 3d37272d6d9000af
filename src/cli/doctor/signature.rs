//! Checks that a callback which is signed with a configured token is taken: by the code that serves, with a sample callback of now.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::auth;
use crate::auth::Apps;
use crate::auth::Tokens;
use crate::cli::doctor::report::CheckSection;
use crate::clock;
use crate::clock::UnixMillis;
use crate::config::App;
use crate::config::Config;
use crate::follow::file;
use crate::refusal::Refusal;
use crate::request::Query;

/// Signs a sample callback for each token file of each application, and judges it as the server does.
pub(super) fn samples(config: &Config) -> CheckSection {
    let mut section = CheckSection::new("signature");
    for app in &config.apps {
        let id = app.sdk_app_id;
        if app.token_files.is_empty() {
            section.skip(format!("application {id}: no token file, so its callbacks are not signed"));
        }
        for path in &app.token_files {
            let shown = path.display();
            match judged(config, app, path, clock::wall()) {
                Some(Ok(())) => {
                    section.ok(format!("application {id}: a callback signed with the first token of {shown} is taken"));
                }
                Some(Err(refusal)) => section.fail(
                    format!(
                        "application {id}: a callback signed with the first token of {shown} is refused: {refusal}"
                    ),
                    "write the token into the file as Tencent's console shows it",
                ),
                None => section.skip(format!("application {id}: not tried: {shown} cannot be used")),
            }
        }
    }
    section
}

/// Whether a callback of `now` is taken that is signed with the first token of the file. `None`: the file cannot be used.
fn judged(config: &Config, app: &App, path: &Path, now: UnixMillis) -> Option<Result<(), Refusal>> {
    let tokens: Tokens = file::read(path).ok()?;
    let time = now.0.div_euclid(1000).to_string();
    let sign = tokens.signature(&time)?;
    let tokens = Some(Arc::new(ArcSwap::from_pointee(tokens)));
    let apps = Apps::new([app.sdk_app_id]).signed(vec![tokens], config.callbacks.sign_window);
    let query = format!(
        "SdkAppid={}&CallbackCommand=State.StateChange&contenttype=json&ClientIP=127.0.0.1&OptPlatform=Linux&Sign={sign}&RequestTime={time}",
        app.sdk_app_id
    );
    let query = Query::parse(&query).map_err(Refusal::Query);
    Some(query.and_then(|query| auth::check(&query, &apps, now).map(drop)))
}
