"""transformers + PyTorch: the shape of SmolLM2-135M with random weights, tokens per second."""

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from rival_bench import parser, report, setup
from rival_text import decode, prefill, random_ids


def config():
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def main():
    options = parser(__doc__, repeats=5)
    options.add_argument("--prefill", type=int, default=512, help="rows of the prefill")
    options.add_argument("--decode", type=int, default=64, help="tokens of the decode")
    options.add_argument("--context", type=int, default=1, help="tokens before the decode")
    args = options.parse_args()
    for name, dtype in setup(args).items():
        model = LlamaForCausalLM(config()).to(dtype).eval()
        ids = random_ids(max(args.prefill, args.context), 49152)
        about = {
            "model": "SmolLM2-135M shape",
            "dtype": name,
            "transformers": transformers.__version__,
            "parameters": model.num_parameters(),
        }
        with torch.inference_mode():
            times = prefill(model, ids[:, : args.prefill], args)
            report(times, args.prefill, "tok/s", what="prefill", rows=args.prefill, **about)
            times = decode(model, ids[:, : args.context], args.decode, args)
            report(
                times, args.decode, "tok/s",
                what="decode", tokens=args.decode, context=args.context, **about,
            )


if __name__ == "__main__":
    main()
