//! Kafka records, and the closed list of topics that they may go to.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::auth::VerifiedApp;
use crate::command::Command;
use crate::command::CommandSet;

/// One Kafka record.
#[derive(Debug)]
pub struct Record<'a> {
    /// The topic.
    pub topic: Topic,
    /// The key, which decides the partition and so the order. `None`: any partition.
    pub key: Option<Cow<'a, str>>,
    /// The headers, in order.
    pub headers: Vec<Header<'a>>,
    /// The value.
    pub value: Cow<'a, [u8]>,
    /// Why it goes to the dead-letter topic `<prefix>.rejected`, as a word of a closed list; `None` if it does not.
    pub dead_letter_reason: Option<&'static str>,
}

impl Record<'_> {
    /// The length of key, value and headers, without Kafka's overhead.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
        self.key.as_ref().map_or(0, |key| key.len()) + self.value.len() + headers
    }
}

/// One header of a record.
#[derive(Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// From a closed list.
    pub name: &'static str,
    /// Arbitrary bytes; text in callbridge's own headers.
    pub value: Cow<'a, [u8]>,
}

/// A topic of [`Topics`], by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(usize);

impl Topic {
    /// The index in [`Topics::names`].
    pub const fn index(self) -> usize {
        self.0
    }
}

/// Every topic that may be written to: a sender cannot cause new topics. Applications with the same prefix share their topics.
#[derive(Debug)]
pub struct Topics {
    names: Vec<String>,
    /// Per application: one for each command, then unknown, then rejected.
    slots: Vec<Vec<Topic>>,
}

const UNKNOWN: usize = Command::COUNT;
const DEAD_LETTERS: usize = UNKNOWN + 1;

impl Topics {
    /// The topics of applications with these prefixes, in the order of the configuration, one for each command.
    pub fn new<'p>(prefixes: impl IntoIterator<Item = &'p str>) -> Self {
        Self::of_commands(prefixes, &CommandSet::ALL)
    }

    /// The same with topics for `commands` only. Other commands share the topic of unknown ones.
    pub fn of_commands<'p>(prefixes: impl IntoIterator<Item = &'p str>, commands: &CommandSet) -> Self {
        let mut names: Vec<String> = Vec::new();
        let mut known: HashMap<String, Topic> = HashMap::new();
        let mut topic = |prefix: &str, suffix: &str| {
            *known.entry(format!("{prefix}.{suffix}")).or_insert_with_key(|name| {
                names.push(name.clone());
                Topic(names.len() - 1)
            })
        };
        let mut slots = Vec::new();
        for prefix in prefixes {
            let own: Vec<Topic> = commands.iter().map(|command| topic(prefix, command.name())).collect();
            let (unknown, rejected) = (topic(prefix, "unknown"), topic(prefix, "rejected"));
            let mut own = own.into_iter();
            let of_command = |command| if commands.contains(command) { own.next() } else { None }.unwrap_or(unknown);
            slots.push(Command::all().map(of_command).chain([unknown, rejected]).collect());
        }
        Self { names, slots }
    }

    /// The names of all topics, each once.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Every topic, in the order of [`Topics::names`].
    pub fn all(&self) -> impl Iterator<Item = Topic> + use<> {
        (0..self.names.len()).map(Topic)
    }

    /// For each application, the topics of its commands.
    pub fn commands_by_application(&self) -> impl Iterator<Item = &[Topic]> {
        self.slots.iter().map(|slots| slots.get(..UNKNOWN).unwrap_or_default())
    }

    /// The dead-letter topic that belongs to `topic`.
    pub fn dead_letters_beside(&self, topic: Topic) -> Topic {
        let slots = self.slots.iter().find(|slots| slots.contains(&topic));
        slots.and_then(|slots| slots.get(DEAD_LETTERS)).copied().unwrap_or(topic)
    }

    /// The name of the topic.
    pub fn name(&self, topic: Topic) -> &str {
        self.names.get(topic.0).map_or("", |name| name)
    }

    /// The topic of `command`; `None` stands for every command that is not in the table.
    pub fn of(&self, app: VerifiedApp, command: Option<Command>) -> Topic {
        self.slot(app, command.map_or(UNKNOWN, Command::index))
    }

    /// The dead-letter topic of an application.
    pub fn dead_letters(&self, app: VerifiedApp) -> Topic {
        self.slot(app, DEAD_LETTERS)
    }

    fn slot(&self, app: VerifiedApp, slot: usize) -> Topic {
        let found = self.slots.get(app.index()).and_then(|slots| slots.get(slot));
        debug_assert!(found.is_some(), "an application without topics");
        found.copied().unwrap_or(Topic(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Apps;

    #[test]
    fn applications_with_one_prefix_share_their_topics() {
        let topics = Topics::new(["a", "b", "a"]);
        let apps: Vec<VerifiedApp> = Apps::new([1, 2, 3]).iter().collect();
        assert_eq!(topics.names().len(), 2 * (Command::COUNT + 2));
        assert_eq!(topics.of(apps[0], None), topics.of(apps[2], None));
        assert_ne!(topics.of(apps[0], None), topics.of(apps[1], None));
        assert_eq!(topics.name(topics.dead_letters(apps[1])), "b.rejected");
        assert_eq!(topics.name(topics.of(apps[1], None)), "b.unknown");
        let command = Command::find("OfficialAccount.CallbackAfterAddSubscriber").unwrap();
        assert_eq!(topics.name(topics.of(apps[2], Some(command))), format!("a.{}", command.name()));
    }

    #[test]
    fn commands_without_a_topic_of_their_own_share_that_of_unknown_ones() {
        let own = CommandSet::select(["Push.*"], |_any| true).unwrap();
        let topics = Topics::of_commands(["a"], &own);
        let app = Apps::new([1]).iter().next().unwrap();
        assert_eq!(topics.names(), ["a.Push.OfflinePush", "a.Push.AllMemberPush", "a.unknown", "a.rejected"]);
        for command in Command::all() {
            let is_shared = topics.of(app, Some(command)) == topics.of(app, None);
            assert_eq!(is_shared, !own.contains(command), "{command:?}");
        }
    }
}
