//! The table of every `CallbackCommand` that this version knows. Only this module knows their names, and which fields of a body are the
//! subject, the dedupe key, and the users of a before-callback.
//!
//! Sources: Tencent's pages, by number; those of the Official Account are under product 1047, of Live and Call under 647.

use std::fmt;

/// The two kinds of callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sent before something happens; the response decides.
    Before,
    /// Sent after something has happened; the response only acknowledges.
    After,
}

/// What a callback is about: its subject, and the key of its record.
///
/// Here and in [`Dedupe`], a field is a path of names separated by dots: `Info.To_Account`. After a name, `[0]` is the first element of a
/// list, and `[]` is each element. `?` at the end means that callbacks without the field are normal. `+` at the end means the same for a
/// field that was added to a dedupe key later: a callback without such fields keeps the `id` that it had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubjectKey {
    /// The value of this field.
    Field(&'static str),
    /// The value of the first field, or else of the second.
    First(&'static str, &'static str),
    /// The users in two fields, sorted and joined by `|`: a conversation has one key in both directions.
    Pair(&'static str, &'static str),
    /// The application itself, for callbacks that are about no entity in it.
    App,
}

/// What distinguishes two callbacks of one application and command. A repeated callback has the same values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dedupe {
    /// The whole body.
    Body,
    /// These fields; the whole body if one of them is missing.
    Fields(&'static [&'static str]),
}

/// The unit of `EventTime` according to the documentation. All callbacks are searched for a time, and both units are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// Milliseconds.
    Millis,
    /// Seconds.
    Seconds,
    /// Not documented.
    Unstated,
}

/// The users of a before-callback that the blocklist may decide about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// None: it is always allowed.
    Nobody,
    /// The users who subscribe to an Official Account.
    Subscribers,
    /// The users who are invited to a group.
    Invited,
    /// The user who applies to a group.
    Applicant,
    /// The user who writes to a group.
    GroupSender,
    /// The user who writes to another user.
    Sender,
    /// The user who sends friend requests.
    Friend,
    /// The user who responds to friend requests.
    FriendResponse,
}

/// The fields of the response to a before-callback besides the three required ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// None: `ErrorCode` allows or refuses all.
    Plain,
    /// `RefusedSubscribers_Account`, if some are refused.
    RefusedSubscribers,
    /// `RefusedMembers_Account`, if some are refused.
    RefusedMembers,
    /// Always `ResultItem`, with a code for each account of the request.
    ResultItems,
}

/// The typed body of a command with a normalised event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A request for a new Official Account, which has no id yet.
    AskedFor,
    /// An Official Account, its owner and its name.
    Account,
    /// Changes of a profile.
    InfoChanged,
    /// Users who subscribe or unsubscribe.
    Subscribers,
    /// A message to the subscribers.
    Message,
    /// Messages that were recalled.
    Withdrawn,
}

struct Row {
    name: &'static str,
    kind: Kind,
    key: SubjectKey,
    dedupe: Dedupe,
    time: Time,
    asks: Asks,
    shape: Shape,
    form: Option<Form>,
    is_batch: bool,
}

const ACCOUNT: SubjectKey = field("Official_Account");
const GROUP: SubjectKey = field("GroupId");
const FROM: SubjectKey = field("From_Account");
const PAIR: SubjectKey = SubjectKey::Pair("From_Account", "To_Account");
const TO: SubjectKey = field("To_Account");
const OWNER: SubjectKey = field("Owner_Account");
const CREATOR: SubjectKey = SubjectKey::First("Owner_Account", "Operator_Account");
const OF_TOPIC: SubjectKey = SubjectKey::First("GroupId", "Operator_Account");
const READERS: SubjectKey = SubjectKey::Pair("Report_Account", "Peer_Account");
const FIRST: SubjectKey = field("PairList[0].From_Account");
const STATE_OF: SubjectKey = field("Info.To_Account");
const CALL: SubjectKey = field("CallRecord.CallId");
const ROOM: SubjectKey = field("RoomId");
const APP: SubjectKey = SubjectKey::App;

