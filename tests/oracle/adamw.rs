/// Hyper-parameters and the number of the step, from 1.
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decays of the moments.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of the step, from 1.
    pub step: i32,
}

/// One step on one element: `(p, m, v)` from those before and the gradient.
pub fn adamw(op: &AdamW, [p, m, v]: [f64; 3], g: f64) -> [f64; 3] {
    let [b1, b2] = op.betas;
    let p = p - op.lr * op.weight_decay * p;
    let m = b1 * m + (1.0 - b1) * g;
    let v = b2 * v + (1.0 - b2) * g * g;
    let (m_hat, v_hat) = (m / (1.0 - b1.powi(op.step)), v / (1.0 - b2.powi(op.step)));
    [p - op.lr * m_hat / (v_hat.sqrt() + op.eps), m, v]
}
