//! Patterns as people write them: a value with holes.
//!
//! `<Says "alice" $what>` stands for the dataspace pattern
//! `<group <rec Says> {0: <lit "alice"> 1: <bind <_>>}>`, and, where something is to be allowed, for the caveat pattern
//! `<rec Says [<lit "alice"> ...]>`. A `$name` is a capture, `_` is anything.
//!
//! Walked with a stack of what is left to do, not by recursion.

use staunch_protocols::wire::{View, encode, tag};

use super::value::{brief, parse, scan};

/// What a pattern in text becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compiled {
    /// The pattern, canonical.
    pub(super) bytes: Vec<u8>,
    /// What each capture is called; empty for a bare `$`.
    pub(super) names: Vec<String>,
    /// Nothing was to be captured, so the whole value is.
    pub(super) is_whole: bool,
}

/// The two languages that patterns are written in on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// What observers subscribe with: compounds may be longer than the pattern.
    Dataspace,
    /// What caveats match with: records and sequences have exactly that many fields.
    Caveat,
}

/// What is left to do.
enum Task<'a> {
    /// These bytes come next.
    Bytes(&'static [u8]),
    /// This field or element and its later siblings; the first has this index.
    Items(View<'a>, i64),
    /// This key, its value, and the later entries.
    Entries(View<'a>),
    Value(View<'a>),
}

/// Reads what `staunch observe` is given.
///
/// # Errors
/// What is wrong with it, for its author.
pub(super) fn observed(text: &str) -> Result<Compiled, String> {
    let value = parse(text)?;
    let scanner = scan(&value);
    let mut compiled = Compiler::new(Dialect::Dataspace).run(scanner.view(&value))?;
    if compiled.names.is_empty() {
        let mut whole = Vec::with_capacity(compiled.bytes.len() + 8);
        encode::record(&mut whole, "bind");
        whole.append(&mut compiled.bytes);
        encode::end(&mut whole);
        compiled = Compiled { bytes: whole, names: vec![String::new()], is_whole: true };
    }
    check_size(&compiled.bytes)?;
    Ok(compiled)
}

/// Reads a pattern that says which values may be asserted or sent, and returns it as a caveat's pattern.
///
/// # Errors
/// What is wrong with it, for its author.
pub(super) fn allowed(text: &str) -> Result<Vec<u8>, String> {
    let value = parse(text)?;
    let scanner = scan(&value);
    Ok(Compiler::new(Dialect::Caveat).run(scanner.view(&value))?.bytes)
}

/// A pattern is deeper and longer than what it was made from: whether a broker takes it.
fn check_size(pattern: &[u8]) -> Result<(), String> {
    let mut scanner = staunch_protocols::wire::Scanner::new(super::value::VALUE_LIMITS);
    scanner.scan(pattern).map_err(|error| format!("as a pattern it is too large: {}", error.kind))?;
    Ok(())
}

struct Compiler {
    dialect: Dialect,
    out: Vec<u8>,
    names: Vec<String>,
}

impl Compiler {
    fn new(dialect: Dialect) -> Compiler {
        Compiler { dialect, out: Vec::new(), names: Vec::new() }
    }

    fn run(mut self, pattern: View<'_>) -> Result<Compiled, String> {
        let mut rest = vec![Task::Value(pattern)];
        while let Some(next) = rest.pop() {
            match next {
                Task::Bytes(bytes) => self.out.extend_from_slice(bytes),
                Task::Value(value) => self.value(value, &mut rest)?,
                Task::Items(first, index) => self.item(first, index, &mut rest),
                Task::Entries(key) => {
                    check_literal(key, "a key")?;
                    self.out.extend_from_slice(key.span());
                    let Some(value) = key.next_sibling() else { continue };
                    rest.extend(value.next_sibling().map(Task::Entries));
                    rest.push(Task::Value(value));
                }
            }
        }
        Ok(Compiled { bytes: self.out, names: self.names, is_whole: false })
    }

    fn item<'a>(&mut self, first: View<'a>, index: i64, rest: &mut Vec<Task<'a>>) {
        if let Some(later) = first.next_sibling() {
            rest.push(Task::Items(later, index + 1));
            // A group asks for its last field or element, and so for those before it.
            if self.dialect == Dialect::Dataspace && first.is_symbol("_") {
                return;
            }
        }
        if self.dialect == Dialect::Dataspace {
            encode::int(&mut self.out, index);
        }
        rest.push(Task::Value(first));
    }

    fn value<'a>(&mut self, value: View<'a>, rest: &mut Vec<Task<'a>>) -> Result<(), String> {
        if let Some(name) = value.as_symbol() {
            if name == "_" {
                encode::record(&mut self.out, "_");
                encode::end(&mut self.out);
                return Ok(());
            }
            if let Some(name) = name.strip_prefix('$') {
                return self.capture(name);
            }
        }
        match value.tag() {
            tag::RECORD | tag::SEQUENCE | tag::DICTIONARY => self.compound(value, rest),
            tag::SET => Err(format!(
                "sets cannot be matched by what is in them; write _ or $name for {}",
                brief(value)
            )),
            _ => {
                encode::record(&mut self.out, "lit");
                self.out.extend_from_slice(value.span());
                encode::end(&mut self.out);
                Ok(())
            }
        }
    }

    fn capture(&mut self, name: &str) -> Result<(), String> {
        if self.dialect == Dialect::Caveat {
            return Err(format!("${name}: there are no captures here; write _ for anything"));
        }
        if !name.is_empty() && self.names.iter().any(|other| other == name) {
            return Err(format!("${name} stands twice. Two places cannot be compared; give them two names"));
        }
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("${name}: a name does not begin with a digit"));
        }
        self.names.push(name.to_owned());
        encode::record(&mut self.out, "bind");
        encode::record(&mut self.out, "_");
        encode::end(&mut self.out);
        encode::end(&mut self.out);
        Ok(())
    }

    fn compound<'a>(&mut self, value: View<'a>, rest: &mut Vec<Task<'a>>) -> Result<(), String> {
        let is_group = self.dialect == Dialect::Dataspace;
        if is_group {
            encode::record(&mut self.out, "group");
        }
        let kind = match value.tag() {
            tag::RECORD => "rec",
            tag::SEQUENCE => "arr",
            _ => "dict",
        };
        encode::record(&mut self.out, kind);
        if let Some(label) = value.label() {
            check_literal(label, "a record's label")?;
            self.out.extend_from_slice(label.span());
        }
        // A group is `<group <kind> {..}>`, a caveat's pattern `<kind [..]>` or `<dict {..}>`.
        if is_group {
            encode::end(&mut self.out);
        }
        let is_dictionary = is_group || value.tag() == tag::DICTIONARY;
        self.out.push(if is_dictionary { tag::DICTIONARY } else { tag::SEQUENCE });
        rest.push(Task::Bytes(&[tag::END, tag::END]));
        rest.extend(match value.tag() {
            tag::RECORD => value.fields().next().map(|first| Task::Items(first, 0)),
            tag::SEQUENCE => value.first_child().map(|first| Task::Items(first, 0)),
            _ => value.first_child().map(Task::Entries),
        });
        Ok(())
    }
}