const BODY: Dedupe = Dedupe::Body;
// With both accounts: a message that is sent to many users has one MsgKey.
const MESSAGE: Dedupe = fields(&["From_Account", "To_Account", "MsgKey"]);
// Several edits of one message share its MsgKey.
const EDIT: Dedupe = fields(&["From_Account", "To_Account", "MsgKey", "EventTime"]);
// With time and random number: the id of a deleted group can be used again, and MsgSeq then begins anew.
const GROUP_MESSAGE: Dedupe = fields(&["GroupId", "MsgSeq", "TopicId?", "MsgTime+", "Random+"]);
const SENT: Dedupe = fields(&["Official_Account", "MsgKey"]);
const TAKEN_BACK: Dedupe = fields(&["Official_Account", "WithdrawMsgList[].MsgKey"]);
const STATE: Dedupe = fields(&["Info.To_Account", "EventTime", "Info.Action"]);
// LastReadTime is in seconds.
const READ: Dedupe = fields(&["Report_Account", "Peer_Account", "LastReadTime", "EventTime+"]);
// With the platform and the device: a user may have several. With time and result: a push may be clicked twice, and fail on one of two
// devices. With the type, if one task is pushed online and offline.
const PUSH: Dedupe = fields(&["PushID", "To_Account", "PushStage", "PushPlatform?", "EventTime+", "ErrCode+"]);
const PUSH_ALL: Dedupe = fields(&[
    "TaskId",
    "To_Account",
    "PushStage",
    "PushPlatform?",
    "DeviceType?",
    "EventType+",
    "EventTime+",
    "ErrCode+",
]);

const MS: Time = Time::Millis;
const S: Time = Time::Seconds;
const NONE: Time = Time::Unstated;

