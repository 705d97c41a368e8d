//! Rewriting legal values into canonical form.

use super::scan::ScanErrorKind;
use super::{View, tag};

/// Why a value has no canonical form.
pub type CanonError = ScanErrorKind;

/// A set or dictionary whose elements are being written.
struct Open {
    kind: u8,
    /// Where each child begins in the output.
    children: Vec<usize>,
}

/// Appends `value` to `out` in canonical form: without annotations, with shortest lengths and integers, set
/// elements and dictionary entries sorted by their canonical bytes.
///
/// Iterative. Cost: one pass, plus a sort and a copy of each set or dictionary whose elements are out of order. So
/// a byte is copied at most once per level: sets in sets in the wrong order, as deep as the limit allows, cost
/// about ten times what scanning them does.
///
/// # Errors
/// [`ScanErrorKind::Duplicate`] if two elements of a set or keys of a dictionary are equal; `out` then holds a
/// part of the value.
pub fn canonicalize(value: View<'_>, out: &mut Vec<u8>) -> Result<(), CanonError> {
    let mut open: Vec<Open> = Vec::new();
    let last = value.token() + value.tokens();
    let mut token = value.token();
    let mut inside_embedded = false;
    let mut scratch = Vec::new();
    while token < last {
        let at = value.at(token);
        token += 1;
        let first = at.tag();
        if first == tag::ANNOTATION {
            // Past the annotation stands the value, or another annotation of it.
            token += at.at(token).tokens();
            continue;
        }
        if first == tag::END {
            out.push(first);
            if let Some(done) = open.pop() {
                sort_children(&done, out, &mut scratch)?;
            }
            continue;
        }
        if let Some(parent) = open.last_mut()
            && parent.kind >= tag::SET
            && !inside_embedded
        {
            parent.children.push(out.len());
        }
        inside_embedded = first == tag::EMBEDDED;
        match first {
            tag::RECORD..=tag::DICTIONARY => {
                out.push(first);
                open.push(Open { kind: first, children: Vec::new() });
            }
            tag::EMBEDDED | tag::FALSE | tag::TRUE => out.push(first),
            tag::INTEGER => super::encode::atom(out, first, minimal(at.content())),
            _ => super::encode::atom(out, first, at.content()),
        }
    }
    Ok(())
}

/// Puts the elements of the set, or the entries of the dictionary, that `out` ends with into order.
fn sort_children(done: &Open, out: &mut [u8], scratch: &mut Vec<u8>) -> Result<(), CanonError> {
    let step = match done.kind {
        tag::SET => 1,
        tag::DICTIONARY => 2,
        _ => return Ok(()),
    };
    let Some(&first) = done.children.first() else { return Ok(()) };
    let end = out.len() - 1;
    let starts = &done.children;
    // An entry: where its key begins, where the key ends, where the entry ends.
    let mut entries: Vec<(usize, usize, usize)> = (0..starts.len())
        .step_by(step)
        .map(|i| {
            let key_end = starts.get(i + 1).copied().unwrap_or(end);
            (starts[i], key_end, starts.get(i + step).copied().unwrap_or(end))
        })
        .collect();
    let key = |e: &(usize, usize, usize)| &out[e.0..e.1];
    if entries.is_sorted_by(|a, b| key(a) < key(b)) {
        return Ok(());
    }
    entries.sort_by(|a, b| key(a).cmp(key(b)));
    if entries.windows(2).any(|w| key(&w[0]) == key(&w[1])) {
        return Err(ScanErrorKind::Duplicate);
    }
    scratch.clear();
    for &(start, _, entry_end) in &entries {
        scratch.extend_from_slice(&out[start..entry_end]);
    }
    out[first..end].copy_from_slice(scratch);
    Ok(())
}

/// An integer's content without bytes that only repeat its sign.
pub(crate) fn minimal(mut content: &[u8]) -> &[u8] {
    loop {
        match content {
            [0] => return &[],
            [0, b, ..] if *b < 0x80 => content = &content[1..],
            [0xff, b, ..] if *b >= 0x80 => content = &content[1..],
            _ => return content,
        }
    }
}
