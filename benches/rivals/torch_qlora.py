"""transformers + PEFT + bitsandbytes: QLoRA training steps of SmolVLM shapes, random weights.

NF4 with double quantisation under every linear map but the head, LoRA on q, k, v, o, gate, up
and down of both towers by name, bf16 autocast, one image tile and some text tokens, batch 1.
Recipes:

n  `prepare_model_for_kbit_training`: norms, embeddings and head in f32, so the residual is f32
k  everything outside the NF4 maps stays in bf16
"""

import statistics
import time
import warnings

import bitsandbytes
import peft
import torch
from transformers import Idefics3ForConditionalGeneration

from rival_bench import emit, measure, parser, setup
from rival_nf4 import build, quantised_weights, release, resident, restart_peak
from rival_text import random_ids, versions
from torch_smolvlm import SIZES, config

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SOURCES = {"bf16": torch.bfloat16, "f16": torch.float16}


def adapted(args, shape):
    """The model ready to train: quantised, prepared as the recipe says, adapters on top."""
    model = build(Idefics3ForConditionalGeneration, shape, SOURCES[args.source])
    weights, size = quantised_weights(model)
    if args.source == "f16" and args.recipe == "k":
        raise SystemExit("recipe k loads its weights in bf16: --source f16 goes with --recipe n")
    # transformers 5 checkpoints without re-entry; PEFT's default would still be the older way.
    keep = {"use_reentrant": args.reentrant}
    if args.recipe == "n":
        model = peft.prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=args.checkpointing, gradient_checkpointing_kwargs=keep
        )
    elif args.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=keep)
        if args.reentrant:  # only this kind needs it; it costs one more gradient
            model.enable_input_require_grads()
    lora = peft.LoraConfig(
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules=TARGETS,
        init_lora_weights="gaussian",
        use_dora=args.dora,
    )
    model = peft.get_peft_model(model, lora)
    model.config.use_cache = False
    return model.train(), weights, size


def batch(shape, text):
    """One tile and `text` tokens; the tile's own places carry no label."""
    side, patch = shape.vision_config.image_size, shape.vision_config.patch_size
    tile = (side // patch // shape.scale_factor) ** 2
    ids = random_ids(tile + text, shape.text_config.vocab_size)
    ids[:, 4 : 4 + tile] = shape.image_token_id
    labels = ids.masked_fill(ids == shape.image_token_id, -100)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "pixel_values": torch.randn(1, 1, 3, side, side),
    }


def optimizer_of(args, parameters):
    if args.optimizer == "adamw8bit":
        return bitsandbytes.optim.AdamW8bit(parameters, lr=1e-4, weight_decay=0.01)
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)


def main():
    options = parser(__doc__.splitlines()[0], repeats=3)
    options.add_argument("--model", choices=[name.lower() for name in SIZES], default="256m")
    options.add_argument("--recipe", choices=["n", "k"], default="k")
    options.add_argument("--checkpointing", action="store_true", help="recompute each block in backward")
    options.add_argument("--reentrant", action="store_true", help="PyTorch's older checkpointing")
    options.add_argument("--steps", type=int, dest="repeats", default=3, help="same as --repeats")
    options.add_argument("--text", type=int, default=100, help="text tokens beside the tile")
    options.add_argument("--rank", type=int, default=8)
    options.add_argument("--alpha", type=float, default=8)
    options.add_argument("--dropout", type=float, default=0.1)
    options.add_argument("--dora", action="store_true")
    options.add_argument("--source", choices=list(SOURCES), default="bf16", help="type before NF4")
    options.add_argument("--optimizer", choices=["adamw", "adamw8bit"], default="adamw")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = options.parse_args()
    setup(args)
    torch.set_default_device(args.device)
    gpu = args.device == "cuda"
    warnings.filterwarnings("ignore", category=FutureWarning)
    bare = resident()
    shape = config(args.model.upper())
    began = time.perf_counter()
    model, weights, size = adapted(args, shape)
    load_seconds = time.perf_counter() - began
    load_peak = resident().get("peak")
    release()
    load = resident()
    restarted = restart_peak()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = optimizer_of(args, trained)
    inputs = batch(shape, args.text)
    parts, losses = [], []

    def step(_):
        start = time.perf_counter()
        with torch.autocast(args.device, torch.bfloat16):
            loss = model(**inputs).loss
        forward = time.perf_counter()
        loss.backward()
        if gpu:
            torch.cuda.synchronize()
        backward = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        parts.append((forward - start, backward - forward, time.perf_counter() - backward))
        losses.append(loss.item())

    if gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds, load_meanwhile = measure(step, args)
    after = resident()
    forward, backward, update = (statistics.median(part) for part in zip(*parts[args.warmup :]))
    about = {
        "system": "PyTorch + PEFT + bitsandbytes",
        "version": f"{versions()}, PEFT {peft.__version__}, bitsandbytes {bitsandbytes.__version__}",
        "model": f"SmolVLM-{args.model.upper()} shape",
        "weights": "NF4, double quantised",
        "threads": args.threads,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "recipe": args.recipe,
        "checkpointing": args.checkpointing,
    }
    emit(
        figure="step", unit="s", values=seconds, **about, **load_meanwhile,
        source=args.source,
        optimizer=args.optimizer,
        dora=args.dora,
        dropout=args.dropout,
        rows=inputs["input_ids"].shape[1],
        trained_parameters=sum(value.numel() for value in trained),
        nf4_weights=weights,
        nf4_bytes=size,
        forward_seconds=round(forward, 4),
        backward_seconds=round(backward, 4),
        optimizer_seconds=round(update, 4),
        load_seconds=round(load_seconds, 2),
        losses=[round(loss, 4) for loss in losses],
    )
    if gpu:
        # What tensors held; what the allocator and the driver hold beside them is not of the rival's making.
        emit(figure="peak memory", unit="B", values=[torch.cuda.max_memory_allocated()], **about)
    elif after:
        peak = max(load_peak, after["peak"])
        emit(
            figure="peak memory", unit="B", values=[peak], **about,
            import_rss_bytes=bare["now"],
            load_rss_bytes=load["now"],
            load_file_rss_bytes=load["files"],
            load_peak_rss_bytes=load_peak,
        )
        # Without a restarted peak that of the steps can't be told from that of loading.
        if restarted:
            emit(figure="rise over the loaded model", unit="B", values=[after["peak"] - load["now"]], **about)


if __name__ == "__main__":
    main()
