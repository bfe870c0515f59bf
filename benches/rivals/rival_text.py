"""Prefill and greedy decode of a transformers causal model, timed."""

import torch
from transformers import DynamicCache

from rival_bench import measure


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
