//! Comments of schemas as documentation.

use std::fmt::Write;

/// Writes a comment, or `default` if there is none.
pub(super) fn write(out: &mut String, comment: &[String], default: &str) {
    match comment {
        [] => attribute(out, default),
        lines => lines.iter().for_each(|line| attribute(out, &escape(line))),
    }
}

/// Writes one line as it is.
pub(super) fn attribute(out: &mut String, line: &str) {
    let _ = writeln!(out, "#[doc = {line:?}]");
}

/// Keeps records from being taken for HTML, and sequences for links. What stands in backticks is left alone.
fn escape(line: &str) -> String {
    let mut out = String::new();
    let mut is_code = false;
    for c in line.chars() {
        is_code ^= c == '`';
        if !is_code && matches!(c, '<' | '>' | '[' | ']' | '*' | '_') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
