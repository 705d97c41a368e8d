//! Sturdyrefs: capabilities as signed data, and how caveats are added to them.
//!
//! A sturdyref is `<ref {oid: any, sig: bytes, caveats: [any ...]}>`; without caveats, the key is absent. The
//! signature is a chain of message authentication codes: over the oid with the secret of the binding, then over
//! each caveat with the code so far as key. So whoever holds a sturdyref can add a caveat, and nobody can take
//! one away.

use hmac::{KeyInit, Mac, SimpleHmac};
use subtle::ConstantTimeEq;

use crate::caveat::compile::compile;
use crate::caveat::{CaveatError, Caveats};
use crate::wire::{Limits, Progress, Scanner, View, encode, tag};

/// Length of a signature in bytes.
pub const SIGNATURE_BYTES: usize = 16;

/// A sturdyref.
///
/// **Invariant** (of those that [`SturdyRef::read_parameters`] makes, and to be kept by others): oid and
/// caveats are canonical and hold no capability, since capabilities have no canonical form to sign; the caveats
/// are valid and have no surplus fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SturdyRef {
    /// What it is a reference to, as a canonical value.
    pub oid: Vec<u8>,
    /// What restricts it, as canonical values, oldest first.
    pub caveats: Vec<Vec<u8>>,
    /// Its signature. One of another length than [`SIGNATURE_BYTES`] fits nothing.
    pub sig: Vec<u8>,
}

/// Why the parameters of a `ref` step are no sturdyref: two different answers of a gatekeeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SturdyError {
    /// Not a dictionary with an `oid` and bytes as `sig`; answer `<error invalid>`.
    #[error("not a sturdyref")]
    Invalid,
    /// The caveats are not a sequence of valid caveats without surplus fields, or a capability stands where
    /// only data can be signed. No signature can be right; answer `<error sturdyref-failed-validation>`.
    #[error("sturdyref failed validation")]
    FailedValidation,
    /// The caveats are more, or longer, than a capability may have (see [`Caveats`]); answer
    /// `<error sturdyref-caveats-too-long>`.
    #[error("the sturdyref has more caveats, or longer ones, than a capability may have")]
    CaveatsTooLong,
}

impl SturdyError {
    /// The symbol with which a gatekeeper answers: `<error ...>`.
    pub fn symbol(self) -> &'static str {
        match self {
            SturdyError::Invalid => "invalid",
            SturdyError::FailedValidation => "sturdyref-failed-validation",
            SturdyError::CaveatsTooLong => "sturdyref-caveats-too-long",
        }
    }
}

/// Why a caveat cannot be signed so that gatekeepers accept it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CaveatFault {
    /// It, or a rewrite in it, is invalid.
    #[error(transparent)]
    Invalid(#[from] CaveatError),
    /// It has fields that its kind does not have. They would be lost before the signature is checked.
    #[error("it has more fields than its kind has")]
    Surplus,
    /// It holds a capability, which has no form that can be signed.
    #[error("a capability in it cannot be signed")]
    Capability,
}

/// Checks that a canonical value, signed as a caveat, would be accepted.
///
/// # Returns
/// Whether it is known here. One that is not lets nothing pass, but others may know it.
///
/// # Errors
/// [`CaveatFault`].
pub fn check_caveat(caveat: View<'_>) -> Result<bool, CaveatFault> {
    if holds_capability(caveat) {
        return Err(CaveatFault::Capability);
    }
    let compiled = compile(std::iter::once(caveat))?;
    if compiled.has_surplus {
        return Err(CaveatFault::Surplus);
    }
    Ok(!compiled.caveats.has_unknown())
}

impl SturdyRef {
    /// The unrestricted sturdyref for `oid` (a canonical value without capabilities), signed with `key`, which
    /// may have any length.
    pub fn mint(oid: &[u8], key: &[u8]) -> SturdyRef {
        SturdyRef { oid: oid.to_vec(), caveats: Vec::new(), sig: mac(key, oid).to_vec() }
    }

    /// The same sturdyref with one more caveat: a canonical value without capabilities and surplus fields. The
    /// key is not needed for this.
    #[must_use]
    pub fn attenuate(&self, caveat: &[u8]) -> SturdyRef {
        let mut caveats = self.caveats.clone();
        caveats.push(caveat.to_vec());
        SturdyRef { oid: self.oid.clone(), caveats, sig: mac(&self.sig, caveat).to_vec() }
    }

