//! Fan-outs: what many peers get alike is staged once for all of them, and shared by their outboxes.
//!
//! The observers of one pattern get the same bytes but for the oid, and peers that run the same program mostly use
//! the same oid. So observers whose events begin alike form a *class*: each message is written once for the class,
//! whatever its size, and reaches the outboxes as one buffer that all of them hold. That is only right while a
//! member gets nothing else in the batch (its events would be out of order): a member that does is given a slot of
//! its own, with a copy of what the class has so far.

use std::ops::Range;
use std::sync::Arc;

use staunch_index::Observers;
use staunch_protocols::wire::tag;

use super::{EVENT_COST, Slot, Stage};
use crate::dataspace::{Router, Target};
use crate::outbox::Batch;
use crate::relay::{Opening, Remote};

/// Groups of observers that one batch stages so; the others get their messages one by one.
const GROUPS_MAX: usize = 16;
/// Classes of one group.
pub(crate) const CLASSES_MAX: usize = 4;
/// Members that may leave a class within a batch before it is dissolved.
const LEAVERS_MAX: usize = 8;
/// In [`Stage::by_number`]: the number of a class, not of a slot.
pub(super) const IS_CLASS: u32 = 1 << 31;
/// Shorter batches are copied to each outbox: that is cheaper than to share them.
const SHARED_BATCH_MIN: usize = 1024;

/// Peers that get the same bytes.
#[derive(Default)]
struct Class {
    opening: Opening,
    /// Which group it is of.
    group: usize,
    members: Vec<Arc<Remote>>,
    buffer: Vec<u8>,
    /// For each member.
    cost: u64,
    /// The turn that is open at the buffer's end; 0 for none.
    turn: u64,
}

/// The observers of one pattern.
struct Group {
    id: u64,
    classes: Range<usize>,
    /// Members that get their messages one by one since they get other things too.
    leavers: Vec<Arc<Remote>>,
    /// All get theirs one by one.
    is_dissolved: bool,
}

/// The classes of a batch. Those that are not in use keep their memory for the next.
#[derive(Default)]
pub(super) struct FanOuts {
    groups: Vec<Group>,
    classes: Vec<Class>,
    used: usize,
    /// The group found last.
    last: usize,
}

impl FanOuts {
    #[inline]
    fn find(&mut self, id: u64) -> Option<usize> {
        if self.groups.get(self.last).is_some_and(|g| g.id == id) {
            return Some(self.last);
        }
        self.last = self.groups.iter().position(|g| g.id == id)?;
        Some(self.last)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// What it holds.
    pub(super) fn bytes(&self) -> usize {
        self.classes[..self.used].iter().map(|class| class.buffer.len()).sum()
    }
}

impl Stage {
    /// Stages a message for all observers of a group, as classes. `body` is all that follows the opening. False if
    /// they are to get it one by one.
    #[inline]
    pub(super) fn fan_out(&mut self, observers: &Observers<'_, Router>, body: &[u8]) -> bool {
        let group = match self.fan_outs.find(observers.group()) {
            Some(group) => group,
            None if self.fan_outs.groups.len() < GROUPS_MAX => self.open_group(observers),
            None => return false,
        };
        let Group { classes, leavers, is_dissolved, .. } = &mut self.fan_outs.groups[group];
        if *is_dissolved {
            return false;
        }
        let (classes, leavers) = (classes.clone(), std::mem::take(leavers));
        let (mut cost_all, mut deliveries) = (0, 0);
        for class in &mut self.fan_outs.classes[classes] {
            let skipped = skipped(class.turn, self.turn);
            class.turn = self.turn;
            let length = class.opening.write(skipped, body, &mut class.buffer);
            let (cost, members) = (length as u64 + EVENT_COST, class.members.len() as u64);
            class.cost += cost;
            (cost_all, deliveries) = (cost_all + cost * members, deliveries + members);
        }
        self.add(cost_all, deliveries);
        leavers.iter().for_each(|remote| self.copy_message(remote, body));
        self.fan_outs.groups[group].leavers = leavers;
        true
    }

