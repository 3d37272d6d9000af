//! A disk that forgets what was not synced when its power goes. Pure: the face that the kernel sees is `fuse`.
//!
//! A file's bytes and length survive by a sync of the file, its name by a sync of the folder, and neither brings the other.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::ops::Range;

use fuser::Errno;

use crate::support::powercut::content::Content;
use crate::support::powercut::content::Fates;
use crate::support::powercut::dice::Dice;
use crate::support::powercut::names::NameFates;
use crate::support::powercut::names::Names;

/// The folder that holds all. (Also the kernel's number for it.)
pub(crate) const ROOT: u64 = 1;

/// All that is stored, by the number of the node.
#[derive(Debug)]
pub(crate) struct Disk {
    nodes: BTreeMap<u64, Node>,
    /// The number of the next node; none comes twice.
    next: u64,
    dice: Dice,
    is_off: bool,
    /// So many syncs succeed before one fails.
    good_syncs: Option<u64>,
    syncs: u64,
    /// What cannot be read: bytes of nodes.
    bad: Vec<(u64, Range<u64>)>,
}

#[derive(Debug)]
enum Node {
    File { content: Content, opened: u64 },
    Folder(Names),
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File { length: u64 },
    Folder,
}

/// What a power cut took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) writes: Fates,
    pub(crate) names: NameFates,
}

impl Disk {
    /// An empty one.
    pub(crate) fn new(seed: u64) -> Self {
        let nodes = [(ROOT, Node::Folder(Names::default()))].into();
        Self {
            nodes,
            next: ROOT + 1,
            dice: Dice::new(seed),
            is_off: false,
            good_syncs: None,
            syncs: 0,
            bad: Vec::new(),
        }
    }

    /// Takes what was not synced, and answers nothing but errors from now on.
    pub(crate) fn cut(&mut self) -> Cut {
        self.is_off = true;
        let mut cut = Cut::default();
        for node in self.nodes.values_mut() {
            match node {
                Node::File { content, opened } => {
                    *opened = 0;
                    let fates = content.cut(&mut self.dice);
                    cut.writes.kept += fates.kept;
                    cut.writes.lost += fates.lost;
                    cut.writes.torn += fates.torn;
                }
                Node::Folder(names) => {
                    let fates = names.cut(&mut self.dice);
                    cut.names.kept += fates.kept;
                    cut.names.lost += fates.lost;
                }
            }
        }
        self.forget_unnamed();
        cut
    }

    /// Answers again.
    pub(crate) fn power_on(&mut self) {
        self.is_off = false;
        self.good_syncs = None;
    }

    /// Lets one sync fail, after `count` more that do not.
    pub(crate) fn fail_sync_after(&mut self, count: u64) {
        self.good_syncs = Some(count);
    }

    /// Lets every read of these bytes fail.
    pub(crate) fn spoil(&mut self, node: u64, bytes: Range<u64>) {
        self.bad.push((node, bytes));
    }

    /// Everything can be read again.
    pub(crate) fn heal(&mut self) {
        self.bad.clear();
    }

