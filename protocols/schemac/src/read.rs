//! Text to [`Node`]s.

use crate::datum::{Datum, Node};

/// Deepest nesting. Schemas need a few levels; a file of brackets must not end the program that checks it.
const DEPTH_MAX: usize = 64;

/// What is wrong, and the position of it in bytes.
pub(crate) type Fault = (usize, String);

/// All values in a text.
pub(crate) fn read(text: &str) -> Result<Vec<Node>, Fault> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let mut nodes = Vec::new();
    loop {
        let doc = reader.skip(false);
        if reader.at == text.len() {
            return Ok(nodes);
        }
        nodes.push(reader.node(doc)?);
    }
}

/// The first comment of a text, if nothing stands before it.
pub(crate) fn opening_comment(text: &str) -> Vec<String> {
    text.lines()
        .map_while(|line| line.strip_prefix('#').filter(|rest| rest.is_empty() || rest.starts_with(' ')))
        .map(|line| line.trim().to_owned())
        .collect()
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn fault<T>(&self, at: usize, message: impl Into<String>) -> Result<T, Fault> {
        Err((at, message.into()))
    }

    /// Skips blanks and comments, and commas where they may stand; yields the comment that ends on the line
    /// before what follows.
    fn skip(&mut self, commas: bool) -> Vec<String> {
        let mut doc = Vec::new();
        // Newlines since the last comment, whose own counts.
        let mut newlines = 0;
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => newlines += 1,
                b' ' | b'\t' | b'\r' => {}
                b',' if commas => {}
                b'#' if matches!(
                    self.text.as_bytes().get(self.at + 1),
                    None | Some(b' ' | b'\t' | b'\n' | b'\r' | b'!')
                ) =>
                {
                    if newlines > 1 {
                        doc.clear();
                    }
                    newlines = 0;
                    let rest = &self.text[self.at + 1..];
                    let line = rest.lines().next().unwrap_or("");
                    doc.push(line.trim().to_owned());
                    self.at += 1 + line.len();
                    continue;
                }
                _ => break,
            }
            self.at += 1;
        }
        if newlines > 1 {
            doc.clear();
        }
        doc
    }

    /// One value, which follows right here.
    fn node(&mut self, mut doc: Vec<String>) -> Result<Node, Fault> {
        let mut annotations = Vec::new();
        while self.peek() == Some(b'@') {
            let start = self.at;
            self.at += 1;
            if self.peek().is_none() {
                return self.fault(start, "an annotation needs a value");
            }
            annotations.push(self.nested(Vec::new())?);
            let more = self.skip(false);
            if doc.is_empty() {
                doc = more;
            }
        }
        let at = self.at;
        let datum = self.datum()?;
        Ok(Node { at, end: self.at, doc, annotations, datum })
    }

    fn nested(&mut self, doc: Vec<String>) -> Result<Node, Fault> {
        if self.depth + 1 == DEPTH_MAX {
            return self.fault(self.at, format!("nested deeper than {DEPTH_MAX} levels"));
        }
        self.depth += 1;
        let node = self.node(doc)?;
        self.depth -= 1;
        Ok(node)
    }

    fn datum(&mut self) -> Result<Datum, Fault> {
        let at = self.at;
        let Some(first) = self.peek() else {
            return self.fault(at, "the text ends where a value must stand");
        };
        self.at += 1;
        match first {
            b'<' => {
                let items = self.items(at, b'>', false)?;
                if items.is_empty() {
                    return self.fault(at, "a record needs a label");
                }
                Ok(Datum::Record(items))
            }
            b'[' => Ok(Datum::Sequence(self.items(at, b']', true)?)),
            b'{' => self.dictionary(at),
            b'"' => Ok(Datum::String(self.quoted(at, b'"')?)),
            b'\'' => Ok(Datum::Symbol(self.quoted(at, b'\'')?)),
            b'#' => self.hash(at),
            _ if is_delimiter(first) => {
                self.fault(at, format!("unexpected {:?}", self.text[at..].chars().next().unwrap_or(' ')))
            }
            _ => self.bare(at),
        }
    }

    /// Values up to the bracket that closes.
    fn items(&mut self, start: usize, close: u8, commas: bool) -> Result<Vec<Node>, Fault> {
        let mut items = Vec::new();
        loop {
            let doc = self.skip(commas);
            match self.peek() {
                None => return self.fault(start, "the text ends before this does"),
                Some(byte) if byte == close => {
                    self.at += 1;
                    return Ok(items);
                }
                Some(_) => items.push(self.nested(doc)?),
            }
        }
    }

    fn dictionary(&mut self, start: usize) -> Result<Datum, Fault> {
        let mut entries: Vec<(Node, Node)> = Vec::new();
        loop {
            let doc = self.skip(true);
            match self.peek() {
                None => return self.fault(start, "the text ends before this does"),
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Datum::Dictionary(entries));
                }
                Some(_) => {}
            }
            let key = self.nested(doc)?;
            self.skip(false);
            if self.peek() != Some(b':') {
                return self.fault(self.at, "expected : after the key of a dictionary");
            }
            self.at += 1;
            let doc = self.skip(false);
            let value = self.nested(doc)?;
            if entries.iter().any(|(other, _)| other.datum == key.datum) {
                return self.fault(key.at, "duplicate key");
            }
            entries.push((key, value));
        }
    }

    /// What follows a `#` that begins no comment.
    fn hash(&mut self, at: usize) -> Result<Datum, Fault> {
        let rest = &self.text[self.at..];
        let boolean =
            |value| (rest.len() == 1 || is_delimiter(rest.as_bytes()[1])).then_some(Datum::Bool(value));
        match rest.as_bytes() {
            [b't', ..] if boolean(true).is_some() => {
                self.at += 1;
                Ok(Datum::Bool(true))
            }
            [b'f', ..] if boolean(false).is_some() => {
                self.at += 1;
                Ok(Datum::Bool(false))
            }
            [b'{', ..] => {
                self.at += 1;
                Ok(Datum::Set(self.items(at, b'}', true)?))
            }
            [b':', ..] => {
                self.at += 1;
                let doc = self.skip(false);
                Ok(Datum::Embedded(Box::new(self.nested(doc)?)))
            }
            [b'"', ..] => {
                self.at += 1;
                self.byte_string(at)
            }
            [b'x', b'"', ..] => {
                self.at += 2;
                Ok(Datum::Bytes(self.hexadecimal(at)?))
            }
            [b'x', b'd', b'"', ..] => {
                self.at += 3;
                match <[u8; 8]>::try_from(self.hexadecimal(at)?) {
                    Ok(bits) => Ok(Datum::Double(u64::from_be_bytes(bits))),
                    Err(_) => self.fault(at, "a hexadecimal double must have 16 digits"),
                }
            }
            [b'[', ..] => {
                self.at += 1;
                self.base64(at)
            }
            _ => self.fault(at, "invalid # syntax"),
        }
    }

    fn bare(&mut self, at: usize) -> Result<Datum, Fault> {
        let rest = &self.text[at..];
        let token = &rest[..rest.bytes().position(is_delimiter).unwrap_or(rest.len())];
        self.at = at + token.len();
        let unsigned = token.strip_prefix(['-', '+']).unwrap_or(token);
        if !unsigned.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(Datum::Symbol(token.into()));
        }
        if unsigned.bytes().all(|b| b.is_ascii_digit()) {
            return match token.parse() {
                Ok(n) => Ok(Datum::Int(n)),
                Err(_) => self.fault(at, "an integer in a schema has at most 128 bits"),
            };
        }
        // Rust also takes `1.`, which is a symbol here.
        match token.parse::<f64>() {
            Ok(double) if token.ends_with(|c: char| c.is_ascii_digit()) && !token.contains(".e") => {
                Ok(Datum::Double(double.to_bits()))
            }
            _ => Ok(Datum::Symbol(token.into())),
        }
    }

    /// The next byte of a literal.
    fn byte(&mut self, start: usize) -> Result<u8, Fault> {
        let Some(byte) = self.peek() else { return self.fault(start, "the text ends before this does") };
        self.at += 1;
        Ok(byte)
    }

    /// The rest of a string or quoted symbol.
    fn quoted(&mut self, start: usize, quote: u8) -> Result<String, Fault> {
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = &rest[..rest.find([quote as char, '\\']).unwrap_or(rest.len())];
            out.push_str(plain);
            self.at += plain.len();
            if self.byte(start)? == quote {
                return Ok(out);
            }
            let at = self.at - 1;
            match self.byte(start)? {
                b'u' => {
                    let mut units = vec![self.digits(start, 4)? as u16];
                    if (0xd800..0xdc00).contains(&units[0]) && self.text[self.at..].starts_with("\\u") {
                        self.at += 2;
                        units.push(self.digits(start, 4)? as u16);
                    }
                    match String::from_utf16(&units) {
                        Ok(text) => out.push_str(&text),
                        Err(_) => return self.fault(at, "invalid code point"),
                    }
                }
                escape if escape == quote => out.push(quote as char),
                escape => match escaped(escape) {
                    Some(byte) => out.push(byte as char),
                    None => return self.fault(at, "invalid escape"),
                },
            }
        }
    }

    /// The rest of a `#"..."`.
    fn byte_string(&mut self, start: usize) -> Result<Datum, Fault> {
        let mut out = Vec::new();
        loop {
            match self.byte(start)? {
                b'"' => return Ok(Datum::Bytes(out)),
                b'\\' => match self.byte(start)? {
                    b'x' => out.push(self.digits(start, 2)? as u8),
                    b'"' => out.push(b'"'),
                    escape => match escaped(escape) {
                        Some(byte) => out.push(byte),
                        None => return self.fault(self.at - 2, "invalid escape"),
                    },
                },
                byte => out.push(byte),
            }
        }
    }

    /// So many hexadecimal digits.
    fn digits(&mut self, start: usize, count: usize) -> Result<u32, Fault> {
        let mut number = 0;
        for _ in 0..count {
            let byte = self.byte(start)?;
            match (byte as char).to_digit(16) {
                Some(digit) => number = number << 4 | digit,
                None => return self.fault(self.at - 1, "invalid hexadecimal digit"),
            }
        }
        Ok(number)
    }

    /// The rest of a `#x"..."`.
    fn hexadecimal(&mut self, start: usize) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        loop {
            self.skip_blanks();
            if self.peek() == Some(b'"') {
                self.at += 1;
                return Ok(out);
            }
            out.push(self.digits(start, 2)? as u8);
        }
    }

    /// The rest of a `#[...]`.
    fn base64(&mut self, start: usize) -> Result<Datum, Fault> {
        let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
        loop {
            self.skip_blanks();
            let byte = self.byte(start)?;
            let sextet = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                b'=' => continue,
                b']' if count < 6 && bits == 0 => return Ok(Datum::Bytes(out)),
                _ => return self.fault(self.at - 1, "invalid base 64"),
            };
            bits = bits << 6 | sextet as u32;
            count += 6;
            if count >= 8 {
                count -= 8;
                out.push((bits >> count) as u8);
                bits &= (1 << count) - 1;
            }
        }
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }
}

