//! Numbers for people, three digits and a unit.

/// `1.23 ms`
pub fn time(ns: u64) -> String {
    scaled(ns as f64, &["ns", "µs", "ms", "s"])
}

/// `4.49 GB` (powers of ten)
pub fn bytes(n: f64) -> String {
    let sign = if n < 0.0 { "−" } else { "" };
    format!("{sign}{}", scaled(n.abs(), &["B", "kB", "MB", "GB", "TB"]))
}

/// `665 GFLOP`
pub fn flops(n: u64) -> String {
    scaled(n as f64, &["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"])
}

/// `12.3` of a percentage or a rate.
pub fn short(x: f64) -> String {
    match x {
        0.0 => "0".into(),
        x if x >= 99.95 => format!("{x:.0}"),
        x if x >= 9.995 => format!("{x:.1}"),
        _ => format!("{x:.2}"),
    }
}

/// `1,234,567`
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Part of a whole in percent, one decimal.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "–".into() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

fn scaled(mut x: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while x >= 999.5 && unit + 1 < units.len() {
        x /= 1000.0;
        unit += 1;
    }
    let decimals = match (unit, x) {
        (0, _) | (_, 99.95..) => 0,
        (_, 9.995..) => 1,
        _ => 2,
    };
    format!("{x:.decimals$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        assert_eq!(time(999), "999 ns");
        assert_eq!(time(1_234_567), "1.23 ms");
        assert_eq!(time(75_000_000_000), "75.0 s");
        assert_eq!(bytes(-1500.0), "−1.50 kB");
        assert_eq!(flops(665_000_000_000), "665 GFLOP");
        assert_eq!((grouped(0), grouped(1_234_567)), ("0".into(), "1,234,567".into()));
        assert_eq!(
            (short(0.0), short(1.234), short(12.34), short(123.4)),
            ("0".into(), "1.23".into(), "12.3".into(), "123".into())
        );
        assert_eq!((share(1, 8), share(1, 0)), ("12.5 %".into(), "–".into()));
    }
}