    /// How many have succeeded, of files and of folders.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs
    }

    pub(crate) fn kind(&self, node: u64) -> Result<Kind, Errno> {
        match self.node(node)? {
            Node::File { content, .. } => Ok(Kind::File { length: content.length() }),
            Node::Folder(_) => Ok(Kind::Folder),
        }
    }

    pub(crate) fn look_up(&self, folder: u64, name: &OsStr) -> Result<u64, Errno> {
        self.names(folder)?.get(name).ok_or(Errno::ENOENT)
    }

    /// In the order of the numbers, which stays when names go.
    pub(crate) fn list(&self, folder: u64) -> Result<Vec<(u64, OsString)>, Errno> {
        let mut entries: Vec<_> = self.names(folder)?.live().map(|(name, node)| (node, name.to_owned())).collect();
        entries.sort();
        Ok(entries)
    }

    pub(crate) fn create(&mut self, folder: u64, name: &OsStr) -> Result<u64, Errno> {
        self.add(folder, name, Node::File { content: Content::default(), opened: 0 })
    }

    pub(crate) fn create_folder(&mut self, folder: u64, name: &OsStr) -> Result<u64, Errno> {
        self.add(folder, name, Node::Folder(Names::default()))
    }

    pub(crate) fn unlink(&mut self, folder: u64, name: &OsStr) -> Result<(), Errno> {
        let node = self.look_up(folder, name)?;
        if matches!(self.node(node)?, Node::Folder(names) if names.live().next().is_some()) {
            return Err(Errno::ENOTEMPTY);
        }
        self.names_mut(folder)?.unlink(name, node);
        Ok(())
    }

    /// Between two folders it is two steps: POSIX does not say that a power cut leaves the file in one of them.
    pub(crate) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<(), Errno> {
        let node = self.look_up(from.0, from.1)?;
        if from.0 == to.0 {
            self.names_mut(from.0)?.rename(from.1, to.1, node);
        } else {
            self.names_mut(to.0)?.link(to.1, node);
            self.names_mut(from.0)?.unlink(from.1, node);
        }
        Ok(())
    }

    pub(crate) fn open(&mut self, node: u64) -> Result<(), Errno> {
        self.power()?;
        if let Some(Node::File { opened, .. }) = self.nodes.get_mut(&node) {
            *opened += 1;
        }
        Ok(())
    }

    /// Also without power: the kernel closes what a dead process held.
    pub(crate) fn close(&mut self, node: u64) {
        if let Some(Node::File { opened, .. }) = self.nodes.get_mut(&node) {
            *opened = opened.saturating_sub(1);
        }
    }

    pub(crate) fn read(&self, node: u64, offset: u64, count: u64) -> Result<Vec<u8>, Errno> {
        let is_bad = |(bad, bytes): &(u64, Range<u64>)| {
            *bad == node && bytes.start < offset.saturating_add(count) && offset < bytes.end
        };
        match self.node(node)? {
            Node::File { .. } if self.bad.iter().any(is_bad) => Err(Errno::EIO),
            Node::File { content, .. } => Ok(content.read(offset, count)),
            Node::Folder(_) => Err(Errno::EISDIR),
        }
    }

    pub(crate) fn write(&mut self, node: u64, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.content_mut(node)?.write(offset, bytes);
        Ok(())
    }

    pub(crate) fn resize(&mut self, node: u64, length: u64) -> Result<(), Errno> {
        self.content_mut(node)?.resize(length);
        Ok(())
    }

    /// `fsync` and `fdatasync` of a file: a length that readers need comes with both.
    pub(crate) fn sync(&mut self, node: u64) -> Result<(), Errno> {
        let fails = self.is_this_sync_bad();
        let content = self.content_mut(node)?;
        if fails {
            content.fail_sync();
            return Err(Errno::EIO);
        }
        content.sync();
        self.syncs += 1;
        Ok(())
    }

    /// `fsync` of a folder: its names. One that fails leaves them on their way.
    pub(crate) fn sync_folder(&mut self, folder: u64) -> Result<(), Errno> {
        let fails = self.is_this_sync_bad();
        let names = self.names_mut(folder)?;
        if fails {
            return Err(Errno::EIO);
        }
        names.sync();
        self.syncs += 1;
        self.forget_unnamed();
        Ok(())
    }

    fn is_this_sync_bad(&mut self) -> bool {
        let fails = self.good_syncs == Some(0);
        self.good_syncs = self.good_syncs.and_then(|count| count.checked_sub(1));
        fails
    }

    fn add(&mut self, folder: u64, name: &OsStr, node: Node) -> Result<u64, Errno> {
        if self.names(folder)?.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let number = self.next;
        self.next += 1;
        self.nodes.insert(number, node);
        self.names_mut(folder)?.link(name, number);
        Ok(number)
    }

    /// Drops what no name leads to, not even after a power cut, and nobody has open.
    fn forget_unnamed(&mut self) {
        let mut named = BTreeSet::from([ROOT]);
        let mut folders = vec![ROOT];
        while let Some(folder) = folders.pop() {
            if let Some(Node::Folder(names)) = self.nodes.get(&folder) {
                folders.extend(names.nodes().filter(|node| named.insert(*node)));
            }
        }
        self.nodes
            .retain(|number, node| named.contains(number) || matches!(node, Node::File { opened, .. } if *opened > 0));
    }

    fn power(&self) -> Result<(), Errno> {
        if self.is_off { Err(Errno::EIO) } else { Ok(()) }
    }

    fn node(&self, node: u64) -> Result<&Node, Errno> {
        self.power()?;
        self.nodes.get(&node).ok_or(Errno::ESTALE)
    }

    fn names(&self, folder: u64) -> Result<&Names, Errno> {
        match self.node(folder)? {
            Node::Folder(names) => Ok(names),
            Node::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    fn names_mut(&mut self, folder: u64) -> Result<&mut Names, Errno> {
        self.power()?;
        match self.nodes.get_mut(&folder) {
            Some(Node::Folder(names)) => Ok(names),
            Some(Node::File { .. }) => Err(Errno::ENOTDIR),
            None => Err(Errno::ESTALE),
        }
    }

    fn content_mut(&mut self, node: u64) -> Result<&mut Content, Errno> {
        self.power()?;
        match self.nodes.get_mut(&node) {
            Some(Node::File { content, .. }) => Ok(content),
            Some(Node::Folder(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ESTALE),
        }
    }
}
