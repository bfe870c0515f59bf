//! `<image>` spelled out.

use super::{FAKE, GLOBAL, IMAGE};
use crate::image::Grid;

/// The text that stands for one image: for each row, for each column `F<row_r_col_c>I`, after each row a
/// newline, then a newline and `F<global-img>IF`; unsplit only `F<global-img>IF`. `F` is
/// `<fake_token_around_image>`, `I` is `<image>` `tokens_per_tile` times.
pub fn expand_image(grid: Grid, tokens_per_tile: usize) -> String {
    use std::fmt::Write;

    let tokens = IMAGE.repeat(tokens_per_tile);
    let mut text = String::with_capacity((tokens.len() + 48) * grid.tiles());
    for row in 1..=grid.rows {
        for col in 1..=grid.cols {
            // Writing to a string cannot fail.
            let _ = write!(text, "{FAKE}<row_{row}_col_{col}>{tokens}");
        }
        text.push('\n');
    }
    if grid.rows > 0 {
        text.push('\n');
    }
    let _ = write!(text, "{FAKE}{GLOBAL}{tokens}{FAKE}");
    text
}

/// Replaces the n-th `<image>` of `text` by the n-th grid's text. Their numbers must agree.
pub(super) fn expand_all(text: &str, grids: &[Grid], tokens_per_tile: usize) -> String {
    let mut pieces = text.split(IMAGE);
    let mut expanded = pieces.next().unwrap_or_default().to_owned();
    for (piece, &grid) in pieces.zip(grids) {
        expanded.push_str(&expand_image(grid, tokens_per_tile));
        expanded.push_str(piece);
    }
    expanded
}
