"""transformers + bitsandbytes: NF4 prefill and decode of SmolLM2 shapes, random weights.

Every linear map is NF4, the tied head and embedding stay in bf16, bf16 compute. In evaluation
bitsandbytes repacks the weights for its own CPU kernel where the processor has AVX-512 BF16.
"""

import bitsandbytes
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

import torch_smollm2
from rival_bench import parser, report, setup
from rival_nf4 import build, quantised_weights, resident
from rival_text import decode, prefill, random_ids


def large():
    """The shape of SmolLM2-1.7B."""
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 130000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


SHAPES = {"135m": torch_smollm2.config, "1.7b": large}


def main():
    options = parser(__doc__.splitlines()[0], repeats=5)
    options.add_argument("--model", choices=list(SHAPES), default="135m")
    options.add_argument("--prefill", type=int, nargs="+", default=[181, 512], help="rows of each prefill")
    options.add_argument("--decode", type=int, default=64, help="tokens of the decode")
    options.add_argument("--context", type=int, default=1, help="tokens before the decode")
    options.add_argument("--single", action="store_true", help="scales in f32: no double quantisation")
    options.set_defaults(dtype=["bf16"])
    args = options.parse_args()
    if args.dtype != ["bf16"]:
        options.error("the compute type is bf16")
    setup(args)
    shape = SHAPES[args.model]()
    model = build(LlamaForCausalLM, shape, double=not args.single).eval()
    weights, size = quantised_weights(model)
    ids = random_ids(max(*args.prefill, args.context), shape.vocab_size)
    about = {
        "tool": "bitsandbytes",
        "version": bitsandbytes.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": f"SmolLM2-{args.model.upper()} shape",
        "dtype": "NF4, bf16 compute",
        "double": not args.single,
        "nf4_weights": weights,
        "nf4_bytes": size,
    }
    with torch.inference_mode():
        for rows in args.prefill:
            times = prefill(model, ids[:, :rows], args)
            report(times, rows, "tok/s", what="prefill", rows=rows, **about)
        times = decode(model, ids[:, : args.context], args.decode, args)
        # The engine's decode reads each NF4 weight and the head once for a token.
        head = model.get_output_embeddings().weight.nbytes
        extra = {"weight_bytes": size + head, "peak_rss_bytes": resident().get("peak")}
        report(times, args.decode, "tok/s", what="decode", tokens=args.decode, context=args.context, **about, **extra)


if __name__ == "__main__":
    main()
