//! The routes of the admin listener: one table, used to match requests and to generate `/openapi.json`.

use std::borrow::Cow;

use crate::decide::rule::Rule;
use crate::decide::rule::RuleKind;
use crate::request;

/// The methods of the routes. A route with GET also accepts HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Put,
    Delete,
    Post,
}

/// The operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    StatusPage,
    Livez,
    Readyz,
    Metrics,
    OpenApi,
    Blocklist(BlocklistCall),
}

/// The operation of a request to the blocklist API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlocklistCall {
    Status,
    Lookup,
    ListRules,
    ChangeRules,
    GetRule(RuleKind),
    PutRule(RuleKind),
    DeleteRule(RuleKind),
}

/// A path and its operations.
#[derive(Debug)]
pub(super) struct Route {
    /// Segments in braces are ids: arbitrary text, percent-encoded.
    pub(super) path: &'static str,
    pub(super) operations: &'static [(Verb, Operation)],
}

/// Every route.
pub(super) const ROUTES: &[Route] = &[
    Route { path: "/", operations: &[(Verb::Get, Operation::StatusPage)] },
    Route { path: "/livez", operations: &[(Verb::Get, Operation::Livez)] },
    Route { path: "/readyz", operations: &[(Verb::Get, Operation::Readyz)] },
    Route { path: "/metrics", operations: &[(Verb::Get, Operation::Metrics)] },
    Route { path: "/openapi.json", operations: &[(Verb::Get, Operation::OpenApi)] },
    Route { path: "/blocklist", operations: &[(Verb::Get, Operation::Blocklist(BlocklistCall::Status))] },
    Route { path: "/blocklist/lookup", operations: &[(Verb::Get, Operation::Blocklist(BlocklistCall::Lookup))] },
    Route { path: "/blocklist/rules", operations: &[(Verb::Get, Operation::Blocklist(BlocklistCall::ListRules))] },
    Route { path: "/blocklist/changes", operations: &[(Verb::Post, Operation::Blocklist(BlocklistCall::ChangeRules))] },
    Route { path: "/blocklist/users/{user}", operations: &of_rules(RuleKind::Block) },
    Route { path: "/blocklist/pardoned/{user}", operations: &of_rules(RuleKind::Pardon) },
    Route { path: "/blocklist/accounts/{account}/blocked/{user}", operations: &of_rules(RuleKind::Block) },
    Route { path: "/blocklist/accounts/{account}/pardoned/{user}", operations: &of_rules(RuleKind::Pardon) },
    Route { path: "/blocklist/accounts/{account}/allowed/{user}", operations: &of_rules(RuleKind::Allow) },
    Route { path: "/blocklist/accounts/{account}/closed", operations: &of_rules(RuleKind::Close) },
];

const fn of_rules(kind: RuleKind) -> [(Verb, Operation); 3] {
    [
        (Verb::Get, Operation::Blocklist(BlocklistCall::GetRule(kind))),
        (Verb::Put, Operation::Blocklist(BlocklistCall::PutRule(kind))),
        (Verb::Delete, Operation::Blocklist(BlocklistCall::DeleteRule(kind))),
    ]
}

impl Verb {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Post => "POST",
        }
    }
}

impl BlocklistCall {
    /// Whether it changes the blocklist.
    pub(super) const fn is_write(self) -> bool {
        matches!(self, Self::ChangeRules | Self::PutRule(_) | Self::DeleteRule(_))
    }
}

impl Route {
    /// The operation of `method`.
    pub(super) fn operation(&self, method: &str) -> Option<Operation> {
        let method = if method == "HEAD" { "GET" } else { method };
        self.operations.iter().find(|(verb, _)| verb.as_str() == method).map(|(_, operation)| *operation)
    }

    /// The methods, as the value of the header `Allow`.
    pub(super) fn methods(&self) -> String {
        let names = self.operations.iter().flat_map(|(verb, _)| match verb {
            Verb::Get => ["GET", "HEAD"].as_slice(),
            Verb::Put => &["PUT"],
            Verb::Delete => &["DELETE"],
            Verb::Post => &["POST"],
        });
        names.copied().collect::<Vec<_>>().join(", ")
    }
}

/// The ids in a path, not decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PathIds<'a> {
    user: Option<&'a str>,
    account: Option<&'a str>,
}

/// Why an id is invalid.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadId {
    /// `user` or `account`.
    pub(super) field: &'static str,
    pub(super) why: &'static str,
}

