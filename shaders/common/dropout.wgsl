// Which elements dropout keeps, as `Dropout::hash` in engine/src/ops/dropout.rs says.
fn dropout_keeps(index: u32, low: u32, high: u32, threshold: u32) -> bool {
    var x = index ^ low;
    x = (x ^ (x >> 16u)) * 0x7feb352du;
    x = ((x ^ (x >> 15u)) + high) * 0x846ca68bu;
    return (x ^ (x >> 16u)) >= threshold;
}