    /// Divides a group into classes, if all are peers that nothing has been staged for, and few begin differently.
    #[cold]
    fn open_group(&mut self, observers: &Observers<'_, Router>) -> usize {
        let first = self.fan_outs.used;
        let group = self.fan_outs.groups.len();
        let fits = observers.iter().all(|to| self.join_class(to, first, group));
        let classes = first..self.fan_outs.used;
        if fits {
            for at in classes.clone() {
                for member in &self.fan_outs.classes[at].members {
                    let number = member.session_number();
                    if number >= self.by_number.len() {
                        self.by_number.resize(number + 1, 0);
                    }
                    self.by_number[number] = at as u32 | IS_CLASS;
                }
            }
        } else {
            for class in &mut self.fan_outs.classes[classes.clone()] {
                class.members.clear();
                self.pool.put(std::mem::take(&mut class.buffer));
            }
            self.fan_outs.used = first;
        }
        let id = observers.group();
        self.fan_outs.groups.push(Group { id, classes, leavers: Vec::new(), is_dissolved: !fits });
        self.fan_outs.last = group;
        group
    }

    fn join_class(&mut self, to: &Target, first: usize, group: usize) -> bool {
        let Target::Remote(remote) = to else { return false };
        let FanOuts { classes, used, .. } = &mut self.fan_outs;
        if self.by_number.get(remote.session_number()).is_some_and(|at| *at != 0)
            || remote.opening().is_too_long()
        {
            return false;
        }
        let known = classes[first..*used].iter_mut().find(|c| c.opening == *remote.opening());
        let class = match known {
            Some(class) => class,
            None if *used - first == CLASSES_MAX => return false,
            None => {
                *used += 1;
                if classes.len() < *used {
                    classes.push(Class::default());
                }
                let class = &mut classes[*used - 1];
                class.opening = remote.opening().clone();
                class.buffer = self.pool.take();
                class.group = group;
                class
            }
        };
        class.members.push(remote.clone());
        true
    }

    /// The member of a class that `to` belongs to gets something else: gives it a slot.
    #[cold]
    pub(super) fn leave_class(&mut self, at: u32, to: &Remote) {
        let class = &mut self.fan_outs.classes[(at & !IS_CLASS) as usize];
        let group = &mut self.fan_outs.groups[class.group];
        // Not there: it left its number to `to`, and has ended.
        let Some(leaver) = class.members.iter().position(|m| m.session_id() == to.session_id()) else {
            return;
        };
        if group.leavers.len() < LEAVERS_MAX {
            let leaver = class.members.swap_remove(leaver);
            let slot = class.slot_of(&leaver, self.pool.take());
            self.by_number[leaver.session_number()] = self.slots.len() as u32 + 1;
            self.slots.push(slot);
            group.leavers.push(leaver);
            return;
        }
        group.is_dissolved = true;
        for class in &mut self.fan_outs.classes[group.classes.clone()] {
            for member in std::mem::take(&mut class.members) {
                let slot = class.slot_of(&member, self.pool.take());
                self.by_number[member.session_number()] = self.slots.len() as u32 + 1;
                self.slots.push(slot);
            }
        }
    }

    /// Appends what classes have to the outboxes of their members.
    pub(super) fn publish_classes(&mut self) {
        let Some(account) = self.account.clone() else { return };
        let mut fan_outs = std::mem::take(&mut self.fan_outs);
        for class in &mut fan_outs.classes[..fan_outs.used] {
            if class.turn != 0 {
                class.buffer.push(tag::END);
            }
            let buffer = std::mem::take(&mut class.buffer);
            let batch = match buffer.len() {
                length if length >= SHARED_BATCH_MIN => Batch::Shared(self.pool.share(buffer)),
                _ => Batch::Copied(buffer),
            };
            for member in class.members.drain(..) {
                self.by_number[member.session_number()] = 0;
                let session = member.session();
                let appended = session.outbox().append_batch(&batch, &account, class.cost, &mut self.pool);
                self.note_appended(session, appended);
            }
            if let Batch::Copied(buffer) = batch {
                self.pool.put(buffer);
            }
            (class.cost, class.turn) = (0, 0);
        }
        fan_outs.groups.clear();
        fan_outs.used = 0;
        self.fan_outs = fan_outs;
    }
}

impl Class {
    /// A slot for one member, with all that it has got so far.
    fn slot_of(&self, member: &Remote, mut buffer: Vec<u8>) -> Slot {
        buffer.extend_from_slice(&self.buffer);
        let (cost, turn) = (self.cost, self.turn);
        let session = member.session().clone();
        Slot {
            session,
            session_id: member.session_id(),
            segments: Vec::new(),
            buffer,
            cost,
            turn,
            is_shed: false,
        }
    }
}

/// How much of an [`Opening`] is not needed behind what is there: the turn open at its end, 0 for none.
#[inline(always)]
pub(super) fn skipped(open: u64, turn: u64) -> usize {
    match open {
        0 => 1,
        open if open == turn => 2,
        _ => 0,
    }
}
