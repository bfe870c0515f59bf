"""Writes a reference dump of a SmolVLM folder with transformers, for `roentgen parity FOLDER DUMP`.

    python scripts/make_reference.py FOLDER DUMP.safetensors

Random ids and pixels of one tile (or as many as --tiles); f32, eager attention, CPU. Needs torch, transformers and
safetensors; nothing of roentgen needs them.
"""

import argparse

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, Idefics3ForConditionalGeneration


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder")
    options.add_argument("dump")
    options.add_argument("--tiles", type=int, default=1)
    options.add_argument("--text", type=int, default=35, help="text tokens around the image")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()

    torch.manual_seed(args.seed)
    config = AutoConfig.from_pretrained(args.folder)
    vision = config.vision_config
    model = Idefics3ForConditionalGeneration.from_pretrained(
        args.folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    image_tokens = args.tiles * (vision.image_size // vision.patch_size // config.scale_factor) ** 2
    # Ordinary tokens, none of them the image's.
    ids = torch.randint(0, config.text_config.vocab_size - 1, (1, args.text + image_tokens))
    ids[ids >= config.image_token_id] += 1
    ids[0, 5 : 5 + image_tokens] = config.image_token_id
    pixels = torch.rand(1, args.tiles, 3, vision.image_size, vision.image_size) * 2 - 1
    stages = {"input_ids": ids, "pixel_values": pixels[0].contiguous()}

    def keep(name):
        def hook(_module, _inputs, output):
            stages[name] = (output[0] if isinstance(output, tuple) else output).detach().contiguous()

        return hook

    inner = model.model
    inner.vision_model.embeddings.register_forward_hook(keep("vision.embeddings"))
    for i, layer in enumerate(inner.vision_model.encoder.layers):
        layer.register_forward_hook(keep(f"vision.layer{i}"))
    inner.vision_model.post_layernorm.register_forward_hook(keep("vision.last_hidden_state"))
    inner.connector.register_forward_hook(keep("connector.output"))
    for i, layer in enumerate(inner.text_model.layers):
        layer.register_forward_hook(keep(f"text.layer{i}"))
    inner.text_model.norm.register_forward_hook(keep("text.norm"))
    with torch.no_grad():
        mask = torch.ones(1, args.tiles, vision.image_size, vision.image_size, dtype=torch.bool)
        stages["logits"] = model(input_ids=ids, pixel_values=pixels, pixel_attention_mask=mask).logits.contiguous()
    save_file({name: tensor.clone() for name, tensor in stages.items()}, args.dump)
    print(f"{args.dump}: {', '.join(stages)}")


if __name__ == "__main__":
    main()
