//! The operations of the blocklist API: they read the current list, and write to its topic.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::time;

use crate::admin::changes::NumberedChange;
use crate::admin::error::ApiError;
use crate::admin::model::BlocklistStatus;
use crate::admin::model::ChangedRule;
use crate::admin::model::ChangedRules;
use crate::admin::model::FollowState;
use crate::admin::model::FoundRule;
use crate::admin::model::KindCounts;
use crate::admin::model::LineResult;
use crate::admin::model::LookupAnswer;
use crate::admin::model::LookupDecision;
use crate::admin::model::LookupRule;
use crate::admin::model::RuleView;
use crate::admin::model::RulesPage;
use crate::admin::model::SourceStatus;
use crate::admin::model::TopicStatus;
use crate::blocklist::lists::ListFiles;
use crate::blocklist::topic::BlocklistTopic;
use crate::blocklist::topic::ChangeAction;
use crate::blocklist::topic::RequestedChange;
use crate::blocklist::topic::TopicState;
use crate::blocklist::topic::TopicView;
use crate::blocklist::topic::WriteError;
use crate::blocklist::topic::WriteRequest;
use crate::blocklist::topic::WrittenChange;
use crate::clock;
use crate::clock::UnixMillis;
use crate::decide::Policy;
use crate::decide::blocklist::Blocklist;
use crate::decide::blocklist::SourceKind;
use crate::decide::explain;
use crate::decide::rule::Rule;
use crate::decide::rule::RuleKind;
use crate::decide::rules::Rules;
use crate::decide::topic::value::Provenance;
use crate::decide::topic::value::RuleValue;

/// The timeout of a write: the 5 s that Kafka has to acknowledge it, and the time in the writer's queue.
const WRITE_TIMEOUT: Duration = Duration::from_secs(6);
/// The timeout for applying an acknowledged change at this replica.
const APPLIED_TIMEOUT: Duration = Duration::from_secs(5);

/// A blocklist for reading, and its topic for writing.
#[derive(Debug, Clone)]
pub(crate) struct BlocklistApi {
    pub(crate) list: Arc<ArcSwap<Blocklist>>,
    pub(crate) policy: Policy,
    /// `None` if the list has only files.
    pub(crate) topic: Option<BlocklistTopic>,
    pub(crate) files: ListFiles,
    /// The applications that use the list, by SdkAppid.
    pub(crate) apps: Vec<String>,
    /// Whether it is the list for applications without their own.
    pub(crate) is_common: bool,
}

/// When a write is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// Kafka has acknowledged the change, and this replica has applied it.
    Applied,
    /// Kafka has acknowledged the change.
    Acknowledged,
}

/// The author of a change.
#[derive(Debug)]
pub(crate) struct Author {
    pub(crate) who: Box<str>,
    /// The means: `api`, `cli`, or `import:` and a name.
    pub(crate) source: Box<str>,
    /// The `X-Request-Id` of the request.
    pub(crate) request: Option<Box<str>>,
}

/// The rules that a page contains.
#[derive(Debug)]
pub(crate) struct PageQuery {
    pub(crate) kind: Option<RuleKind>,
    pub(crate) account: Option<String>,
    /// The prefix of the user; for a `close`, of the account.
    pub(crate) prefix: Option<String>,
    /// At least 1.
    pub(crate) limit: usize,
    /// The last rule of the previous page.
    pub(crate) after: Option<Rule<'static>>,
}

impl BlocklistApi {
    /// A list that cannot be changed.
    pub(crate) fn read_only(list: Blocklist, policy: Policy) -> Self {
        let list = Arc::new(ArcSwap::from_pointee(list));
        Self { list, policy, topic: None, files: ListFiles::default(), apps: Vec::new(), is_common: true }
    }

    /// The topic to which changes are written.
    pub(super) fn writable(&self) -> Result<&BlocklistTopic, ApiError> {
        let files_only = || if self.is_common { ApiError::FilesOnly } else { ApiError::AppFilesOnly };
        self.topic.as_ref().ok_or_else(files_only)
    }

    /// The generation of the current list.
    pub(super) fn generation(&self) -> u64 {
        self.list.load().generation()
    }

