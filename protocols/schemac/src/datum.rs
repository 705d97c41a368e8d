//! Preserves values with their places: what a schema file is made of.
//!
//! The runtime's own reader drops places, comments and annotations, which are what a schema compiler needs; and
//! the runtime is built with this crate, so it could not be used here anyway.

/// A value in a text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Position of its first byte, annotations not counted.
    pub(crate) at: usize,
    /// Position after its last byte.
    pub(crate) end: usize,
    /// The comment right before it, line by line.
    pub(crate) doc: Vec<String>,
    /// Its annotations, comments not counted.
    pub(crate) annotations: Vec<Node>,
    /// The value itself.
    pub(crate) datum: Datum,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Datum {
    Bool(bool),
    /// As its bits, so that all of them are equal to themselves.
    Double(u64),
    Int(i128),
    String(String),
    Bytes(Vec<u8>),
    Symbol(String),
    /// The label first.
    Record(Vec<Node>),
    Sequence(Vec<Node>),
    Set(Vec<Node>),
    Dictionary(Vec<(Node, Node)>),
    Embedded(Box<Node>),
}

impl Node {
    pub(crate) fn symbol(&self) -> Option<&str> {
        match &self.datum {
            Datum::Symbol(name) => Some(name),
            _ => None,
        }
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        self.symbol() == Some(name)
    }
}

impl Datum {
    /// Appends it in canonical machine syntax; false if it has none, since an embedded value stands in it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> bool {
        match self {
            Datum::Bool(value) => out.push(if *value { 0x81 } else { 0x80 }),
            Datum::Double(bits) => atom(out, 0x87, &bits.to_be_bytes()),
            Datum::Int(n) => atom(out, 0xb0, minimal(&n.to_be_bytes())),
            Datum::String(text) => atom(out, 0xb1, text.as_bytes()),
            Datum::Bytes(content) => atom(out, 0xb2, content),
            Datum::Symbol(name) => atom(out, 0xb3, name.as_bytes()),
            Datum::Record(items) => return compound(out, 0xb4, items),
            Datum::Sequence(items) => return compound(out, 0xb5, items),
            Datum::Set(items) => return sorted(out, 0xb6, items.iter().map(|item| (item, None))),
            Datum::Dictionary(entries) => {
                return sorted(out, 0xb7, entries.iter().map(|(key, value)| (key, Some(value))));
            }
            Datum::Embedded(_) => return false,
        }
        true
    }
}

fn atom(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let mut length = content.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
}

/// An integer without leading bytes that only repeat its sign.
fn minimal(mut content: &[u8]) -> &[u8] {
    while let [sign, rest @ ..] = content {
        let is_padding = match rest.first() {
            None => *sign == 0,
            Some(next) => (*sign == 0 && *next < 0x80) || (*sign == 0xff && *next >= 0x80),
        };
        if !is_padding {
            break;
        }
        content = rest;
    }
    content
}

fn compound(out: &mut Vec<u8>, tag: u8, items: &[Node]) -> bool {
    out.push(tag);
    let is_complete = items.iter().all(|item| item.datum.encode(out));
    out.push(0x84);
    is_complete
}

/// Elements, or entries, in the order of the encodings of their keys.
fn sorted<'n>(out: &mut Vec<u8>, tag: u8, items: impl Iterator<Item = (&'n Node, Option<&'n Node>)>) -> bool {
    let mut encoded = Vec::new();
    let mut is_complete = true;
    for (key, value) in items {
        let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
        is_complete &= key.datum.encode(&mut key_bytes);
        is_complete &= value.is_none_or(|value| value.datum.encode(&mut value_bytes));
        encoded.push((key_bytes, value_bytes));
    }
    encoded.sort();
    out.push(tag);
    encoded.iter().for_each(|(key, value)| out.extend(key.iter().chain(value)));
    out.push(0x84);
    is_complete
}

#[cfg(test)]
mod tests {
    #[test]
    fn literals_encode_in_canonical_form() {
        let check = |text: &str, expected: &[u8]| {
            let nodes = crate::read::read(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            let mut out = Vec::new();
            assert!(nodes[0].datum.encode(&mut out), "{text}");
            assert_eq!(out, expected, "{text}");
        };
        check("0", &[0xb0, 0]);
        check("127", &[0xb0, 1, 127]);
        check("128", &[0xb0, 2, 0, 128]);
        check("-1", &[0xb0, 1, 0xff]);
        check("-128", &[0xb0, 1, 0x80]);
        check("-129", &[0xb0, 2, 0xff, 0x7f]);
        check("1.0", &[0x87, 8, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0]);
        check("'a b'", b"\xb3\x03a b");
        check(r#""\u00e9""#, b"\xb1\x02\xc3\xa9");
        check("#x\"00 ff\"", &[0xb2, 2, 0, 0xff]);
        check("#[AP8]", &[0xb2, 2, 0, 0xff]);
        check("#\"a\\x00\"", &[0xb2, 2, b'a', 0]);
        check("<a #t [#f]>", &[0xb4, 0xb3, 1, b'a', 0x81, 0xb5, 0x80, 0x84, 0x84]);
        check("#{aa b 1}", b"\xb6\xb0\x01\x01\xb3\x01b\xb3\x02aa\x84");
        check("{b: 1, a: 2}", b"\xb7\xb3\x01a\xb0\x01\x02\xb3\x01b\xb0\x01\x01\x84");
        check("@note # a comment\n x", b"\xb3\x01x");
    }
}