/// The route of `path`, and the ids in it.
pub(super) fn find(path: &str) -> Option<(&'static Route, PathIds<'_>)> {
    ROUTES.iter().find_map(|route| Some((route, PathIds::of(route.path, path)?)))
}

impl<'a> PathIds<'a> {
    fn of(template: &str, path: &'a str) -> Option<Self> {
        let (mut segments, mut ids) = (path.split('/'), Self::default());
        for expected in template.split('/') {
            let segment = segments.next()?;
            match expected {
                "{user}" => ids.user = Some(segment),
                "{account}" => ids.account = Some(segment),
                _ if expected == segment => {}
                _ => return None,
            }
        }
        segments.next().is_none().then_some(ids)
    }

    /// The rule of this kind with these ids.
    ///
    /// # Errors
    ///
    /// An id is empty, invalidly encoded, missing, or not part of a rule of this kind.
    pub(super) fn rule(&self, kind: RuleKind) -> Result<Rule<'static>, BadId> {
        let user = self.user.map(|user| decoded("user", user)).transpose()?;
        let account = self.account.map(|account| decoded("account", account)).transpose()?;
        rule(kind, user, account)
    }
}

fn decoded(field: &'static str, raw: &str) -> Result<String, BadId> {
    let why = "is not percent-encoded UTF-8";
    request::decode(raw).map(Cow::into_owned).ok_or(BadId { field, why })
}

/// The rule of this kind with these ids.
///
/// # Errors
///
/// An id is empty, missing, or not part of a rule of this kind.
pub(super) fn rule(kind: RuleKind, user: Option<String>, account: Option<String>) -> Result<Rule<'static>, BadId> {
    for (field, id) in [("user", &user), ("account", &account)] {
        if id.as_ref().is_some_and(String::is_empty) {
            return Err(BadId { field, why: "is empty" });
        }
    }
    let missing = |field| BadId { field, why: "is missing" };
    let account_needed = |account: Option<String>| account.ok_or_else(|| missing("account")).map(Cow::Owned);
    if kind == RuleKind::Close {
        return match user {
            Some(_) => Err(BadId { field: "user", why: "is not allowed in a `close`, which applies to all users" }),
            None => Ok(Rule::Close { account: account_needed(account)? }),
        };
    }
    let user = Cow::Owned(user.ok_or_else(|| missing("user"))?);
    Ok(match kind {
        RuleKind::Block => Rule::Block { user, account: account.map(Cow::Owned) },
        RuleKind::Pardon => Rule::Pardon { user, account: account.map(Cow::Owned) },
        RuleKind::Allow | RuleKind::Close => Rule::Allow { user, account: account_needed(account)? },
    })
}

/// The parameter of every path of the blocklist: the SdkAppid of an application.
pub(super) const APP: &str = "app";

/// The parameters of a query, without [`APP`].
///
/// # Errors
///
/// A name is not one of `names` or occurs twice, or its value is invalidly encoded. Returns the name and the reason.
pub(super) fn query<const N: usize>(
    raw: Option<&str>,
    names: [&str; N],
) -> Result<[Option<String>; N], (String, &'static str)> {
    values(pairs(raw).filter(|(name, _)| name != APP), names)
}

/// The application in a query.
///
/// # Errors
///
/// As for [`query`].
pub(super) fn app(raw: Option<&str>) -> Result<Option<String>, (String, &'static str)> {
    values(pairs(raw).filter(|(name, _)| name == APP), [APP]).map(|[app]| app)
}

/// The pairs of a query: names decoded, values not.
fn pairs(raw: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (request::decode(name).unwrap_or(Cow::Borrowed(name)), value)
    })
}

