use engine::ops::UnaryKind;

use super::Array;

/// `f(x)` elementwise.
pub fn unary(x: &Array, kind: UnaryKind) -> Array {
    x.map(|x| match kind {
        UnaryKind::Exp => x.exp(),
        UnaryKind::Ln => x.ln(),
        UnaryKind::Sqrt => x.sqrt(),
        UnaryKind::Tanh => x.tanh(),
        UnaryKind::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        UnaryKind::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        UnaryKind::Step => f64::from(u8::from(x > 0.0)),
    })
}
