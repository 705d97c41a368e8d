//! The literals of the text syntax: strings, quoted symbols, byte strings.

use super::TextErrorKind;

/// An error, and where: a position in bytes.
pub(super) type Fault = (usize, TextErrorKind);

/// A place in a text.
pub(super) struct Cursor<'t> {
    pub(super) text: &'t str,
    pub(super) at: usize,
}

impl<'t> Cursor<'t> {
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte. `start` is where the literal that needs it began.
    pub(super) fn byte(&mut self, start: usize) -> Result<u8, Fault> {
        let byte = self.peek().ok_or((start, TextErrorKind::Incomplete))?;
        self.at += 1;
        Ok(byte)
    }

    /// Takes bytes while they are as wanted.
    pub(super) fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'t [u8] {
        let rest = &self.text.as_bytes()[self.at..];
        let taken = &rest[..rest.iter().position(|b| !wanted(*b)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    /// The character at a position that is the start of one.
    pub(super) fn unexpected(&self, at: usize) -> Fault {
        let c = self.text.get(at..).and_then(|rest| rest.chars().next());
        (at, c.map_or(TextErrorKind::Incomplete, TextErrorKind::Unexpected))
    }

    /// The rest of a string or quoted symbol that began at `start`.
    pub(super) fn quoted(&mut self, start: usize, quote: u8) -> Result<Vec<u8>, Fault> {
        self.escaped(start, quote, |cursor, out| {
            let c = cursor.code_point(start)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            Ok(())
        })
    }

    /// The rest of a `#"..."`.
    pub(super) fn byte_string(&mut self, start: usize) -> Result<Vec<u8>, Fault> {
        self.escaped(start, b'"', |cursor, out| {
            if cursor.byte(start)? != b'x' {
                return Err((cursor.at - 2, TextErrorKind::Escape));
            }
            out.push(cursor.hex(start, 2)? as u8);
            Ok(())
        })
    }

    /// Up to the quote; `numeric` reads what follows the backslash of an escape by number.
    fn escaped(
        &mut self,
        start: usize,
        quote: u8,
        numeric: impl Fn(&mut Self, &mut Vec<u8>) -> Result<(), Fault>,
    ) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        loop {
            out.extend_from_slice(self.take_while(|b| b != quote && b != b'\\'));
            if self.byte(start)? == quote {
                return Ok(out);
            }
            let escape = self.byte(start)?;
            out.push(match escape {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'\\' | b'/' => escape,
                _ if escape == quote => escape,
                _ => {
                    self.at -= 1;
                    numeric(self, &mut out)?;
                    continue;
                }
            });
        }
    }

    /// What follows a backslash: `u` and four digits, twice for a surrogate pair.
    fn code_point(&mut self, start: usize) -> Result<char, Fault> {
        let at = self.at - 1;
        if self.byte(start)? != b'u' {
            return Err((at, TextErrorKind::Escape));
        }
        let mut code = self.hex(start, 4)?;
        if (0xd800..0xdc00).contains(&code) {
            if self.byte(start)? != b'\\' || self.byte(start)? != b'u' {
                return Err((at, TextErrorKind::CodePoint));
            }
            let low = self.hex(start, 4)?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err((at, TextErrorKind::CodePoint));
            }
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
        char::from_u32(code).ok_or((at, TextErrorKind::CodePoint))
    }

    fn hex(&mut self, start: usize, count: usize) -> Result<u32, Fault> {
        let mut number = 0;
        for _ in 0..count {
            let digit = self.byte(start)?;
            let digit = (digit as char).to_digit(16).ok_or((self.at - 1, TextErrorKind::Hex))?;
            number = number << 4 | digit;
        }
        Ok(number)
    }

    /// The rest of a `#x"..."`, or of a `#xd"..."`.
    pub(super) fn hex_string(&mut self, start: usize) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        loop {
            self.take_while(is_blank);
            if self.peek() == Some(b'"') {
                self.at += 1;
                return Ok(out);
            }
            out.push(self.hex(start, 2)? as u8);
        }
    }

    /// The rest of a `#[...]`.
    pub(super) fn base64(&mut self, start: usize) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        let (mut bits, mut count) = (0u32, 0);
        loop {
            let byte = self.byte(start)?;
            let sextet = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                b'=' => continue,
                _ if is_blank(byte) => continue,
                // Bits that are left over must be too few for a byte, and 0.
                b']' if count < 6 && bits == 0 => return Ok(out),
                _ => return Err((self.at - 1, TextErrorKind::Base64)),
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
}

/// White space.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// What ends a bare symbol or number.
pub(super) fn is_delimiter(byte: u8) -> bool {
    is_blank(byte) || b"<>[]{}()#:\"'@;,".contains(&byte)
}
