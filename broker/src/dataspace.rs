//! Dataspaces, and where their observers' events go.
//!
//! A dataspace is not an actor with a mailbox: it is a shared index, and the sender's own turn does the routing,
//! on the sender's thread. Only an observer that is not a socket (a dataspace that observes another, say) gets
//! its events through a queue of its own, an [`Inbox`], since it acts in turns of its own.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use staunch_flowctl::Loan;
use staunch_index::{Domain, Endpoint, Index, Stored};

use crate::cap::{Cap, Caps, Entity};
use crate::principals::SkeletonShare;
use crate::relay::Remote;

/// What the broker plugs into the index.
pub(crate) struct Router;

impl Domain for Router {
    type Endpoint = Target;
    type Extra = Caps;
    type Owner = SkeletonShare;
}

/// Where an observer's events go.
#[derive(Clone)]
pub(crate) enum Target {
    /// To a peer's entity, unrestricted: the fast way.
    Remote(Arc<Remote>),
    /// To anything else; the number tells observers apart.
    Other(Cap, u64),
}

impl Target {
    pub(crate) fn of(cap: &Cap) -> Target {
        match cap.entity() {
            Entity::Remote(remote) if cap.caveats().is_none() => Target::Remote(remote.clone()),
            _ => Target::Other(cap.clone(), cap.id()),
        }
    }
}

impl Endpoint for Target {
    fn handle_domain(&self) -> u64 {
        match self {
            Target::Remote(remote) => remote.session().id(),
            // An attenuated peer's entity shares that peer's handles; others have their own.
            Target::Other(cap, id) => match cap.entity() {
                Entity::Remote(remote) => remote.session().id(),
                _ => *id | 1 << 63,
            },
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Target::Remote(remote) => remote.session().is_closed(),
            Target::Other(cap, _) => match cap.entity() {
                Entity::Remote(remote) => remote.session().is_closed(),
                _ => false,
            },
        }
    }
}

/// A dataspace.
pub(crate) struct Dataspace {
    pub(crate) index: Index<Router>,
    /// What arrives from observations that it makes itself.
    pub(crate) inbox: Inbox,
}

impl Dataspace {
    pub(crate) fn new(handles: Arc<AtomicU64>) -> Dataspace {
        Dataspace { index: Index::new(handles), inbox: Inbox::default() }
    }
}

/// An event on its way to an entity in this process.
pub(crate) struct Delivery {
    pub(crate) event: LocalEvent,
    /// Which observer it is for: handles are unique only within one.
    pub(crate) observer: u64,
    /// What it owes, to whoever caused it in the end.
    pub(crate) loan: Loan,
    /// Over how many such queues its cause has come.
    pub(crate) hops: u32,
}

/// See [`Delivery`]. Values are in stored form.
pub(crate) enum LocalEvent {
    Assert(Vec<u8>, Caps, u64),
    Retract(u64),
    Message(Vec<u8>, Caps),
}

/// Events for an entity in this process: appended to in the order of their causes, handled by one worker at a
/// time.
#[derive(Default)]
pub(crate) struct Inbox(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Delivery>,
    /// A worker has been told, and has not found the queue empty since.
    is_awake: bool,
}

impl Inbox {
    /// Appends. Returns whether a worker must be told.
    pub(crate) fn push(&self, delivery: Delivery) -> bool {
        let mut waiting = self.0.lock();
        waiting.queue.push_back(delivery);
        !std::mem::replace(&mut waiting.is_awake, true)
    }

    /// Takes up to `count_max` events. None means that there are no more and that the worker may leave: the next
    /// push tells another.
    pub(crate) fn take(&self, count_max: usize) -> Option<Vec<Delivery>> {
        let mut waiting = self.0.lock();
        let count = waiting.queue.len().min(count_max);
        if count == 0 {
            waiting.is_awake = false;
            waiting.queue = VecDeque::new();
            return None;
        }
        Some(waiting.queue.drain(..count).collect())
    }
}

/// What the observations of one entity have placed in a dataspace: by observer and handle.
pub(crate) type Placed = HashMap<(u64, u64), Stored<Router>>;
