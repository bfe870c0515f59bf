//! Sixteen bits to eight.

/// Which grey values a 16-bit image shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Window {
    /// The darkest value becomes 0 and the brightest 255. An image of one value becomes 0.
    #[default]
    Full,
    /// `width` values around `level`, in stored units, as DICOM's `LINEAR_EXACT` (PS3.3 C.11.2.1.3.2);
    /// what lies outside becomes 0 or 255. `width` must be positive.
    Level {
        /// The centre.
        level: f64,
        /// The extent.
        width: f64,
    },
}

impl Window {
    /// Whether the numbers make sense.
    pub fn is_valid(self) -> bool {
        match self {
            Self::Full => true,
            Self::Level { level, width } => level.is_finite() && width.is_finite() && width > 0.0,
        }
    }

    /// Bytes of `values`, rounded to the nearest.
    pub fn apply(self, values: &[u16]) -> Vec<u8> {
        let (level, width) = match self {
            Self::Full => {
                let (min, max) = values.iter().fold((u16::MAX, 0), |(min, max), &v| (v.min(min), v.max(max)));
                (f64::midpoint(f64::from(min), f64::from(max)), f64::from(max) - f64::from(min))
            }
            Self::Level { level, width } => (level, width),
        };
        if width <= 0.0 {
            return vec![0; values.len()];
        }
        let of = |value: u16| (((f64::from(value) - level) / width + 0.5) * 255.0).round() as u8;
        let table: Vec<u8> = (0..=u16::MAX).map(of).collect();
        values.iter().map(|&value| table[usize::from(value)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Window;

    #[test]
    fn the_full_window_spans_the_values() {
        assert_eq!(Window::Full.apply(&[100, 200, 300]), [0, 128, 255]);
        assert_eq!(Window::Full.apply(&[0, u16::MAX]), [0, 255]);
        assert_eq!(Window::Full.apply(&[7, 7]), [0, 0]);
        assert!(Window::Full.apply(&[]).is_empty());
    }

    #[test]
    fn a_given_window_clamps() {
        let window = Window::Level { level: 1000.0, width: 200.0 };
        assert_eq!(window.apply(&[0, 900, 1000, 1100, 60_000]), [0, 0, 128, 255, 255]);
        assert!(window.is_valid());
        for (level, width) in [(f64::NAN, 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, f64::INFINITY)] {
            assert!(!Window::Level { level, width }.is_valid());
        }
    }
}
