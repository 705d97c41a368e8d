//! Content-based routing: which observers does a value concern, and what do they see of it?
//!
//! An [`Index`] holds the assertions of one dataspace and the patterns of its observers. It knows values as
//! canonical bytes and observers as opaque endpoints; sockets, sessions and capabilities are its caller's.
//!
//! # Layout
//! - [`pattern`]: patterns, compiled flat; `plan`: how captures are read; `find`: looking into
//!   values; `key`: their constants.
//! - `trie`: skeletons by shape; `edge`: its edges; `roster`: the observers at each skeleton; `effort`: what it takes to try
//!   them.
//! - `store`: the assertions, in shards.
//! - `bag`: which captures lists a group of observers has been told of; `parts`: bags in stripes; `purse`: who pays
//!   for them.
//! - `table`, `slots`: containers that never move much at once.
//! - `commit`: turns, which lock what they touch and take effect whole.
//!
//! # Costs
//! With S skeletons whose shape a value has and k observers that match: a message costs one pass over its tokens, S
//! hash look-ups and k calls of the [`Sink`]; an assertion the same and one store update. None of it depends on the
//! number of patterns or of assertions. Joining and leaving finds its way by tables, however many observers there
//! are, in one session or in many. No step under a lock grows with what is stored, but for two: telling an observer
//! that unsubscribes (and has not gone) of the end of all it holds, and turns that are large themselves.
//!
//! An assertion of n bytes that one group of observers sees weighs n and about 90 bytes. What it weighs more for each
//! further group and skeleton is paid for by a [`Payer`]: one of those who observe so.
//!
//! # Locks, in the order in which they are taken
//! 1. the trie (shared by ordinary turns, exclusive to turns that subscribe or unsubscribe);
//! 2. the store's shards that the turn touches, ascending;
//! 3. the bags of the groups it changes, or those stripes of them that its captures lists are in, by ascending id and
//!    number. A bag belongs to a pattern, not to a shard, so equal captures of values in different shards meet in one
//!    place;
//! 4. a purse, for counting alone; or whatever [`Sink::publish`] takes: it is called while 1 to 3 are held, so what observers are sent is in the
//!    order of the changes.
//!
//! A turn of messages alone takes only the first, shared: senders route in parallel.
#![forbid(unsafe_code)]

mod apply;
mod bag;
mod build;
mod commit;
mod edge;
mod effort;
mod find;
mod key;
mod parts;
pub mod pattern;
mod plan;
mod purse;
mod roster;
mod slots;
mod store;
mod table;
mod trie;
mod value;

use smallvec::SmallVec;

pub use build::Prepared;
pub use commit::{Action, Reader, Run, Scratch, Usage, Writer};
pub use roster::Observers;
pub use trie::Group;
pub use value::{Domain, Endpoint, Payer, Stored, looks_like_observe};

/// What an observer sees of a value: the parts it captures, in order, each canonical bytes.
pub type Captures<'a> = SmallVec<[&'a [u8]; 4]>;

/// Takes what a turn means for observers, in order.
///
/// Calls come with locks held: stage, and append to where it is sent in [`Sink::publish`]; do nothing slow.
pub trait Sink<D: Domain> {
    /// A message matches.
    fn message(&mut self, to: &D::Endpoint, captures: &Captures<'_>);
    /// A captures list appeared. `from` keeps alive what it refers to.
    fn assert(&mut self, to: &D::Endpoint, handle: u64, captures: &Captures<'_>, from: &Stored<D>);
    /// A captures list went.
    fn retract(&mut self, to: &D::Endpoint, handle: u64, captures: &Captures<'_>, from: &Stored<D>);
    /// Much is there already: to be pulled by [`Index::pull`], before anything that comes after this call.
    fn replay(&mut self, to: &D::Endpoint, replay: Replay<D>);
    /// An observation of this payer's makes the index keep more than the payer may have it keep. It goes on, and this is
    /// said again as more comes: it is for the caller to end it, once it holds no lock.
    fn overdrawn(&mut self, payer: &D::Payer);
    /// The turn is complete.
    fn publish(&mut self);
}

/// An observation would make the index keep more than its payer may have it keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdrawn;

/// What an observer has yet to be told of the state that it found. 16 bytes; the state itself stays in the
/// store.
pub struct Replay<D: Domain> {
    group: std::sync::Arc<Group<D>>,
    observer: u64,
}

impl<D: Domain> Replay<D> {
    /// Tells of at most `slots_max` more places, or until `tell` returns false. Returns whether there may be
    /// more. Cost: the places looked at.
    pub fn pull(
        &self,
        slots_max: u32,
        scratch: &mut Scratch,
        tell: &mut dyn FnMut(u64, &Stored<D>, &Captures<'_>) -> bool,
    ) -> bool {
        let reading = self.group.reading();
        let mut budget = slots_max;
        let parts = self.group.bag.each();
        parts.iter().any(|part| {
            // What is after the part at which it stopped may be nothing; it is seen next time.
            budget == 0
                || part.lock().continue_replay(
                    &reading,
                    self.observer,
                    &mut budget,
                    &mut scratch.rescan,
                    tell,
                )
        })
    }
}

pub use commit::Index;
