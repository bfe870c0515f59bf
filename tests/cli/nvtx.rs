//! Ranges for NVIDIA's tools, as a library that stands in for a tool hears them.

use std::path::PathBuf;
use std::process::Command;

use crate::program::{command, finish};
use crate::tiny::Tiny;

/// A tool's half of NVTX 3: it asks for the core functions' table, puts two functions there, and writes what it hears to a file.
const TOOL: &str = r#"
#include <cstdint>
#include <cstdio>
#include <cstdlib>
typedef void (*Function)(void);
struct Callbacks { size_t bytes; int (*table)(int module, Function*** table, unsigned* count); };
struct Version { size_t bytes; uint32_t version, reserved; void (*set)(uint32_t); };
static FILE* out;
static thread_local int depth;
static int push(const char* name) { std::fprintf(out, "%d %s\n", depth, name); return depth++; }
static int pop() { std::fprintf(out, "%d -\n", --depth); std::fflush(out); return depth; }
extern "C" int InitializeInjectionNvtx2(const void* (*get)(uint32_t)) {
    const char* path = std::getenv("HEARD");
    if (!path || !(out = std::fopen(path, "w"))) return 0;
    auto* version = static_cast<const Version*>(get(3));
    auto* callbacks = static_cast<const Callbacks*>(get(1));
    if (!version || version->bytes != sizeof(Version) || version->version != 3) return 0;
    version->set(3);
    if (!callbacks || callbacks->bytes < sizeof(Callbacks) || get(99)) return 0;
    unsigned sizes[] = {0, 16, 9, 15, 7, 16, 7};
    for (int module = 1; module < 7; module++) {
        Function** table = nullptr;
        unsigned count = 0;
        if (!callbacks->table(module, &table, &count) || count != sizes[module]) return 0;
        for (unsigned i = 1; i < count; i++) if (!table[i] || *table[i]) return 0;
        if (module == 1) *table[9] = reinterpret_cast<Function>(push), *table[11] = reinterpret_cast<Function>(pop);
    }
    return callbacks->table(7, nullptr, nullptr) == 0;
}
"#;

/// The tool, compiled; `None`, with a `SKIP:` line, without a compiler.
fn tool(folder: &std::path::Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("tool.cpp"), folder.join("tool.so"));
    std::fs::write(&source, TOOL).unwrap();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let built = Command::new(compiler)
        .args(["-std=c++17", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .output();
    match built {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(library)
        }
        Err(e) => {
            println!("SKIP: no C++ compiler: {e}");
            None
        }
    }
}

#[test]
fn a_tool_hears_phases_modules_and_operations() {
    let tiny = Tiny::new();
    let Some(tool) = tool(tiny.path()) else { return };
    let heard = tiny.path().join("heard");
    let generate = |injected: &str| {
        let mut program = command();
        program.args(["generate", "--model", tiny.name(), "--max-new-tokens", "3", "--prompt", "Write a"]);
        program.args(["--device", "cpu"]).env("NVTX_INJECTION64_PATH", injected).env("HEARD", &heard);
        finish(&mut program).ok()
    };
    let plain = generate("");
    assert!(!heard.exists());
    let outcome = generate(tool.to_str().unwrap());
    assert_eq!(outcome.stdout, plain.stdout);

    // Lines are in the order of calls of the main thread, and of others, which begin at depth 0.
    let text = std::fs::read_to_string(&heard).unwrap();
    let lines: Vec<(usize, &str)> = text
        .lines()
        .map(|line| line.split_once(' ').map(|(depth, name)| (depth.parse().unwrap(), name)).unwrap())
        .collect();
    let mut open: Vec<&str> = Vec::new();
    let mut paths = Vec::new();
    for (depth, name) in lines {
        if name == "-" {
            open.pop();
            assert_eq!(open.len(), depth);
        } else {
            assert_eq!(open.len(), depth, "{name} in {open:?}");
            open.push(name);
            paths.push(open.join("/"));
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let of =
        |start: &str, end: &str| paths.iter().filter(|p| p.starts_with(start) && p.ends_with(end)).count();
    assert_eq!(of("prefill", "prefill"), 1);
    assert!(of("decode", "decode") > 0, "{paths:#?}");
    let layer = "decode/model.text_model/model.text_model.layers.0";
    assert_eq!(of(layer, "layers.0.self_attn"), of("decode", "decode"), "{paths:#?}");
    assert!(of(layer, "layers.0.self_attn/attention") > 0 && of(layer, "mlp/gated_silu") > 0, "{paths:#?}");
}

#[test]
fn a_tool_that_cannot_be_opened_is_said_and_no_more() {
    let tiny = Tiny::new();
    let mut program = command();
    program.args(["inspect", tiny.name()]).env("NVTX_INJECTION64_PATH", tiny.path().join("no-tool.so"));
    finish(&mut program).ok().says(&["NVTX_INJECTION64_PATH", "no-tool.so", "no NVTX ranges"]);
}
