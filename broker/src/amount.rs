//! Numbers as people write them: `4096`, `"16MiB"`, `2.5`.

use std::time::Duration;

/// The units of sizes, the largest first.
const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// Reads a number, or a size with a unit.
///
/// # Errors
/// What is wrong with it, for its author.
pub fn read(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    let wrong = || "expected a whole number, or one with KiB, MiB or GiB, as in 16MiB".to_owned();
    let digits: String = digits.trim_end().chars().filter(|c| *c != '_').collect();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: Option<u64> = digits.parse().ok();
    number.and_then(|n| n.checked_mul(1 << shift)).ok_or_else(|| format!("{text} is too large"))
}

/// Reads a number that is no size.
///
/// # Errors
/// What is wrong with it, for its author.
fn read_count(text: &str) -> Result<u64, String> {
    let is_number = text.trim().bytes().all(|b| b.is_ascii_digit() || b == b'_');
    if is_number { read(text).ok() } else { None }
        .ok_or_else(|| "expected a whole number, as in 1000".to_owned())
}

/// As [`read_count`], within bounds.
///
/// # Errors
/// What is wrong with it, for its author.
pub fn read_count_within(text: &str, min: u64, max: u64) -> Result<u64, String> {
    check(read_count(text)?, min, max)
}

/// As [`read`], within bounds.
///
/// # Errors
/// What is wrong with it, for its author.
pub fn read_within(text: &str, min: u64, max: u64) -> Result<u64, String> {
    check(read(text)?, min, max)
}

/// The number, if it is within bounds.
///
/// # Errors
/// Which bounds.
pub fn check(number: u64, min: u64, max: u64) -> Result<u64, String> {
    match number {
        _ if number < min => Err(format!("{number} is too small: it must be {min} to {max}")),
        _ if number > max => Err(format!("{number} is too large: it must be {min} to {max}")),
        _ => Ok(number),
    }
}

/// A size with the largest unit that leaves a whole number.
pub fn show_bytes(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// Seconds as a time span, an hour at most.
///
/// # Errors
/// What is wrong with it, for its author.
pub fn seconds(number: f64) -> Result<Duration, String> {
    let span = Duration::try_from_secs_f64(number).ok().filter(|span| span.as_secs() <= 3600);
    span.ok_or_else(|| "expected a number of seconds from 0 to 3600, as in 5 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_shown() {
        for (text, expected) in [
            ("0", 0),
            ("16MiB", 16 << 20),
            ("16 MiB", 16 << 20),
            ("1_000", 1000),
            ("3KiB", 3072),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
            assert_eq!(read(&show_bytes(expected)), Ok(expected));
        }
        for text in ["", "MiB", "16MB", "-1", "1.5MiB", "0x10", "99999999999999999999", "99999999999TiB"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(read_count(" 1_000 "), Ok(1000));
        for text in ["", "x", "16MiB", "-1", "99999999999999999999"] {
            assert!(read_count(text).unwrap_err().contains("whole number, as in 1000"), "{text}");
        }
        assert_eq!(show_bytes(1536), "1536");
        assert_eq!(show_bytes(1 << 30), "1GiB");
    }

    #[test]
    fn bounds_are_told() {
        assert_eq!(read_within("5", 1, 10), Ok(5));
        assert!(read_within("0", 1, 10).unwrap_err().contains("1 to 10"));
        assert!(read_within("11", 1, 10).unwrap_err().contains("too large"));
        assert_eq!(seconds(0.5), Ok(Duration::from_millis(500)));
        assert!(seconds(-1.0).is_err() && seconds(f64::NAN).is_err() && seconds(1e9).is_err());
    }
}