/// What an escape by letter stands for.
fn escaped(letter: u8) -> Option<u8> {
    Some(match letter {
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'\\' | b'/' => letter,
        _ => return None,
    })
}

/// What ends a bare symbol or number.
fn is_delimiter(byte: u8) -> bool {
    b" \t\r\n<>[]{}()#:\"'@;,".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_with_their_place() {
        let check = |text: &str, at: usize, message: &str| {
            assert_eq!(read(text).unwrap_err(), (at, message.to_owned()), "{text}");
        };
        check("a <b", 2, "the text ends before this does");
        check("a >", 2, "unexpected '>'");
        check("<>", 0, "a record needs a label");
        check("{a 1}", 3, "expected : after the key of a dictionary");
        check("{a: 1 a: 2}", 6, "duplicate key");
        check("#true", 0, "invalid # syntax");
        check(r#""\z""#, 1, "invalid escape");
        check(r#""\ud800""#, 1, "invalid code point");
        check("#x\"0g\"", 4, "invalid hexadecimal digit");
        check("#[A?]", 3, "invalid base 64");
        check("[a", 0, "the text ends before this does");
        check("'a", 0, "the text ends before this does");
        check("@", 0, "an annotation needs a value");
        check("é ;", 3, "unexpected ';'");
        check(&"[".repeat(100), DEPTH_MAX, "nested deeper than 64 levels");
    }

    #[test]
    fn comments_belong_to_what_follows_at_once() {
        let nodes = read("# first\n\n# of a\n# more\na # of b\nb\n\n# of nothing\n\nc").unwrap();
        let docs: Vec<_> = nodes.iter().map(|node| node.doc.join("/")).collect();
        assert_eq!(docs, ["of a/more", "of b", ""]);
        assert_eq!(opening_comment("# x\n#\n# y\n\n# z\n"), ["x", "", "y"]);
    }

    #[test]
    fn tokens_that_only_look_like_numbers_are_symbols() {
        for text in ["1x", "1.", ".5", "-", "+a", "1-2", "...", "1.0f", "1.e5", "=...", "inf"] {
            assert_eq!(read(text).unwrap()[0].datum, Datum::Symbol(text.into()), "{text}");
        }
        assert_eq!(read("1e5").unwrap()[0].datum, Datum::Double(1e5f64.to_bits()));
        assert_eq!(read("+007").unwrap()[0].datum, Datum::Int(7));
    }
}
