//! What a reference lets pass, as far as it can be told from its caveats.
//!
//! The broker drops what does not pass without a word, so nobody would know: whoever has the reference can find out
//! before it asks.

use staunch_protocols::caveat::{Caveats, Outcome, Scratch};
use staunch_protocols::packet::write_mine;
use staunch_protocols::sturdy::SturdyRef;
use staunch_protocols::wire::encode;

use super::value::{brief, scan};

/// How large a value may become.
const OUTPUT_BYTES_MAX: u32 = 16 << 20;

/// What may be said by a reference: `None` for everything, and where it is not known.
pub(super) struct Allowed(Option<Box<(Caveats, Scratch)>>);

impl Allowed {
    /// Everything, as far as is known here.
    pub(super) fn all() -> Allowed {
        Allowed(None)
    }

    /// What this reference lets pass.
    pub(super) fn by(reference: &SturdyRef) -> Allowed {
        // What is not known here may be known to the broker.
        let caveats = reference.compile().ok().filter(|all| !all.is_empty() && !all.has_unknown());
        Allowed(caveats.map(|caveats| Box::new((caveats, Scratch::new(OUTPUT_BYTES_MAX)))))
    }

    /// Whether a value may be asserted or sent.
    ///
    /// # Errors
    /// What to tell who wants to, if nothing comes of it.
    pub(super) fn check(&mut self, value: &[u8]) -> Result<(), String> {
        if self.passes(value) {
            return Ok(());
        }
        Err(format!(
            "the reference does not allow {}, and a broker would drop it{SEE}",
            brief(scan(value).view(value))
        ))
    }

    /// Whether a pattern may be observed.
    ///
    /// # Errors
    /// What to tell who wants to, if nothing comes of it.
    pub(super) fn check_observer(&mut self, pattern: &[u8]) -> Result<(), String> {
        let mut observe = Vec::with_capacity(pattern.len() + 32);
        encode::record(&mut observe, "Observe");
        observe.extend_from_slice(pattern);
        write_mine(&mut observe, 1);
        encode::end(&mut observe);
        match self.passes(&observe) {
            true => Ok(()),
            false => Err(format!(
                "the reference does not allow this pattern to be observed: nothing would be seen{SEE}"
            )),
        }
    }

    fn passes(&mut self, value: &[u8]) -> bool {
        let Some((caveats, scratch)) = self.0.as_deref_mut() else { return true };
        let scanner = scan(value);
        // How a capability would be restricted does not matter.
        let outcome =
            caveats.apply(scanner.view(value), scratch, &mut |capability, _| Some(capability.to_vec()));
        outcome != Outcome::Dropped
    }
}

const SEE: &str = ". `staunch ref inspect` shows what it allows";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pattern;
    use crate::cli::value::parse;

    #[test]
    fn what_passes_is_known_beforehand() {
        let free = SturdyRef::mint(b"\xb1\x01a", b"");
        let narrow = free.attenuate(&parse("<rewrite <bind <rec a [<_>]>> <rec b [<ref 0>]>>").unwrap());
        let narrower = narrow.attenuate(&parse("<reject <rec a [<lit 1>]>>").unwrap());
        let unknown = narrower.attenuate(&parse("<zork>").unwrap());
        for (reference, passes) in [
            (&free, [true; 3]),
            (&narrow, [true, true, false]),
            (&narrower, [false, true, false]),
            (&unknown, [true; 3]),
        ] {
            let mut allowed = Allowed::by(reference);
            let passed = ["<a 1>", "<a 2>", "<b 1>"].map(|text| allowed.check(&parse(text).unwrap()).is_ok());
            assert_eq!(passed, passes);
        }
        let observe = |reference: &SturdyRef| {
            let compiled = pattern::observed("<a $x>").unwrap();
            Allowed::by(reference).check_observer(&compiled.bytes).is_ok()
        };
        let any = "<rewrite <bind <rec Observe [<_> <_>]>> <ref 0>>";
        assert!(observe(&free) && !observe(&narrow) && observe(&free.attenuate(&parse(any).unwrap())));
    }
}
