//! Texts to numbers, the way Ceph reads them.

use std::time::Duration;

use thiserror::Error;

use crate::options::shown;

/// The value of an option is not what the option takes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("option {option} has the value '{value}', which is not {expected}")]
pub struct ValueError {
    /// Name of the option.
    pub option: String,
    /// Its value; redacted if the option is a secret.
    pub value: String,
    /// What it should be.
    pub expected: &'static str,
}

impl ValueError {
    pub(crate) fn new(option: &str, value: &str, expected: &'static str) -> Self {
        Self { option: option.to_owned(), value: shown(option, value), expected }
    }
}

/// `true`, `false`, or a number that is 0 or not. Ceph: `strict_strtob` in `src/common/strtol.cc`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        text.parse::<i32>().ok().map(|number| number != 0)
    }
}

/// A number of bytes with a binary unit: `64K` and `64Ki` are 65536. Ceph: `strict_iec_cast`.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !matches!(c, '0'..='9' | '+' | '-')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    // Ceph looks at the first letter only, so `KB` is 1024 as well.
    if unit.len() > 2 || unit == "Bi" {
        return None;
    }
    let shift = match unit.chars().next() {
        None | Some('B') => 0,
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        Some('T') => 40,
        Some('P') => 50,
        Some('E') => 60,
        Some(_) => return None,
    };
    non_negative(number)?.checked_mul(1 << shift)
}

/// A count with a decimal unit: `64K` is 64000. Ceph: `strict_si_cast`.
pub(crate) fn parse_count(text: &str) -> Option<u64> {
    let (number, power) = match text.chars().next_back()? {
        'K' => (&text[..text.len() - 1], 3),
        'M' => (&text[..text.len() - 1], 6),
        'G' => (&text[..text.len() - 1], 9),
        'T' => (&text[..text.len() - 1], 12),
        'P' => (&text[..text.len() - 1], 15),
        'E' => (&text[..text.len() - 1], 18),
        _ => (text, 0),
    };
    non_negative(number)?.checked_mul(10u64.pow(power))
}

/// Seconds, or a sum such as `1 h 30 min`. Ceph: `parse_timespan` in `src/common/ceph_time.cc`. Fractions of a
/// second are taken too: up to Ceph 16 these options were floating point numbers.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    if text.contains('.') {
        return text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    }
    let mut rest = text.trim();
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let seconds = match &rest[..letters] {
            // Only the last number may come without a unit.
            "" if rest.is_empty() => 1,
            "s" | "sec" | "second" | "seconds" => 1,
            "m" | "min" | "minute" | "minutes" => 60,
            "h" | "hr" | "hour" | "hours" => 3600,
            "d" | "day" | "days" => 86_400,
            "w" | "wk" | "week" | "weeks" => 7 * 86_400,
            "mo" | "month" | "months" => 30 * 86_400,
            "y" | "yr" | "year" | "years" => 365 * 86_400,
            _ => return None,
        };
        rest = rest[letters..].trim_start();
        total = number.checked_mul(seconds)?.checked_add(total)?;
    }
    Some(Duration::from_secs(total))
}

fn non_negative(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<i64>().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn booleans_are_words_or_numbers() {
        for (text, value) in [("true", true), ("FALSE", false), ("1", true), ("0", false), ("-3", true)] {
            assert_eq!(parse_bool(text), Some(value), "{text}");
        }
        for text in ["", "yes", "on", "1x", "99999999999"] {
            assert_eq!(parse_bool(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        let cases = [("0", 0), ("64K", 65536), ("64Ki", 65536), ("4M", 4 << 20), ("1G", 1 << 30), ("7B", 7)];
        for (text, value) in cases {
            assert_eq!(parse_size(text), Some(value), "{text}");
        }
        for text in ["", "K", "-1", "1Bi", "1KiB", "1k", "64E", "9223372036854775808", "1 K"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn counts_have_decimal_units() {
        assert_eq!(parse_count("64K"), Some(64_000));
        assert_eq!(parse_count("65536"), Some(65_536));
        for text in ["", "K", "-1", "1B", "1k", "64E", "é"] {
            assert_eq!(parse_count(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_sums_of_units() {
        let cases =
            [("300", 300), ("5 min", 300), ("1h30m", 5400), ("1 d 2 s", 86_402), ("1m 5", 65), ("", 0)];
        for (text, seconds) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("0.5"), Some(Duration::from_millis(500)));
        for text in [
            "x",
            "5 fortnights",
            "5 5",
            "-1",
            "-1.5",
            "1.5.5",
            "99999999999999999999",
            "400000000000000000 y",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn an_error_does_not_show_secrets() {
        assert!(!ValueError::new("key", "AQB", "a number").to_string().contains("AQB"));
        let error = ValueError::new("rbd_cache", "maybe", "a boolean").to_string();
        assert_eq!(error, "option rbd_cache has the value 'maybe', which is not a boolean");
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_or_refused(text in "\\PC{0,24}") {
            let _ = (parse_bool(&text), parse_size(&text), parse_count(&text), parse_duration(&text));
        }
    }
}
