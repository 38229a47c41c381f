"""Make a tiny Llama model with random weights and its own tokenizer: a real model, no download.

Run by the engine's own Python (torch and transformers), never by the project's. The tokenizer is
byte-level without merges, so one byte of text is one token: long prompts are cheap to write and a
token count can be checked by hand. There is no end-of-sequence token, so an answer always runs to
its `max_tokens`, and the test knows what to expect.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch  # pyright: ignore[reportMissingImports]  # only in the engine's own environment
from tokenizers import (  # pyright: ignore[reportMissingImports]  # the same
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
)
from transformers import (  # pyright: ignore[reportMissingImports]  # the same
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CONTEXT_TOKENS = 2048


def make_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def make_model(vocabulary_size: int) -> LlamaForCausalLM:
    """About 100 thousand parameters: an answer of 32 tokens takes a fraction of a second."""
    torch.manual_seed(20261101)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT_TOKENS,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    model.generation_config.do_sample = False
    return model


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model(len(tokenizer)).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
