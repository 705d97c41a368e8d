//! What is wrong with a scenario file, and where.

use std::ops::Range;

/// One fault.
#[derive(Debug)]
pub(super) struct Fault {
    /// Bytes of the text that are meant.
    pub(super) span: Range<usize>,
    pub(super) what: String,
}

impl Fault {
    pub(super) fn at(span: Range<usize>, what: impl Into<String>) -> Fault {
        Fault { span, what: what.into() }
    }

    /// `origin:line:column: what`, and the line with a mark under the place.
    pub(super) fn show(&self, text: &str, origin: &str) -> String {
        let start = self.span.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or("");
        let number = text[..line_start].matches('\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;
        let within = self.span.len().min((line_start + line.len()).saturating_sub(start));
        let marks = "^".repeat(within.max(1));
        let indent = " ".repeat(column - 1);
        format!("{origin}:{number}:{column}: {}\n{number:5} | {line}\n      | {indent}{marks}", self.what)
    }
}

impl From<toml::de::Error> for Fault {
    fn from(e: toml::de::Error) -> Fault {
        Fault::at(e.span().unwrap_or(0..0), e.message())
    }
}
