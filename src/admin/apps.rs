//! The lists that the API serves: the common one, and those that applications have of their own.

use crate::admin::api::BlocklistApi;
use crate::admin::error::ApiError;

/// Every list, by the applications that it decides for.
#[derive(Debug)]
pub(crate) struct AppLists {
    /// Of the applications that have no list of their own.
    pub(crate) common: BlocklistApi,
    pub(crate) own: Vec<BlocklistApi>,
    /// The SdkAppid of each application, and the place of its own list, if it has one.
    pub(crate) of_apps: Vec<(String, Option<usize>)>,
}

impl AppLists {
    /// The list that decides for `app`, or the common one where none is named.
    ///
    /// # Errors
    ///
    /// The application is not configured.
    pub(super) fn of(&self, app: Option<&str>) -> Result<&BlocklistApi, ApiError> {
        let Some(app) = app else { return Ok(&self.common) };
        Ok(self.own(app)?.unwrap_or(&self.common))
    }

    /// Whether that list may be changed for `app`. What is meant for one application must not take effect for others: a user of this name
    /// there is somebody else.
    ///
    /// # Errors
    ///
    /// The application is not configured, it shares the common list, or its list is files.
    pub(super) fn check_writable(&self, app: Option<&str>) -> Result<(), ApiError> {
        let api = match app {
            None => &self.common,
            Some(app) => self.own(app)?.ok_or_else(|| ApiError::SharedList(app.to_owned()))?,
        };
        api.writable().map(|_topic| ())
    }

    /// Whether an application has a list of its own.
    pub(super) const fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    fn own(&self, app: &str) -> Result<Option<&BlocklistApi>, ApiError> {
        let found = self.of_apps.iter().find(|(id, _)| id == app);
        let (_, place) = found.ok_or_else(|| ApiError::NoApp(app.to_owned()))?;
        Ok(place.and_then(|place| self.own.get(place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::decide::Policy;
    use crate::decide::blocklist::Blocklist;

    #[test]
    fn an_application_that_shares_a_list_reads_it_and_does_not_write_it() {
        let list = |generation| BlocklistApi::read_only(Blocklist::of([], generation), Policy::default());
        let own = BlocklistApi { is_common: false, ..list(2) };
        let of_apps = vec![("1".to_owned(), None), ("2".to_owned(), Some(0))];
        let lists = AppLists { common: list(1), own: vec![own], of_apps };
        let read = |app| lists.of(app).map(BlocklistApi::generation);
        assert_eq!([None, Some("1"), Some("2")].map(read), [Ok(1), Ok(1), Ok(2)]);
        let write = |app| lists.check_writable(app);
        let refused = [ApiError::FilesOnly, ApiError::SharedList("1".to_owned()), ApiError::AppFilesOnly];
        assert_eq!([None, Some("1"), Some("2")].map(write), refused.map(Err));
        for unknown in ["3", "", "02", "2 "] {
            let error = ApiError::NoApp(unknown.to_owned());
            assert_eq!((read(Some(unknown)), write(Some(unknown))), (Err(error.clone()), Err(error)), "{unknown}");
        }
    }
}
