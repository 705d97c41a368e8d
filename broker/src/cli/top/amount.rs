//! Numbers that fit into columns.

/// A size, in at most five characters: `0`, `999`, `12.3K`, `4.0M`. A K is 1024.
pub(super) fn size(n: u64) -> String {
    short(n as f64, 1024.0)
}

/// A count, likewise; a K is 1000.
pub(super) fn count(n: u64) -> String {
    short(n as f64, 1000.0)
}

/// A rate: a count or a size per second.
pub(super) fn rate(n: f64, base: f64) -> String {
    short(n.max(0.0).round(), base)
}

fn short(n: f64, base: f64) -> String {
    let (mut n, mut unit) = (n, "");
    for next in ["K", "M", "G", "T", "P", "E"] {
        // What would be shown with more than three digits.
        if n < 999.5 {
            break;
        }
        (n, unit) = (n / base, next);
    }
    match unit {
        "" => format!("{n:.0}"),
        _ if n < 99.95 => format!("{n:.1}{unit}"),
        _ => format!("{n:.0}{unit}"),
    }
}

/// A time span: `0.4 s`, `12 s`, `3:05`, `2:03:11`, `5 d 4 h`.
pub(super) fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{}:{:02}", whole / 60, whole % 60),
        3600..86400 => format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60),
        _ => format!("{} d {} h", whole / 86400, whole / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (n, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0K"),
            (1024, "1.0K"),
            (102_300, "99.9K"),
            (102_400, "100K"),
            (2 << 20, "2.0M"),
            (u64::MAX, "16.0E"),
        ] {
            assert_eq!(size(n), expected, "{n}");
        }
        assert_eq!(count(8_335), "8.3K");
        assert_eq!(count(999_500), "1.0M");
        assert_eq!(rate(-1.0, 1000.0), "0");
        for (seconds, expected) in
            [(0.44, "0.4 s"), (12.9, "12 s"), (185.0, "3:05"), (7391.0, "2:03:11"), (450_000.0, "5 d 5 h")]
        {
            assert_eq!(span(seconds), expected);
        }
    }
}