    /// Whether it was made from what was minted with `key`. The time this takes does not depend on the
    /// signatures.
    pub fn verify(&self, key: &[u8]) -> bool {
        let minted = mac(key, &self.oid);
        let expected = self.caveats.iter().fold(minted, |key, caveat| mac(&key, caveat));
        expected[..].ct_eq(&self.sig[..]).into()
    }

    /// Its caveats, compiled.
    ///
    /// # Errors
    /// As [`Caveats::compile`]; never after [`SturdyRef::read_parameters`].
    ///
    /// # Panics
    /// If a caveat is not a canonical value.
    pub fn compile(&self) -> Result<Caveats, CaveatError> {
        let mut list = Vec::new();
        encode::sequence(&mut list);
        self.caveats.iter().for_each(|caveat| list.extend_from_slice(caveat));
        encode::end(&mut list);
        let bounds = Limits::NONE;
        let mut scanner = Scanner::new(bounds);
        assert_eq!(scanner.scan(&list), Ok(Progress::Complete(list.len())), "caveats are canonical values");
        Caveats::compile(scanner.view(&list).children())
    }

    /// Appends it as `<ref {oid: .. sig: .. caveats: [..]}>`, in canonical form.
    pub fn write(&self, out: &mut Vec<u8>) {
        encode::record(out, "ref");
        self.write_parameters(out);
        encode::end(out);
    }

    /// Appends the dictionary in it.
    pub fn write_parameters(&self, out: &mut Vec<u8>) {
        out.push(tag::DICTIONARY);
        encode::symbol(out, "oid");
        out.extend_from_slice(&self.oid);
        encode::symbol(out, "sig");
        encode::bytes(out, &self.sig);
        if !self.caveats.is_empty() {
            encode::symbol(out, "caveats");
            encode::sequence(out);
            self.caveats.iter().for_each(|caveat| out.extend_from_slice(caveat));
            encode::end(out);
        }
        encode::end(out);
    }

    /// Reads the dictionary in a sturdyref, a canonical value. Keys other than `oid`, `sig` and `caveats` are
    /// ignored. This checks everything but the signature: see [`SturdyRef::verify`].
    ///
    /// # Errors
    /// [`SturdyError`], as described there.
    pub fn read_parameters(parameters: View<'_>) -> Result<SturdyRef, SturdyError> {
        let oid = parameters.get(b"\xb3\x03oid").ok_or(SturdyError::Invalid)?;
        let sig = parameters.get(b"\xb3\x03sig").and_then(View::as_bytes).ok_or(SturdyError::Invalid)?;
        let mut sturdy = SturdyRef { oid: oid.span().to_vec(), caveats: Vec::new(), sig: sig.to_vec() };
        let refused = SturdyError::FailedValidation;
        if holds_capability(oid) {
            return Err(refused);
        }
        if let Some(list) = parameters.get(b"\xb3\x07caveats") {
            if list.tag() != tag::SEQUENCE || holds_capability(list) {
                return Err(refused);
            }
            let compiled = compile(list.children()).map_err(|error| match error {
                CaveatError::TooLong | CaveatError::TooMany => SturdyError::CaveatsTooLong,
                CaveatError::UnboundRef | CaveatError::BindingUnderNegation => refused,
            })?;
            if compiled.has_surplus {
                return Err(refused);
            }
            sturdy.caveats = list.children().map(|caveat| caveat.span().to_vec()).collect();
        }
        Ok(sturdy)
    }
}

/// The first 16 bytes of HMAC-BLAKE2s-256.
fn mac(key: &[u8], data: &[u8]) -> [u8; SIGNATURE_BYTES] {
    // HMAC takes keys of any length; the error exists for other codes.
    let mut mac = SimpleHmac::<blake2::Blake2s256>::new_from_slice(key).expect("any length is a key");
    mac.update(data);
    let full = mac.finalize().into_bytes();
    let mut short = [0; SIGNATURE_BYTES];
    short.copy_from_slice(&full[..SIGNATURE_BYTES]);
    short
}

/// Whether a capability stands anywhere in a value.
pub fn holds_capability(value: View<'_>) -> bool {
    (value.token()..value.token() + value.tokens()).any(|token| value.at(token).tag() == tag::EMBEDDED)
}
