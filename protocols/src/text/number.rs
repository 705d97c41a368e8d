//! Integers of any size, and doubles, between binary and decimal.

/// Longest integer that is printed in full, in bytes: the conversion takes the square of the length.
pub(super) const PRINTED_BYTES_MAX: usize = 4096;

const BILLION: u64 = 1_000_000_000;

/// Whether a bare token is a number; if so, whether it is an integer.
pub(super) fn is_number(token: &[u8]) -> Option<bool> {
    let digits = |s: &[u8]| s.iter().take_while(|b| b.is_ascii_digit()).count();
    let unsigned = |s: &[u8]| s.len() - s.strip_prefix(b"-").or(s.strip_prefix(b"+")).unwrap_or(s).len();
    let mut at = unsigned(token);
    let whole = digits(&token[at..]);
    at += whole;
    if whole == 0 {
        return None;
    }
    if at == token.len() {
        return Some(true);
    }
    if token[at] == b'.' {
        let fraction = digits(&token[at + 1..]);
        at += 1 + fraction;
        if fraction == 0 {
            return None;
        }
    }
    if matches!(token.get(at), Some(b'e' | b'E')) {
        at += 1 + unsigned(&token[at + 1..]);
        let exponent = digits(&token[at..]);
        at += exponent;
        if exponent == 0 {
            return None;
        }
    }
    (at == token.len()).then_some(false)
}

/// The content of the integer with this decimal representation, not minimal yet; `None` if it is clearly
/// longer than `bytes_max`.
pub(super) fn integer_from_decimal(token: &[u8], bytes_max: u32) -> Option<Vec<u8>> {
    let negative = token.first() == Some(&b'-');
    let digits = if matches!(token.first(), Some(b'-' | b'+')) { &token[1..] } else { token };
    let zeros = digits.iter().take_while(|b| **b == b'0').count();
    let digits = &digits[zeros..];
    // A decimal digit is worth at least 3.3 bits.
    if digits.len() as u64 * 33 / 80 > bytes_max as u64 + 1 {
        return None;
    }
    let mut limbs: Vec<u32> = Vec::new();
    for chunk in digits.chunks(9) {
        let mut carry = chunk.iter().fold(0u64, |n, b| n * 10 + (b - b'0') as u64);
        let scale = 10u64.pow(chunk.len() as u32);
        for limb in &mut limbs {
            let wide = *limb as u64 * scale + carry;
            *limb = wide as u32;
            carry = wide >> 32;
        }
        if carry > 0 {
            limbs.push(carry as u32);
        }
    }
    let mut content = vec![0];
    content.extend(limbs.iter().rev().flat_map(|limb| limb.to_be_bytes()));
    if negative {
        negate(&mut content);
    }
    Some(content)
}

/// Two's complement.
fn negate(content: &mut [u8]) {
    let mut carry = true;
    for byte in content.iter_mut().rev() {
        (*byte, carry) = (!*byte).overflowing_add(carry as u8);
    }
}

/// The decimal representation of an integer with this content.
pub(super) fn decimal_from_integer(content: &[u8]) -> String {
    let negative = content.first().is_some_and(|b| *b >= 0x80);
    let mut magnitude = content.to_vec();
    if negative {
        negate(&mut magnitude);
    }
    // Most significant limb first.
    let mut limbs: Vec<u32> =
        magnitude.rchunks(4).rev().map(|chunk| chunk.iter().fold(0, |n, b| n << 8 | *b as u32)).collect();
    let mut groups = Vec::new();
    loop {
        let zeros = limbs.iter().take_while(|limb| **limb == 0).count();
        limbs.drain(..zeros);
        if limbs.is_empty() {
            break;
        }
        let mut rest = 0u64;
        for limb in &mut limbs {
            let wide = rest << 32 | *limb as u64;
            *limb = (wide / BILLION) as u32;
            rest = wide % BILLION;
        }
        groups.push(rest);
    }
    let mut out = String::from(if negative { "-" } else { "" });
    out.push_str(&groups.pop().unwrap_or(0).to_string());
    groups.iter().rev().for_each(|group| out.push_str(&format!("{group:09}")));
    out
}

/// A double as text: the shortest that reads back as the same, with a point or an exponent.
pub(super) fn text_from_double(bits: u64) -> String {
    let double = f64::from_bits(bits);
    if !double.is_finite() {
        return format!("#xd\"{bits:016x}\"");
    }
    let scientific = format!("{double:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if mantissa.starts_with('-') { "-" } else { "" };
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    // The point stands after this many digits.
    let point = exponent + 1;
    let count = digits.len() as i32;
    if (1..=21).contains(&point) {
        if count <= point {
            return format!("{sign}{digits}{}.0", "0".repeat((point - count) as usize));
        }
        let (whole, fraction) = digits.split_at(point as usize);
        return format!("{sign}{whole}.{fraction}");
    }
    if (-5..=0).contains(&point) {
        return format!("{sign}0.{}{digits}", "0".repeat(-point as usize));
    }
    scientific
}
