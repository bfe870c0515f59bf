"""Checks an adapter folder against PEFT, in either direction.

Read:  peft_cross_check.py BASE ADAPTER INPUTS.safetensors OUT.safetensors
Write: peft_cross_check.py BASE ADAPTER INPUTS.safetensors OUT.safetensors --write [--rank 8 ...]

BASE is a Hugging Face folder (SmolVLM or Llama), opened in f32. INPUTS holds `input_ids` and, as
far as the model wants them, `attention_mask`, `pixel_values`, `pixel_attention_mask`. OUT gets
`logits` (adapter attached), `base_logits` (without) and `merged_logits` (folded into the weights).

Reading opens an adapter that another program wrote; where INPUTS has `logits`, the greatest difference is printed,
and one above --tolerance ends with exit status 1. Writing makes a PEFT adapter with seeded values,
B and the magnitudes of DoRA away from their neutral start, and saves it in ADAPTER.
One JSON line is printed.
"""

import argparse
import json
import pathlib
import sys

import peft
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WANTED = ["input_ids", "attention_mask", "pixel_values", "pixel_attention_mask"]


def base_model(folder, dtype=torch.float32, **options):
    """The model of a Hugging Face folder, an image-text one where its configuration says so."""
    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=dtype, **options).eval()


def read(path):
    """What the model is called with, and the logits to compare with or None."""
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        if "input_ids" not in names:
            sys.exit(f"{path}: no tensor input_ids; it has {sorted(names)}")
        inputs = {name: file.get_tensor(name) for name in WANTED if name in names}
        expected = file.get_tensor("logits") if "logits" in names else None
    return inputs, expected


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs, use_cache=False).logits.float().contiguous()


def difference(found, expected, inputs):
    """Greatest difference over all rows, and over the rows that the attention mask keeps."""
    if found.shape != expected.shape:
        sys.exit(f"logits of shape {list(expected.shape)} given, PEFT's are {list(found.shape)}")
    apart = (found - expected.float()).abs()
    kept = inputs.get("attention_mask", torch.ones(found.shape[:2])).bool()
    # torch's max carries a NaN on, so logits that are not numbers are not passed.
    return {"max_difference": apart[kept].max().item(), "max_difference_all_rows": apart.max().item()}


def written(model, args):
    """A PEFT model with seeded values in every trained tensor."""
    config = peft.LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules=args.targets,
        init_lora_weights="gaussian",
        use_rslora=args.rslora,
        use_dora=args.dora,
        rank_pattern=args.rank_pattern,
        alpha_pattern=args.alpha_pattern,
        modules_to_save=args.modules_to_save,
    )
    torch.manual_seed(args.seed)
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not value.requires_grad:
                continue
            if "lora_B" in name:
                value.normal_(0.0, args.deviation)
            elif "lora_magnitude_vector" in name:
                value.mul_(1.0 + 0.1 * torch.rand_like(value))
            elif "lora_A" not in name:  # a module trained in full
                value.add_(0.01 * torch.randn_like(value))
    return model.eval()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("base", type=pathlib.Path)
    options.add_argument("adapter", type=pathlib.Path)
    options.add_argument("inputs", type=pathlib.Path)
    options.add_argument("out", type=pathlib.Path)
    options.add_argument("--tolerance", type=float, default=1e-3, help="greatest difference allowed (0.001)")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--write", action="store_true", help="make the adapter instead of reading it")
    options.add_argument("--rank", type=int, default=8)
    options.add_argument("--alpha", type=float, default=8)
    options.add_argument("--dropout", type=float, default=0.0)
    options.add_argument("--rslora", action="store_true")
    options.add_argument("--dora", action="store_true")
    options.add_argument("--rank-pattern", type=json.loads, default={}, help='JSON, as {"q_proj": 4}')
    options.add_argument("--alpha-pattern", type=json.loads, default={}, help="JSON, as --rank-pattern")
    options.add_argument("--modules-to-save", nargs="+", help="modules trained in full, as lm_head")
    options.add_argument("--targets", nargs="+", default=TARGETS)
    options.add_argument("--deviation", type=float, default=0.05, help="of the seeded B (0.05)")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    if not args.write and not (args.adapter / "adapter_config.json").is_file():
        options.error(f"{args.adapter}: no adapter_config.json")

    inputs, expected = read(args.inputs)
    model = base_model(args.base)
    found = {"base_logits": logits(model, inputs)}
    if args.write:
        model = written(model, args)
        model.save_pretrained(args.adapter)
        expected = None  # what INPUTS holds was made without this adapter
    else:
        model = peft.PeftModel.from_pretrained(model, args.adapter).eval()
    config = model.peft_config["default"]
    found["logits"] = logits(model, inputs)
    # The adapter's tensors under the names of the file, so that none can have been passed over.
    tensors = peft.get_peft_model_state_dict(model)
    with safe_open(args.adapter / "adapter_model.safetensors", "pt") as file:
        inside = set(file.keys())
    if inside != set(tensors):
        sys.exit(f"names differ between file and PEFT: {sorted(inside ^ set(tensors))[:8]}")
    layers = sum(hasattr(module, "lora_A") for module in model.modules())
    merged = model.merge_and_unload().eval()
    found["merged_logits"] = logits(merged, inputs)
    save_file(found, args.out)
    line = {
        "tool": "peft",
        "version": peft.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "what": "adapter written" if args.write else "adapter read",
        "layers": layers,
        "tensors": len(tensors),
        "parameters": sum(value.numel() for value in tensors.values()),
        "rank": config.r,
        "alpha": config.lora_alpha,
        "rslora": config.use_rslora,
        "dora": bool(config.use_dora),
        "adapter_moves_logits_by": (found["logits"] - found["base_logits"]).abs().max().item(),
        "merging_moves_logits_by": (found["merged_logits"] - found["logits"]).abs().max().item(),
    }
    if expected is not None:
        line |= difference(found["logits"], expected, inputs) | {"tolerance": args.tolerance}
    print(json.dumps(line))
    if expected is not None and not line["max_difference"] <= args.tolerance:
        sys.exit(1)


if __name__ == "__main__":
    main()
