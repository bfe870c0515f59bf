use super::Array;

/// Convolution of `x [B, C, H, W]` with `w [E, C, p, p]` at stride `p`, as `[B, patches, E]`.
pub fn patch_conv(x: &Array, w: &Array, bias: Option<&Array>) -> Array {
    let p = w.dims[2];
    let across = x.dims[3] / p;
    Array::from_fn(&[x.dims[0], x.dims[2] / p * across, w.dims[0]], |at| {
        let (b, patch, e) = (at[0], at[1], at[2]);
        let mut sum = bias.map_or(0.0, |bias| bias.data[e]);
        for c in 0..x.dims[1] {
            for i in 0..p {
                for j in 0..p {
                    sum +=
                        w.at(&[e, c, i, j]) * x.at(&[b, c, patch / across * p + i, patch % across * p + j]);
                }
            }
        }
        sum
    })
}