    pub(super) fn status(&self) -> BlocklistStatus {
        let (list, now) = (self.list.load_full(), clock::monotonic());
        let topic = self.topic.as_ref().map(|topic| (topic, topic.view()));
        let sources = self.sources(&list, topic.as_ref().map(|(topic, view)| (topic.name(), &**view)), now);
        BlocklistStatus {
            apps: self.apps.clone(),
            generation: list.generation(),
            state: match &topic {
                Some((_, view)) => follow_state(view.state),
                None if list.is_loaded() => FollowState::Live,
                None => FollowState::Reading,
            },
            entries: list.rule_count(),
            bytes: sources.iter().map(|source| source.bytes).sum(),
            sources,
            topic: topic.map(|(topic, view)| topic_status(topic, &view, now)),
        }
    }

    /// Every source of the list: the files, including those that were never loaded, and the topic.
    fn sources(&self, list: &Blocklist, topic: Option<(&str, &TopicView)>, now: Instant) -> Vec<SourceStatus> {
        let mut sources: Vec<SourceStatus> = Vec::new();
        for file in self.files.status() {
            let age = file.loaded.map(|loaded| now.saturating_duration_since(loaded));
            sources.push(source_status(SourceKind::File.label(&file.path), age, file.error.as_deref()));
        }
        if let Some((name, view)) = topic {
            sources.push(source_status(SourceKind::Topic.label(name), view.age(now), view.error.as_deref()));
        }
        for source in list.sources() {
            let label = &**source.label();
            let index = sources.iter().position(|known| known.source == label).unwrap_or_else(|| {
                sources.push(source_status(label.to_owned(), None, None));
                sources.len() - 1
            });
            if let Some(status) = sources.get_mut(index) {
                (status.entries, status.bytes) = (kind_counts(source.rules().counts()), source.rules().bytes());
            }
        }
        sources
    }

    pub(crate) fn lookup(&self, user: &str, account: Option<&str>) -> LookupAnswer {
        let (list, now) = (self.list.load_full(), clock::wall());
        let explanation = explain::explain(user, account, &list, self.policy, now);
        let because = explanation.decision.rules.iter().find(|decisive| {
            let is_listed = |explained: &explain::ExplainedRule<'_>| explained.rule.to_string() == *decisive.rule;
            !explanation.rules.iter().any(is_listed)
        });
        let rules = explanation.rules.iter().map(|explained| LookupRule {
            rule: RuleView::of(&explained.rule, &explained.value, &explained.source, now),
            decided: explained.has_decided,
        });
        LookupAnswer {
            decision: if explanation.is_refused() { LookupDecision::Refuse } else { LookupDecision::Allow },
            enforced: explanation.decision.enforced,
            because: because.map(|decisive| match &*decisive.source {
                "" => decisive.rule.to_string(),
                source => format!("{} ({source})", decisive.rule),
            }),
            rules: rules.collect(),
            generation: list.generation(),
        }
    }

    pub(super) fn get(&self, rule: &Rule<'_>) -> Result<FoundRule, ApiError> {
        let list = self.list.load_full();
        let mut views = views_of(&list, rule, clock::wall());
        // The topic comes first, because the API can change its rules.
        views.sort_by_key(|(kind, _)| *kind != SourceKind::Topic);
        let mut views = views.into_iter().map(|(_, view)| view);
        let rule = views.next().ok_or_else(|| ApiError::NoRule(rule.to_string()))?;
        Ok(FoundRule { rule, others: views.collect(), generation: list.generation() })
    }

    /// A page of rules, from a scan of all rules.
    pub(crate) fn page(&self, query: &PageQuery) -> RulesPage {
        let (list, now) = (self.list.load_full(), clock::wall());
        let mut smallest: BTreeSet<SortedRule<'_>> = BTreeSet::new();
        let after = query.after.as_ref().map(sort_key);
        for rule in list.sources().iter().flat_map(|source| source.rules().iter_rules()) {
            let key = sort_key(&rule);
            let is_behind_page =
                smallest.len() > query.limit && smallest.last().is_some_and(|last| key >= sort_key(&last.0));
            if is_behind_page || after.as_ref().is_some_and(|after| key <= *after) || !query.matches(&rule) {
                continue;
            }
            smallest.insert(SortedRule(rule));
            // One more than the page contains, to find out whether there is a next page.
            if smallest.len() > query.limit.saturating_add(1) {
                smallest.pop_last();
            }
        }
        if smallest.len() > query.limit {
            smallest.pop_last();
            let next = smallest.last().map(|last| last.0.to_string());
            return page_of(&list, &smallest, next, now);
        }
        page_of(&list, &smallest, None, now)
    }

