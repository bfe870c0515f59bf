"""Writes a GGUF file of a Llama decoder in bf16, one tensor at a time, for llama-bench and candle.

    write_llama_gguf.py OUT.gguf --from FOLDER          the weights of a Hugging Face folder
    write_llama_gguf.py OUT.gguf [--layers 24 …]        random ones, by default in the shape of SmolLM2-1.7B

It has no tokenizer: the benchmarks draw their own tokens. A tied head is the embedding, and has no tensor.
"""

import argparse
import json
import pathlib
import sys

import gguf
import numpy

HEADS = {"attn_q": "heads", "attn_k": "kv_heads"}
HUGGING_FACE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def bf16(values):
    """Bits of the nearest bf16 (ties to even) of finite f32 values."""
    bits = values.view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def shapes(args):
    """(name, shape) in the order of the file; rows first, as numpy has them."""
    width, inner = args.hidden, args.inner
    rows, keys = args.head_dim * args.heads, args.head_dim * args.kv_heads
    yield "token_embd.weight", (args.vocabulary, width)
    for layer in range(args.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (width,)
        yield block + "attn_q.weight", (rows, width)
        yield block + "attn_k.weight", (keys, width)
        yield block + "attn_v.weight", (keys, width)
        yield block + "attn_output.weight", (width, rows)
        yield block + "ffn_norm.weight", (width,)
        yield block + "ffn_gate.weight", (inner, width)
        yield block + "ffn_up.weight", (inner, width)
        yield block + "ffn_down.weight", (width, inner)
    yield "output_norm.weight", (width,)
    if args.untied:
        yield "output.weight", (args.vocabulary, width)


class Random:
    """Norms of ones and normal matrices."""

    def __init__(self, seed):
        self.draw = numpy.random.default_rng(seed)

    def f32(self, _, shape):
        return numpy.ones(shape, numpy.float32)

    def bf16(self, _, shape):
        return bf16(self.draw.standard_normal(shape, numpy.float32) * numpy.float32(0.02))


class Folder:
    """The tensors of a folder's model.safetensors by their GGUF names; numpy has no bf16, so by their bits."""

    def __init__(self, args):
        self.args = args
        self.path = args.source / "model.safetensors"
        with open(self.path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self.entries = json.loads(file.read(length))
        self.data = numpy.memmap(self.path, numpy.uint8, "r", offset=8 + length)

    def bits(self, name, shape):
        """The tensor in f32, or the bits of its bf16."""
        parts = name.removesuffix(".weight").split(".")
        path = HUGGING_FACE[parts[-1]]
        if parts[0] == "blk":
            path = f"model.layers.{parts[1]}.{path}"
        entry = self.entries.get(path + ".weight")
        if entry is None or tuple(entry["shape"]) != shape or entry["dtype"] not in ("BF16", "F32"):
            sys.exit(f"{self.path}: {path}.weight is {entry}, and {shape} in BF16 or F32 is wanted")
        begin, end = entry["data_offsets"]
        kind = numpy.uint16 if entry["dtype"] == "BF16" else numpy.float32
        values = self.data[begin:end].view(kind).reshape(shape)
        heads = HEADS.get(parts[-1])
        if heads:
            # Rotary pairs lie half a head apart here and side by side in GGUF.
            values = values.reshape(getattr(self.args, heads), 2, -1, shape[1]).swapaxes(1, 2).reshape(shape)
        return numpy.ascontiguousarray(values)

    def f32(self, name, shape):
        values = self.bits(name, shape)
        return values if values.dtype == numpy.float32 else (values.astype(numpy.uint32) << 16).view(numpy.float32)

    def bf16(self, name, shape):
        values = self.bits(name, shape)
        return values if values.dtype == numpy.uint16 else bf16(values)


def sizes_of(args):
    """Takes the sizes from the folder's config.json."""
    path = args.source / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") != "llama":
        sys.exit(f"{path}: a llama model is wanted, this is {config.get('model_type')}")
    args.hidden, args.inner = config["hidden_size"], config["intermediate_size"]
    args.layers, args.heads = config["num_hidden_layers"], config["num_attention_heads"]
    args.kv_heads = config.get("num_key_value_heads", args.heads)
    args.head_dim = config.get("head_dim") or args.hidden // args.heads
    args.vocabulary, args.context = config["vocab_size"], config["max_position_embeddings"]
    args.rope = config.get("rope_theta") or config.get("rope_parameters", {}).get("rope_theta", 10000.0)
    args.epsilon = config["rms_norm_eps"]
    args.untied = not config.get("tie_word_embeddings", False)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=pathlib.Path)
    options.add_argument("--from", type=pathlib.Path, dest="source", metavar="FOLDER")
    options.add_argument("--hidden", type=int, default=2048)
    options.add_argument("--layers", type=int, default=24)
    options.add_argument("--heads", type=int, default=32)
    options.add_argument("--kv-heads", type=int, default=32)
    options.add_argument("--inner", type=int, default=8192)
    options.add_argument("--vocabulary", type=int, default=49152)
    options.add_argument("--context", type=int, default=8192)
    options.add_argument("--rope", type=float, default=130000.0)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    if args.hidden % args.heads:
        options.error(f"{args.heads} heads don't divide {args.hidden}")
    args.head_dim, args.epsilon, args.untied = args.hidden // args.heads, 1e-5, False
    if args.source:
        sizes_of(args)
    weights = Folder(args) if args.source else Random(args.seed)

    part = args.out.with_suffix(".part")
    file = gguf.GGUFWriter(part, "llama")
    file.add_name(args.source.name if args.source else "random weights")
    file.add_context_length(args.context)
    file.add_embedding_length(args.hidden)
    file.add_block_count(args.layers)
    file.add_feed_forward_length(args.inner)
    file.add_head_count(args.heads)
    file.add_head_count_kv(args.kv_heads)
    file.add_rope_dimension_count(args.head_dim)
    file.add_rope_freq_base(args.rope)
    file.add_layer_norm_rms_eps(args.epsilon)
    file.add_vocab_size(args.vocabulary)
    file.add_tokenizer_model("none")
    file.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    # Norms are vectors and stay in f32, as llama.cpp's own converter has them.
    kinds = {1: gguf.GGMLQuantizationType.F32, 2: gguf.GGMLQuantizationType.BF16}
    types = {1: numpy.dtype(numpy.float32), 2: numpy.dtype(numpy.uint16)}
    for name, shape in shapes(args):
        size = int(numpy.prod(shape)) * types[len(shape)].itemsize
        file.add_tensor_info(name, shape, types[len(shape)], size, raw_dtype=kinds[len(shape)])
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_ti_data_to_file()
    for name, shape in shapes(args):
        read = weights.f32 if len(shape) == 1 else weights.bf16
        file.write_tensor_data(read(name, shape))
    file.close()
    part.rename(args.out)


if __name__ == "__main__":
    main()