fn check_literal(value: View<'_>, what: &str) -> Result<(), String> {
    match value.as_symbol() {
        Some(name) if name == "_" || name.starts_with('$') => {
            Err(format!("{what} must be given; {name} cannot stand for it"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::value::show;

    fn shown(bytes: &[u8]) -> String {
        show(scan(bytes).view(bytes))
    }

    #[test]
    fn patterns_become_what_the_dataspace_knows() {
        for (text, expected, names) in [
            ("<Says \"a\" $x>", "<group <rec Says> {0: <lit \"a\">, 1: <bind <_>>}>", &["x"][..]),
            ("<Says $ _ $y _ _>", "<group <rec Says> {0: <bind <_>>, 2: <bind <_>>, 4: <_>}>", &["", "y"]),
            ("$all", "<bind <_>>", &["all"]),
            (
                "[1 [$b] {k: $c, j: _}]",
                "<group <arr> {0: <lit 1>, 1: <group <arr> {0: <bind <_>>}>, 2: <group <dict> {j: <_>, k: <bind <_>>}>}>",
                &["b", "c"],
            ),
            ("<[a] $x>", "<group <rec [a]> {0: <bind <_>>}>", &["x"]),
        ] {
            let compiled = observed(text).unwrap();
            assert_eq!(shown(&compiled.bytes), expected, "{text}");
            assert_eq!(compiled.names, names, "{text}");
            assert!(!compiled.is_whole);
            let scanner = scan(&compiled.bytes);
            let known = staunch_index::pattern::Pattern::compile(scanner.view(&compiled.bytes)).unwrap();
            assert_eq!(known.captures.len(), names.len(), "{text}");
        }
        for (text, expected) in [
            ("_", "<bind <_>>"),
            ("<foo>", "<bind <group <rec foo> {}>>"),
            ("<foo _ _>", "<bind <group <rec foo> {1: <_>}>>"),
            ("7", "<bind <lit 7>>"),
        ] {
            let compiled = observed(text).unwrap();
            assert_eq!((shown(&compiled.bytes).as_str(), compiled.is_whole), (expected, true), "{text}");
        }
    }

    #[test]
    fn long_compounds_keep_their_keys_in_order() {
        let text = format!("[{}]", "1 ".repeat(300));
        let compiled = observed(&text).unwrap();
        assert!(scan(&compiled.bytes).is_canonical());
    }

    #[test]
    fn what_may_pass_is_matched_exactly() {
        for (text, expected) in [
            ("<Says \"a\" _>", "<rec Says [<lit \"a\">, <_>]>"),
            ("[_ _ {k: 1}]", "<arr [<_>, <_>, <dict {k: <lit 1>}>]>"),
            ("<foo>", "<rec foo []>"),
        ] {
            assert_eq!(shown(&allowed(text).unwrap()), expected, "{text}");
        }
        assert!(allowed("<Says $x>").unwrap_err().contains("no captures"));
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        for (text, expected) in [
            ("<$x 1>", "label"),
            ("<_ 1>", "label"),
            ("{$k: 1}", "key"),
            ("[$x $x]", "twice"),
            ("[$1]", "digit"),
            ("<a #{1 2}>", "sets"),
            ("<a #:[0 1]>", "capability"),
            ("<a", "not closed"),
        ] {
            let error = observed(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(observed(&deep(100)).is_ok());
        assert!(observed(&deep(200)).unwrap_err().contains("too large"));
        assert!(observed(&deep(100_000)).unwrap_err().contains("deeper"));
    }
}
