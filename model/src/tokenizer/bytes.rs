//! GPT-2's spelling of bytes as printable characters.

/// The byte that `c` spells in a byte-level vocabulary.
///
/// Bytes that are printable in Latin-1 spell themselves; the other 68, in order, are the characters from
/// U+0100 on.
fn of_char(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Bytes of a vocabulary entry. An added token may have characters that spell no byte (a space): it
/// stands for itself then, as in the reference.
pub(super) fn of_token(token: &str) -> Vec<u8> {
    let spelled: Option<Vec<u8>> = token.chars().map(of_char).collect();
    spelled.unwrap_or_else(|| token.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::of_char;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = [0; 256];
        for c in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = of_char(c) {
                seen[usize::from(byte)] += 1;
            }
        }
        assert!(seen.iter().all(|&n| n == 1));
        assert_eq!(of_char('Ġ'), Some(b' '));
        assert_eq!(of_char('Ċ'), Some(b'\n'));
        assert_eq!(of_char(' '), None);
    }
}
