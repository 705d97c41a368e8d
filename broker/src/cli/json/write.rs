//! Values to JSON, walked with a stack of what is left to do, not by recursion.

use std::fmt::Write;

use staunch_protocols::wire::{View, tag};

use crate::cli::value::show;

/// The greatest integer up to which all are numbers to all readers of JSON.
const INTEGER_MAX: u64 = (1 << 53) - 1;

enum Task<'a> {
    Text(&'static str),
    Value(View<'a>),
    /// This value and its later siblings, then `]`.
    Items(View<'a>),
    /// This key, its value, and the later entries, then `}` or `]`.
    Entries {
        key: View<'a>,
        is_object: bool,
    },
}

/// Appends a value.
pub(in crate::cli) fn write(value: View<'_>, out: &mut String) {
    let mut rest = vec![Task::Value(value)];
    while let Some(next) = rest.pop() {
        match next {
            Task::Text(text) => out.push_str(text),
            Task::Value(value) => one(value, out, &mut rest),
            Task::Items(first) => {
                match first.next_sibling() {
                    Some(later) => rest.extend([Task::Items(later), Task::Text(",")]),
                    None => rest.push(Task::Text("]")),
                }
                one(first, out, &mut rest);
            }
            Task::Entries { key, is_object } => entry(key, is_object, out, &mut rest),
        }
    }
}

fn entry<'a>(key: View<'a>, is_object: bool, out: &mut String, rest: &mut Vec<Task<'a>>) {
    let Some(value) = key.next_sibling() else { return };
    match value.next_sibling() {
        Some(key) => rest.extend([Task::Entries { key, is_object }, Task::Text(",")]),
        None => rest.push(Task::Text(if is_object { "}" } else { "]}" })),
    }
    if is_object {
        quote(key.as_symbol().unwrap_or_default(), out);
        out.push(':');
        rest.push(Task::Value(value));
    } else {
        out.push('[');
        rest.extend([Task::Text("]"), Task::Value(value), Task::Text(","), Task::Value(key)]);
    }
}

/// An atom, or the opening of anything else.
fn one<'a>(value: View<'a>, out: &mut String, rest: &mut Vec<Task<'a>>) {
    match value.tag() {
        tag::RECORD => {
            rest.push(Task::Text("}"));
            items(value.fields().next(), rest);
            rest.push(Task::Text(",\"@fields\":["));
            out.push_str("{\"@record\":");
            let Some(label) = value.label() else { return };
            match label.as_symbol() {
                Some(name) => quote(name, out),
                None => {
                    out.push_str("{\"@label\":");
                    rest.extend([Task::Text("}"), Task::Value(label)]);
                }
            }
        }
        tag::SEQUENCE => {
            out.push('[');
            items(value.first_child(), rest);
        }
        tag::SET => {
            out.push_str("{\"@set\":[");
            rest.push(Task::Text("}"));
            items(value.first_child(), rest);
        }
        tag::DICTIONARY => {
            let is_plain = |key: View<'_>| key.as_symbol().is_some_and(|name| !name.starts_with('@'));
            let is_object = value.children().step_by(2).all(is_plain);
            out.push_str(if is_object { "{" } else { "{\"@dictionary\":[" });
            rest.push(match value.first_child() {
                Some(key) => Task::Entries { key, is_object },
                None => Task::Text("}"),
            });
        }
        tag::EMBEDDED => {
            out.push_str("{\"@embedded\":");
            rest.push(Task::Text("}"));
            rest.extend(value.embedded().map(Task::Value));
        }
        _ => atom(value, out),
    }
}

fn items<'a>(first: Option<View<'a>>, rest: &mut Vec<Task<'a>>) {
    rest.push(first.map_or(Task::Text("]"), Task::Items));
}

fn atom(value: View<'_>, out: &mut String) {
    match value.tag() {
        tag::FALSE => out.push_str("false"),
        tag::TRUE => out.push_str("true"),
        tag::STRING => quote(value.as_string().unwrap_or_default(), out),
        tag::INTEGER => match value.as_i64() {
            Some(n) if n.unsigned_abs() <= INTEGER_MAX => _ = write!(out, "{n}"),
            _ => _ = write!(out, "{{\"@integer\":\"{}\"}}", show(value)),
        },
        tag::IEEE754 => {
            let bits = value.content().iter().fold(0, |bits, b| bits << 8 | u64::from(*b));
            let double = f64::from_bits(bits);
            // Its shortest form with a point or an exponent, from which it can be read back.
            _ = match double.is_finite() {
                true => write!(out, "{double:?}"),
                false => write!(out, "{{\"@double\":\"{bits:016x}\"}}"),
            };
        }
        tag::BYTES => {
            out.push_str("{\"@bytes\":\"");
            value.content().iter().for_each(|b| _ = write!(out, "{b:02x}"));
            out.push_str("\"}");
        }
        _ => {
            out.push_str("{\"@symbol\":");
            quote(value.as_symbol().unwrap_or_default(), out);
            out.push('}');
        }
    }
}

/// Appends a string. Control characters are escaped, also those that JSON does not ask it of: terminals heed them.
pub(in crate::cli) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::value::{parse, scan};

    fn json(text: &str) -> String {
        let value = staunch_protocols::text::parse(text, &crate::cli::value::VALUE_LIMITS).unwrap();
        let mut out = String::new();
        write(scan(&value).view(&value), &mut out);
        let _: serde_json::Value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("{out}: {error}"));
        out
    }

    #[test]
    fn each_kind_of_value_has_its_own_form() {
        for (text, expected) in [
            ("#t", "true"),
            ("[]", "[]"),
            ("[1 -2 [3]]", "[1,-2,[3]]"),
            ("9007199254740991", "9007199254740991"),
            ("9007199254740992", r#"{"@integer":"9007199254740992"}"#),
            ("-123456789012345678901234567890", r#"{"@integer":"-123456789012345678901234567890"}"#),
            ("1.0", "1.0"),
            ("1e300", "1e300"),
            ("#xd\"7ff0000000000000\"", r#"{"@double":"7ff0000000000000"}"#),
            (r#""a\"b\\\n\u0007\u0085""#, r#""a\"b\\\n\u0007\u0085""#),
            ("a", r#"{"@symbol":"a"}"#),
            ("#x\"00ff\"", r#"{"@bytes":"00ff"}"#),
            ("<a>", r#"{"@record":"a","@fields":[]}"#),
            ("<a 1 b>", r#"{"@record":"a","@fields":[1,{"@symbol":"b"}]}"#),
            (r#"<"a" 1>"#, r#"{"@record":{"@label":"a"},"@fields":[1]}"#),
            ("{}", "{}"),
            ("{a: 1 b: {c: x}}", r#"{"a":1,"b":{"c":{"@symbol":"x"}}}"#),
            ("{a: 1 2: 3}", r#"{"@dictionary":[[2,3],[{"@symbol":"a"},1]]}"#),
            ("{'@symbol': \"x\"}", r#"{"@dictionary":[[{"@symbol":"@symbol"},"x"]]}"#),
            ("#{1 2}", r#"{"@set":[1,2]}"#),
            ("#{}", r#"{"@set":[]}"#),
            ("<a #:[0 1]>", r#"{"@record":"a","@fields":[{"@embedded":[0,1]}]}"#),
        ] {
            assert_eq!(json(text), expected, "{text}");
        }
        assert!(parse("#:[0 1]").is_err(), "people cannot write what they may be shown");
    }
}
