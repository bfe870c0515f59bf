//! Headers made by hand to harm: each is refused, with a message that names the file, the tensor and the fault.

use crate::refusal;

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

/// The file is refused, and every one of `parts` stands in the message.
fn refused(header: &str, data: usize, parts: &[&str]) {
    let text = refusal("m.safetensors", &safetensors(header, data));
    for part in parts {
        assert!(text.contains(part), "{header:.200}\ngave   {text}\nwithout {part}");
    }
}

#[test]
fn safetensors_lengths() {
    for (bytes, part) in [
        (vec![], "the file is empty"),
        (vec![1, 2, 3], "3 bytes are too few"),
        (vec![0xff; 8], "promise a header of 18446744073709551615 bytes, but only 0 follow"),
        (
            [&200u64.to_le_bytes()[..], b"{}"].concat(),
            "promise a header of 200 bytes, but only 2 follow; the file is cut short",
        ),
        (0u64.to_le_bytes().into(), "does not begin with '{'"),
        (safetensors("[]", 0), "does not begin with '{'"),
        (safetensors(" {}", 0), "does not begin with '{'"),
        (safetensors("{}", 5), "the last 5 bytes belong to no tensor"),
        (safetensors("{} x", 0), "the header is not valid: trailing characters"),
        (safetensors("{\"a\":", 0), "tensor \"a\": its header entry is not valid: EOF"),
        ([&3u64.to_le_bytes()[..], b"{\"\xff"].concat(), "the header is not UTF-8 from its byte 2 on"),
        (b"version https://git-lfs.github.com/spec/v1\noid x".into(), "git lfs pull"),
        (b"PK\x03\x04\x00\x00\x08\x08\x00\x00".into(), "pickled PyTorch checkpoint; convert it"),
    ] {
        let text = refusal("m.safetensors", &bytes);
        assert!(text.contains(part), "{text}\nwithout {part}");
    }
    // One byte over the limit, of spaces: nothing else is wrong with it.
    let long = format!("{{}}{}", " ".repeat(100_000_000 - 1));
    refused(&long, 0, &["has 100000001 bytes, more than the format's limit of 100000000"]);
}

#[test]
fn safetensors_entries() {
    let one = |entry: &str, data, part: &str| {
        refused(&format!("{{\"blk.w\":{entry}}}"), data, &["m.safetensors: tensor \"blk.w\": ", part]);
    };
    let f32 = |shape: &str, offsets: &str| {
        format!("{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{offsets}}}")
    };
    one(&f32("[2]", "[0,4]"), 4, "data_offsets [0, 4] hold 4 bytes, but F32 [2] needs 8");
    one(&f32("[1]", "[4,0]"), 4, "data_offsets [4, 0] are not a range");
    one(&f32("[1]", "[18446744073709551611,18446744073709551615]"), 4, "are not a range");
    one(&f32("[2]", "[0,8]"), 4, "reach past the end of the file (70 bytes); the file is cut short");
    one(&f32("[1]", "[4,8]"), 8, "4 bytes before it belong to no tensor");
    one(&f32("[4294967296,4294967296,2]", "[0,0]"), 0, "more bytes than this machine can address");
    one(&f32("[0,4294967296,4294967296,2]", "[0,0]"), 0, "more bytes than this machine can address");
    one(&f32("[4611686018427387904]", "[0,0]"), 0, "more bytes than this machine can address");
    one(&f32(&format!("{:?}", [1; 65]), "[0,4]"), 4, "it has 65 dimensions, more than 64");
    one(&f32("[-1]", "[0,4]"), 4, "its header entry is not valid: invalid value: integer `-1`");
    one(&f32("[1.5]", "[0,4]"), 4, "invalid type: floating point `1.5`");
    one(&f32("[99999999999999999999999]", "[0,4]"), 4, "its header entry is not valid");
    one(&f32("[1]", "[0]"), 4, "its header entry is not valid: invalid length 1");
    one(&f32("[1]", "[0,4,8]"), 4, "its header entry is not valid");
    one("{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}", 4, "unknown dtype \"F33\"");
    one("{\"dtype\":\"Q4_0\",\"shape\":[32],\"data_offsets\":[0,18]}", 18, "unknown dtype \"Q4_0\"");
    one("{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}", 2, "does not fill whole blocks of 2");
    one("{\"dtype\":\"F32\",\"shape\":[1]}", 4, "missing field `data_offsets`");
    one("{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}", 4, "duplicate field");
    one("7", 0, "its header entry is not valid: invalid type");
    one(&format!("{{\"later\":{}", "[".repeat(100_000)), 0, "its header entry is not valid: expected value");
    one(&"[".repeat(100_000), 0, "its header entry is not valid");

    let name = "n".repeat(5000);
    refused(&format!("{{\"{name}\":7}}"), 0, &["nnnn… (5000 bytes)"]);
    refused("{\"a\\u001b[31m\":7}", 0, &["tensor \"a\\u{1b}[31m\""]);
}

