//! Values as text.

use super::number;
use crate::wire::{View, sort_key, tag};

/// Appends a scanned value to `out` as text, at most `chars_max` characters. If it takes more, what does not
/// fit is left out, and an ellipsis is the last character.
///
/// Sets and dictionaries are written in the total order of elements and keys, unless they are so long that they
/// must be cut, or hold annotations: then in the order of their bytes. Control characters are escaped, so the
/// result is a single line. Integers of more than 4096 bytes are not converted; only their length is told.
///
/// Iterative. Costs one pass over as much of the value as gets written, and sorting.
pub fn write(value: View<'_>, out: &mut String, chars_max: usize) {
    let mut writer = Writer { out, left: chars_max, chars_max };
    if writer.value(value).is_none() && chars_max > 0 {
        writer.out.pop();
        writer.out.push('…');
    }
}

struct Writer<'o> {
    out: &'o mut String,
    left: usize,
    chars_max: usize,
}

/// What is left to write.
enum Rest<'a> {
    Text(&'static str),
    Value(View<'a>),
    /// This value and its later siblings.
    Items {
        first: View<'a>,
        separator: &'static str,
        close: &'static str,
    },
    /// This entry of a dictionary and the later ones.
    Entries(View<'a>),
    /// These elements, or entries; there is one.
    Sorted {
        items: std::vec::IntoIter<View<'a>>,
        is_dictionary: bool,
    },
}

/// All of these return `None` once there is no room left.
impl Writer<'_> {
    fn char(&mut self, c: char) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        self.out.push(c);
        Some(())
    }

    fn text(&mut self, text: &str) -> Option<()> {
        text.chars().try_for_each(|c| self.char(c))
    }

    fn value<'a>(&mut self, value: View<'a>) -> Option<()> {
        let mut rest = vec![Rest::Value(value)];
        while let Some(next) = rest.pop() {
            match next {
                Rest::Text(text) => self.text(text)?,
                Rest::Value(value) => self.one(value, &mut rest)?,
                Rest::Items { first, separator, close } => {
                    match first.next_sibling() {
                        None => rest.push(Rest::Text(close)),
                        Some(first) => {
                            rest.push(Rest::Items { first, separator, close });
                            rest.push(Rest::Text(separator));
                        }
                    }
                    self.one(first, &mut rest)?;
                }
                Rest::Entries(key) => {
                    let value = key.next_sibling()?;
                    let later = value.next_sibling().map(Rest::Entries);
                    self.entry(key, later, true, &mut rest)?;
                }
                Rest::Sorted { mut items, is_dictionary } => {
                    let item = items.next()?;
                    let later = (items.len() > 0).then_some(Rest::Sorted { items, is_dictionary });
                    self.entry(item, later, is_dictionary, &mut rest)?;
                }
            }
        }
        Some(())
    }

    /// An element or entry of a set or dictionary, before what comes later.
    fn entry<'a>(
        &mut self,
        item: View<'a>,
        later: Option<Rest<'a>>,
        is_dictionary: bool,
        rest: &mut Vec<Rest<'a>>,
    ) -> Option<()> {
        let between = if later.is_some() { ", " } else { "}" };
        rest.extend(later);
        rest.push(Rest::Text(between));
        if is_dictionary {
            rest.push(Rest::Value(item.next_sibling()?));
            rest.push(Rest::Text(": "));
        }
        self.one(item, rest)
    }

    /// An atom, or the opening of anything else.
    fn one<'a>(&mut self, mut value: View<'a>, rest: &mut Vec<Rest<'a>>) -> Option<()> {
        loop {
            let inner = value.at(value.token() + 1);
            let (opening, separator, close) = match value.tag() {
                tag::EMBEDDED => {
                    self.text("#:")?;
                    value = inner;
                    continue;
                }
                tag::ANNOTATION => {
                    self.char('@')?;
                    rest.push(Rest::Value(inner.at(inner.token() + inner.tokens())));
                    rest.push(Rest::Text(" "));
                    value = inner;
                    continue;
                }
                tag::RECORD => ("<", " ", ">"),
                tag::SEQUENCE => ("[", ", ", "]"),
                tag::SET => ("#{", ", ", "}"),
                tag::DICTIONARY => ("{", ", ", "}"),
                _ => return self.atom(value),
            };
            self.text(opening)?;
            rest.push(match value.first_child() {
                None => Rest::Text(close),
                Some(_) if value.tag() >= tag::SET && !self.keeps_order(value) => sorted(value),
                Some(first) if value.tag() == tag::DICTIONARY => Rest::Entries(first),
                Some(first) => Rest::Items { first, separator, close },
            });
            return Some(());
        }
    }

    /// Whether a set or dictionary is not sorted: it will be cut (it takes more characters than it has tokens,
    /// and more than a quarter of its bytes), or it has annotations, of which the order knows nothing.
    fn keeps_order(&self, value: View<'_>) -> bool {
        let is_cut = value.tokens() as usize > self.chars_max || value.span().len() / 4 > self.chars_max;
        let mut tokens = value.token()..value.token() + value.tokens();
        is_cut || tokens.any(|token| value.at(token).tag() == tag::ANNOTATION)
    }

    fn atom(&mut self, value: View<'_>) -> Option<()> {
        let content = value.content();
        match value.tag() {
            tag::FALSE => self.text("#f"),
            tag::TRUE => self.text("#t"),
            tag::IEEE754 => {
                let bits = content.iter().fold(0, |n, b| n << 8 | *b as u64);
                self.text(&number::text_from_double(bits))
            }
            tag::INTEGER if content.len() > number::PRINTED_BYTES_MAX => {
                self.text(&format!("<integer-of-bytes {}>", content.len()))
            }
            tag::INTEGER => self.text(&number::decimal_from_integer(content)),
            tag::BYTES => self.base64(content),
            tag::STRING => self.quoted(value.as_string()?, '"'),
            _ => {
                let name = value.as_symbol()?;
                if is_bare(name) { self.text(name) } else { self.quoted(name, '\'') }
            }
        }
    }

    fn quoted(&mut self, text: &str, quote: char) -> Option<()> {
        self.char(quote)?;
        for c in text.chars() {
            match c {
                '\\' => self.text("\\\\")?,
                '\x08' => self.text("\\b")?,
                '\x0c' => self.text("\\f")?,
                '\n' => self.text("\\n")?,
                '\r' => self.text("\\r")?,
                '\t' => self.text("\\t")?,
                _ if c == quote => {
                    self.char('\\')?;
                    self.char(c)?;
                }
                _ if c.is_control() => self.text(&format!("\\u{:04x}", c as u32))?,
                _ => self.char(c)?,
            }
        }
        self.char(quote)
    }

    fn base64(&mut self, content: &[u8]) -> Option<()> {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        self.text("#[")?;
        for chunk in content.chunks(3) {
            let bits = chunk.iter().fold(0usize, |n, b| n << 8 | *b as usize) << (8 * (3 - chunk.len()));
            for sextet in 0..=chunk.len() {
                self.char(ALPHABET[bits >> (18 - 6 * sextet) & 63] as char)?;
            }
        }
        self.char(']')
    }
}

/// The inside of a set or dictionary that is not empty, in the total order.
fn sorted(value: View<'_>) -> Rest<'_> {
    let is_dictionary = value.tag() == tag::DICTIONARY;
    let mut keyed: Vec<(Vec<u8>, View<'_>)> = value
        .children()
        .step_by(if is_dictionary { 2 } else { 1 })
        .map(|item| {
            let mut key = Vec::new();
            sort_key(item, &mut key);
            (key, item)
        })
        .collect();
    keyed.sort_by(|a, b| a.0.cmp(&b.0));
    let items: Vec<View<'_>> = keyed.into_iter().map(|(_, item)| item).collect();
    Rest::Sorted { items: items.into_iter(), is_dictionary }
}

/// Whether a symbol reads back as itself without quotes.
fn is_bare(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-~!$%^&*?_=+/.|".contains(&b);
    !name.is_empty() && name.bytes().all(plain) && number::is_number(name.as_bytes()).is_none()
}
