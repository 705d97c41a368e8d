//! Packets, events and wire references: what the two ends of a session say to each other.
//!
//! Reading works on [`View`]s of scanned, canonical packets. Surplus fields are ignored everywhere, as the
//! protocol asks. Writing appends canonical bytes to a buffer.

use crate::wire::{Children, Int, View, encode, tag};

/// The first byte of a Nop packet, which is all of it.
pub const NOP: u8 = tag::FALSE;

/// What kind of packet a value is.
#[derive(Debug, Clone, Copy)]
pub enum Packet<'a> {
    /// Ignored; keep-alive.
    Nop,
    /// A batch of events.
    Turn(Turn<'a>),
    /// The peer has failed; the session ends.
    Error {
        /// What went wrong, for people.
        message: &'a str,
        /// Anything.
        detail: View<'a>,
    },
    /// Any other record: ignored unless understood.
    Extension(View<'a>),
}

/// Why a value is not a packet. The peer's fault: the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Neither `#f`, nor a sequence, nor a record.
    #[error("not a packet: expected #f, a turn or a record")]
    NotAPacket,
    /// A turn with something other than `[oid event]` in it.
    #[error("malformed event at position {at}: {reason}")]
    Event {
        /// Offset of the event in the packet.
        at: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An embedded value that is neither `[0 oid]` nor `[1 oid caveat...]`.
    #[error("malformed reference at position {at}")]
    Reference {
        /// Offset of the reference in the packet.
        at: usize,
    },
}

impl<'a> Packet<'a> {
    /// Tells what kind of packet `value` is. Looks at no event of a turn yet.
    ///
    /// # Errors
    /// [`PacketError::NotAPacket`] for atoms, sets, dictionaries, embedded values.
    #[inline]
    pub fn read(value: View<'a>) -> Result<Packet<'a>, PacketError> {
        match value.tag() {
            tag::SEQUENCE => Ok(Packet::Turn(Turn(value))),
            tag::FALSE => Ok(Packet::Nop),
            tag::RECORD => Ok(Packet::read_record(value)),
            _ => Err(PacketError::NotAPacket),
        }
    }

    fn read_record(value: View<'a>) -> Packet<'a> {
        let mut fields = value.fields();
        if value.label().is_some_and(|l| l.is_symbol("error"))
            && let (Some(message), Some(detail)) = (fields.next().and_then(View::as_string), fields.next())
        {
            return Packet::Error { message, detail };
        }
        Packet::Extension(value)
    }
}

/// A Turn packet.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a>(View<'a>);

impl<'a> Turn<'a> {
    /// The packet as a turn, if it is one.
    #[inline(always)]
    pub fn of(packet: View<'a>) -> Option<Turn<'a>> {
        (packet.tag() == tag::SEQUENCE).then_some(Turn(packet))
    }

    /// Its events, in order, each checked as it is read.
    #[inline]
    pub fn events(self) -> Events<'a> {
        Events(self.0.children())
    }

    /// The packet.
    pub fn view(self) -> View<'a> {
        self.0
    }
}

/// See [`Turn::events`].
#[derive(Clone)]
pub struct Events<'a>(Children<'a>);

/// One event and the entity at the receiver that it is for.
#[derive(Debug, Clone, Copy)]
pub struct TurnEvent<'a> {
    /// The target: an integer.
    pub oid: View<'a>,
    /// What happens to it.
    pub event: Event<'a>,
}

/// What can happen to an entity.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A value holds from now on, until its handle is retracted.
    Assert {
        /// The value.
        assertion: View<'a>,
        /// An integer: the sender's name for this placement.
        handle: View<'a>,
    },
    /// An assertion ends.
    Retract {
        /// An integer.
        handle: View<'a>,
    },
    /// A value for this instant only.
    Message {
        /// The value.
        body: View<'a>,
    },
    /// A barrier: `peer` is to get the message `#t`.
    Sync {
        /// The embedded reference.
        peer: View<'a>,
    },
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<TurnEvent<'a>, PacketError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(read_event)
    }
}

