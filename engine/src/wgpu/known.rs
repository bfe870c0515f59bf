//! Which kernels a model needed in earlier processes: the next one makes them all when it loads the model, on all
//! processors at once. One small text file for each model and adapter, beside the driver's own cache.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{fs, io};

use ::wgpu;

use super::source::{Access, SHADERS, Value, Variant};
use crate::DType;

/// A kernel and its variant.
pub(super) type Named = (&'static str, Variant);

/// Processes that may do without a kernel before it is forgotten.
const PATIENCE: u32 = 8;
/// Longest list.
const MOST: usize = 2048;
const ACCESS: [(Access, &str); 4] = [
    (Access::Read, "read"),
    (Access::Whole, "whole"),
    (Access::Shared, "shared"),
    (Access::Uniform, "uniform"),
];

/// FNV-1a.
fn hash<'a>(texts: impl IntoIterator<Item = &'a str>) -> u64 {
    let bytes = texts.into_iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The file of the model that `work` describes. Its name holds a hash of the shaders, the adapter and its driver: what
/// was known of others is not looked at.
pub(super) fn path(folder: &Path, adapter: &wgpu::AdapterInfo, work: &str) -> PathBuf {
    let adapter =
        format!("{:?} {} {} {}", adapter.backend, adapter.name, adapter.driver, adapter.driver_info);
    let shaders = SHADERS.iter().flat_map(|(name, text)| [*name, *text]);
    let name = hash([work, &adapter, env!("CARGO_PKG_VERSION")].into_iter().chain(shaders));
    folder.join(format!("kernels-{name:016x}.txt"))
}

/// The names of tensors and constants as the shaders have them.
fn name(text: &str) -> Option<&'static str> {
    static NAMES: OnceLock<HashSet<&'static str>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let lines = SHADERS.iter().flat_map(|(_, text)| text.lines());
        let name = |line: &'static str| {
            let rest = match line.strip_prefix("#const ") {
                Some(rest) => rest,
                None => line.strip_prefix("#bind ")?.split_once(' ')?.1,
            };
            rest.split([' ', ':', '=']).next()
        };
        lines.filter_map(name).collect()
    });
    names.get(text).copied()
}

fn to_line(age: u32, (kernel, variant): &Named) -> String {
    let mut line = format!("{age} {kernel}");
    for (name, (dtype, access)) in &variant.tensors {
        let access = ACCESS.iter().find(|a| a.0 == *access).map_or("", |a| a.1);
        let dense = if variant.dense.contains(name) { ":dense" } else { "" };
        let wide = if variant.wide.contains(name) { ":wide" } else { "" };
        let _ = write!(line, " {name}:{}:{access}{dense}{wide}", dtype.name());
    }
    for (name, value) in &variant.constants {
        let _ = match value {
            Value::Number(n) => write!(line, " {name}={n}"),
            Value::Flag(flag) => write!(line, " {name}={flag}"),
        };
    }
    line
}

fn from_line(line: &str) -> Option<(u32, Named)> {
    let mut words = line.split(' ');
    let age = words.next()?.parse().ok()?;
    let kernel = words.next()?;
    let kernel = SHADERS.iter().find(|(name, _)| *name == kernel)?.0;
    let mut variant = Variant {
        tensors: BTreeMap::new(),
        constants: BTreeMap::new(),
        dense: BTreeSet::new(),
        wide: BTreeSet::new(),
    };
    for word in words {
        if let Some((constant, value)) = word.split_once('=') {
            let value = match value {
                "true" => Value::Flag(true),
                "false" => Value::Flag(false),
                number => Value::Number(number.parse().ok()?),
            };
            variant.constants.insert(name(constant)?, value);
            continue;
        }
        let mut parts = word.split(':');
        let tensor = name(parts.next()?)?;
        let dtype = parts.next()?;
        let dtype = DType::ALL.iter().find(|t| t.name() == dtype)?;
        let access = parts.next()?;
        let access = ACCESS.iter().find(|a| a.1 == access)?.0;
        variant.tensors.insert(tensor, (*dtype, access));
        for part in parts {
            match part {
                "dense" => variant.dense.insert(tensor),
                "wide" => variant.wide.insert(tensor),
                _ => return None,
            };
        }
    }
    Some((age, (kernel, variant)))
}

/// The kernels that the file names, each with the number of processes since it was needed. A file that is absent or
/// damaged names none.
pub(super) fn read(path: &Path) -> Vec<(u32, Named)> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let Some((sum, lines)) = text.split_once('\n') else { return Vec::new() };
    if sum != format!("{:016x}", hash([lines])) {
        return Vec::new();
    }
    lines.lines().take(MOST).filter_map(from_line).collect()
}

/// What is known after a process that needed `used`.
pub(super) fn after(before: Vec<(u32, Named)>, used: &BTreeSet<Named>) -> Vec<(u32, Named)> {
    let rest = before.into_iter().filter(|(age, known)| *age < PATIENCE && !used.contains(known));
    let used = used.iter().map(|named| (0, named.clone()));
    used.chain(rest.map(|(age, known)| (age + 1, known))).take(MOST).collect()
}

/// Writes beside and renames: another process may read or write the same file.
pub(super) fn write(path: &Path, known: &[(u32, Named)]) -> io::Result<()> {
    let lines: String = known.iter().map(|(age, named)| to_line(*age, named) + "\n").collect();
    let text = format!("{:016x}\n{lines}", hash([lines.as_str()]));
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    replace(path, text.as_bytes())
}

/// Puts a file of the cache in the place of an older one.
pub(super) fn replace(path: &Path, data: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("{}.partial", std::process::id()));
    let written = path.parent().map_or(Ok(()), fs::create_dir_all);
    let written = written.and_then(|()| fs::write(&beside, data)).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::super::variants::every_variant;
    use super::*;

    #[test]
    fn every_variant_survives_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/kernels.txt");
        let all: BTreeSet<Named> = every_variant().into_iter().map(|(kernel, _, v)| (kernel, v)).collect();
        assert!(read(&path).is_empty() && all.len() > 100);
        let mut all: Vec<_> = all.into_iter().map(|named| (3, named)).collect();
        let first = &mut all[0].1.1;
        first.dense.extend(first.tensors.keys());
        // `wide` may name tensors that a kernel does not bind; those are nobody's.
        for (_, (_, variant)) in &mut all {
            variant.wide.retain(|name| variant.tensors.contains_key(name));
        }
        write(&path, &all[..all.len().min(MOST)]).unwrap();
        assert!(read(&path) == all[..all.len().min(MOST)]);

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("bf16", "f16 ", 1)).unwrap();
        assert!(read(&path).is_empty(), "a damaged file names nothing");
        assert_eq!(from_line("0 no_such_kernel"), None);
        assert_eq!(from_line("0 unary no_such_tensor:f32:read"), None);
        assert_eq!(from_line("0 unary KIND=-1"), None);
    }

    #[test]
    fn what_is_not_needed_any_more_is_forgotten() {
        let kernel = |n: u32| {
            let mut variant = Variant::default();
            variant.constants.insert("KIND", Value::Number(n));
            ("unary", variant)
        };
        let used = BTreeSet::from([kernel(1)]);
        let before = vec![(PATIENCE - 1, kernel(0)), (4, kernel(1)), (PATIENCE, kernel(2))];
        assert_eq!(after(before, &used), [(0, kernel(1)), (PATIENCE, kernel(0))]);
    }
}
