// One element of AdamW as torch does it; engine/src/cpu/adamw.rs computes the factors.
struct Factors {
    grad_scale: f32,
    keep: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    minus_step_size: f32,
    root_correction2: f32,
    eps: f32,
}

struct Step {
    p: f32,
    m: f32,
    v: f32,
}

fn adamw_step(f: Factors, p: f32, m0: f32, v0: f32, g: f32) -> Step {
    let m = m0 + f.one_minus_beta1 * (g - m0);
    let v = v0 * f.beta2 + f.one_minus_beta2 * g * g;
    let denominator = sqrt(v) / f.root_correction2 + f.eps;
    return Step(p * f.keep + f.minus_step_size * m / denominator, m, v);
}
