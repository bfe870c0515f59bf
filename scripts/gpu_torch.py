"""PyTorch's kernels at the shapes of scripts/gpu-check.sh, on its GPU: bf16 products (cuBLAS), attention forward and backward (SDPA's flash kernel),
4-bit products (bitsandbytes, if it is there), and the copy bandwidth that memory-bound kernels are held against. What the flash kernel refuses is said
to be missing: another backend's time would be no comparison.

Times are of CUDA events around lines of runs, the median of many, on inputs that are not in the L2 cache. Prints a table; writes JSON to the named file.
"""

import json
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# Rows of a prompt, and [outer, inner] of the linear layers of each model's decoder; heads, heads of keys, head size.
ROWS = (1, 8, 512, 1780)
MODELS = {
    "vicuna-7b": ([(4096, 4096), (11008, 4096), (4096, 11008)], (32, 32, 128)),
    "smolvlm": ([(2048, 2048), (8192, 2048), (2048, 8192)], (32, 32, 64)),
}
CACHE = 128 << 20


def seconds(run, size):
    """Median over lines of runs that take turns among copies of the inputs larger than the cache together. A device that is kept busy until a line
    is submitted shows its own time, and none of the host's, as `roentgen bench op` does."""
    copies = max(1, min(64, CACHE // max(size, 1)))
    sets = [run(None) for _ in range(copies)]

    def line(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(busy)  # cycles
        start.record()
        for i in range(runs):
            run(sets[i % copies])
        end.record()
        submitted = time.perf_counter()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / runs, submitted

    busy = 1000
    line(3)
    runs = max(1, min(64, int(2e-3 / line(1)[0])))
    begun = time.perf_counter()
    busy = int(2 * (line(runs)[1] - begun) * 2e9)
    return statistics.median(line(runs)[0] for _ in range(20))


def randn(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def product(rows, outer, inner):
    def run(inputs):
        if inputs is None:
            return randn(rows, inner), randn(outer, inner)
        return torch.nn.functional.linear(*inputs)

    return run


def attention(queries, keys, heads, kv_heads, width, backward):
    def run(inputs):
        if inputs is None:
            q = randn(1, heads, queries, width).requires_grad_(backward)
            k, v = (randn(1, kv_heads, keys, width).requires_grad_(backward) for _ in range(2))
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=queries > 1)
            return q, k, v, out, randn(1, heads, queries, width)
        q, k, v, out, g = inputs
        if backward:
            return torch.autograd.grad(out, (q, k, v), g, retain_graph=True)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=queries > 1)

    return run


def four_bits(rows, outer, inner):
    import bitsandbytes as bnb

    def run(inputs):
        if inputs is None:
            layer = bnb.nn.Linear4bit(inner, outer, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=True)
            return randn(rows, inner), layer.cuda()
        return inputs[1](inputs[0])

    return run


def cases():
    copy = 1 << 28

    def move(inputs):
        return (torch.empty(copy, dtype=torch.uint8, device="cuda"),) * 2 if inputs is None else inputs[0].clone()

    yield "copy 256 MiB", copy, move, 2 * copy, "GB/s"
    for model, (layers, (heads, kv_heads, width)) in MODELS.items():
        for outer, inner in layers:
            for rows in ROWS:
                work = 2 * rows * outer * inner
                name = f"{model} {rows}x{inner} · {outer}x{inner}"
                yield f"matmul {name}", 2 * outer * inner, product(rows, outer, inner), work, "TFLOP/s"
                yield f"nf4 {name}", outer * inner // 2, four_bits(rows, outer, inner), work, "TFLOP/s"
        for n in (512, 1780):
            work = 2 * n * n * heads * width
            size = 8 * n * heads * width
            yield f"attention {model} {n}", size, attention(n, n, heads, kv_heads, width, False), work, "TFLOP/s"
            yield f"attention_grad {model} {n}", size, attention(n, n, heads, kv_heads, width, True), 5 * work // 2, "TFLOP/s"
        yield f"attention {model} 1 of 512", 4 * 512 * kv_heads * width, attention(1, 512, heads, kv_heads, width, False), 4 * 512 * heads * width, "TFLOP/s"


def main():
    rows = []
    for name, size, run, work, unit in cases():
        try:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.set_grad_enabled("_grad" in name):
                each = seconds(run, size)
        except ImportError:
            continue  # no bitsandbytes
        except RuntimeError as error:
            # PyTorch's words where no backend that is allowed takes the case.
            if not name.startswith("attention") or "No available kernel" not in str(error):
                raise
            print(f"{name:<48} missing: no flash kernel", flush=True)
            rows.append({"case": name, "missing": str(error)})
            continue
        rate = work / each / (1e9 if unit == "GB/s" else 1e12)
        print(f"{name:<48} {each * 1e6:>10.1f} µs {rate:>9.2f} {unit}", flush=True)
        rows.append({"case": name, "seconds": each, "rate": rate, "unit": unit})
    run = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(), "rows": rows}
    with open(sys.argv[1], "w") as file:
        json.dump(run, file)


if __name__ == "__main__":
    main()