#[test]
fn safetensors_entries_against_each_other() {
    let pair = |a: &str, b: &str, data, parts: &[&str]| {
        let entry = |name, offsets| {
            format!("\"{name}\":{{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":{offsets}}}")
        };
        refused(&format!("{{{},{}}}", entry("first", a), entry("second", b)), data, parts);
    };
    pair("[0,4]", "[2,6]", 6, &["tensor \"second\": its bytes overlap those of \"first\""]);
    pair("[2,6]", "[0,4]", 6, &["tensor \"first\": its bytes overlap those of \"second\""]);
    pair("[0,4]", "[0,4]", 4, &["overlap"]);
    pair("[0,4]", "[6,10]", 10, &["tensor \"second\": 2 bytes before it belong to no tensor"]);
    pair("[0,4]", "[4,8]", 9, &["the last 1 bytes belong to no tensor"]);

    let empty = "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
    let twice = format!("{{\"w\":{empty},\"w\":{empty}}}");
    refused(&twice, 0, &["tensor \"w\": its header entry is not valid: the name stands in the header twice"]);
    refused("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, &["key \"__metadata__\": \"a\" stands twice"]);
    refused("{\"__metadata__\":{\"a\":1}}", 0, &["key \"__metadata__\": invalid type: integer `1`"]);
    refused("{\"__metadata__\":{},\"__metadata__\":{}}", 0, &["stands in the header twice"]);
}

/// A GGUF file put together by hand.
struct Gguf(Vec<u8>);

impl Gguf {
    fn new(tensors: u64, pairs: u64) -> Self {
        Self(b"GGUF\x03\0\0\0".to_vec()).u64(tensors).u64(pairs)
    }
    fn u32(mut self, x: u32) -> Self {
        self.0.extend(x.to_le_bytes());
        self
    }
    fn u64(mut self, x: u64) -> Self {
        self.0.extend(x.to_le_bytes());
        self
    }
    fn string(self, x: &str) -> Self {
        let mut longer = self.u64(x.len() as u64);
        longer.0.extend(x.as_bytes());
        longer
    }
    fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let info = self.string(name).u32(dims.len() as u32);
        dims.iter().fold(info, |info, &d| info.u64(d)).u32(kind).u64(offset)
    }
    /// The data section: padding to 32 and so many bytes.
    fn data(mut self, n: usize) -> Self {
        let size = self.0.len().next_multiple_of(32) + n;
        self.0.resize(size, 0);
        self
    }
    fn refused(self, parts: &[&str]) {
        let text = refusal("m.gguf", &self.0);
        for part in parts {
            assert!(text.contains(part), "{text}\nwithout {part}");
        }
    }
}

const HUGE: u64 = u64::MAX;
/// 2^62: times a few it overflows, and it is even.
const LARGE: u64 = 1 << 62;

#[test]
fn gguf_versions() {
    for (bytes, part) in [
        (&b"GGU"[..], "the magic number at byte 0 reaches past the end of the file (3 bytes)"),
        (b"GGML\x03\0\0\0", "does not begin with \"GGUF\""),
        (b"GGUF\x03", "the version at byte 4 reaches past the end"),
        (b"GGUF\x01\0\0\0", "is GGUF version 1"),
        (b"GGUF\0\0\0\x03", "is a big-endian GGUF file"),
        (b"GGUF\x04\0\0\0", "is GGUF version 4; 2 and 3 are read"),
        (b"GGUF\0\0\0\0", "is GGUF version 0"),
    ] {
        let text = refusal("m.gguf", bytes);
        assert!(text.contains(part), "{text}\nwithout {part}");
    }
}

#[test]
fn gguf_counts_are_not_believed() {
    Gguf::new(HUGE, 0).refused(&["18446744073709551615 tensors cannot fit into the 8 bytes that are left"]);
    Gguf::new(0, HUGE).refused(&["18446744073709551615 metadata pairs cannot fit"]);
    Gguf::new(0, 1).data(100).refused(&["metadata key 0 is empty"]);
    let pair = |kind| Gguf::new(0, 1).string("a.b").u32(kind);
    Gguf::new(0, 1)
        .u64(HUGE)
        .u64(0)
        .refused(&["metadata key 0 at byte 32 claims 18446744073709551615 bytes"]);
    pair(8).u64(HUGE).u64(0).refused(&["the value of metadata key \"a.b\" at byte 47 claims"]);
    pair(9).u32(4).u64(HUGE).refused(&["array elements in the value of metadata key \"a.b\" cannot fit"]);
    pair(9).u32(12).u64(LARGE).refused(&["array elements in the value of metadata key \"a.b\" cannot fit"]);
    pair(9).u32(8).u64(LARGE).refused(&["strings in the value of metadata key \"a.b\" cannot fit"]);
    pair(9).u32(9).u64(LARGE).refused(&["arrays in the value of metadata key \"a.b\" cannot fit"]);
    pair(13).u64(0).refused(&["metadata key \"a.b\": unknown value type 13"]);
    pair(9).u32(13).u64(0).refused(&["metadata key \"a.b\": unknown array element type 13"]);
    pair(7).u32(2).refused(&["metadata key \"a.b\": a boolean is stored as 2"]);
    pair(10).u32(2).refused(&["the value of metadata key \"a.b\" at byte 39 reaches past the end"]);
    let mut text = pair(8).u64(2);
    text.0.extend(b"\xc3\x28");
    text.refused(&["the value of metadata key \"a.b\" at byte 47 is not UTF-8"]);
    let nested = (0..1000).fold(pair(9), |file, _| file.u32(9).u64(1));
    nested.refused(&["metadata key \"a.b\": arrays are nested deeper than 4"]);
    let twice = Gguf::new(0, 2).string("k").u32(4).u32(1).string("k").u32(4).u32(2);
    twice.refused(&["metadata key \"k\": it comes twice"]);
}