#[rustfmt::skip]
const TABLE: &[Row; Command::COUNT] = &[
    // Official Account, or Official Channel as it is called now.
    before("OfficialAccount.CallbackBeforeCreateOfficialAccount",       OWNER,    BODY,          MS).form(Form::AskedFor), // 60795
    after( "OfficialAccount.CallbackAfterCreateOfficialAccount",        ACCOUNT,  BODY,          MS).form(Form::Account), // 60796
    after( "OfficialAccount.CallbackAfterOfficialAccountInfoChanged",   ACCOUNT,  BODY,          MS).form(Form::InfoChanged), // 60797
    after( "OfficialAccount.CallbackAfterOfficialAccountDestroyed",     ACCOUNT,  BODY,          MS).form(Form::Account), // 60798
    before("OfficialAccount.CallbackBeforeAddSubscriber",               ACCOUNT,  BODY,          MS).asks(Asks::Subscribers, Shape::RefusedSubscribers).form(Form::Subscribers), // 60799
    after( "OfficialAccount.CallbackAfterAddSubscriber",                ACCOUNT,  BODY,          MS).form(Form::Subscribers), // 60800
    after( "OfficialAccount.CallbackAfterOfficialAccountFull",          ACCOUNT,  BODY,          MS).form(Form::Account), // 60801
    after( "OfficialAccount.CallbackAfterDeleteSubscriber",             ACCOUNT,  BODY,          MS).form(Form::Subscribers), // 60802
    before("OfficialAccount.CallbackBeforeSendMsg",                     ACCOUNT,  BODY,          MS).form(Form::Message), // 60803
    after( "OfficialAccount.CallbackAfterSendMsg",                      ACCOUNT,  SENT,          MS).form(Form::Message), // 60804
    after( "OfficialAccount.CallbackAfterMsgWithDraw",                  ACCOUNT,  TAKEN_BACK,    MS).form(Form::Withdrawn), // 60805
    // Online state, profile, relationships, follow.
    after( "State.StateChange",                                         STATE_OF, STATE,         MS), // 34357
    after( "Profile.CallbackPortraitSet",                               FROM,     BODY,          MS), // 48733
    before("Sns.CallbackPrevFriendAdd",                                 FROM,     BODY,          MS).asks(Asks::Friend, Shape::ResultItems), // 43468
    before("Sns.CallbackPrevFriendResponse",                            FROM,     BODY,          MS).asks(Asks::FriendResponse, Shape::ResultItems), // 43467
    after( "Sns.CallbackFriendAdd",                                     FIRST,    BODY,          NONE), // 34359
    after( "Sns.CallbackFriendDelete",                                  FIRST,    BODY,          NONE), // 34360
    after( "Sns.CallbackBlackListAdd",                                  FIRST,    BODY,          NONE), // 34361
    after( "Sns.CallbackBlackListDelete",                               FIRST,    BODY,          NONE), // 34362
    after( "Follow.CallbackAfterFollowAdd",                             FROM,     BODY,          MS), // 70355
    after( "Follow.CallbackAfterFollowDelete",                          FROM,     BODY,          MS), // 70356
    // One-to-one messages.
    before("C2C.CallbackBeforeSendMsg",                                 PAIR,     MESSAGE,       NONE).asks(Asks::Sender, Shape::Plain), // 34364
    after( "C2C.CallbackAfterSendMsg",                                  PAIR,     MESSAGE,       NONE), // 34365
    after( "C2C.CallbackAfterMsgReport",                                READERS,  READ,          NONE), // 43465
    after( "C2C.CallbackAfterMsgWithDraw",                              PAIR,     MESSAGE,       NONE), // 43466
    after( "C2C.CallbackAfterModifyMsg",                                PAIR,     EDIT,          MS), // 269/128224, in Chinese
    // Groups.
    before("Group.CallbackBeforeCreateGroup",                           CREATOR,  BODY,          MS), // 34368
    after( "Group.CallbackAfterCreateGroup",                            GROUP,    BODY,          MS), // 34369
    before("Group.CallbackBeforeApplyJoinGroup",                        GROUP,    BODY,          MS).asks(Asks::Applicant, Shape::Plain), // 34370
    before("Group.CallbackBeforeInviteJoinGroup",                       GROUP,    BODY,          MS).asks(Asks::Invited, Shape::RefusedMembers), // 34371
    after( "Group.CallbackAfterNewMemberJoin",                          GROUP,    BODY,          MS), // 34372
    after( "Group.CallbackAfterMemberExit",                             GROUP,    BODY,          MS), // 34373
    before("Group.CallbackBeforeSendMsg",                               GROUP,    BODY,          MS).asks(Asks::GroupSender, Shape::Plain), // 34374
    after( "Group.CallbackAfterSendMsg",                                GROUP,    GROUP_MESSAGE, MS), // 34375
    after( "Group.CallbackAfterGroupFull",                              GROUP,    BODY,          MS), // 34376
    after( "Group.CallbackAfterGroupDestroyed",                         GROUP,    BODY,          MS), // 34377
    after( "Group.CallbackAfterGroupInfoChanged",                       GROUP,    BODY,          MS), // 34378
    after( "Group.CallbackOnMemberStateChange",                         GROUP,    BODY,          NONE), // 48734
    after( "Group.CallbackSendMsgException",                            GROUP,    BODY,          MS), // 49462
    after( "Group.CallbackAfterRecallMsg",                              GROUP,    BODY,          MS),
    before("Group.CallbackBeforeCreateTopic",                           OF_TOPIC, BODY,          NONE), // 49463
    after( "Group.CallbackAfterCreateTopic",                            GROUP,    BODY,          NONE), // 49464
    after( "Group.CallbackAfterTopicDestroyed",                         GROUP,    BODY,          NONE), // 49465
    after( "Group.CallbackAfterTopicInfoChanged",                       GROUP,    BODY,          NONE), // 49466
    after( "Group.CallbackAfterMemberFieldChanged",                     GROUP,    BODY,          MS), // 60393
    after( "Group.CallbackAfterGroupAttrChanged",                       GROUP,    BODY,          MS), // 60394
    after( "Group.CallbackAfterReadReceipt",                            GROUP,    BODY,          MS), // 60395
    after( "Group.CallbackAfterChangeGroupOwner",                       GROUP,    BODY,          MS), // 60396
    after( "Group.CallbackAfterGroupMsgExtension",                      GROUP,    BODY,          MS), // 76007
    after( "Group.CallbackOnDailyGroupQuotaAlarm",                      APP,      BODY,          MS), // 57455
    // Robots, push, moderation, alarm, calls, live. Those without a page are known from an SDK, a receiver or samples only.
    after( "Bot.OnC2CMessage",                                          PAIR,     MESSAGE,       NONE), // 90407
    after( "Bot.OnGroupMessage",                                        GROUP,    GROUP_MESSAGE, MS), // 68953
    after( "Chatbot.OnC2CSignalMessage",                                PAIR,     MESSAGE,       MS),
    after( "Push.OfflinePush",                                          TO,       PUSH,          S).in_batches(), // 67552
    after( "Push.AllMemberPush",                                        TO,       PUSH_ALL,      S).in_batches(), // 67551
    after( "ContentCallback.ResultNotify",                              FROM,     BODY,          NONE),
    after( "Alert.RequestOverLimit",                                    APP,      BODY,          NONE), // 60256
    after( "Call.CallbackAfterEndCall",                                 CALL,     BODY,          MS), // 68940
    after( "Live.CallbackAfterCreateRoomReachingThreshold",             ROOM,     BODY,          MS),
    after( "Live.CallbackAfterDestroyRoom",                             ROOM,     BODY,          MS),
    after( "Live.CallbackAfterChangeOwner",                             ROOM,     BODY,          MS),
    after( "Live.CallbackAfterModifyAdmin",                             ROOM,     BODY,          MS),
    after( "Live.CallbackAfterEndBattle",                               ROOM,     BODY,          MS),
    before("Live.CallbackBeforeSendGift",                               ROOM,     BODY,          MS), // 72210
];

