//! Quantities in the spelling that an API server gives back.
//!
//! An API server stores `1000m` as `1` and `1024Mi` as `1Gi`. What we send is spelled the same way, so that a stored
//! object equals the wanted one. A quantity is `mantissa * base^exponent`; its canonical form has no fraction and the
//! largest suffix that loses nothing.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Decimal suffixes and the powers of ten that they stand for.
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
/// Binary suffixes; the n-th stands for 1024^n.
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// The finest step: a nano.
const FINEST: i32 = -9;
/// Numbers with more digits, or of more digits, are nobody's CPU or memory; below, an i128 holds everything.
const MAX_DIGITS: usize = 18;
/// Larger binary quantities are capped.
const MAX_BINARY: i128 = i64::MAX as i128;

/// A text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It cannot be read.
    #[error("is no quantity: write a number with an optional suffix, for example 500m, 4 or 16Gi")]
    Syntax,
    /// It is below zero.
    #[error("is negative: write zero or more")]
    Negative,
    /// It has too many digits.
    #[error("has too many digits: write at most 18")]
    TooLong,
}

/// How a quantity was written, which decides how it is written again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Decimal,
    Exponent,
    Binary,
}

/// The quantity as an API server spells it.
pub fn canonical(quantity: &Quantity) -> Result<Quantity, QuantityError> {
    let text = quantity.0.trim();
    let (digits, fraction, suffix) = split(text)?;
    let (format, exponent) = suffix_of(suffix).ok_or(QuantityError::Syntax)?;
    let number: String = [digits.trim_start_matches('0'), fraction].concat();
    // The exponent of a binary suffix is a power of two, at most 60, and fits beside 18 digits.
    let far = format != Format::Binary && exponent.abs() > MAX_DIGITS as i32;
    if number.len() > MAX_DIGITS || far {
        return Err(QuantityError::TooLong);
    }
    let mantissa: i128 = if number.is_empty() { 0 } else { number.parse().map_err(|_| QuantityError::Syntax)? };
    if text.starts_with('-') && mantissa != 0 {
        return Err(QuantityError::Negative);
    }
    if keeps_spelling(digits, fraction, format, exponent, mantissa) {
        return Ok(Quantity(text.to_owned()));
    }
    let places = fraction.len() as i32;
    let spelled = match format {
        Format::Binary => binary(mantissa << exponent, -places),
        Format::Decimal | Format::Exponent => decimal(mantissa, exponent - places, format),
    };
    spelled.map(Quantity).ok_or(QuantityError::TooLong)
}

/// Whether this is nothing: `0`, in any spelling.
pub fn is_zero(quantity: &Quantity) -> bool {
    canonical(quantity).is_ok_and(|canonical| !canonical.0.contains(|c: char| ('1'..='9').contains(&c)))
}

/// Digits before and after the point, and the suffix.
fn split(text: &str) -> Result<(&str, &str, &str), QuantityError> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = unsigned.split_at(end(unsigned));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(end(rest)),
        None => ("", rest),
    };
    if digits.is_empty() && fraction.is_empty() {
        return Err(QuantityError::Syntax);
    }
    Ok((digits, fraction, suffix))
}

/// The format that a suffix means, and its exponent: a power of two for binary ones, else of ten.
fn suffix_of(suffix: &str) -> Option<(Format, i32)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(known, _)| *known == suffix) {
        return Some((Format::Decimal, *exponent));
    }
    if let Some(power) = BINARY.iter().position(|known| *known == suffix) {
        return Some((Format::Binary, 10 * power as i32));
    }
    suffix
        .strip_prefix(['e', 'E'])
        .and_then(|exponent| exponent.parse().ok())
        .map(|exponent| (Format::Exponent, exponent))
}

/// An API server does not respell what it takes for canonical at a glance, be it `+1`, `01Gi` or `1.500`.
fn keeps_spelling(digits: &str, fraction: &str, format: Format, exponent: i32, mantissa: i128) -> bool {
    let scale = exponent - fraction.len() as i32;
    match format {
        Format::Binary => {
            // Beyond 15 digits it takes the long way.
            let digits = digits.trim_start_matches('0').len() as i32;
            fraction.is_empty() && mantissa % 8 != 0 && 15 - digits.max(1) - exponent * 3 / 10 > 0
        }
        Format::Decimal | Format::Exponent => {
            let leads_with_zero = digits.trim_start_matches('0').is_empty();
            scale >= FINEST && scale % 3 == 0 && !leads_with_zero && !format!("{digits}{fraction}").ends_with("000")
        }
    }
}

/// `mantissa * 10^exponent` (a whole number of bytes, unless the exponent is negative).
fn binary(mantissa: i128, exponent: i32) -> Option<String> {
    let unit = 10_i128.checked_pow(exponent.unsigned_abs())?;
    let mantissa = mantissa.min(MAX_BINARY.checked_mul(unit)?);
    // Small or broken numbers lose precision with a binary suffix.
    if mantissa < 1024 * unit || mantissa % unit != 0 {
        return decimal(mantissa, exponent, Format::Decimal);
    }
    let mut bytes = mantissa / unit;
    let mut power = 0;
    while bytes % 1024 == 0 && power + 1 < BINARY.len() {
        bytes /= 1024;
        power += 1;
    }
    Some(format!("{bytes}{}", BINARY.get(power)?))
}