#[test]
fn gguf_tensors() {
    let one = |dims: &[u64], kind, offset, data, part: &str| {
        let file = Gguf::new(1, 0).tensor("blk.w", dims, kind, offset).data(data);
        file.refused(&["m.gguf: tensor \"blk.w\": ", part]);
    };
    one(&[1; 5], 0, 0, 4, "it has 5 dimensions, more than the format's 4");
    one(&[1], 4, 0, 4, "has type number 4, which is not known here");
    one(&[1], HUGE as u32, 0, 4, "has type number 4294967295, which is not known here");
    one(&[33], 2, 0, 64, "rows of 33 values do not fill whole blocks of 32 values of type Q4_0");
    one(&[16, 2], 8, 0, 64, "rows of 16 values do not fill whole blocks of 32 values of type Q8_0");
    one(&[4], 0, 8, 64, "its offset 8 is not a multiple of the alignment 32");
    one(&[4], 0, 32, 32, "its 16 bytes from byte 96 on reach past the end of the file");
    one(&[4], 0, HUGE - 31, 32, "its offset 18446744073709551584 lies outside the file");
    one(&[LARGE, 2, 2], 0, 0, 32, "more bytes than this machine can address");
    one(&[LARGE, LARGE, 0], 24, 0, 32, "more bytes than this machine can address");
    one(&[32, LARGE], 8, 0, 32, "more bytes than this machine can address");

    let two = |a, b| Gguf::new(2, 0).tensor("first", &[16], 0, a).tensor("second", &[16], 0, b).data(128);
    two(0, 32).refused(&["tensor \"second\": its bytes overlap those of \"first\""]);
    two(32, 0).refused(&["tensor \"first\": its bytes overlap those of \"second\""]);
    let twice = Gguf::new(2, 0).tensor("w", &[8], 0, 0).tensor("w", &[8], 0, 32).data(64);
    twice.refused(&["tensor \"w\": the name comes twice"]);
    Gguf::new(2, 0).tensor("w", &[8], 0, 0).u64(0).refused(&["the info of tensor \"\" at byte"]);
    Gguf::new(1, 0).u64(1000).data(64).refused(&["the name of tensor 0 at byte 32 claims 1000 bytes"]);

    for alignment in [0, 3, 48] {
        let file = Gguf::new(0, 1).string("general.alignment").u32(4).u32(alignment).data(0);
        file.refused(&["key \"general.alignment\"", "is not a power of two"]);
    }
    // The header's end would be rounded up beyond the file.
    let far =
        Gguf::new(1, 1).string("general.alignment").u32(4).u32(1 << 31).tensor("w", &[8], 0, 0).data(64);
    far.refused(&["tensor \"w\": its 32 bytes from byte 2147483648 on reach past the end"]);
}

#[test]
fn gguf_tokenizers() {
    use engine::weights::Weights;
    let base = |pairs: u64| {
        let model = Gguf::new(0, pairs + 2).string("tokenizer.ggml.model").u32(8).string("gpt2");
        let tokens = model.string("tokenizer.ggml.tokens").u32(9).u32(8).u64(2);
        tokens.string("a").string("b")
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let refused = |file: Gguf, part: &str| {
        std::fs::write(&path, file.0).unwrap();
        let text = Weights::open(&path).unwrap().gguf().unwrap().tokenizer().unwrap_err().to_string();
        assert!(text.contains(&format!("m.gguf: metadata key \"tokenizer.ggml.{part}")), "{text}");
    };
    let model = || Gguf::new(0, 1).string("tokenizer.ggml.model").u32(8).string("gpt2");
    refused(model(), "tokens\": is needed and not there");
    refused(Gguf::new(0, 1).string("tokenizer.ggml.model").u32(4).u32(1), "model\": a string was expected");
    let eos = base(1).string("tokenizer.ggml.eos_token_id").u32(4).u32(2);
    refused(eos, "eos_token_id\": token 2 is not in the vocabulary of 2");
    let types = |n: u64, t| {
        let types = base(1).string("tokenizer.ggml.token_type").u32(9).u32(5).u64(n);
        (0..n).fold(types, |file, _| file.u32(t))
    };
    refused(types(3, 1), "token_type\": has 3 elements for 2 tokens");
    refused(types(2, 9), "token_type\": unknown token type 9");
    for merge in ["", "a", "a ", " ", "ab", "é"] {
        let file = base(1).string("tokenizer.ggml.merges").u32(9).u32(8).u64(1).string(merge);
        refused(file, &format!("merges\": merge 0, {merge:?}, is not two tokens"));
    }
}