const fn after(name: &'static str, key: SubjectKey, dedupe: Dedupe, time: Time) -> Row {
    let (asks, shape) = (Asks::Nobody, Shape::Plain);
    Row { name, kind: Kind::After, key, dedupe, time, asks, shape, form: None, is_batch: false }
}

/// A before-callback that is always answered with the plain OK.
const fn before(name: &'static str, key: SubjectKey, dedupe: Dedupe, time: Time) -> Row {
    Row { kind: Kind::Before, ..after(name, key, dedupe, time) }
}

impl Row {
    const fn asks(self, asks: Asks, shape: Shape) -> Self {
        Self { asks, shape, ..self }
    }

    const fn form(self, form: Form) -> Self {
        Self { form: Some(form), ..self }
    }

    /// Its events are in `Events`, or a single one is the body itself.
    const fn in_batches(self) -> Self {
        Self { is_batch: true, ..self }
    }
}

const fn field(path: &'static str) -> SubjectKey {
    SubjectKey::Field(path)
}

const fn fields(paths: &'static [&'static str]) -> Dedupe {
    Dedupe::Fields(paths)
}

/// The length of the longest name plus one, and the most names of one length.
const LENGTHS: usize = 64;
const OF_ONE_LENGTH: usize = 8;

/// Indices in the table by the length of the name, so that a name is compared with only a few. The rest of a row is [`NO_PLACE`].
const PLACES: [[u8; OF_ONE_LENGTH]; LENGTHS] = places();
const NO_PLACE: u8 = u8::MAX;

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, which reports when the table is too large for it"
)]
const fn places() -> [[u8; OF_ONE_LENGTH]; LENGTHS] {
    let mut places = [[NO_PLACE; OF_ONE_LENGTH]; LENGTHS];
    let mut place = 0_u8;
    while (place as usize) < Command::COUNT {
        let of_its_length = &mut places[TABLE[place as usize].name.len()];
        let mut free = 0;
        while of_its_length[free] != NO_PLACE {
            free += 1;
        }
        of_its_length[free] = place;
        place += 1;
    }
    places
}

