//! The training loss.

use engine::Tensor;

use crate::error::{Error, Result};

/// Label of a token that does not count.
pub const IGNORE: i32 = -100;

/// Sum over all counted tokens of −ln p(next token), an f32 scalar, with their number. `logits
/// [batch, n, vocabulary]`; `labels` are `batch` rows of `n`, aligned with the *inputs* (position `i` is
/// judged by label `i + 1`, as in transformers), [`IGNORE`] where a token does not count.
pub fn next_token_loss(logits: &Tensor, labels: &[i32]) -> Result<(Tensor, usize)> {
    let (batch, n, vocab) = (logits.dim(0)?, logits.dim(1)?, logits.dim(2)?);
    if labels.len() != batch * n {
        return Err(Error::Input(format!("{} labels for {batch} sequences of {n} tokens", labels.len())));
    }
    // Shifting the labels instead of the logits costs nothing.
    let shifted: Vec<i32> = labels
        .chunks(n.max(1))
        .flat_map(|row| row[1..].iter().copied().chain(std::iter::once(IGNORE)))
        .collect();
    let counted = shifted.iter().filter(|&&l| l != IGNORE).count();
    let shifted = Tensor::from_slice(&shifted, &[batch * n], logits.device())?;
    let losses = logits.reshape(&[batch * n, vocab])?.cross_entropy(&shifted, IGNORE)?;
    Ok((losses.sum(&[0])?, counted))
}
