//! What is wrong with a schema, and where.

use std::fmt;

/// One fault, at a place that an editor can jump to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The file, as it was named to the compiler.
    pub file: String,
    /// The line, from 1; 0 if the fault is with the file as a whole.
    pub line: u32,
    /// The column in characters, from 1; 0 if the fault is with the file as a whole.
    pub column: u32,
    /// What is wrong, and where possible what to do about it.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}:{}: {}", self.file, self.column, self.message),
        }
    }
}

/// All faults that were found, in order of file and place; never empty where it is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostics {
    /// Notes a fault with a file as a whole.
    pub(crate) fn whole(&mut self, file: &str, message: impl Into<String>) {
        self.0.push(Diagnostic { file: file.into(), line: 0, column: 0, message: message.into() });
    }

    /// Notes a fault at a position, in bytes, of a file's text.
    pub(crate) fn at(&mut self, file: &str, text: &str, at: usize, message: impl Into<String>) {
        let (line, column) = place(text, at);
        self.0.push(Diagnostic { file: file.into(), line, column, message: message.into() });
    }

    /// `good` if nothing was noted.
    pub(crate) fn or<T>(mut self, good: T) -> Result<T, Diagnostics> {
        if self.0.is_empty() {
            return Ok(good);
        }
        self.0.sort();
        self.0.dedup();
        Err(self)
    }
}

/// Line and column, from 1, of a position in bytes.
pub(crate) fn place(text: &str, at: usize) -> (u32, u32) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.bytes().filter(|b| *b == b'\n').count();
    (line as u32, 1 + before[line_start..].chars().count() as u32)
}
