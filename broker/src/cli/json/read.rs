//! JSON to values.
//!
//! Recursive, but never deeper than the parser's own bound, 128 levels.

use serde_json::{Map, Value as Json};
use staunch_protocols::text;
use staunch_protocols::wire::{Scanner, canonicalize, encode, tag};

use crate::cli::value::VALUE_LIMITS;

/// Reads a value that may be sent, in canonical form.
///
/// # Errors
/// What is wrong with it, for its author.
pub(in crate::cli) fn read(line: &str) -> Result<Vec<u8>, String> {
    if let Some(integer) = long_integer(line) {
        return Err(format!("{integer} may be rounded on its way; write {{\"@integer\": \"{integer}\"}}"));
    }
    let json: Json = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
    let mut value = Vec::new();
    encode_one(&json, &mut value)?;
    let mut scanner = Scanner::new(VALUE_LIMITS);
    scanner.scan(&value).map_err(|error| error.kind.to_string())?;
    if scanner.is_canonical() {
        return Ok(value);
    }
    let mut canonical = Vec::with_capacity(value.len());
    canonicalize(scanner.view(&value), &mut canonical).map_err(|error| error.to_string())?;
    Ok(canonical)
}

/// An integer that JSON's readers need not take for what it is: one that does not fit 64 bits.
fn long_integer(line: &str) -> Option<&str> {
    let (mut at, mut is_text) = (0, false);
    let bytes = line.as_bytes();
    while let Some(&b) = bytes.get(at) {
        match b {
            b'\\' if is_text => at += 1,
            b'"' => is_text = !is_text,
            b'-' | b'0'..=b'9' if !is_text => {
                let is_number = |b: &u8| b.is_ascii_digit() || b"+-.eE".contains(b);
                let length = bytes[at..].iter().take_while(|b| is_number(b)).count();
                let number = &line[at..at + length];
                let is_integer = !number.contains(['.', 'e', 'E']);
                if is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    return Some(number);
                }
                at += length - 1;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

fn encode_one(json: &Json, out: &mut Vec<u8>) -> Result<(), String> {
    match json {
        Json::Null => return Err("null stands for no value".to_owned()),
        Json::Bool(is_true) => out.push(if *is_true { tag::TRUE } else { tag::FALSE }),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(n), ..) => encode::int(out, n),
            (_, Some(n), _) => encode::uint(out, n),
            (.., Some(n)) => encode::atom(out, tag::IEEE754, &n.to_be_bytes()),
            _ => return Err(format!("{number} is no number")),
        },
        Json::String(text) => encode::string(out, text),
        Json::Array(items) => encode_all(tag::SEQUENCE, items, out)?,
        Json::Object(entries) if entries.keys().any(|key| key.starts_with('@')) => {
            encode_tagged(entries, out)?
        }
        Json::Object(entries) => {
            out.push(tag::DICTIONARY);
            for (key, value) in entries {
                encode::symbol(out, key);
                encode_one(value, out)?;
            }
            encode::end(out);
        }
    }
    Ok(())
}

fn encode_all(kind: u8, items: &[Json], out: &mut Vec<u8>) -> Result<(), String> {
    out.push(kind);
    items.iter().try_for_each(|item| encode_one(item, out))?;
    encode::end(out);
    Ok(())
}

/// An object that stands for something that JSON does not have.
fn encode_tagged(entries: &Map<String, Json>, out: &mut Vec<u8>) -> Result<(), String> {
    let pairs: Vec<(&str, &Json)> = entries.iter().map(|(key, value)| (key.as_str(), value)).collect();
    match pairs[..] {
        [("@symbol", Json::String(name))] => encode::symbol(out, name),
        [("@bytes", Json::String(hex))] => encode::bytes(out, &unhex(hex)?),
        [("@double", Json::String(hex))] => match &unhex(hex)?[..] {
            content if content.len() == 8 => encode::atom(out, tag::IEEE754, content),
            _ => return Err(format!("{hex}: a double has 16 hexadecimal digits")),
        },
        [("@integer", Json::String(digits))] => {
            let is_integer = digits.strip_prefix('-').unwrap_or(digits).bytes().all(|b| b.is_ascii_digit());
            let value = text::parse(digits, &VALUE_LIMITS).ok().filter(|_| is_integer);
            out.extend_from_slice(&value.ok_or_else(|| format!("{digits} is no integer"))?);
        }
        [("@set", Json::Array(items))] => encode_all(tag::SET, items, out)?,
        [("@dictionary", Json::Array(pairs))] => {
            out.push(tag::DICTIONARY);
            for pair in pairs {
                let pair = pair.as_array().filter(|pair| pair.len() == 2);
                let pair = pair.ok_or("@dictionary takes pairs: [[key, value], ..]")?;
                pair.iter().try_for_each(|part| encode_one(part, out))?;
            }
            encode::end(out);
        }
        [("@fields", Json::Array(fields)), ("@record", label)]
        | [("@record", label), ("@fields", Json::Array(fields))] => {
            out.push(tag::RECORD);
            match label {
                Json::String(name) => encode::symbol(out, name),
                label => {
                    let label = label.as_object().filter(|label| label.len() == 1);
                    let label = label.and_then(|label| label.get("@label"));
                    encode_one(label.ok_or("@record takes a name, or {\"@label\": ..}")?, out)?;
                }
            }
            fields.iter().try_for_each(|field| encode_one(field, out))?;
            encode::end(out);
        }
        [("@embedded", _)] => {
            return Err("a capability has no meaning outside its session, and cannot be written".to_owned());
        }
        _ => {
            let keys: Vec<&str> = pairs.iter().map(|(key, _)| *key).collect();
            return Err(format!(
                "an object with {} means nothing; see `staunch observe --help`",
                keys.join(", ")
            ));
        }
    }
    Ok(())
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        }
        _ => Err(format!("{text}: not pairs of hexadecimal digits")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::json::write;
    use crate::cli::value::{parse, scan};
    use proptest::prelude::*;

    fn check_round_trip(value: &[u8]) {
        let mut json = String::new();
        write(scan(value).view(value), &mut json);
        assert_eq!(read(&json).as_deref(), Ok(value), "{json}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "[#t #f 1 -1 9007199254740993 -123456789012345678901234567890 18446744073709551615]",
            "[0.0 -0.0 1.5 -6.895329074738738e-212 1e300 5e-324 1e21 #xd\"7ff8000000000001\" #xd\"fff0000000000000\"]",
            "{a: 1 b: {} '@c': 2}",
            "{a: 1 b: #{c [] \"\"}}",
            "<a <b> <\"c\" 1> <[d]>>",
            "[\"\\u0000\\u007f\\u0085\\\"\" '' 'a b' #x\"\" #x\"00ff\"]",
            "{1: 2 \"a\": b}",
        ] {
            check_round_trip(&parse(text).unwrap());
        }
    }

    #[test]
    fn what_is_no_value_is_told() {
        for (json, words) in [
            ("", "not JSON"),
            ("{", "not JSON"),
            ("null", "null"),
            ("[18446744073709551616]", "rounded"),
            ("{\"@symbol\": 1}", "@symbol"),
            ("{\"@symbol\": \"a\", \"b\": 1}", "@symbol, b"),
            ("{\"@bytes\": \"0\"}", "hexadecimal"),
            ("{\"@double\": \"00\"}", "16"),
            ("{\"@integer\": \"1.0\"}", "no integer"),
            ("{\"@integer\": \"\"}", "no integer"),
            ("{\"@set\": [1, 1]}", "duplicate"),
            ("{\"@dictionary\": [[1]]}", "pairs"),
            ("{\"@record\": 1, \"@fields\": []}", "@label"),
            ("{\"@embedded\": 1}", "capability"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(words), "{json}: {error}");
        }
        assert!(read(&"[".repeat(100_000)).unwrap_err().contains("not JSON"));
        assert!(read("\"12345678901234567890123\\\" 12345678901234567890123\"").is_ok(), "in a string");
    }

    proptest! {
        #[test]
        fn doubles_and_strings_are_read_back(bits: u64, text: String, n: i64) {
            let mut value = vec![tag::SEQUENCE];
            encode::atom(&mut value, tag::IEEE754, &bits.to_be_bytes());
            encode::string(&mut value, &text);
            encode::symbol(&mut value, &text);
            encode::int(&mut value, n);
            encode::end(&mut value);
            check_round_trip(&value);
        }
    }
}
