"""Checks NF4 folders against bitsandbytes, in either direction.

Read:  bnb_cross_check.py FOLDER [--compare VALUES.safetensors] [--inputs INPUTS.safetensors]
Write: bnb_cross_check.py FOLDER --write OUT [--single] [--dequantised VALUES.safetensors] [--inputs …]

Reading opens every quantised linear map of a folder that another program wrote through
`QuantState.from_dict`, which refuses any key it doesn't know, dequantises it, and prints one JSON
line a map with the SHA-256 of its values (little-endian, in --dtype). `--compare` holds the values
that the other program dequantised to, named like the weights (`….weight`) or without that ending;
any bit apart ends with exit status 1. `--inputs` (as for peft_cross_check.py) opens the
folder with transformers too, and compares `logits` where the file has them.

Writing quantises a Hugging Face folder (NF4, bf16 compute, double quantisation unless --single) with transformers and
bitsandbytes and saves it; `--dequantised` keeps the values, and `--inputs` adds the logits to OUT as `logits.safetensors`.
"""

import argparse
import hashlib
import json
import pathlib
import sys

import bitsandbytes
import torch
import transformers
from bitsandbytes.functional import QuantState, dequantize_4bit
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig

from peft_cross_check import base_model, difference, logits, read

MARK = ".weight.quant_state.bitsandbytes__"
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class Folder:
    """Tensors of all safetensors files of a folder by name, read one at a time."""

    def __init__(self, folder):
        self.files = {}
        for path in sorted(folder.glob("*.safetensors")):
            if path.name == "logits.safetensors":
                continue
            file = safe_open(path, "pt")
            for name in file.keys():
                if name in self.files:
                    sys.exit(f"{path}: {name} is in another file of the folder too")
                self.files[name] = file
        if not self.files:
            sys.exit(f"{folder}: no safetensors file")

    def __getitem__(self, name):
        return self.files[name].get_tensor(name)

    def maps(self):
        """Paths of the quantised linear maps."""
        return sorted(name.split(MARK)[0] for name in self.files if MARK in name)

    def values(self, path, dtype):
        """Dequantised weight of one map in `dtype`, and its state."""
        prefix = f"{path}.weight."
        parts = {name.removeprefix(prefix): self[name] for name in self.files if name.startswith(prefix)}
        state = QuantState.from_dict(parts, device=torch.device("cpu"))
        kept = state.dtype
        state.dtype = dtype
        values = dequantize_4bit(self[f"{path}.weight"], state)
        state.dtype = kept
        return values, state


def digest(values):
    plain = values.contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(plain.tobytes()).hexdigest()


def compared(values, path, against):
    """How the values of one map differ from those of the other program."""
    names = [name for name in (f"{path}.weight", path) if name in against]
    if not names:
        sys.exit(f"--compare: no tensor {path}.weight")
    other = against[names[0]]
    if other.shape != values.shape:
        sys.exit(f"{path}: bitsandbytes gives shape {list(values.shape)}, the other {list(other.shape)}")
    apart = (values.double() - other.double()).abs()
    return {"max_difference": apart.max().item(), "values_apart": int((apart > 0).sum() + apart.isnan().sum())}


def check(args):
    folder = Folder(args.folder)
    against = safe_open(args.compare, "pt") if args.compare else None
    other = {name: against.get_tensor(name) for name in against.keys()} if against else {}
    whole, apart, dequantised = hashlib.sha256(), 0, {}
    maps = folder.maps()
    if not maps:
        sys.exit(f"{args.folder}: no key with {MARK}nf4 or {MARK}fp4")
    for path in maps:
        values, state = folder.values(path, TYPES[args.dtype])
        line = {
            "map": path,
            "type": state.quant_type,
            "shape": list(state.shape),
            "before": str(state.dtype).removeprefix("torch."),
            "double": state.nested,
            "sha256": digest(values),
        }
        if other:
            line |= compared(values, path, other)
            apart += line["values_apart"]
        if args.dequantised:
            dequantised[f"{path}.weight"] = values
        whole.update(bytes.fromhex(line["sha256"]))
        print(json.dumps(line))
    if args.dequantised:
        save_file(dequantised, args.dequantised)
    total = {
        "tool": "bitsandbytes",
        "version": bitsandbytes.__version__,
        "what": "NF4 folder read",
        "maps": len(maps),
        "sha256_of_all": whole.hexdigest(),
    }
    if other:
        total["values_apart"] = apart
    config = json.loads((args.folder / "config.json").read_text(encoding="utf-8"))
    total["config_says"] = config.get("quantization_config", {}).get("quant_method", "nothing of quantisation")
    failed = apart > 0
    if args.inputs:
        # In training mode bitsandbytes keeps its plain layout; its CPU packing refuses some
        # shapes. No base model here has dropout, so the values are those of evaluation.
        inputs, expected = read(args.inputs)
        model = base_model(args.folder, dtype=TYPES[args.source]).train()
        total["logits_sha256"] = digest(found := logits(model, inputs))
        if args.out_logits:
            save_file({"logits": found}, args.out_logits)
        if expected is not None:
            total |= difference(found, expected, inputs) | {"tolerance": args.tolerance}
            failed |= not total["max_difference"] <= args.tolerance
    print(json.dumps(total))
    if failed:
        sys.exit(1)


def write(args):
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=not args.single,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = base_model(args.folder, dtype=TYPES[args.source], quantization_config=config, device_map="cpu")
    model.save_pretrained(args.write)
    folder = Folder(args.write)
    line = {
        "tool": "bitsandbytes",
        "version": bitsandbytes.__version__,
        "transformers": transformers.__version__,
        "what": "NF4 folder written",
        "maps": len(folder.maps()),
        "tensors": len(folder.files),
        "double": not args.single,
        "source": args.source,
    }
    if args.dequantised:
        save_file({f"{path}.weight": folder.values(path, TYPES[args.dtype])[0] for path in folder.maps()}, args.dequantised)
    if args.inputs:
        inputs, _ = read(args.inputs)
        save_file({"logits": logits(model.train(), inputs)}, args.write / "logits.safetensors")
    print(json.dumps(line))


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=pathlib.Path)
    options.add_argument("--write", type=pathlib.Path, metavar="OUT")
    options.add_argument("--single", action="store_true", help="writing: scales in f32, no double quantisation")
    options.add_argument("--source", choices=list(TYPES), default="bf16", help="type before NF4, and of what stays unquantised (bf16)")
    options.add_argument("--dtype", choices=list(TYPES), default="f32", help="of the dequantised values (f32)")
    options.add_argument("--compare", type=pathlib.Path, metavar="VALUES")
    options.add_argument("--dequantised", type=pathlib.Path, metavar="VALUES", help="where to keep the values")
    options.add_argument("--inputs", type=pathlib.Path)
    options.add_argument("--out-logits", type=pathlib.Path, help="reading: where to keep the logits of --inputs")
    options.add_argument("--tolerance", type=float, default=0.05, help="of logits, bf16 on both sides (0.05)")
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    if not (args.folder / "config.json").is_file():
        options.error(f"{args.folder}: no config.json")
    write(args) if args.write else check(args)


if __name__ == "__main__":
    main()
