//! Counts as fractions and back: the one place where that is a cast.

/// A count, as a number to calculate with. Exact up to 2^53, which nothing counted here reaches.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts, far below 2^53")]
pub fn to_f64(count: u64) -> f64 {
    count as f64
}

/// The whole part; nothing for what is negative or no number, the most for what is too large.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates"
)]
pub fn to_u64(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_saturates() {
        let whole = [2.9, -1.0, f64::NAN, f64::INFINITY].map(to_u64);
        assert_eq!(whole, [2, 0, 0, u64::MAX]);
        assert_eq!(to_u64(to_f64(1 << 52)), 1 << 52);
    }
}