fn values<'q, const N: usize>(
    pairs: impl Iterator<Item = (Cow<'q, str>, &'q str)>,
    names: [&str; N],
) -> Result<[Option<String>; N], (String, &'static str)> {
    let mut values = [const { None }; N];
    for (name, raw_value) in pairs {
        let name = name.into_owned();
        let slot = names.iter().position(|known| *known == name).and_then(|index| values.get_mut(index));
        let Some(slot) = slot else { return Err((name, "is not a parameter of this path")) };
        let Some(value) = request::decode(raw_value) else { return Err((name, "is not percent-encoded UTF-8")) };
        if slot.replace(value.into_owned()).is_some() {
            return Err((name, "is given twice"));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule_of(path: &str) -> Result<String, BadId> {
        let (route, ids) = find(path).expect("a route");
        let Some(Operation::Blocklist(BlocklistCall::GetRule(kind))) = route.operation("GET") else {
            panic!("{path} is not the path of a rule")
        };
        ids.rule(kind).map(|rule| rule.to_string())
    }

    #[test]
    fn a_path_maps_to_the_rule_of_its_kind_and_ids() {
        let cases = [
            ("/blocklist/users/bob", "block bob"),
            ("/blocklist/users/a%2Fb", "block a/b"),
            ("/blocklist/users/%40RBT%23001", "block @RBT#001"),
            ("/blocklist/users/+86", "block +86"),
            ("/blocklist/users/two%20words", r#"block "two words""#),
            ("/blocklist/users/%25", "block %"),
            ("/blocklist/users/..", "block .."),
            ("/blocklist/users/%e4%bd%a0", "block 你"),
            ("/blocklist/pardoned/bob", "pardon bob"),
            ("/blocklist/accounts/%40TOA%23_news/blocked/bob", "block bob on @TOA#_news"),
            ("/blocklist/accounts/a%2Fb%3Fc/pardoned/bob", "pardon bob on a/b?c"),
            ("/blocklist/accounts/@a/allowed/blocked", "allow blocked on @a"),
            ("/blocklist/accounts/closed/closed", "close closed"),
        ];
        for (path, rule) in cases {
            assert_eq!(rule_of(path).as_deref(), Ok(rule), "{path}");
        }
    }

    #[test]
    fn an_error_names_the_invalid_id() {
        let encoding = "is not percent-encoded UTF-8";
        let cases = [
            ("/blocklist/users/", "user", "is empty"),
            ("/blocklist/users/%", "user", encoding),
            ("/blocklist/users/%ff", "user", encoding),
            ("/blocklist/users/%4", "user", encoding),
            ("/blocklist/accounts//closed", "account", "is empty"),
            ("/blocklist/accounts/%zz/blocked/bob", "account", encoding),
        ];
        for (path, field, why) in cases {
            assert_eq!(rule_of(path), Err(BadId { field, why }), "{path}");
        }
    }

    #[test]
    fn other_paths_have_no_route() {
        for path in [
            "",
            "//",
            "/blocklist/",
            "/blocklist/users",
            "/blocklist/users/a/b",
            "/blocklist/accounts/a",
            "/Blocklist",
            "//blocklist",
            "/livez/",
        ] {
            assert!(find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_query_has_known_names_once_each_with_decodable_values() {
        let of = |raw| query(Some(raw), ["user", "account"]);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(query(None, ["user"]), Ok([None]));
        assert_eq!(of(""), Ok([None, None]));
        assert_eq!(of("&account=%40a%26b%3D%23&&user=+1"), Ok([some("+1"), some("@a&b=#")]));
        assert_eq!(of("us%65r"), Ok([some(""), None]));
        assert_eq!(of("user=a&user=b"), Err(("user".to_owned(), "is given twice")));
        assert_eq!(of("User=a"), Err(("User".to_owned(), "is not a parameter of this path")));
        assert_eq!(of("account=%e4"), Err(("account".to_owned(), "is not percent-encoded UTF-8")));
    }

    #[test]
    fn every_query_may_have_one_application() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(query(Some("a%70p=1&user=bob"), ["user"]), Ok([some("bob")]));
        assert_eq!(app(Some("user=bob&user=eve&a%70p=1")), Ok(some("1")));
        assert_eq!((app(None), app(Some("user=bob")), app(Some("app"))), (Ok(None), Ok(None), Ok(some(""))));
        assert_eq!(app(Some("app=1&app=1")), Err(("app".to_owned(), "is given twice")));
        assert_eq!(app(Some("app=%ff")), Err(("app".to_owned(), "is not percent-encoded UTF-8")));
    }

    proptest! {
        #[test]
        fn a_percent_encoded_id_round_trips(user in ".{1,12}", account in "[@#/?%. a-z\u{4f60}]{1,12}") {
            let encoded = |id: &str| id.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let path = format!("/blocklist/accounts/{}/blocked/{}", encoded(&account), encoded(&user));
            let (_route, ids) = find(&path).expect("a route");
            let rule = ids.rule(RuleKind::Block).expect("a rule");
            prop_assert_eq!((rule.user(), rule.account()), (Some(user.as_str()), Some(account.as_str())));
        }
    }
}
