/// One step on one element: the parameter and the momentum buffer from those before and the gradient.
pub fn sgd(lr: f64, momentum: f64, weight_decay: f64, [p, b]: [f64; 2], g: f64) -> [f64; 2] {
    let b = momentum * b + g + weight_decay * p;
    [p - lr * b, b]
}