#[inline(always)]
fn read_event(item: View<'_>) -> Result<TurnEvent<'_>, PacketError> {
    let bad = |reason| PacketError::Event { at: item.start(), reason };
    if item.tag() != tag::SEQUENCE {
        return Err(bad("expected [oid event]"));
    }
    let oid =
        item.first_child().filter(|o| o.tag() == tag::INTEGER).ok_or_else(|| bad("oid is not an integer"))?;
    let record = oid.next_sibling().ok_or_else(|| bad("event is missing"))?;
    let label = record.label().ok_or_else(|| bad("event is not a record"))?;
    let &[tag::SYMBOL, 1, kind] = label.span() else { return Err(bad("unknown event")) };
    let first = label.next_sibling().ok_or_else(|| bad("event has no field"))?;
    let event = match kind {
        b'M' => Event::Message { body: first },
        b'A' => match first.next_sibling() {
            Some(handle) if handle.tag() == tag::INTEGER => Event::Assert { assertion: first, handle },
            _ => return Err(bad("assertion without an integer handle")),
        },
        b'R' if first.tag() == tag::INTEGER => Event::Retract { handle: first },
        b'R' => return Err(bad("retraction without an integer handle")),
        b'S' if first.tag() == tag::EMBEDDED => Event::Sync { peer: first },
        b'S' => return Err(bad("sync without a peer reference")),
        _ => return Err(bad("unknown event")),
    };
    Ok(TurnEvent { oid, event })
}

/// A reference as it stands in a packet.
#[derive(Debug, Clone)]
pub enum WireRef<'a> {
    /// An entity of the sender's.
    Mine(Int),
    /// An entity of the receiver's, restricted by these caveats.
    Yours(Int, Children<'a>),
}

impl<'a> WireRef<'a> {
    /// Reads the embedded value `reference`. The doubly embedded form that one client library sends is taken
    /// for the plain one.
    ///
    /// # Errors
    /// [`PacketError::Reference`] if it is of neither form.
    pub fn read(reference: View<'a>) -> Result<WireRef<'a>, PacketError> {
        let bad = PacketError::Reference { at: reference.start() };
        let mut inner = reference.embedded().ok_or(bad)?;
        if let Some(again) = inner.embedded() {
            inner = again;
        }
        if inner.tag() != tag::SEQUENCE {
            return Err(bad);
        }
        let mut items = inner.children();
        let kind = items.next().and_then(View::as_i64).ok_or(bad)?;
        let oid = items.next().and_then(View::as_int).ok_or(bad)?;
        match kind {
            0 => Ok(WireRef::Mine(oid)),
            1 => Ok(WireRef::Yours(oid, items)),
            _ => Err(bad),
        }
    }
}

/// Appends `#:[0 oid]`: an entity of ours.
pub fn write_mine(out: &mut Vec<u8>, oid: u64) {
    out.extend_from_slice(&[tag::EMBEDDED, tag::SEQUENCE, tag::INTEGER, 0]);
    encode::uint(out, oid);
    out.push(tag::END);
}

/// Appends `#:[1 oid]`: an entity of the peer's.
pub fn write_yours(out: &mut Vec<u8>, oid: &Int) {
    out.extend_from_slice(&[tag::EMBEDDED, tag::SEQUENCE, tag::INTEGER, 1, 1]);
    oid.write(out);
    out.push(tag::END);
}

/// Appends `<error "message" detail>` with detail `#f`.
pub fn write_error(out: &mut Vec<u8>, message: &str) {
    encode::record(out, "error");
    encode::string(out, message);
    out.extend_from_slice(&[tag::FALSE, tag::END]);
}

/// The pieces of events around what varies in them: `[oid <X ` ... `>]`.
pub mod frame {
    use super::*;

    /// What precedes the content of an event: `[oid <kind `.
    pub fn open(out: &mut Vec<u8>, oid: &Int, kind: u8) {
        out.push(tag::SEQUENCE);
        oid.write(out);
        out.extend_from_slice(&[tag::RECORD, tag::SYMBOL, 1, kind]);
    }

    /// What follows the content of an event: `>]`.
    pub const CLOSE: [u8; 2] = [tag::END, tag::END];
}
