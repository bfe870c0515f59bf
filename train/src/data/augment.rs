//! Small random changes of training images.

use engine::Rng;

use crate::config::Augmentation;

/// What is done to one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Pixels right and down.
    shift: [f64; 2],
    /// Size of the content against before.
    zoom: f64,
    /// Radians.
    rotate: f64,
    /// Added to every byte.
    brightness: f64,
    /// Multiplies the distance from mid-grey.
    contrast: f64,
}

impl Change {
    /// Draws a change within the limits for an image of `edge` pixels.
    pub fn draw(limits: &Augmentation, edge: usize, rng: &mut Rng) -> Self {
        let mut within = |limit: f64| limit * (2.0 * rng.uniform() - 1.0);
        let edge = edge as f64;
        Self {
            shift: [within(limits.shift) * edge, within(limits.shift) * edge],
            zoom: 1.0 + within(limits.zoom),
            rotate: within(limits.rotate).to_radians(),
            brightness: within(limits.brightness) * 255.0,
            contrast: 1.0 + within(limits.contrast),
        }
    }

    /// A square plane `[edge, edge]` turned, scaled and shifted about its middle by bilinear interpolation, the
    /// border continued outwards.
    pub fn apply(&self, plane: &[u8], edge: usize) -> Vec<u8> {
        let middle = (edge as f64 - 1.0) / 2.0;
        let (sin, cos) = self.rotate.sin_cos();
        let last = edge.saturating_sub(1);
        let at = |y: usize, x: usize| f64::from(plane[y.min(last) * edge + x.min(last)]);
        let mut out = Vec::with_capacity(plane.len());
        for y in 0..edge {
            for x in 0..edge {
                // Where this pixel comes from: the inverse of the change.
                let (dx, dy) = (x as f64 - middle - self.shift[0], y as f64 - middle - self.shift[1]);
                let from_x = (cos * dx + sin * dy) / self.zoom + middle;
                let from_y = (cos * dy - sin * dx) / self.zoom + middle;
                let (from_x, from_y) = (from_x.clamp(0.0, last as f64), from_y.clamp(0.0, last as f64));
                let (x0, y0) = (from_x as usize, from_y as usize);
                let (fx, fy) = (from_x - x0 as f64, from_y - y0 as f64);
                let top = at(y0, x0) * (1.0 - fx) + at(y0, x0 + 1) * fx;
                let bottom = at(y0 + 1, x0) * (1.0 - fx) + at(y0 + 1, x0 + 1) * fx;
                let value = top * (1.0 - fy) + bottom * fy;
                let value = (value - 127.5) * self.contrast + 127.5 + self.brightness;
                out.push(value.round().clamp(0.0, 255.0) as u8);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Change =
        Change { shift: [0.0; 2], zoom: 1.0, rotate: 0.0, brightness: 0.0, contrast: 1.0 };

    #[test]
    fn no_change_gives_the_same_bytes() {
        let plane: Vec<u8> = (0..64).map(|i| (i * 37 % 256) as u8).collect();
        assert_eq!(NOTHING.apply(&plane, 8), plane);
        let none = Change::draw(&Augmentation::default(), 8, &mut Rng::new(1));
        assert_eq!(none.apply(&plane, 8), plane);
    }

    #[test]
    fn shifts_and_turns_go_the_right_way() {
        let mut plane = vec![0u8; 25];
        plane[2 * 5 + 1] = 200;
        let shifted = Change { shift: [2.0, 1.0], ..NOTHING }.apply(&plane, 5);
        assert_eq!(shifted.iter().position(|&v| v == 200), Some(3 * 5 + 3));
        // A quarter turn takes left to top (y points down, angles run from x to y).
        let turned = Change { rotate: std::f64::consts::FRAC_PI_2, ..NOTHING }.apply(&plane, 5);
        assert_eq!(turned.iter().position(|&v| v >= 199), Some(5 + 2));
    }

    #[test]
    fn brightness_is_clamped() {
        let bright = Change { brightness: 300.0, ..NOTHING }.apply(&[0, 100, 200, 255], 2);
        assert_eq!(bright, [255; 4]);
    }
}
