//! The table of every `CallbackCommand` this version understands: the only place that knows their names.

/// Whether the sender waits for a decision or only tells what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Asked before something happens; the answer decides.
    Before,
    /// Told after it happened; the answer only acknowledges.
    After,
}

/// A `CallbackCommand` of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// May these users subscribe to this Official Account?
    BeforeAddSubscriber,
    /// Users subscribed to an Official Account.
    AfterAddSubscriber,
    /// An Official Account was destroyed.
    AfterOfficialAccountDestroyed,
    /// An Official Account's profile was changed.
    AfterOfficialAccountInfoChanged,
}

impl Command {
    /// Every command, in the table's order: `Command::ALL[command.index()] == command`.
    pub const ALL: [Self; 4] = [
        Self::BeforeAddSubscriber,
        Self::AfterAddSubscriber,
        Self::AfterOfficialAccountDestroyed,
        Self::AfterOfficialAccountInfoChanged,
    ];

    /// The command with this name. Names are case-sensitive.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.name() == name)
    }

    /// The word on the wire. Source: the four pages in Tencent's "Official Account" webhook family (60797 to 60800).
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeAddSubscriber => "OfficialAccount.CallbackBeforeAddSubscriber",
            Self::AfterAddSubscriber => "OfficialAccount.CallbackAfterAddSubscriber",
            Self::AfterOfficialAccountDestroyed => "OfficialAccount.CallbackAfterOfficialAccountDestroyed",
            Self::AfterOfficialAccountInfoChanged => "OfficialAccount.CallbackAfterOfficialAccountInfoChanged",
        }
    }

    /// Whether it asks or tells.
    pub const fn kind(self) -> Kind {
        match self {
            Self::BeforeAddSubscriber => Kind::Before,
            Self::AfterAddSubscriber | Self::AfterOfficialAccountDestroyed | Self::AfterOfficialAccountInfoChanged => {
                Kind::After
            }
        }
    }

    /// Its place in [`Command::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Whether a command that is not of the table asks or tells, by how Tencent names those that ask: `….CallbackBefore…` and, about
/// friends, `….CallbackPrev…`. Its sender is then answered at once, as if it were known.
pub fn kind_by_name(name: &str) -> Kind {
    let word = name.split_once('.').map_or("", |(_, word)| word);
    let asks = word.starts_with("CallbackBefore") || word.starts_with("CallbackPrev");
    if asks { Kind::Before } else { Kind::After }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_and_stands_at_its_index() {
        for (index, command) in Command::ALL.into_iter().enumerate() {
            assert_eq!(command.index(), index);
            assert_eq!(Command::find(command.name()), Some(command));
        }
    }

    #[test]
    fn a_name_is_found_only_as_it_is_spelled() {
        assert_eq!(Command::find("officialaccount.callbackafteraddsubscriber"), None);
        assert_eq!(Command::find("OfficialAccount.CallbackAfterSendMsg"), None);
    }

    #[test]
    fn a_command_of_the_table_is_what_its_name_says() {
        for command in Command::ALL {
            assert_eq!(command.kind(), kind_by_name(command.name()));
        }
    }

    #[test]
    fn a_command_outside_the_table_asks_if_its_name_says_so() {
        for name in
            ["Group.CallbackBeforeSendMsg", "Sns.CallbackPrevFriendAdd", "OfficialAccount.CallbackBeforeAddSubscriber"]
        {
            assert_eq!(kind_by_name(name), Kind::Before, "{name}");
        }
        for name in [
            "Group.CallbackAfterSendMsg",
            "State.StateChange",
            "CallbackBefore",
            "Before.Callback",
            "",
            "a.b.CallbackBeforeX",
        ] {
            assert_eq!(kind_by_name(name), Kind::After, "{name}");
        }
    }
}