/// A `CallbackCommand` in the table, by index.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(u8);

impl Command {
    /// The number of commands.
    pub const COUNT: usize = 64;

    /// Every command in the order of the table, which is the order of their indices.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self).take(Self::COUNT)
    }

    /// The command with this name. Names are case-sensitive.
    pub fn find(name: &str) -> Option<Self> {
        let places = PLACES.get(name.len())?;
        places.iter().map_while(|place| Self::at(*place)).find(|command| command.name() == name)
    }

    /// The same for tests that know the name, at compile time.
    #[cfg(test)]
    pub(crate) const fn named(name: &str) -> Self {
        let mut place = 0_u8;
        while !TABLE[place as usize].name.as_bytes().eq_ignore_ascii_case(name.as_bytes()) {
            place += 1;
        }
        Self(place)
    }

    fn at(place: u8) -> Option<Self> {
        (usize::from(place) < Self::COUNT).then_some(Self(place))
    }

    /// The name.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Whether it is a before- or an after-callback.
    pub const fn kind(self) -> Kind {
        self.row().kind
    }

    /// What it is about.
    pub const fn key(self) -> SubjectKey {
        self.row().key
    }

    /// What distinguishes two callbacks.
    pub const fn dedupe(self) -> Dedupe {
        self.row().dedupe
    }

    /// The unit of its time.
    pub const fn time(self) -> Time {
        self.row().time
    }

    /// The users to decide about.
    pub const fn asks(self) -> Asks {
        self.row().asks
    }

    /// The shape of its response.
    pub const fn shape(self) -> Shape {
        self.row().shape
    }

    /// Its typed body, if it has a normalised event.
    pub const fn form(self) -> Option<Form> {
        self.row().form
    }

    /// Whether one callback may carry many events, in `Events`.
    pub const fn is_batch(self) -> bool {
        self.row().is_batch
    }

    /// The index in the table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    #[expect(clippy::indexing_slicing, reason = "only this file makes indices, and only valid ones")]
    const fn row(self) -> &'static Row {
        &TABLE[self.0 as usize]
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A set of commands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CommandSet([bool; Command::COUNT]);

impl CommandSet {
    /// Every command.
    pub const ALL: Self = Self([true; Command::COUNT]);

    /// The commands of `among` that `words` name: each is a command, a family such as `Group.*`, or `all`.
    ///
    /// # Errors
    ///
    /// The first word that names none of them.
    pub fn select<'w>(
        words: impl IntoIterator<Item = &'w str>,
        among: impl Fn(Command) -> bool,
    ) -> Result<Self, &'w str> {
        let mut set = Self([false; Command::COUNT]);
        for word in words {
            let mut is_known = false;
            for (command, slot) in Command::all().zip(&mut set.0).filter(|(command, _)| among(*command)) {
                if means(word, command.name()) {
                    *slot = true;
                    is_known = true;
                }
            }
            if !is_known {
                return Err(word);
            }
        }
        Ok(set)
    }

    /// Whether the command is in the set.
    pub fn contains(&self, command: Command) -> bool {
        self.0.get(command.index()).copied().unwrap_or_default()
    }

    /// The commands in the set, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = Command> {
        Command::all().filter(|command| self.contains(*command))
    }
}

impl fmt::Debug for CommandSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.iter()).finish()
    }
}

fn means(word: &str, name: &str) -> bool {
    let in_family = |family: &str| name.strip_prefix(family).is_some_and(|rest| rest.starts_with('.'));
    word == "all" || word == name || word.strip_suffix(".*").is_some_and(in_family)
}

