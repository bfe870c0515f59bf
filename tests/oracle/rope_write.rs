use super::{Array, rope};

/// What queries, keys and values become: rotated, rotated, and as they are.
pub fn rope_write([q, k, v]: [&Array; 3], positions: &Array, theta: f32, half: bool) -> [Array; 3] {
    [rope(q, positions, theta, half), rope(k, positions, theta, half), v.clone()]
}
