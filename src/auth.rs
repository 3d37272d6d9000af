//! Whose callback it is: the check that nobody gets past without an `SdkAppid` of ours.

use std::collections::HashMap;

use crate::refusal::Refusal;
use crate::request::Query;

/// The applications whose callbacks are taken.
#[derive(Debug, Default)]
pub struct Apps {
    by_id: HashMap<Box<str>, usize>,
    ids: Vec<Box<str>>,
}

/// One of our applications, as its place among those configured.
///
/// Only [`check`] and [`Apps`] make one, so code that takes a `VerifiedApp` cannot be reached by a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedApp(usize);

impl VerifiedApp {
    /// Its place in the configuration, from 0.
    pub const fn index(self) -> usize {
        self.0
    }
}

impl Apps {
    /// The applications with these SdkAppids, in the order of the configuration.
    pub fn new(ids: impl IntoIterator<Item = u64>) -> Self {
        let ids: Vec<Box<str>> = ids.into_iter().map(|id| id.to_string().into_boxed_str()).collect();
        let by_id = ids.iter().enumerate().map(|(index, id)| (id.clone(), index)).collect();
        Self { by_id, ids }
    }

    /// Every application.
    pub fn iter(&self) -> impl Iterator<Item = VerifiedApp> {
        (0..self.ids.len()).map(VerifiedApp)
    }

    /// The application with this SdkAppid, for a callback of which it was verified before.
    pub fn find(&self, id: &str) -> Option<VerifiedApp> {
        self.by_id.get(id).copied().map(VerifiedApp)
    }

    /// The SdkAppid, in decimal digits.
    pub fn id(&self, app: VerifiedApp) -> &str {
        self.ids.get(app.0).map_or("", |id| id)
    }
}

/// Finds the application that `query` names. The digits must be the configured ones, with no sign and no leading zero.
///
/// # Errors
///
/// `SdkAppid` is missing, or is none of `apps`.
pub fn check(query: &Query<'_>, apps: &Apps) -> Result<VerifiedApp, Refusal> {
    let id = query.sdk_app_id.as_deref().ok_or(Refusal::AppMissing)?;
    apps.find(id).ok_or(Refusal::AppUnknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(raw: &str) -> Result<usize, Refusal> {
        check(&Query::parse(raw).unwrap(), &Apps::new([14, 15])).map(VerifiedApp::index)
    }

    #[test]
    fn only_a_configured_application_passes() {
        assert_eq!(checked("SdkAppid=14"), Ok(0));
        assert_eq!(checked("SdkAppid=15"), Ok(1));
        assert_eq!(checked("CallbackCommand=A"), Err(Refusal::AppMissing));
        for wrong in ["16", "", "014", "+14", "14 ", "1", "140", "１４"] {
            assert_eq!(checked(&format!("SdkAppid={wrong}")), Err(Refusal::AppUnknown), "{wrong:?}");
        }
    }
}
