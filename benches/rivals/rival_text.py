"""The shapes of SmolLM2 in transformers, and prefill and greedy decode of a causal model, timed."""

import torch
import transformers
from transformers import DynamicCache, LlamaConfig

from rival_bench import measure


def _smollm2(width, inner, layers, heads, kv_heads, theta):
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


SHAPES = {
    "135m": lambda: _smollm2(576, 1536, 30, 9, 3, 100000.0),
    "1.7b": lambda: _smollm2(2048, 8192, 24, 32, 32, 130000.0),
}


def prefill(model, ids, args):
    """One pass over `ids` into an empty cache, logits of the last row only."""
    return measure(
        lambda cache: model(
            input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1
        ),
        args,
        prepare=DynamicCache,
    )


def decode(model, ids, tokens, args):
    """`tokens` greedy steps of one token each; the pass over `ids` before is not timed."""

    def context():
        cache = DynamicCache()
        out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, out.logits[:, -1:].argmax(-1)

    def steps(state):
        cache, token = state
        for _ in range(tokens):
            out = model(input_ids=token, past_key_values=cache, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)

    return measure(steps, args, prepare=context)


def random_ids(count, vocabulary):
    """Token ids that are no special token of the models used here."""
    return torch.randint(100, vocabulary - 200, (1, count))


def versions():
    """PyTorch's and transformers', as one text."""
    return f"{torch.__version__}, transformers {transformers.__version__}"
