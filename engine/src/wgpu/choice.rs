//! Which adapter a name means.

/// What adapters are told apart by.
pub(super) struct Choice {
    pub(super) name: String,
    /// The GPU behind it, which may be there once for each API; empty where that is not known.
    pub(super) card: String,
}

/// The names that mean each adapter alone: where several are named alike all but the first have a number.
pub(super) fn arguments(names: &[String]) -> Vec<String> {
    let number = |i: usize| names[..=i].iter().filter(|name| **name == names[i]).count();
    let one = |(i, name): (usize, &String)| match number(i) {
        1 => name.clone(),
        n => format!("{name}#{n}"),
    };
    names.iter().enumerate().map(one).collect()
}

/// The adapter that `wanted` means, in any case: one of that name, else one whose name has it as a part, which must not be
/// one of several different GPUs. Of several named alike, or of one GPU under several APIs, the first; `NAME#2` is the
/// second. The empty text is the first of all.
///
/// # Errors
/// If there is none, or more than one.
pub(super) fn choose(adapters: &[Choice], wanted: &str) -> Result<usize, String> {
    let wanted = wanted.to_lowercase();
    if wanted.is_empty() && !adapters.is_empty() {
        return Ok(0);
    }
    let found = matches(adapters, &wanted);
    if !found.is_empty() {
        return one_of(adapters, &found, &wanted);
    }
    if let Some((name, number)) = wanted.rsplit_once('#')
        && let Ok(number) = number.parse::<usize>()
    {
        let found = matches(adapters, name);
        if !found.is_empty() {
            one_of(adapters, &found, name)?;
            let at = number.checked_sub(1).and_then(|n| found.get(n));
            return at
                .copied()
                .ok_or_else(|| format!("adapter {wanted:?}: numbers go from 1 to {}", found.len()));
        }
    }
    Err(format!("no adapter named {wanted:?}; there are {}", list(adapters, 0..adapters.len())))
}

/// Those of this name, else those whose names have it as a part.
fn matches(adapters: &[Choice], wanted: &str) -> Vec<usize> {
    let all = |fits: fn(&str, &str) -> bool| -> Vec<usize> {
        (0..adapters.len()).filter(|&i| fits(&adapters[i].name.to_lowercase(), wanted)).collect()
    };
    let exact = all(|name, wanted| name == wanted);
    if exact.is_empty() { all(|name, wanted| name.contains(wanted)) } else { exact }
}

/// The first, unless another is a different GPU of a different name.
fn one_of(adapters: &[Choice], found: &[usize], wanted: &str) -> Result<usize, String> {
    let first = &adapters[found[0]];
    let alike =
        |other: &Choice| other.name == first.name || (!first.card.is_empty() && other.card == first.card);
    if found.iter().all(|&i| alike(&adapters[i])) {
        return Ok(found[0]);
    }
    let names = list(adapters, found.iter().copied());
    Err(format!("{wanted:?} is a part of the names of several adapters: say which of {names}"))
}

fn list(adapters: &[Choice], which: impl IntoIterator<Item = usize>) -> String {
    let names: Vec<String> = adapters.iter().map(|a| a.name.clone()).collect();
    let arguments = arguments(&names);
    which.into_iter().map(|i| format!("{:?}", arguments[i])).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapters(all: &[(&str, &str)]) -> Vec<Choice> {
        all.iter().map(|&(name, card)| Choice { name: name.into(), card: card.into() }).collect()
    }

    #[test]
    fn a_whole_name_wins_over_a_part() {
        let all =
            adapters(&[("NVIDIA RTX 4080 SUPER", "a"), ("NVIDIA RTX 4080", "b"), ("llvmpipe (LLVM 20)", "")]);
        assert_eq!(choose(&all, ""), Ok(0));
        assert_eq!(choose(&all, "nvidia rtx 4080"), Ok(1));
        assert_eq!(choose(&all, "super"), Ok(0));
        assert_eq!(choose(&all, "LLVM"), Ok(2));
        let text = choose(&all, "nvidia").unwrap_err();
        assert!(
            text.contains("\"NVIDIA RTX 4080 SUPER\", \"NVIDIA RTX 4080\"") && !text.contains("llvmpipe"),
            "{text}"
        );
        let text = choose(&all, "radeon").unwrap_err();
        assert!(text.contains("no adapter named \"radeon\"") && text.contains("llvmpipe"), "{text}");
        assert!(choose(&[], "").is_err());
    }

    #[test]
    fn a_number_tells_those_of_one_name_apart() {
        let all = adapters(&[("H100", "1"), ("A10", "2"), ("H100", "3"), ("Card #2", "4")]);
        let names: Vec<String> = all.iter().map(|a| a.name.clone()).collect();
        assert_eq!(arguments(&names), ["H100", "A10", "H100#2", "Card #2"]);
        for (i, argument) in arguments(&names).iter().enumerate() {
            assert_eq!(choose(&all, argument), Ok(i), "{argument}");
        }
        assert_eq!(choose(&all, "h100#1"), Ok(0));
        for wrong in ["h100#3", "h100#0", "1#1"] {
            assert!(choose(&all, wrong).is_err(), "{wrong}");
        }
        assert!(choose(&all, "h100#3").unwrap_err().contains("1 to 2"));
    }

    #[test]
    fn one_gpu_under_two_apis_is_one() {
        let all = adapters(&[("NVIDIA L4", "0000:01:00.0"), ("NVIDIA L4 (D3D12)", "0000:01:00.0")]);
        assert_eq!(choose(&all, "nvidia"), Ok(0));
        assert_eq!(choose(&all, "nvidia#2"), Ok(1));
        // Of which nothing is known they may be two.
        assert!(choose(&adapters(&[("Intel A", ""), ("Intel B", "")]), "intel").is_err());
    }
}
