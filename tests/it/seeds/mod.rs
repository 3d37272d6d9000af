//! The four callbacks that started the project: Tencent's samples without their comments, and what must come of each.
//!
//! The values are those of Tencent's pages 60797 to 60800, and so is the layout, so that what must be kept byte for byte
//! has line breaks and blanks to keep.

use serde_json::Value;
use serde_json::json;

/// The application they are sent for.
pub(crate) const APP: &str = "1400000000";

/// One of them.
pub(crate) struct Seed {
    pub(crate) command: &'static str,
    /// The file's bytes, as they are posted.
    pub(crate) body: &'static str,
    /// Relative to the repository.
    pub(crate) path: &'static str,
    /// The account it is about: subject and key.
    pub(crate) account: &'static str,
    /// Computed by another program from the rule of the envelope's `id`.
    pub(crate) id: &'static str,
    pub(crate) operator: Option<&'static str>,
    /// `data.event`.
    pub(crate) event: fn() -> Value,
}

/// A subscription is asked for.
pub(crate) const BEFORE_ADD_SUBSCRIBER: Seed = Seed {
    command: "OfficialAccount.CallbackBeforeAddSubscriber",
    body: include_str!("before_add_subscriber.json"),
    path: "tests/it/seeds/before_add_subscriber.json",
    account: "@TOA#_test_for_penn",
    id: "ad9e032f831250f0c97fc0f6a319ad65",
    operator: Some("107867"),
    event: subscription,
};

/// A subscription has happened.
pub(crate) const AFTER_ADD_SUBSCRIBER: Seed = Seed {
    command: "OfficialAccount.CallbackAfterAddSubscriber",
    body: include_str!("after_add_subscriber.json"),
    path: "tests/it/seeds/after_add_subscriber.json",
    account: "@TOA#_test_for_penn",
    id: "74956574b850087e1c8283585d146fa4",
    operator: Some("107867"),
    event: subscription,
};

/// An account is gone.
pub(crate) const AFTER_DESTROYED: Seed = Seed {
    command: "OfficialAccount.CallbackAfterOfficialAccountDestroyed",
    body: include_str!("after_official_account_destroyed.json"),
    path: "tests/it/seeds/after_official_account_destroyed.json",
    account: "@TOA#_test_OA_for_penn",
    id: "f8b1e08743ab8db333e811582d8656dc",
    operator: None,
    event: || {
        json!({
            "official_account": "@TOA#_test_OA_for_penn",
            "owner": "107867",
            "name": "TestOfficialAccount",
            "event_time_ms": 1_670_574_414_123_i64,
        })
    },
};

/// An account's profile is another.
pub(crate) const AFTER_INFO_CHANGED: Seed = Seed {
    command: "OfficialAccount.CallbackAfterOfficialAccountInfoChanged",
    body: include_str!("after_official_account_info_changed.json"),
    path: "tests/it/seeds/after_official_account_info_changed.json",
    account: "@TOA#_test_OA_for_penn",
    id: "3998e8751288e51883ea2204b912d642",
    operator: Some("leckie"),
    event: || {
        json!({
            "official_account": "@TOA#_test_OA_for_penn",
            "operator": "leckie",
            "name": "NewName",
            "introduction": "NewNotification",
            "face_url": "http://this.is.newface.url",
            "organization": "NewOrganization",
            "event_time_ms": 1_670_574_414_123_i64,
        })
    },
};

/// All four.
pub(crate) const ALL: [&Seed; 4] =
    [&BEFORE_ADD_SUBSCRIBER, &AFTER_ADD_SUBSCRIBER, &AFTER_DESTROYED, &AFTER_INFO_CHANGED];

fn subscription() -> Value {
    json!({
        "official_account": "@TOA#_test_for_penn",
        "operator": "107867",
        "subscribers": ["jared", "leckie"],
        "event_time_ms": 1_670_574_414_123_i64,
    })
}
