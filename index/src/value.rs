//! Stored values and what callers plug into the index.

use std::sync::atomic::{AtomicU32, Ordering};

use staunch_protocols::wire::{Limits, Scanner, View};
use triomphe::ThinArc;

use crate::find::Finder;

/// The types that the index carries for its caller without looking at them.
pub trait Domain: Sized + 'static {
    /// Where an observer's events go.
    type Endpoint: Endpoint;
    /// What must live as long as a stored value, such as the capabilities it holds.
    type Extra: Clone + Send + Sync + 'static;
    /// What lives as long as a skeleton: whoever is charged for it.
    type Owner: Send + Sync + 'static;
    /// Who pays for what an observation makes the index keep.
    type Payer: Payer;
}

/// Where an observer's events go.
pub trait Endpoint: Clone + Send + Sync + 'static {
    /// Observers in one handle domain (a session, say) must get different handles for the same assertion.
    fn handle_domain(&self) -> u64;
    /// Whether nobody will ever read what is sent there.
    fn is_gone(&self) -> bool;
}

/// Who pays for what an observation makes the index keep: captures lists, counted in steps of 8 to 1024. Called with
/// locks held: count, and do nothing else.
pub trait Payer: Clone + Send + Sync + 'static {
    /// Equal for those who are counted together.
    fn number(&self) -> u64;
    /// Equal for those who assert as one (a session, say).
    fn holder(&self) -> u64;
    /// So many more are kept, whether it may have them or not.
    fn take(&self, lists: u64);
    /// So many fewer are.
    fn give_back(&self, lists: u64);
    /// Whether more are kept than it may have.
    fn is_overdrawn(&self) -> bool;
}

/// Nobody counts.
impl Payer for () {
    fn number(&self) -> u64 {
        0
    }
    fn holder(&self) -> u64 {
        0
    }
    fn take(&self, _: u64) {}
    fn give_back(&self, _: u64) {}
    fn is_overdrawn(&self) -> bool {
        false
    }
}

/// What stands before a stored value's bytes.
pub(crate) struct Header<D: Domain> {
    /// How many placements of the value are alive, written under its shard's lock; or [`IS_CAPTURES`], for good.
    count: AtomicU32,
    /// Hash of the bytes.
    pub(crate) hash: u32,
    /// The caller's own.
    pub(crate) extra: Option<Box<D::Extra>>,
}

/// In place of a count: the bytes are only a captures list that stands for values that give it.
const IS_CAPTURES: u32 = u32::MAX;

/// A stored value: canonical bytes behind a thin pointer, 32 bytes of overhead, shared by whoever needs it.
pub struct Stored<D: Domain>(ThinArc<Header<D>, u8>);

impl<D: Domain> Clone for Stored<D> {
    fn clone(&self) -> Self {
        Stored(self.0.clone())
    }
}

impl<D: Domain> std::fmt::Debug for Stored<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stored({:02x?})", self.bytes())
    }
}

impl<D: Domain> Stored<D> {
    /// A value without placements.
    pub(crate) fn new(bytes: &[u8], hash: u32, extra: Option<Box<D::Extra>>) -> Stored<D> {
        let header = Header { count: AtomicU32::new(0), hash, extra };
        Stored(ThinArc::from_header_and_slice(header, bytes))
    }

    /// A captures list, which is never placed.
    pub(crate) fn captures(bytes: &[u8], hash: u32, extra: Option<Box<D::Extra>>) -> Stored<D> {
        let header = Header { count: AtomicU32::new(IS_CAPTURES), hash, extra };
        Stored(ThinArc::from_header_and_slice(header, bytes))
    }

    /// Whether the bytes are only a captures list.
    pub(crate) fn is_captures(&self) -> bool {
        // Relaxed: it has been so since the value was made, or never will be.
        self.header().count.load(Ordering::Relaxed) == IS_CAPTURES
    }

    /// The value.
    pub fn bytes(&self) -> &[u8] {
        &self.0.slice
    }

    /// What the caller stored with it.
    pub fn extra(&self) -> Option<&D::Extra> {
        self.header().extra.as_deref()
    }

    pub(crate) fn header(&self) -> &Header<D> {
        &self.0.header.header
    }

    /// Whether it looks like an Observe, so that placing or displacing it may need [`crate::Index::write`].
    pub fn may_observe(&self) -> bool {
        looks_like_observe(self.bytes())
    }

    /// Whether both are the same placement-counted object.
    pub fn is_same(&self, other: &Stored<D>) -> bool {
        self.address() == other.address()
    }

    pub(crate) fn address(&self) -> usize {
        self.0.slice.as_ptr() as usize
    }

    /// One more placement; true if it is the first. The caller holds the shard's lock.
    pub(crate) fn place(&self) -> bool {
        let count = &self.header().count;
        // Relaxed, load and store: the shard's lock orders all accesses.
        let before = count.load(Ordering::Relaxed);
        count.store(before + 1, Ordering::Relaxed);
        before == 0
    }

    /// One placement fewer; true if it was the last. The caller holds the shard's lock.
    pub(crate) fn displace(&self) -> bool {
        let count = &self.header().count;
        // Relaxed, load and store: the shard's lock orders all accesses.
        let after = count.load(Ordering::Relaxed) - 1;
        count.store(after, Ordering::Relaxed);
        after == 0
    }
}

/// Whether canonical bytes begin like an `<Observe ...>`.
#[inline]
pub fn looks_like_observe(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xb4\xb3\x07Observe")
}

/// Scans values that the index itself stored, which were checked when they came in.
pub(crate) struct Rescan {
    scanner: Scanner,
    finder: Finder,
    /// Bytes scanned.
    #[cfg(test)]
    pub(crate) scanned_bytes: usize,
}

impl Default for Rescan {
    fn default() -> Rescan {
        let limits = Limits::NONE;
        Rescan {
            scanner: Scanner::new(limits),
            finder: Finder::default(),
            #[cfg(test)]
            scanned_bytes: 0,
        }
    }
}

impl Rescan {
    /// The stored value as a view.
    pub(crate) fn view<'a>(&'a mut self, bytes: &'a [u8]) -> View<'a> {
        self.open(bytes).0
    }

    /// The same, with what finds its parts.
    pub(crate) fn open<'a>(&'a mut self, bytes: &'a [u8]) -> (View<'a>, &'a mut Finder) {
        #[cfg(test)]
        {
            self.scanned_bytes += bytes.len();
        }
        self.scanner.reset();
        let scanned = self.scanner.scan(bytes);
        debug_assert!(scanned.is_ok(), "stored values are well-formed");
        self.finder.begin();
        (self.scanner.view(bytes), &mut self.finder)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Domain, Endpoint};

    /// What unit tests plug in: an endpoint is its handle domain.
    pub(crate) struct Plug;

    impl Domain for Plug {
        type Endpoint = To;
        type Extra = ();
        type Owner = ();
        type Payer = ();
    }

    #[derive(Clone)]
    pub(crate) struct To(pub(crate) u64);

    impl Endpoint for To {
        fn handle_domain(&self) -> u64 {
            self.0
        }
        fn is_gone(&self) -> bool {
            false
        }
    }
}
