"""A causal language model of which only the last blocks are trained, so that the first ones run once."""

import copy
from typing import Any

import torch
from transformers.modeling_outputs import CausalLMOutput

from didsim import _checks
from didsim.lm.logps import evaluating

_SAME = 1e-3
"""How near the outputs of a model and of its two parts are, in nats."""


class LastBlocks(torch.nn.Module):
    """A language model with last blocks of its own on the first blocks of another, which stay as they are.

    The blocks are copied, so the other model keeps its own, and can be the reference. What comes out of the
    first blocks is kept for each sequence of tokens. So a sequence that comes up again, in a later epoch or
    another run, costs its last blocks and the head alone. Its rounding stays that of the batch in which it
    first came up. So runs in another order, and resumed ones, agree to rounding, not always to the bit. The
    normalisation after the blocks, the head and the embeddings are shared and not trained: the model is
    frozen, and put into evaluation.

    Calling it gives the outputs that the whole model gives. `generate` uses the whole model.

    Args:
        model: a causal language model of transformers whose inner model has `layers` and `norm`, as Llama,
            Mistral, Qwen and SmolLM do.
        blocks: the number of last blocks that are trained.
        kept: what another `LastBlocks` of the same model and number keeps, to share it; by default nothing.

    Attributes:
        kept: what comes out of the first blocks, `[tokens, width]` for each sequence, by its tokens. It is
            never dropped: a thousand sequences of 50 tokens take 115 MB at width 576.

    Raises:
        ValueError: there are not as many blocks, or the parts do not give what the model does.
    """

    def __init__(self, model: Any, blocks: int, kept: dict[tuple[int, ...], Any] | None = None) -> None:
        super().__init__()
        inner = getattr(model, "base_model", None)
        layers = getattr(inner, "layers", None)
        if not isinstance(layers, torch.nn.ModuleList) or not hasattr(inner, "norm"):
            raise ValueError(
                "`model` must be a causal language model of transformers with `layers` and `norm`, as Llama "
                f"and Qwen have; got {type(model).__name__}"
            )
        blocks = _checks.integer("blocks", blocks, 1, len(layers))
        own = copy.deepcopy(layers[-blocks:])
        self._first = _with(inner, layers=layers[:-blocks], norm=torch.nn.Identity())
        self._last = _with(model, **{model.base_model_prefix: _with(inner, layers=own)})
        all_blocks = torch.nn.ModuleList([*layers[:-blocks], *own])
        self._whole = _with(model, **{model.base_model_prefix: _with(inner, layers=all_blocks)})
        self.config = model.config
        self.kept = {} if kept is None else kept
        self.requires_grad_(False)
        own.requires_grad_(True)
        self.eval()
        self._check(model)

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self._whole.device

    def generate(self, *arguments: Any, **options: Any) -> Any:
        """Generate with the whole model, which has the blocks as they are now."""
        return self._whole.generate(*arguments, **options)

    def forward(self, input_ids: Any, attention_mask: Any, logits_to_keep: int = 0) -> CausalLMOutput:
        """Logits of the last `logits_to_keep` places, 0 for all. Padding stands at the right."""
        lengths = attention_mask.sum(1).tolist()
        sequences = [tuple(row[:length].tolist()) for row, length in zip(input_ids, lengths, strict=True)]
        self._keep(sequences)
        hidden = torch.nn.utils.rnn.pad_sequence([self.kept[one] for one in sequences], batch_first=True)
        missing = input_ids.shape[1] - hidden.shape[1]
        hidden = torch.nn.functional.pad(hidden, (0, 0, 0, missing))
        logits = self._last(
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            logits_to_keep=logits_to_keep,
            use_cache=False,
        ).logits
        return CausalLMOutput(logits=logits)

    @torch.no_grad()
    def _keep(self, sequences: list[tuple[int, ...]]) -> None:
        new = [one for one in dict.fromkeys(sequences) if one not in self.kept]
        if not new:
            return
        device = self.device
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in new], batch_first=True)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([len(one) for one in new])[:, None]
        out = self._first(
            input_ids=tokens.to(device), attention_mask=mask.long().to(device), use_cache=False
        ).last_hidden_state
        for one, hidden in zip(new, out, strict=True):
            self.kept[one] = hidden[: len(one)].clone()

    @torch.no_grad()
    def _check(self, model: Any) -> None:
        """Some models do more between embeddings and blocks than these parts do."""
        tokens = torch.arange(1, 4, device=self.device)[None] % model.config.vocab_size
        mask = torch.ones_like(tokens)
        with evaluating(model):
            whole = model(input_ids=tokens, attention_mask=mask).logits.log_softmax(-1)
        parts = self(tokens, mask).logits.log_softmax(-1)
        if not torch.allclose(whole, parts, atol=_SAME):
            raise ValueError(
                f"`model` must be the sum of its blocks; {type(model).__name__} gives log-probabilities that "
                f"differ by {float((whole - parts).abs().max()):.2g} nats from those of its blocks"
            )


def _with(module: Any, **parts: Any) -> Any:
    """A module that shares all with another, but for some parts."""
    changed = copy.copy(module)
    changed._modules = {**module._modules, **parts}
    return changed
