"""transformers models with random weights whose linear maps are bitsandbytes NF4.

A model is shaped without storage first; then each linear map gets random 16-bit weights that
are quantised at once and dropped, so that the 16-bit model never lies in memory as a whole. What transformers
leaves in 16 bits (the head, embeddings, norms, the patch convolution) stays in 16 bits here.
"""

import ctypes
import gc
import re

import accelerate
import bitsandbytes
import torch

STATUS = "/proc/self/status"


def resident():
    """Bytes of this process in memory, or an empty dict where it isn't told.

    `now`, of it `files` (libraries mapped from disk, which a CUDA build of PyTorch has plenty of),
    and the `peak`.
    """
    try:
        with open(STATUS, encoding="ascii") as status:
            found = dict(re.findall(r"^(VmRSS|VmHWM|RssFile):\s+(\d+) kB$", status.read(), re.MULTILINE))
    except OSError:
        return {}
    names = {"now": "VmRSS", "files": "RssFile", "peak": "VmHWM"}
    return {name: int(found[key]) * 1024 for name, key in names.items()}


def release():
    """Gives freed memory back to the system, so that leftovers of loading don't count as the rival's."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # not glibc


def restart_peak():
    """Sets the peak of `resident` to what is resident now; False where that isn't allowed."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as clear:
            clear.write("5")
    except OSError:
        return False
    return True


def _normal(like, dtype, deviation=0.02):
    return torch.empty(like.shape, dtype=dtype).normal_(0.0, deviation)


def _quantised(linear, dtype, compute, double):
    """The map with as many random weights (biases too), in NF4 blocks of 64."""
    bias = linear.bias is not None
    found = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=bias,
        compute_dtype=compute,
        compress_statistics=double,
        quant_type="nf4",
        device="meta",
    )
    weight = bitsandbytes.nn.Params4bit(
        _normal(linear.weight, dtype),
        requires_grad=False,
        compress_statistics=double,
        quant_type="nf4",
        module=found,
    )
    found.weight = weight.to(torch.get_default_device())  # quantises, and the 16-bit weight goes with this frame
    if bias:
        found.bias = torch.nn.Parameter(torch.zeros(linear.out_features, dtype=dtype), requires_grad=False)
    return found


def _filled(module, dtype):
    """Gives a module's own parameters random values, or those of a fresh norm."""
    norm = "Norm" in type(module).__name__
    for name, shape in list(module.named_parameters(recurse=False)):
        if name == "bias":
            value = torch.zeros(shape.shape, dtype=dtype)
        elif norm:
            value = torch.ones(shape.shape, dtype=dtype)
        else:
            value = _normal(shape, dtype)
        module.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))


def build(model_class, config, dtype=torch.bfloat16, compute=torch.bfloat16, double=True):
    """`model_class(config)` with every linear map but the head in NF4, everything else in `dtype`."""
    with accelerate.init_empty_weights(include_buffers=False):
        model = model_class(config)
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear) and child is not head:
                setattr(parent, name, _quantised(child, dtype, compute, double))
        if not isinstance(parent, torch.nn.Linear) or parent is head:
            _filled(parent, dtype)
    model.tie_weights()
    missing = [name for name, value in model.state_dict().items() if value.is_meta]
    if missing:
        raise RuntimeError(f"tensors without storage: {missing}")
    # What transformers sets after loading with a bitsandbytes configuration; PEFT looks for it.
    model.is_loaded_in_4bit = True
    return model


def quantised_weights(model):
    """Weights in NF4 and their bytes with scales and tables."""
    count = size = 0
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            count += module.in_features * module.out_features
            tensors = module.weight.quant_state.as_dict(packed=True).values()
            size += module.weight.nbytes + sum(value.nbytes for value in tensors)
    return count, size
