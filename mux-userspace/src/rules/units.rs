//! Durations and sizes, as rules files and the command line write them.

use std::time::Duration;

use thiserror::Error;

/// Longest duration: larger ones could overflow a clock when they are added to it.
const MAX_DURATION: Duration = Duration::from_secs(366 * 86_400);

/// Units of time, in milliseconds. Longer names first, so that `ms` is not seen as `s`.
const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Units of size, in bytes. Longer names first, so that `KiB` is not seen as `B`.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// Why a duration or a size was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnitError {
    /// Not a whole number and a unit of time.
    #[error(
        "not a duration: write a whole number and a unit, as in \"150ms\", \"3s\", \"2m\", \"1h\" or \"1d\""
    )]
    Duration,
    /// Not a whole number, with or without a unit of size.
    #[error(
        "not a size: write bytes, or a whole number and a unit, as in \"512\", \"16KiB\" or \"1MiB\""
    )]
    Size,
    /// More than anything here can take.
    #[error("too large")]
    TooLarge,
}

/// Reads `"150ms"`, `"3s"`, `"2m"`, `"1h"` or `"1d"`; at most 366 days.
///
/// # Errors
/// [`UnitError`], when it is none of them.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, milliseconds) = split(text, &TIME_UNITS).ok_or(UnitError::Duration)?;
    let number = whole(number, UnitError::Duration)?;
    let total = number.checked_mul(milliseconds).map(Duration::from_millis);
    total.filter(|total| *total <= MAX_DURATION).ok_or(UnitError::TooLarge)
}

/// Reads `"512"`, `"512B"`, `"16KiB"`, `"1MiB"`, `"1GiB"`, or the decimal `KB`, `MB`, `GB`.
/// The result is in bytes.
///
/// # Errors
/// [`UnitError`], when it is none of them.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, bytes) = split(text, &SIZE_UNITS).unwrap_or((text, 1));
    whole(number, UnitError::Size)?.checked_mul(bytes).ok_or(UnitError::TooLarge)
}

/// Splits a known unit off the end.
fn split<'a>(text: &'a str, units: &[(&str, u64)]) -> Option<(&'a str, u64)> {
    units.iter().find_map(|&(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
}

/// Digits only: no sign, no fraction, no space.
fn whole(text: &str, malformed: UnitError) -> Result<u64, UnitError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed);
    }
    // Of digits alone, only too many can be wrong.
    text.parse().map_err(|_| UnitError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("150ms", 150),
            ("3s", 3_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "3", "3 s", "-3s", "+3s", "1.5s", "3S", "3min", "1h30m", "３s"] {
            assert_eq!(parse_duration(text), Err(UnitError::Duration), "{text}");
        }
        for text in ["367d", "18446744073709551615h", "99999999999999999999ms"] {
            assert_eq!(parse_duration(text), Err(UnitError::TooLarge), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("16KiB", 16_384),
            ("1MiB", 1 << 20),
            ("1GiB", 1 << 30),
            ("2KB", 2_000),
            ("2MB", 2_000_000),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "B", "KiB", "16 KiB", "16kib", "-1", "1.5MiB", "1e3", "16K"] {
            assert_eq!(parse_size(text), Err(UnitError::Size), "{text}");
        }
        assert_eq!(parse_size("99999999999GiB"), Err(UnitError::TooLarge));
        assert_eq!(parse_size("99999999999999999999"), Err(UnitError::TooLarge));
    }
}
