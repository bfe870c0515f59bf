"""transformers + PyTorch: prefill and decode of a Llama decoder, dense or in bitsandbytes' NF4.

The model is a Hugging Face folder (--weights) or a SmolLM2 shape with random weights (--model). With --nf4 every
linear map is NF4 with double quantisation and bf16 compute, and the head and embedding stay in bf16; in evaluation
bitsandbytes repacks the weights for its own CPU kernel where the processor has AVX-512 BF16.
"""

import pathlib

import torch
from transformers import LlamaForCausalLM

from rival_bench import parser, report, setup
from rival_text import SHAPES, decode, prefill, random_ids, versions

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def opened(args):
    """The model, ready to be timed."""
    dtype = TYPES[args.dtype]
    if not args.nf4:
        if args.weights:
            return LlamaForCausalLM.from_pretrained(args.weights, dtype=dtype)
        return LlamaForCausalLM(SHAPES[args.model]()).to(dtype)
    if args.weights:
        from transformers import BitsAndBytesConfig

        quantised = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=not args.single,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        return LlamaForCausalLM.from_pretrained(
            args.weights, dtype=torch.bfloat16, quantization_config=quantised, device_map="cpu"
        )
    from rival_nf4 import build

    return build(LlamaForCausalLM, SHAPES[args.model](), double=not args.single)


def main():
    options = parser(__doc__.splitlines()[0])
    source = options.add_mutually_exclusive_group()
    source.add_argument("--weights", type=pathlib.Path, help="a folder in Hugging Face layout")
    source.add_argument("--model", choices=list(SHAPES), default="135m", help="a shape with random weights")
    options.add_argument("--dtype", choices=list(TYPES), default="bf16")
    options.add_argument("--nf4", action="store_true")
    options.add_argument("--single", action="store_true", help="with --nf4: no double quantisation")
    options.add_argument("--prefill", type=int, nargs="+", default=[512], help="rows of each prefill")
    options.add_argument("--decode", type=int, default=64, help="tokens of the decode")
    options.add_argument("--context", type=int, default=1, help="tokens before the decode")
    args = options.parse_args()
    if args.nf4 and args.dtype != "bf16":
        options.error("--nf4 computes in bf16")
    setup(args)
    model = opened(args).eval()
    ids = random_ids(max(*args.prefill, args.context), model.config.vocab_size)
    about = {
        "system": "PyTorch",
        "version": versions(),
        "model": args.weights.name if args.weights else f"SmolLM2-{args.model.upper()} shape",
        "weights": args.dtype,
        "threads": torch.get_num_threads(),
    }
    if args.nf4:
        import bitsandbytes

        from rival_nf4 import quantised_weights

        weights, size = quantised_weights(model)
        about |= {
            "system": "bitsandbytes",
            "version": f"{bitsandbytes.__version__}, PyTorch {versions()}",
            "weights": "NF4" if args.single else "NF4, double quantised",
            "nf4_weights": weights,
            "nf4_bytes": size,
        }
    with torch.inference_mode():
        for rows in args.prefill:
            times = prefill(model, ids[:, :rows], args)
            report(times, rows, "tokens/s", figure=f"prefill {rows}", **about)
        if args.decode:
            times = decode(model, ids[:, : args.context], args.decode, args)
            report(times, args.decode, "tokens/s", figure=f"decode {args.decode}", context=args.context, **about)


if __name__ == "__main__":
    main()
