//! What parts of generated types are that Rust has no type for.

use std::fmt;

use super::codec::scan;
use super::{Codec, Input, Mismatch, MismatchKind, ReadError};
use crate::wire::{Limits, Scanner, View, canonicalize, encode, tag};

/// Any value, in canonical bytes.
///
/// **Invariant:** the bytes are exactly one canonical value; so equality of values is equality of bytes. The order
/// is that of the bytes, which is not the total order of values.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(Box<[u8]>);

impl Value {
    /// The value of something.
    pub fn of(typed: &impl Codec) -> Value {
        Value(typed.to_bytes().into())
    }

    /// A copy of a part of a canonical value.
    pub fn copy(value: View<'_>) -> Value {
        Value(value.span().into())
    }

    /// From bytes that are known to be canonical.
    pub(super) fn trusted(canonical: &[u8]) -> Value {
        Value(canonical.into())
    }

    /// Reads it as something. Costs a scan.
    ///
    /// # Errors
    /// [`Mismatch`] if it is of another form.
    pub fn read<T: Codec>(&self) -> Result<T, Mismatch> {
        let mut scanner = self.scanner();
        scanner.scan(&self.0).map_err(|_| Mismatch { at: 0, kind: MismatchKind::TooDeep })?;
        T::read(scanner.view(&self.0))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Without limits: what it was made from was within some.
    fn scanner(&self) -> Scanner {
        Scanner::new(Limits {
            packet_bytes_max: u32::MAX,
            depth_max: u16::MAX,
            tokens_max: u32::MAX,
            integer_bytes_max: u32::MAX,
        })
    }
}

impl Codec for Value {
    const NAME: &'static str = "any";

    fn read_from(input: Input<'_>) -> Result<Value, Mismatch> {
        Ok(Value::copy(input.view()))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    /// Unlike that of others, this does not look at the value again.
    fn from_bytes(bytes: &[u8], limits: &Limits) -> Result<Value, ReadError> {
        let mut scanner = Scanner::new(*limits);
        scan(&mut scanner, bytes)?;
        let mut canonical = Vec::new();
        canonicalize(scanner.view(bytes), &mut canonical).map_err(ReadError::Canonical)?;
        Ok(Value(canonical.into()))
    }
}

/// In text syntax, cut off after some thousand characters.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut scanner = self.scanner();
        match scanner.scan(&self.0) {
            Ok(_) => {
                let mut text = String::new();
                crate::text::write(scanner.view(&self.0), &mut text, 4096);
                f.write_str(&text)
            }
            Err(_) => Err(fmt::Error),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({self})")
    }
}

/// A symbol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(pub String);

impl Codec for Symbol {
    const NAME: &'static str = "a symbol";

    fn read_from(input: Input<'_>) -> Result<Symbol, Mismatch> {
        let symbol = input.view().as_symbol();
        symbol.map(|name| Symbol(name.into())).ok_or(input.mismatch(MismatchKind::Expected(Symbol::NAME)))
    }

    fn write(&self, out: &mut Vec<u8>) {
        encode::symbol(out, &self.0);
    }
}

/// A double. Unlike `f64`, equal to itself whatever it is, and different from its negation: two are equal if their
/// bits are.
#[derive(Debug, Clone, Copy)]
pub struct Double(pub f64);

impl PartialEq for Double {
    fn eq(&self, other: &Double) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Double {}

impl PartialOrd for Double {
    fn partial_cmp(&self, other: &Double) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Double {
    fn cmp(&self, other: &Double) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl std::hash::Hash for Double {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl Codec for Double {
    const NAME: &'static str = "a double";

    fn read_from(input: Input<'_>) -> Result<Double, Mismatch> {
        input.expect(tag::IEEE754, Double::NAME)?;
        let bits = input.view().content().iter().fold(0, |n, b| n << 8 | u64::from(*b));
        Ok(Double(f64::from_bits(bits)))
    }

    fn write(&self, out: &mut Vec<u8>) {
        encode::atom(out, tag::IEEE754, &self.0.to_bits().to_be_bytes());
    }
}

/// An embedded value, as what the program has for capabilities.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Embedded<E = Value>(pub E);

impl<E: Codec> Codec for Embedded<E> {
    const NAME: &'static str = "an embedded value";

    fn read_from(input: Input<'_>) -> Result<Embedded<E>, Mismatch> {
        match input.view().embedded() {
            Some(inner) => Ok(Embedded(input.part(inner).read()?)),
            None => Err(input.mismatch(MismatchKind::Expected(Self::NAME))),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(tag::EMBEDDED);
        self.0.write(out);
    }
}