    /// Writes one change.
    pub(super) async fn change(
        &self,
        change: RequestedChange,
        author: Author,
        wait: WaitFor,
    ) -> Result<ChangedRule, ApiError> {
        let topic = self.writable()?;
        let (who, via) = (author.who.clone(), author.source.clone());
        let (written, generation) = write(topic, vec![change.clone()], author, wait).await?;
        let replaced = written.into_iter().next().and_then(|written| written.replaced);
        let (source, now) = (format!("topic:{}", topic.name()), clock::wall());
        let view = |value: &RuleValue<'_>| RuleView::of(&change.rule, value, &source, now);
        let as_requested = |until, because: Option<&str>| RuleValue {
            until,
            provenance: Provenance {
                who: Some(who.to_string().into()),
                source: Some(via.to_string().into()),
                ..Provenance::of_reason(because)
            }
            .into_owned(),
        };
        let rule = match &change.action {
            // As written, including the time, if this replica has applied it.
            ChangeAction::Put { until, because } => {
                let found = (wait == WaitFor::Applied).then(|| topic.view().rules.find(&change.rule)).flatten();
                view(&found.unwrap_or_else(|| as_requested(*until, because.as_deref())))
            }
            ChangeAction::Delete { because } => view(&as_requested(UnixMillis::NEVER, because.as_deref())),
        };
        Ok(ChangedRule { rule, replaced: replaced.as_ref().map(view), generation })
    }

    /// Writes a batch of changes, or computes its effects.
    pub(crate) async fn change_all(
        &self,
        changes: Vec<NumberedChange>,
        author: Author,
        wait: WaitFor,
        dry_run: bool,
    ) -> Result<ChangedRules, ApiError> {
        let topic = self.writable()?;
        let view = topic.view();
        if view.state == TopicState::Reading {
            return Err(WriteError::NotRead.into());
        }
        let mut answer = effects_of(&changes, &view.rules, view.generation, topic.name());
        answer.dry_run = dry_run;
        if !dry_run && !changes.is_empty() {
            let requested = changes.into_iter().map(|numbered| numbered.change).collect();
            let (_written, generation) = write(topic, requested, author, wait).await?;
            answer.generation = generation;
        }
        Ok(answer)
    }
}

impl PageQuery {
    fn matches(&self, rule: &Rule<'_>) -> bool {
        let id = rule.user().or(rule.account()).unwrap_or_default();
        self.kind.is_none_or(|kind| rule.kind() == kind)
            && self.account.as_deref().is_none_or(|account| rule.account() == Some(account))
            && self.prefix.as_deref().is_none_or(|prefix| id.starts_with(prefix))
    }
}

/// Writes `changes`, and waits as requested. Also returns the first generation with all of them.
async fn write(
    topic: &BlocklistTopic,
    changes: Vec<RequestedChange>,
    author: Author,
    wait: WaitFor,
) -> Result<(Vec<WrittenChange>, u64), ApiError> {
    let request = WriteRequest { who: author.who, source: author.source, request: author.request, changes };
    let timed_out =
        || ApiError::Unavailable("kafka has not acknowledged the change in time: it may still be applied".to_owned());
    let full_reads = topic.full_reads();
    let written = time::timeout(WRITE_TIMEOUT, topic.write(request)).await.map_err(|_elapsed| timed_out())??;
    let generation = written.iter().map(|written| written.generation).max().unwrap_or_default();
    if wait == WaitFor::Applied {
        let not_applied = |why: &str| {
            ApiError::Unavailable(format!("kafka has acknowledged the change as generation {generation}, but {why}"))
        };
        let applied = time::timeout(APPLIED_TIMEOUT, topic.applied(generation, full_reads)).await;
        let applied = applied.map_err(|_elapsed| not_applied("this replica has not applied it yet"))?;
        applied.map_err(|error| not_applied(&error.to_string()))?;
    }
    Ok((written, generation))
}

