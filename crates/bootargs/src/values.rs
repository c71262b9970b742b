//! Numbers in parameters. No heap.

/// A number as the kernel's simple_strtoull() with base 0 takes it: decimal,
/// `0x` hexadecimal or `0` octal, all of `text`.
pub fn parse_int(text: &str) -> Option<u64> {
    let (number, rest) = leading_int(text)?;
    rest.is_empty().then_some(number)
}

/// A size with an optional suffix K, M, G, T, P or E, as the kernel's
/// memparse() takes it; `None` if it overflows or something follows.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, rest) = leading_int(text)?;
    let shift = match rest {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        "P" | "p" => 50,
        "E" | "e" => 60,
        _ => return None,
    };
    number.checked_mul(1u64.checked_shl(shift)?)
}

/// The number at the start of `text`, and what follows it.
pub(crate) fn leading_int(text: &str) -> Option<(u64, &str)> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // An E after a hexadecimal number is a digit, as in memparse().
    let end = digits.bytes().position(|byte| !char::from(byte).is_digit(radix));
    let (number, rest) = digits.split_at_checked(end.unwrap_or(digits.len()))?;
    Some((u64::from_str_radix(number, radix).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers() {
        assert_eq!(parse_int("10"), Some(10));
        assert_eq!(parse_int("0x1F"), Some(31));
        assert_eq!(parse_int("017"), Some(15));
        assert_eq!(parse_int("0"), Some(0));
        assert_eq!(parse_int(""), None);
        assert_eq!(parse_int("0x"), None);
        assert_eq!(parse_int("+1"), None);
        assert_eq!(parse_int("12a"), None);
        assert_eq!(parse_int("99999999999999999999"), None);
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("512M"), Some(512 << 20));
        assert_eq!(parse_size("0x10k"), Some(16 << 10));
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("2G"), Some(2 << 30));
        assert_eq!(parse_size("16E"), None);
        assert_eq!(parse_size("1Q"), None);
        assert_eq!(parse_size("M"), None);
        assert_eq!(parse_size("1é"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,30}") {
            let _ = parse_size(&text);
        }
    }
}