/// `mantissa * 10^exponent` with the largest suffix; `None` where there is none so large.
fn decimal(mut mantissa: i128, mut exponent: i32, format: Format) -> Option<String> {
    if exponent < FINEST {
        // A little is rounded up, never to nothing.
        mantissa = mantissa.checked_add(10_i128.checked_pow(FINEST.abs_diff(exponent))? - 1)?
            / 10_i128.checked_pow(FINEST.abs_diff(exponent))?;
        exponent = FINEST;
    }
    if mantissa == 0 {
        return Some("0".to_owned());
    }
    while mantissa % 10 == 0 {
        mantissa /= 10;
        exponent += 1;
    }
    let excess = exponent.rem_euclid(3);
    mantissa = mantissa.checked_mul(10_i128.pow(excess.unsigned_abs()))?;
    exponent -= excess;
    let suffix = match format {
        Format::Exponent if exponent == 0 => String::new(),
        Format::Exponent => format!("e{exponent}"),
        Format::Decimal | Format::Binary => DECIMAL.iter().find(|(_, power)| *power == exponent)?.0.to_owned(),
    };
    Some(format!("{mantissa}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(text: &str) -> Result<String, QuantityError> {
        canonical(&Quantity(text.to_owned())).map(|quantity| quantity.0)
    }

    /// What apimachinery 0.34 makes of them.
    #[test]
    fn quantities_are_spelled_as_an_api_server_does() {
        let table = "
            0 0|4 4|1000m 1|1500m 1500m|100m 100m|0.1 100m|0.5 500m|1.5 1500m|2.0 2|1.500 1.500|0.500 500m|1000 1k
            1500 1500|10000 10k|1024 1024|1000k 1M|0.5M 500k|1e3 1e3|1E3 1E3|15e2 1500|1e-3 1e-3|1e0 1e0|1e10 10e9|+1 +1
            01 01|1Ki 1Ki|1024Ki 1Mi|1000Ki 1000Ki|4096Mi 4Gi|1024Mi 1Gi|1536Mi 1536Mi|0.5Gi 512Mi|1.5Gi 1536Mi
            0.1Gi 107374182400m|16Gi 16Gi|64Gi 64Gi|1024Gi 1Ti|500G 500G|1024Ti 1Pi|7Ei 7Ei|9Ei 9223372036854775807
            0.0001 100u|1n 1n|0.1n 1n|1000u 1m|0Gi 0|00.5 500m|05 05|+5Gi +5Gi|1.Gi 1.Gi|.5 500m|128974848 128974848
            129e6 129e6|0.001Ki 1024m|0.5Ki 512|1023.5Ki 1048064|1.25Ti 1280Gi|3.3Gi 3543348019200m|1000P 1E|1E 1E
            147.5E2 14750|5000.0703n 5001n|22003032.53Pi 9223372036854775807";
        for pair in table.split(['|', '\n']).map(str::trim).filter(|pair| !pair.is_empty()) {
            let (text, expected) = pair.split_once(' ').expect("two spellings");
            assert_eq!(spelled(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "x", "Gi", "1 Gi", "1gi", "1.2.3", "--1", "1e", "1e1.5", "0x10", "Ki1", "1KiB"] {
            assert_eq!(spelled(text), Err(QuantityError::Syntax), "{text}");
        }
        assert_eq!(spelled("-1"), Err(QuantityError::Negative));
        assert_eq!(spelled("1234567890123456789"), Err(QuantityError::TooLong));
        assert_eq!(spelled("1e99"), Err(QuantityError::TooLong));
        assert_eq!(spelled("1000000E"), Err(QuantityError::TooLong));
    }

    #[test]
    fn nothing_is_nothing_in_any_spelling() {
        for text in ["0", "0.0", "00Gi", "0m"] {
            assert!(is_zero(&Quantity(text.to_owned())), "{text}");
        }
        assert!(!is_zero(&Quantity("1m".to_owned())));
    }

    proptest::proptest! {
        #[test]
        fn a_canonical_spelling_stays(digits in "[0-9]{1,9}", fraction in "(\\.[0-9]{0,4})?", suffix in "(n|u|m|k|M|G|T|Ki|Mi|Gi|Ti|e3|E-3|e5)?") {
            let text = format!("{digits}{fraction}{suffix}");
            // Thousandths of terabytes take more digits than people may write.
            let short = |once: &String| once.chars().filter(char::is_ascii_digit).count() <= MAX_DIGITS;
            if let Some(once) = spelled(&text).ok().filter(short) {
                proptest::prop_assert_eq!(spelled(&once), Ok(once), "{}", text);
            }
        }
    }
}
