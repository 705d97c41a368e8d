//! Peers that speak text.
//!
//! Which syntax a packet is in shows in its first byte. The peer is answered in that of what it sent last, from the next
//! packet on; most stay with what they began with. Text becomes binary packets, in canonical form, as it arrives, and
//! those are handled like others.

use std::sync::Arc;

use staunch_protocols::text::StreamReader;
use staunch_protocols::wire::Scanner;

use super::super::failure::Failure;
use super::packets::{Step, Syntax};
use super::{Inbound, Session};
use crate::Local;

impl Session {
    /// The peer goes on in text, of which this is the first byte.
    #[cold]
    pub(super) fn begin_text(&self, first: u8, inbound: &mut Inbound) -> Result<(), Failure> {
        self.outbox.speak(true);
        // What else may come first over TCP is taken for HTTP.
        if !inbound.is_known && self.stream.is_tcp() && !matches!(first, b'[' | b'<') {
            return Err(Failure::NoText);
        }
        inbound.is_known = true;
        inbound.text = Some(Box::new(StreamReader::new(self.packet_limits(inbound))));
        Ok(())
    }

    /// The peer goes on in binary.
    #[cold]
    pub(super) fn end_text(&self, inbound: &mut Inbound) {
        self.outbox.speak(false);
        inbound.text = None;
    }

    /// Handles the packets in `bytes`. Returns how many bytes it is done with: all but what has to wait, or what is
    /// not text. The reader keeps what has come of an unfinished packet.
    #[cold]
    pub(super) fn handle_text(
        self: &Arc<Self>,
        bytes: &[u8],
        inbound: &mut Inbound,
        local: &mut Local,
    ) -> Result<(usize, Syntax), Failure> {
        let Some(mut reader) = inbound.text.take() else { return Ok((0, Syntax::Same)) };
        let mut scanner = local.take_scanner(self.packet_limits(inbound));
        let mut done = 0;
        let mut syntax = Syntax::Same;
        while done < bytes.len() && !self.is_held_up(inbound, local) {
            if self.is_introduced(inbound) {
                reader.set_limits(self.packet);
                local.put_scanner(std::mem::replace(&mut scanner, Scanner::new(self.packet)));
            }
            if bytes[done] >= 0x80 && reader.is_idle() {
                syntax = Syntax::Binary;
                break;
            }
            let (length, packet) = reader.read(&bytes[done..]).map_err(Failure::Text)?;
            done += length;
            if let Some(packet) = packet {
                match self.handle_some(packet, &mut scanner, inbound, local)?.1 {
                    Step::Next => {}
                    Step::Building => break,
                    // The reader has the scanner's limits, and what it makes is whole.
                    Step::Unfinished => return Err(Failure::Bug),
                }
            }
        }
        local.put_scanner(scanner);
        inbound.text = Some(reader);
        Ok((done, syntax))
    }
}
