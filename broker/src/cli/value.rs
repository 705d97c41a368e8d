//! Values as people write and read them.

use staunch::client::Error;
use staunch_protocols::sturdy::holds_capability;
use staunch_protocols::text::{self, TextErrorKind};
use staunch_protocols::wire::{Limits, Progress, Scanner, View};

/// What a value may be so that it fits a packet as brokers take it, with the event around it.
pub(super) const VALUE_LIMITS: Limits = {
    let packet =
        Limits { packet_bytes_max: 16 << 20, depth_max: 256, tokens_max: 4 << 20, integer_bytes_max: 1024 };
    Limits {
        packet_bytes_max: packet.packet_bytes_max - 1024,
        depth_max: packet.depth_max - 8,
        tokens_max: packet.tokens_max - 64,
        ..packet
    }
};

/// Reads a value that may be sent.
///
/// # Errors
/// What is wrong with it, for its author.
pub(super) fn parse(text: &str) -> Result<Vec<u8>, String> {
    let value = text::parse(text, &VALUE_LIMITS).map_err(|error| {
        let place = match error.line {
            1 => format!("column {}", error.column),
            line => format!("line {line}, column {}", error.column),
        };
        match error.what {
            TextErrorKind::Incomplete if text.trim().is_empty() => "there is no value".to_owned(),
            TextErrorKind::Incomplete => format!("{place}: this is not closed"),
            what @ TextErrorKind::Hash => format!("{place}: {what}; a comment begins with # and a blank"),
            what @ TextErrorKind::Unexpected(',') => {
                format!("{place}: {what}; the fields of a record stand between blanks, as in <Says \"ann\" \"hello\">")
            }
            // A word before other values.
            what @ TextErrorKind::Trailing if text.trim_start().starts_with(|c: char| c.is_alphabetic()) => {
                format!("{place}: {what}; a record stands in < and >, as in <Says \"ann\" \"hello\">")
            }
            what => format!("{place}: {what}"),
        }
    })?;
    // Only where this stands can a capability be.
    if text.contains("#:") && holds_capability(scan(&value).view(&value)) {
        return Err(
            "a capability (#:...) has no meaning outside its session, and cannot be written".to_owned()
        );
    }
    Ok(value)
}

/// Indexes a value that was made here.
///
/// # Panics
/// If it is not a value.
pub(super) fn scan(value: &[u8]) -> Scanner {
    let bounds = Limits::NONE;
    let mut scanner = Scanner::new(bounds);
    assert_eq!(scanner.scan(value), Ok(Progress::Complete(value.len())), "it was made by ourselves");
    scanner
}

/// A value as text, on one line.
pub(super) fn show(value: View<'_>) -> String {
    let mut out = String::new();
    text::write(value, &mut out, usize::MAX);
    out
}

/// As [`show`], for messages: cut if it is long.
pub(super) fn brief(value: View<'_>) -> String {
    let mut out = String::new();
    text::write(value, &mut out, 60);
    out
}

/// What a broker sent that it should not have.
pub(super) fn malformed(what: &str) -> Error {
    Error::Malformed(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, expected) in [
            ("", "no value"),
            ("<a", "column 1: this is not closed"),
            ("<a>>", "column 4"),
            ("[\n  }", "line 2, column 3"),
            ("<a #:[0 1]>", "capability"),
            ("#comment", "begins with # and a blank"),
            ("<Says \"ann\", 1>", "between blanks"),
            ("Says 1 2", "stands in < and >"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(parse(&"[".repeat(100_000)).unwrap_err().contains("deeper"), "and nothing overflows");
        assert!(parse("\"#:\"").is_ok());
    }
}
