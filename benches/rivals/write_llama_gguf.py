"""Writes a GGUF file of the shape of SmolLM2-1.7B with random bf16 weights, one tensor at a time.

    write_llama_gguf.py OUT.gguf [--layers 24 …]

It has no tokenizer (llama-bench draws its own tokens), and its head is the embedding, as in the released model.
"""

import argparse
import pathlib

import gguf
import numpy


def bf16(values):
    """Bits of the nearest bf16 (ties to even) of finite f32 values."""
    bits = values.view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def shapes(args):
    """(name, shape) in the order of the file; rows first, as numpy has them."""
    width, inner = args.hidden, args.inner
    keys = width // args.heads * args.kv_heads
    yield "token_embd.weight", (args.vocabulary, width)
    for layer in range(args.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (width,)
        yield block + "attn_q.weight", (width, width)
        yield block + "attn_k.weight", (keys, width)
        yield block + "attn_v.weight", (keys, width)
        yield block + "attn_output.weight", (width, width)
        yield block + "ffn_norm.weight", (width,)
        yield block + "ffn_gate.weight", (inner, width)
        yield block + "ffn_up.weight", (inner, width)
        yield block + "ffn_down.weight", (width, inner)
    yield "output_norm.weight", (width,)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=pathlib.Path)
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

    file = gguf.GGUFWriter(args.out, "llama")
    file.add_name("random weights")
    file.add_context_length(args.context)
    file.add_embedding_length(args.hidden)
    file.add_block_count(args.layers)
    file.add_feed_forward_length(args.inner)
    file.add_head_count(args.heads)
    file.add_head_count_kv(args.kv_heads)
    file.add_rope_dimension_count(args.hidden // args.heads)
    file.add_rope_freq_base(args.rope)
    file.add_layer_norm_rms_eps(1e-5)
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
    random = numpy.random.default_rng(args.seed)
    for _, shape in shapes(args):
        if len(shape) == 1:
            file.write_tensor_data(numpy.ones(shape, numpy.float32))
        else:
            file.write_tensor_data(bf16(random.standard_normal(shape, numpy.float32) * numpy.float32(0.02)))
    file.close()


if __name__ == "__main__":
    main()