/// The effects of the changes, in order, on `rules`: those of `topic` as of `generation`.
pub(crate) fn effects_of(changes: &[NumberedChange], rules: &Rules, generation: u64, topic: &str) -> ChangedRules {
    let (source, now) = (format!("topic:{topic}"), clock::wall());
    let mut answer = ChangedRules {
        dry_run: false,
        added: 0,
        changed: 0,
        removed: 0,
        unchanged: 0,
        results: Vec::with_capacity(changes.len()),
        generation,
    };
    let mut earlier: HashMap<String, Option<RuleValue<'static>>> = HashMap::new();
    for NumberedChange { line, change } in changes {
        let sentence = change.rule.to_string();
        let before = earlier.remove(&sentence).unwrap_or_else(|| rules.find(&change.rule));
        let after = match &change.action {
            ChangeAction::Put { until, because } => {
                Some(RuleValue { until: *until, provenance: Provenance::of_reason(because.as_deref()) }.into_owned())
            }
            ChangeAction::Delete { .. } => None,
        };
        let count = match (&before, &after) {
            (None, None) => &mut answer.unchanged,
            (None, Some(_)) => &mut answer.added,
            (Some(_), None) => &mut answer.removed,
            (Some(old), Some(new)) if is_same(old, new) => &mut answer.unchanged,
            (Some(_), Some(_)) => &mut answer.changed,
        };
        *count += 1;
        let replaced = before.map(|value| RuleView::of(&change.rule, &value, &source, now));
        answer.results.push(LineResult { line: *line, rule: sentence.clone(), replaced });
        earlier.insert(sentence, after);
    }
    answer
}

/// Whether both have the same end and reason.
fn is_same(one: &RuleValue<'_>, other: &RuleValue<'_>) -> bool {
    one.until == other.until && one.provenance.because == other.provenance.because
}

/// `rule` in each source that has it.
fn views_of(list: &Blocklist, rule: &Rule<'_>, now: UnixMillis) -> Vec<(SourceKind, RuleView)> {
    let of_source = list.sources().iter().filter_map(|source| {
        let value = source.rules().find(rule)?;
        Some((source.kind(), RuleView::of(rule, &value, source.label(), now)))
    });
    of_source.collect()
}

fn page_of(list: &Blocklist, rules: &BTreeSet<SortedRule<'_>>, next: Option<String>, now: UnixMillis) -> RulesPage {
    let views = rules.iter().flat_map(|rule| views_of(list, &rule.0, now)).map(|(_, view)| view);
    RulesPage { rules: views.collect(), next, generation: list.generation() }
}

/// A rule, ordered as in pages.
#[derive(Debug)]
struct SortedRule<'a>(Rule<'a>);

fn sort_key<'r>(rule: &'r Rule<'_>) -> (&'static str, &'r str, &'r str) {
    (rule.kind().as_str(), rule.user().unwrap_or_default(), rule.account().unwrap_or_default())
}

impl Ord for SortedRule<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        sort_key(&self.0).cmp(&sort_key(&other.0))
    }
}

impl PartialOrd for SortedRule<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SortedRule<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for SortedRule<'_> {}

const fn follow_state(state: TopicState) -> FollowState {
    match state {
        TopicState::Reading => FollowState::Reading,
        TopicState::Live => FollowState::Live,
        TopicState::Stale => FollowState::Stale,
    }
}

/// The status of a source without rules.
fn source_status(source: String, age: Option<Duration>, error: Option<&str>) -> SourceStatus {
    SourceStatus {
        source,
        entries: KindCounts::default(),
        bytes: 0,
        age_seconds: age.map(|age| age.as_secs()),
        error: error.map(str::to_owned),
    }
}

fn topic_status(topic: &BlocklistTopic, view: &TopicView, now: Instant) -> TopicStatus {
    TopicStatus {
        name: topic.name().to_owned(),
        identity: view.identity.map(|identity| identity.to_string()),
        age_seconds: view.age(now).map(|age| age.as_secs()),
        poison: view.poison,
        error: view.error.as_deref().map(str::to_owned),
    }
}

