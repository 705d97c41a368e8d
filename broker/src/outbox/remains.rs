//! What is left of the packet that a peer has received the beginning of.
//!
//! A session that ends by this side says why in an Error packet, which may not stand in the middle of another
//! packet. Everything else that waits is dropped, so the end of the packet under way has to be found.

use std::collections::VecDeque;

use staunch_protocols::wire::tag;

use super::Segment;

/// Where a shared body stands: within a turn, an event, and the event's record.
const BODY_DEPTH: u32 = 3;

/// The bytes from `head` of the first segment on up to the end of the packet that has been begun; empty if none
/// has. `is_within` tells whether the first segment begins within a packet, after a shared body.
pub(super) fn of_begun_packet(queue: &VecDeque<Segment>, head: usize, is_within: bool) -> Vec<u8> {
    let mut rest = Vec::new();
    let mut depth = if is_within { BODY_DEPTH } else { 0 };
    let mut head = head;
    for segment in queue {
        match segment {
            Segment::Replay(_) => break,
            Segment::Shared(body) => {
                rest.extend_from_slice(&body.bytes()[head..]);
                depth = BODY_DEPTH;
            }
            Segment::Inline(_) | Segment::Batch(_) => {
                let bytes = segment.bytes();
                let end = end_of_packet(bytes, head, &mut depth);
                rest.extend_from_slice(&bytes[head..end]);
            }
        }
        if depth == 0 {
            break;
        }
        head = 0;
    }
    debug_assert!(depth == 0, "what is appended is whole packets");
    rest
}

/// Where the packet that holds the byte before `head` ends, or the packet that is open at the start, if `depth`
/// says so; the length if it goes on beyond. Leaves in `depth` how deep that is.
fn end_of_packet(bytes: &[u8], head: usize, depth: &mut u32) -> usize {
    let mut at = 0;
    while (*depth > 0 || at < head) && at < bytes.len() {
        match bytes[at] {
            tag::RECORD | tag::SEQUENCE | tag::SET | tag::DICTIONARY => *depth += 1,
            tag::END => *depth = depth.saturating_sub(1),
            _ => {}
        }
        skip_token(bytes, &mut at);
    }
    at.min(bytes.len())
}

/// Passes over a token. Its end may lie beyond the bytes.
pub(super) fn skip_token(bytes: &[u8], at: &mut usize) {
    let Some(token) = bytes.get(*at) else { return };
    *at += 1;
    match *token {
        tag::RECORD | tag::SEQUENCE | tag::SET | tag::DICTIONARY | tag::END => {}
        tag::FALSE | tag::TRUE | tag::EMBEDDED | tag::ANNOTATION => {}
        // A length and so many bytes.
        _ => {
            let length = read_length(bytes, at);
            *at = at.saturating_add(length);
        }
    }
}

/// Reads a length, 7 bits a byte, the lowest first.
fn read_length(bytes: &[u8], at: &mut usize) -> usize {
    let (mut length, mut shift) = (0, 0);
    while let Some(&byte) = bytes.get(*at) {
        *at += 1;
        length |= ((byte & 0x7f) as usize) << shift;
        shift += 7;
        if byte < 0x80 || shift > 56 {
            break;
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use staunch_flowctl::{Ledger, Limits, Loan};
    use staunch_protocols::text;
    use staunch_protocols::wire;

    use super::super::SharedBody;
    use super::*;

    fn bytes(packets: &str) -> Vec<u8> {
        let all = text::parse_all(packets, &wire::Limits::default()).unwrap();
        all[1..all.len() - 1].to_vec()
    }

    #[test]
    fn the_rest_of_a_packet_ends_where_the_packet_does() {
        let packets =
            ["[[1 <M [a #:[0 5] {b: 1.5}]>]]", "#f", "[[300 <A #{\"long\"} 100000>] [2 <R 7>]]", "[]"];
        let all = bytes(&packets.join(" "));
        let mut boundaries = vec![0];
        for n in 1..=packets.len() {
            boundaries.push(bytes(&packets[..n].join(" ")).len());
        }
        for head in 0..all.len() {
            let queue = VecDeque::from([Segment::Inline(all.clone()), Segment::Inline(bytes("[]"))]);
            let end = *boundaries.iter().find(|b| **b >= head).unwrap();
            assert_eq!(of_begun_packet(&queue, head, false), &all[head..end], "from {head}");
        }
    }

    #[test]
    fn shared_bodies_are_within_a_packet() {
        let ledger = Ledger::default();
        let account = ledger.open_account(&ledger.principal("p"), "a", Limits::unlimited());
        // [[1 <A BODY 5>] [1 <A BODY 6>]] [[2 <R 1>]], cut at the bodies.
        let body = bytes("[x [y] \"z\"]");
        let whole = bytes("[[1 <A [x [y] \"z\"] 5>] [1 <A [x [y] \"z\"] 6>]] [[2 <R 1>]]");
        let first = bytes("[[2 <R 1>]]").len();
        let at = whole.windows(body.len()).position(|w| w == body).unwrap();
        let second =
            at + body.len() + whole[at + body.len()..].windows(body.len()).position(|w| w == body).unwrap();
        let parts = [
            0..at,
            at..at + body.len(),
            at + body.len()..second,
            second..second + body.len(),
            second + body.len()..whole.len(),
        ];
        let segments = |from: usize| -> VecDeque<Segment> {
            let make = |(n, part): (usize, &std::ops::Range<usize>)| match n % 2 {
                0 => Segment::Inline(whole[part.clone()].to_vec()),
                _ => {
                    let loan = Loan::charge(&account, 1);
                    Segment::Shared(Arc::new(SharedBody::new(whole[part.clone()].to_vec(), loan)))
                }
            };
            parts.iter().enumerate().skip(from).map(make).collect()
        };
        let end = whole.len() - first;
        for head in 1..end {
            let from = parts.iter().position(|p| p.contains(&head)).unwrap();
            let is_within = from % 2 == 0 && from > 0;
            let rest = of_begun_packet(&segments(from), head - parts[from].start, is_within);
            assert_eq!(rest, &whole[head..end], "from {head}");
        }
        assert_eq!(account.debt(), 0);
    }
}
