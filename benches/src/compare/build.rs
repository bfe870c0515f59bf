//! The program of another commit.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::record::Program;
use crate::{Error, Result};

/// Builds `roentgen` as it was at `commit` of the repository that holds `folder`, in a work tree of its own below
/// `cache`, and keeps the program there under the commit's hash: the next comparison with it starts at once.
///
/// # Errors
/// If there is no such commit, or it does not build.
pub fn build(folder: &Path, commit: &str, cache: &Path) -> Result<Program> {
    if commit.starts_with('-') || commit.is_empty() {
        return Err(Error::Input(format!("--against {commit}: no name of a commit")));
    }
    let git = |arguments: &[&str]| run(Command::new("git").arg("-C").arg(folder).args(arguments), "git");
    let hash = git(&["rev-parse", "--verify", &format!("{commit}^{{commit}}")])
        .map_err(|e| Error::Input(format!("--against {commit}: {e}")))?;
    let short = hash.get(..16).unwrap_or(&hash);
    let program = cache.join(format!("roentgen-{short}{}", std::env::consts::EXE_SUFFIX));
    if program.is_file() {
        return Program::at(&program);
    }
    let io = |path: &Path, action: &'static str| {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source }
    };
    std::fs::create_dir_all(cache).map_err(io(cache, "make this folder"))?;
    let tree = cache.join(format!("tree-{short}"));
    let tree_name = tree.to_string_lossy().into_owned();
    // What an interrupted build has left is built over.
    if !tree.is_dir() {
        git(&["worktree", "add", "--detach", "--force", &tree_name, &hash])?;
    }
    let target = cache.join("target");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = run(
        Command::new(cargo)
            .args(["build", "--release", "--bin", "roentgen"])
            .current_dir(&tree)
            .env("CARGO_TARGET_DIR", &target),
        "cargo build",
    );
    let removed = git(&["worktree", "remove", "--force", &tree_name]);
    built.map_err(|e| Error::Input(format!("--against {commit}: that commit does not build: {e}")))?;
    removed?;
    let fresh = target.join("release").join(format!("roentgen{}", std::env::consts::EXE_SUFFIX));
    std::fs::copy(&fresh, &program).map_err(io(&fresh, "copy this program"))?;
    Program::at(&program)
}

/// Where builds are kept: `$XDG_CACHE_HOME/roentgen/builds`.
pub fn default_cache() -> Option<PathBuf> {
    crate::machine::cache_folder().map(|cache| cache.join("builds"))
}

/// Runs a tool; its trimmed output, or the last lines of its complaint.
fn run(command: &mut Command, name: &'static str) -> Result<String> {
    let output = command.output();
    let output =
        output.map_err(|source| Error::Io { path: name.into(), action: "start this program", source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
    Err(Error::Input(format!("{name} failed: {}", lines[lines.len().saturating_sub(3)..].join(" / "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_commit_builds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for commit in ["--help", "", "no-such-commit"] {
            let error = build(folder.path(), commit, &folder.path().join("cache")).unwrap_err().to_string();
            assert!(error.contains("--against"), "{error}");
        }
        assert!(!folder.path().join("cache").exists());
    }
}