/// The kind of a command that is not in the table, by Tencent's naming of before-callbacks: `….CallbackBefore…` and, for friends,
/// `….CallbackPrev…`. A before-callback is answered without waiting for the journal.
pub fn kind_by_name(name: &str) -> Kind {
    let word = name.split_once('.').map_or("", |(_, word)| word);
    let asks = word.starts_with("CallbackBefore") || word.starts_with("CallbackPrev");
    if asks { Kind::Before } else { Kind::After }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_command_is_found_by_its_name_and_stands_at_its_index() {
        assert_eq!(Command::all().count(), Command::COUNT);
        for (index, command) in Command::all().enumerate() {
            assert_eq!(command.index(), index);
            assert_eq!(Command::find(command.name()), Some(command));
        }
    }

    #[test]
    fn a_name_is_found_only_as_it_is_spelled() {
        for name in [
            "",
            "officialaccount.callbackafteraddsubscriber",
            "OfficialAccount.CallbackAfterAddSubscribers",
            "Group.CallbackAfterKickMember",
            "roup.CallbackBeforeApplyJoinGroup",
            "C2C.CallbackAfterMsgWithdraw",
            "Sns.CallbackBlacklistAdd",
            &"x".repeat(1000),
        ] {
            assert_eq!(Command::find(name), None, "{name}");
        }
    }

    #[test]
    fn a_command_of_the_table_is_what_its_name_says() {
        for command in Command::all() {
            assert_eq!(command.kind(), kind_by_name(command.name()));
        }
    }

    #[test]
    fn only_who_asks_is_answered_with_more_than_the_plain_ok() {
        for command in Command::all() {
            let asks = command.kind() == Kind::Before;
            assert!(asks || (command.asks(), command.shape()) == (Asks::Nobody, Shape::Plain), "{command:?}");
        }
        let asking: BTreeSet<&str> =
            Command::all().filter(|command| command.kind() == Kind::Before).map(Command::name).collect();
        assert_eq!(asking.len(), 12);
    }

    #[test]
    fn the_official_account_family_and_no_other_has_normal_forms() {
        for command in Command::all() {
            assert_eq!(command.form().is_some(), command.name().starts_with("OfficialAccount."), "{command:?}");
        }
        assert_eq!(Command::all().filter(|command| command.form().is_some()).count(), 11);
    }

    #[test]
    fn a_command_outside_the_table_asks_if_its_name_says_so() {
        for name in ["Group.CallbackBeforeSomething", "Sns.CallbackPrevSomething"] {
            assert_eq!(kind_by_name(name), Kind::Before, "{name}");
        }
        for name in [
            "Group.CallbackAfterSomething",
            "State.Something",
            "CallbackBefore",
            "Before.Callback",
            "",
            "a.b.CallbackBeforeX",
        ] {
            assert_eq!(kind_by_name(name), Kind::After, "{name}");
        }
    }

    #[test]
    fn words_select_commands_families_and_all() {
        let selected = |words: &[&'static str]| {
            CommandSet::select(words.iter().copied(), |_any| true).map(|set| set.iter().count())
        };
        assert_eq!(selected(&["all"]), Ok(Command::COUNT));
        assert_eq!(selected(&[]), Ok(0));
        assert_eq!(selected(&["OfficialAccount.*"]), Ok(11));
        assert_eq!(selected(&["State.StateChange", "Push.*", "Push.OfflinePush"]), Ok(3));
        for wrong in ["", "*", ".*", "Official.*", "OfficialAccount", "OfficialAccount.", "group.*", "All", "Group.*.*"]
        {
            assert_eq!(selected(&["State.StateChange", wrong]), Err(wrong));
        }
        let asked = CommandSet::select(["all"], |command| command.asks() != Asks::Nobody).unwrap();
        assert!(asked.iter().all(|command| command.kind() == Kind::Before));
    }
}
