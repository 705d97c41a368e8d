//! Dataspaces, and where their observers' events go.
//!
//! A dataspace is not an actor with a mailbox: it is a shared index, and the sender's own turn does the routing,
//! on the sender's thread. Only an observer that is not a socket (a dataspace that observes another, say) gets
//! its events through a queue of its own, an [`Inbox`], since it acts in turns of its own.

mod inbox;

use std::sync::{Arc, Weak};

use staunch_index::{Domain, Endpoint, Index};

pub(crate) use inbox::{Delivery, Inbox, LocalEvent, LocalReplay};

use crate::Broker;
use crate::cap::{Cap, Caps, Entity};
use crate::principals::{Author, CapturesPayer, SkeletonShare};
use crate::relay::Remote;

/// What the broker plugs into the index.
pub(crate) struct Router;

impl Domain for Router {
    type Endpoint = Target;
    type Extra = References;
    type Owner = SkeletonShare;
    type Payer = CapturesPayer;
}

/// What a stored value refers to, and who is to answer for those being told. (Nobody, if whoever had a dataspace assert it
/// has gone.)
#[derive(Clone)]
pub(crate) struct References {
    pub(crate) caps: Caps,
    pub(crate) author: Option<Author>,
}

impl References {
    /// Of a value with these capabilities; nothing if it has none.
    pub(crate) fn of(caps: &mut Caps, author: impl FnOnce() -> Option<Author>) -> Option<Box<References>> {
        (!caps.is_empty()).then(|| Box::new(References { caps: std::mem::take(caps), author: author() }))
    }

    /// The capabilities of a value that has these, or none.
    pub(crate) fn caps_of(references: Option<&References>) -> Caps {
        references.map(|references| references.caps.clone()).unwrap_or_default()
    }
}

/// Where an observer's events go.
#[derive(Clone)]
pub(crate) enum Target {
    /// To a peer's entity, unrestricted: the fast way.
    Remote(Arc<Remote>),
    /// To anything else.
    Other(Cap, Observing),
}

/// An observation by an entity that is not simply a peer's, or a question of its.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Observing {
    /// Tells observers apart: handles are unique only within one.
    pub(crate) observer: u64,
    /// The session that asked for it first: the one to end if what it set up goes round in circles.
    pub(crate) session: u64,
    /// That session's principal, by its [`Holdings`](crate::principals::Holdings)' number.
    pub(crate) principal: u64,
}

impl Target {
    /// Of an observation that a session of this principal asks for.
    pub(crate) fn of(cap: &Cap, session: u64, principal: u64) -> Target {
        match cap.entity() {
            Entity::Remote(remote) if cap.caveats().is_none() => Target::Remote(remote.clone()),
            _ => Target::Other(cap.clone(), Observing { observer: cap.id(), session, principal }),
        }
    }
}

impl Endpoint for Target {
    fn handle_domain(&self) -> u64 {
        match self {
            Target::Remote(remote) => remote.session().id(),
            // An attenuated peer's entity shares that peer's handles; others have their own.
            Target::Other(cap, by) => match cap.entity() {
                Entity::Remote(remote) => remote.session().id(),
                _ => by.observer | 1 << 63,
            },
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Target::Remote(remote) => remote.session().is_closed(),
            Target::Other(cap, _) => cap.is_gone(),
        }
    }
}

/// A dataspace.
pub(crate) struct Dataspace {
    pub(crate) index: Index<Router>,
    /// What arrives from observations that it makes itself.
    pub(crate) inbox: Arc<Inbox>,
}

impl Dataspace {
    pub(crate) fn new(broker: &Arc<Broker>) -> Arc<Dataspace> {
        Arc::new_cyclic(|this: &Weak<Dataspace>| Dataspace {
            index: Index::new(broker.handles.clone()),
            inbox: Arc::new(Inbox::new(broker, this.clone())),
        })
    }
}
