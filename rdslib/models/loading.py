"""Loading a language model on this device, and turning what was downloaded into a plain model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rdslib.errors import UserError, reason_of
from rdslib.models.device import compute_dtype, device
from rdslib.params import RandomModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer of a model folder or hub name, padding on the right."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from error
    if tokenizer.eos_token is None or not tokenizer.is_fast:
        raise UserError(f"model {name}: needs a fast tokenizer with an end-of-sequence token")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load_causal_lm(name: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a causal language model in evaluation mode on this device, in `dtype` or `compute_dtype`."""
    # On short samples a processor is a third faster with plain attention than with the fused kernel.
    attention = "eager" if device().type == "cpu" else "sdpa"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(name), dtype=dtype or compute_dtype(), attn_implementation=attention
        )
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from error
    return cast("PreTrainedModel", model.to(device()).eval())  # type: ignore[arg-type]


def non_embedding_parameters(model: PreTrainedModel) -> int:
    """Count N of the cost model (paper, appendix E): the parameters that every token is multiplied with."""
    outside = [model.get_input_embeddings(), model.get_output_embeddings()]
    # By identity: on the meta device all parameters have the same address.
    tables = {id(p) for module in outside if module is not None for p in module.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in tables)


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF Llama model as a plain bfloat16 safetensors folder with its tokenizer.

    transformers reads a GGUF file but does not save what it read, so the weights move to a plain model.
    Raises UserError for a file that is not such a model.
    """
    try:
        source = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # whatever the readers of the file and of its model raise
        reason = reason_of(error)
        raise UserError(f"model {file}: cannot be read as a GGUF model ({reason}); give another") from error
    if not isinstance(source, LlamaForCausalLM):
        raise UserError(f"model {file}: is a GGUF of {type(source).__name__}, not of a Llama; give a folder")
    config = LlamaConfig(**{k: v for k, v in source.config.to_dict().items() if k != "quantization_config"})
    config._name_or_path = ""
    model = LlamaForCausalLM(config).to(torch.bfloat16)  # type: ignore[arg-type]
    model.load_state_dict(source.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_random(spec: RandomModel, seed: int, folder: Path) -> None:
    """Write a random-weight Llama of a few layers with a byte-level tokenizer, for tests."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=AddedToken("</s>", special=True))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden_size,
        intermediate_size=2 * spec.hidden_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _cannot_load(name: str | Path, error: Exception) -> UserError:
    return UserError(
        f"model {name}: cannot be loaded ({reason_of(error)}); "
        "give the folder of a saved model, or a hub name while online"
    )
