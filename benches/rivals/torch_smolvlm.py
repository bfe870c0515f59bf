"""transformers + PyTorch: SmolVLM shapes with random weights.

One image tile and some text tokens through the whole model, the vision tower and connector
alone, the text model's prefill of as many rows, and its decode after them.
"""

import torch
from transformers import Idefics3Config, Idefics3ForConditionalGeneration

from rival_bench import measure, parser, report, setup
from rival_text import decode, prefill, random_ids, versions

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SIZES = {
    "256M": {
        "text": (576, 1536, 30, 9, 3, 49280, 100000.0, 8192),
        "vision": (768, 3072, 12, 12, 512, 16),
        "scale": 4,
        "image_token": 49190,
    },
    "2.2B": {
        "text": (2048, 8192, 24, 32, 32, 49155, 273768.0, 16384),
        "vision": (1152, 4304, 27, 16, 384, 14),
        "scale": 3,
        "image_token": 49153,
    },
}


def config(size):
    width, inner, layers, heads, kv_heads, vocabulary, theta, positions = SIZES[size]["text"]
    text = {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    width, inner, layers, heads, image, patch = SIZES[size]["vision"]
    vision = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": image,
        "patch_size": patch,
    }
    return Idefics3Config(
        text_config=text,
        vision_config=vision,
        scale_factor=SIZES[size]["scale"],
        image_token_id=SIZES[size]["image_token"],
        tie_word_embeddings=False,
    )


def main():
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--size", choices=list(SIZES), default="256M")
    options.add_argument("--dtype", choices=list(TYPES), default="bf16")
    options.add_argument("--text", type=int, default=100, help="text tokens beside the tile")
    options.add_argument("--decode", type=int, default=32, help="tokens of the decode")
    args = options.parse_args()
    setup(args)
    shape, dtype = config(args.size), TYPES[args.dtype]
    side, patch = shape.vision_config.image_size, shape.vision_config.patch_size
    tile_tokens = (side // patch // shape.scale_factor) ** 2
    rows = tile_tokens + args.text
    model = Idefics3ForConditionalGeneration(shape).to(dtype).eval()
    pixels = torch.randn(1, 1, 3, side, side).to(dtype)
    text = random_ids(rows, shape.text_config.vocab_size)
    both = text.clone()
    both[:, 4 : 4 + tile_tokens] = shape.image_token_id
    about = {
        "system": "PyTorch",
        "version": versions(),
        "model": f"SmolVLM-{args.size} shape",
        "weights": args.dtype,
        "threads": torch.get_num_threads(),
    }
    with torch.inference_mode():
        times = measure(lambda _: model.model.get_image_features(pixels), args)
        report(times, None, "s", figure="vision", **about)
        times = measure(
            lambda _: model(input_ids=both, pixel_values=pixels, use_cache=True, logits_to_keep=1), args
        )
        report(times, None, "s", figure=f"first token, 1 tile + {args.text}", **about)
        times = prefill(model, text, args)
        report(times, rows, "tokens/s", figure=f"prefill {rows}", **about)
        times = decode(model, text, args.decode, args)
        report(times, args.decode, "tokens/s", figure=f"decode {args.decode} at {rows}", **about)


if __name__ == "__main__":
    main()
