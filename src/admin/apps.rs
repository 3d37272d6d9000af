//! The blocklists that the API serves: the common one, and those of single applications.

use crate::admin::api::BlocklistApi;
use crate::admin::error::ApiError;

/// All blocklists, by application.
#[derive(Debug)]
pub(crate) struct AppLists {
    /// The list for applications without their own.
    pub(crate) common: BlocklistApi,
    pub(crate) own: Vec<BlocklistApi>,
    /// The SdkAppid of each application, and the index of its own list, if it has one.
    pub(crate) of_apps: Vec<(String, Option<usize>)>,
}

impl AppLists {
    /// The list for `app`; without one, the common list.
    ///
    /// # Errors
    ///
    /// The application is not configured.
    pub(super) fn of(&self, app: Option<&str>) -> Result<&BlocklistApi, ApiError> {
        let Some(app) = app else { return Ok(&self.common) };
        Ok(self.own(app)?.unwrap_or(&self.common))
    }

    /// Whether the list for `app` may be changed. A change for one application must not affect others: there the same user id belongs to
    /// another user.
    ///
    /// # Errors
    ///
    /// The application is not configured, shares its list or the list's topic with others, or has a list of files only.
    pub(super) fn check_writable(&self, app: Option<&str>) -> Result<(), ApiError> {
        let Some(app) = app else { return self.common.writable().map(|_topic| ()) };
        let shares_common = || ApiError::SharedList(app.to_owned());
        let topic = self.own(app)?.ok_or_else(shares_common)?.writable()?.name();
        let has_topic = |list: &&BlocklistApi| list.topic.as_ref().is_some_and(|other| other.name() == topic);
        if has_topic(&&self.common) {
            return Err(shares_common());
        }
        let is_shared = self.own.iter().filter(has_topic).map(|list| list.apps.len()).sum::<usize>() > 1;
        if is_shared { Err(ApiError::SharedTopic(app.to_owned())) } else { Ok(()) }
    }

    /// Whether any application has its own list.
    pub(super) const fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    fn own(&self, app: &str) -> Result<Option<&BlocklistApi>, ApiError> {
        let found = self.of_apps.iter().find(|(id, _)| id == app);
        let (_, index) = found.ok_or_else(|| ApiError::NoApp(app.to_owned()))?;
        Ok(index.and_then(|index| self.own.get(index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use tokio::sync::mpsc;
    use tokio::sync::watch;

    use crate::blocklist::topic::AppliedGeneration;
    use crate::blocklist::topic::BlocklistTopic;
    use crate::blocklist::topic::TopicView;
    use crate::decide::Policy;
    use crate::decide::blocklist::Blocklist;

    #[test]
    fn a_shared_list_can_be_read_but_not_changed_for_one_application() {
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

    #[test]
    fn a_shared_topic_cannot_be_changed_for_one_application() {
        let list = |topic: &str, apps: &[&str]| {
            let view = Arc::new(ArcSwap::from_pointee(TopicView::unread()));
            let (_, applied) = watch::channel(AppliedGeneration::default());
            let topic = BlocklistTopic::new(topic.into(), view, applied, mpsc::channel(1).0);
            let read = BlocklistApi::read_only(Blocklist::of([], 0), Policy::default());
            let apps = apps.iter().map(|app| (*app).to_owned()).collect();
            BlocklistApi { topic: Some(topic), apps, is_common: false, ..read }
        };
        // 2 and 3 share a list. The lists of 4 and 5 share a topic, and differ in files; so do the list of 6 and the common one.
        let own =
            vec![list("a", &["2", "3"]), list("b", &["4"]), list("b", &["5"]), list("c", &["6"]), list("d", &["7"])];
        let indexes = [("2", 0), ("3", 0), ("4", 1), ("5", 2), ("6", 3), ("7", 4)];
        let of_apps = indexes.map(|(app, index)| (app.to_owned(), Some(index))).into();
        let lists = AppLists { common: list("c", &[]), own, of_apps };
        for app in ["2", "3", "4", "5"] {
            assert_eq!(lists.check_writable(Some(app)), Err(ApiError::SharedTopic(app.to_owned())));
        }
        assert_eq!(lists.check_writable(Some("6")), Err(ApiError::SharedList("6".to_owned())));
        assert_eq!([None, Some("7")].map(|app| lists.check_writable(app)), [Ok(()), Ok(())]);
    }
}