fn kind_counts(counts: [usize; 4]) -> KindCounts {
    let mut by_kind = KindCounts::default();
    for (kind, count) in RuleKind::ALL.into_iter().zip(counts) {
        match kind {
            RuleKind::Block => by_kind.block = count,
            RuleKind::Pardon => by_kind.pardon = count,
            RuleKind::Allow => by_kind.allow = count,
            RuleKind::Close => by_kind.close = count,
        }
    }
    by_kind
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::decide::blocklist::Source;
    use crate::decide::file::parse;
    use crate::decide::rule::Sentence;

    fn api(texts: &[&str]) -> BlocklistApi {
        let source = |(nth, text): (i32, &&str)| {
            Source::new(SourceKind::File, &nth.to_string(), Arc::new(parse(text.as_bytes()).expect("good")))
        };
        BlocklistApi::read_only(Blocklist::of((1..).zip(texts).map(source), 7), Policy::default())
    }

    fn all(limit: usize) -> PageQuery {
        PageQuery { kind: None, account: None, prefix: None, limit, after: None }
    }

    fn sentences(page: &RulesPage) -> Vec<&str> {
        page.rules.iter().map(|view| view.rule.as_str()).collect()
    }

    #[test]
    fn a_page_is_filtered_by_kind_account_and_prefix() {
        let api = api(&["bob\nbert on @a\ncarol\nblock bob on @a\nallow bob on @b\nclose @ab\npardon bob"
            .replace("bert on @a\n", "block bert on @a\n")
            .as_str()]);
        let page = |query: PageQuery| sentences(&api.page(&query)).join("; ");
        assert_eq!(
            page(all(100)),
            "allow bob on @b; block bert on @a; block bob; block bob on @a; block carol; close @ab; pardon bob"
        );
        assert_eq!(
            page(PageQuery { kind: Some(RuleKind::Block), prefix: Some("b".into()), ..all(9) }),
            "block bert on @a; block bob; block bob on @a"
        );
        assert_eq!(page(PageQuery { account: Some("@a".into()), ..all(9) }), "block bert on @a; block bob on @a");
        assert_eq!(page(PageQuery { kind: Some(RuleKind::Close), prefix: Some("@a".into()), ..all(9) }), "close @ab");
    }

    #[test]
    fn a_page_of_unlimited_size_has_every_rule() {
        let page = api(&["bob\ncarol"]).page(&all(usize::MAX));
        assert_eq!((sentences(&page), page.next.as_deref()), (vec!["block bob", "block carol"], None));
    }

    #[test]
    fn the_status_counts_rules_by_kind_and_source() {
        let status = api(&["bob\nclose @a", "pardon bob\nallow bob on @a\nbob"]).status();
        assert_eq!((status.generation, status.state, status.entries), (7, FollowState::Live, 5));
        let counts: Vec<_> = status.sources.iter().map(|source| (source.source.as_str(), source.entries)).collect();
        let first = KindCounts { block: 1, close: 1, ..KindCounts::default() };
        let second = KindCounts { block: 1, pardon: 1, allow: 1, close: 0 };
        assert_eq!(counts, [("file:1", first), ("file:2", second)]);
        assert!(status.bytes > 0 && status.topic.is_none());
    }

    #[test]
    fn a_lookup_explains_a_refusal_without_a_decisive_rule() {
        let answer = api(&["allow carol on @a\npardon bob"]).lookup("bob", Some("@a"));
        assert_eq!(
            (answer.decision, answer.because.as_deref()),
            (LookupDecision::Refuse, Some("only those allowed on @a (file:1)"))
        );
        assert_eq!(answer.rules.len(), 1);
        let answer = api(&["bob because spam"]).lookup("bob", None);
        assert_eq!((answer.decision, answer.because), (LookupDecision::Refuse, None));
        assert!(answer.rules[0].decided);
    }

    #[test]
    fn a_rule_is_found_in_each_source_that_has_it() {
        let api = api(&["bob", "bob until 2020-01-01T00:00:00Z because old"]);
        let found = api.get(&Rule::Block { user: "bob".into(), account: None }).expect("there");
        assert_eq!((found.rule.source.as_str(), found.rule.expired), ("file:1", false));
        assert_eq!((found.others[0].because.as_deref(), found.others[0].expired), (Some("old"), true));
        let missing = Rule::Block { user: "bob".into(), account: Some("@a".into()) };
        assert_eq!(api.get(&missing), Err(ApiError::NoRule("block bob on @a".to_owned())));
    }

    proptest! {
        #[test]
        fn all_pages_together_have_every_rule_once_and_in_order(
            sources in prop::collection::vec(prop::collection::vec("(block|pardon) [a-c]( on @[ab])?|allow [a-c] on @[ab]|close @[a-c]", 0..9), 0..3),
            limit in 1..5_usize,
        ) {
            let texts: Vec<String> = sources.iter().map(|lines| lines.join("\n")).collect();
            let api = api(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let mut expected: Vec<Rule<'_>> =
                sources.iter().flatten().map(|line| Sentence::parse(line).expect("a sentence").rule).collect();
            expected.sort_by(|one, other| sort_key(one).cmp(&sort_key(other)));
            expected.dedup();
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = api.page(&PageQuery { after, ..all(limit) });
                let mut rules: Vec<String> = page.rules.iter().map(|view| view.rule.clone()).collect();
                rules.dedup();
                prop_assert!(rules.len() == limit || page.next.is_none());
                listed.extend(rules);
                let Some(next) = page.next else { break };
                after = Some(Sentence::parse(&next).expect("a sentence").rule.into_owned());
            }
            prop_assert_eq!(listed, expected.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
    }
}
