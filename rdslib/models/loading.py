"""Loading a language model on this device, and turning what was downloaded into a plain model folder."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from safetensors import safe_open
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)

from rdslib.errors import MEMORY, UserError, reason_of
from rdslib.models.device import compute_dtype, device, keep_freed_memory
from rdslib.models.folder import check_files, folder_of
from rdslib.params import RandomModel

if TYPE_CHECKING:
    from gguf import GGUFReader
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
# What peft does of itself, and no user can change: it asks for something by an old name, and sees which way
# round a layer has its weights. What an adapter lacks is an error here (`load_adapter`).
warnings.filterwarnings(
    "ignore", message="`is_gradient_checkpointing` is deprecated|fan_in_fan_out is set|Found missing adapter"
)

# What `torch.compile` and parallel training put before the names of weights.
PREFIX = re.compile(r"^(?:_orig_mod\.|module\.|_fsdp_wrapped_module\.)+")
# What to do about a fault, by what the libraries say of it.
CURES = {
    "trust_remote_code|custom code": "it runs code that comes with it, and this is not allowed here: give a "
    "model of an architecture that transformers has",
    "untagged enum|ModelWrapper": "its tokenizer.json is newer than this library: pip install -U tokenizers "
    "transformers, or save it with the version here",
    "deserializing|incomplete|invalid header|header too": "a file of weights is cut short: copy or download "
    "the model again",
    "no file named|safetensors": "save it with `save_pretrained`, which writes safetensors",
    "(?i)quantiz|gptq|awq|bitsandbytes|compressed": "install the package that its quantisation needs, or "
    "give the model that is not quantised",
    "does not recognize|model type|architecture": "pip install -U transformers, or give a causal language "
    "model",
    f"(?i)memory|{'|'.join(MEMORY)}": "use a device with more memory, smaller batches (encode.token_budget) "
    "or a smaller model",
}
LOADABLE = "give the folder of a saved model, or a hub name while online"


def fault(what: str, error: Exception, cure: str = LOADABLE) -> UserError:
    """Say in one line what went wrong with a model, and what to do."""
    reason = reason_of(error)
    cure = next((each for pattern, each in CURES.items() if re.search(pattern, str(error))), cure)
    return UserError(f"{what} ({reason}); {cure}")


@contextmanager
def running(name: str | Path | None) -> Iterator[None]:
    """Name the model where it fails as it computes, for want of memory or at a token it does not know."""
    try:
        yield
    except (RuntimeError, IndexError) as error:
        raise fault(f"model {name}: cannot compute", error, "give another model, or --device") from error


def load_config(name: str | Path) -> PretrainedConfig:
    """Load the parameters of a model, whose code is never run."""
    folder = folder_of(name, weights=False)
    check_files(folder)
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # whatever the readers of its files raise
        raise fault(f"model {name}: cannot be loaded", error) from error


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer of a model folder or hub name, padding on the right.

    Its `model_max_length` is how many positions the model has, whatever the tokenizer's files say.
    """
    config = load_config(name).get_text_config()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder_of(name, weights=False)), trust_remote_code=False
        )
    except Exception as error:  # whatever the readers of its files raise
        raise fault(f"model {name}: its tokenizer cannot be loaded", error) from error
    if tokenizer.eos_token is None or not tokenizer.is_fast:
        raise UserError(
            f"model {name}: needs a fast tokenizer with an end-of-sequence token; save one in its folder"
        )
    # Of tokens for padding and the like, which no text has, there may be more.
    last = max({*tokenizer.get_vocab().values()} - {*tokenizer.all_special_ids} | {tokenizer.eos_token_id})
    if last >= config.vocab_size:
        raise UserError(
            f"model {name}: its tokenizer has token {last}, and it has {config.vocab_size} embeddings; "
            "save the tokenizer that it was trained with, or resize its embeddings (resize_token_embeddings)"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = getattr(config, "max_position_embeddings", None) or 10**30
    return tokenizer


def load_causal_lm(
    name: str | Path,
    dtype: torch.dtype | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    load_in_8bit: bool = False,
) -> PreTrainedModel:
    """Load a causal language model in evaluation mode on this device, in `dtype` or `compute_dtype`.

    Or, with a `device_map` of accelerate's, over all GPUs, and what does not fit there in memory or on disk;
    with `load_in_8bit` by bitsandbytes, its weights rounded to 8 bits.

    Raises:
        UserError: It cannot be loaded, or its weights are not those of its architecture.
    """
    keep_freed_memory()
    folder = folder_of(name)
    check_files(folder)
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"model {name}: is a LoRA adapter; merge it into its model (`merge_and_unload`), and give that"
        )
    # On short samples a processor is a third faster with plain attention than with the fused kernel.
    attention = "eager" if device().type == "cpu" else "sdpa"
    options: dict[str, Any] = {"dtype": dtype or compute_dtype(), "attn_implementation": attention}
    if load_in_8bit:
        if find_spec("bitsandbytes") is None:
            raise UserError("load_in_8bit: needs the package bitsandbytes; run `pip install bitsandbytes`")
        # Which says at every multiplication that it is done in float16.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    spread = device_map is not None or load_in_8bit
    if spread:
        options["device_map"] = device_map or {"": device()}
    try:
        with checked_weights(name):
            model = AutoModelForCausalLM.from_pretrained(
                str(folder), **options, use_safetensors=True, trust_remote_code=False
            )
        model = (model if spread else model.to(device())).eval()  # type: ignore[arg-type]
    except UserError:
        raise
    except Exception as error:  # whatever the readers of its files raise
        raise fault(f"model {name}: cannot be loaded", error) from error
    return cast("PreTrainedModel", model)


@contextmanager
def checked_weights(name: str | Path, missing: str = "(?!)", unexpected: str = "(?!)") -> Iterator[None]:
    """Have every model that transformers loads in this context checked: by default what is missing is random.

    Known prefixes are taken off the names of weights. Those that match `missing` may be missing, those that
    match `unexpected` may be left over.

    Raises:
        UserError: Weights are missing, left over, of another shape or no numbers.
    """
    loads = PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: type[PreTrainedModel], path: Any, *args: Any, **options: Any) -> Any:
        asked = options.pop("output_loading_info", False)
        prefixed = "gguf_file" not in options and _prefixed(Path(str(path)))
        if prefixed:
            options["key_mapping"] = {PREFIX.pattern: ""}
        model, info = loads.__func__(
            cls, path, *args, **{**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
        )
        if prefixed:
            model._weight_conversions = None  # which would put the prefix back as the model is saved
        _check(name, model, info, {"missing": missing, "unexpected": unexpected, "mismatched": "(?!)"})
        return (model, info) if asked else model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = loads  # type: ignore[method-assign]


def _prefixed(folder: Path) -> bool:
    """Whether names of weights have a known prefix."""
    for file in sorted(folder.glob("*.safetensors"))[:1]:
        with safe_open(file, "pt") as weights:
            return any(PREFIX.match(key) for key in weights.keys())  # noqa: SIM118  # it is no mapping
    return False


def _check(
    name: str | Path, model: PreTrainedModel, info: Mapping[str, Any], spare: Mapping[str, str]
) -> None:
    """Raise UserError if weights are not those of the model's architecture, or are no numbers."""
    wrong = []
    for kind, fine in spare.items():
        keys = sorted(each if isinstance(each, str) else each[0] for each in info[f"{kind}_keys"])
        if keys := [key for key in keys if not re.search(fine, key)]:
            wrong.append(f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
    wrong += [" ".join(str(each).split())[:200] for each in info["error_msgs"]]
    if wrong:
        raise UserError(
            f"model {name}: its weights are not those of {type(model).__name__}: {', '.join(wrong)}; save it "
            "again with `save_pretrained`, or correct its config.json"
        )
    for key, weight in model.named_parameters():
        # What is on disk (meta) is not read here; `forward` sees what comes of it.
        if not weight.is_floating_point() or weight.is_meta or not weight.numel():
            continue
        if not all(map(torch.isfinite, weight.aminmax())):
            raise UserError(f"model {name}: its weights {key} are not all numbers (NaN); give a sound model")


def load_adapter(model: PreTrainedModel | PeftModel, folder: Path, name: str = "default") -> PeftModel:
    """Put the LoRA matrices of a folder on a model, as an adapter of some name.

    Raises:
        UserError: They cannot be loaded, or are not those that the folder's configuration asks for.
    """
    from peft import PeftModel, get_peft_model_state_dict  # which selection by states does without

    cure = "train it again"
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
        with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
            found = set(weights.keys())
    except Exception as error:  # whatever peft and the readers of its files raise
        raise fault(f"adapter {folder}: cannot be loaded", error, cure) from error
    asked = get_peft_model_state_dict(model, adapter_name=name)
    wrong = [
        f"{len(keys)} {kind} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", asked.keys() - found), ("unexpected", found - asked.keys()))
        if keys
    ]
    wrong += [f"{key} not all numbers (NaN)" for key, each in asked.items() if not each.isfinite().all()][:1]
    if wrong:
        raise UserError(
            f"adapter {folder}: its weights are not those of its adapter_config.json on this model: "
            f"{', '.join(wrong)}; {cure}"
        )
    return model


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
    # Its bar, which no setting turns off.
    modeling_gguf_pytorch_utils.tqdm = partial(tqdm, disable=True)  # type: ignore[attr-defined, assignment]
    try:
        header = _gguf_header(file)
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        _check_size(config, header)
        with checked_weights(file):
            source = AutoModelForCausalLM.from_pretrained(
                file.parent, config=config, gguf_file=file.name, dtype=torch.bfloat16, trust_remote_code=False
            )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # whatever the readers of the file and of its model raise
        reason = reason_of(error)
        raise UserError(f"model {file}: cannot be read as a GGUF model ({reason}); give another") from error
    if not isinstance(source, LlamaForCausalLM):
        raise UserError(f"model {file}: is a GGUF of {type(source).__name__}, not of a Llama; give a folder")
    config = LlamaConfig(**{k: v for k, v in source.config.to_dict().items() if k != "quantization_config"})
    config._name_or_path = ""
    _scale_positions(config, file, header)
    model = LlamaForCausalLM(config).to(torch.bfloat16)  # type: ignore[arg-type]
    model.load_state_dict(source.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _gguf_header(file: Path) -> GGUFReader:
    """Read the header of a GGUF file; one that says it goes on beyond its end raises ValueError."""
    from gguf import GGUFReader

    class Bounded(GGUFReader):  # which itself finds as many values there as it is told there are
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            found = super()._get(offset, dtype, count, override_order)
            if len(found) < count:
                raise ValueError("it is cut short")
            return found

    return Bounded(file)


def _check_size(config: PretrainedConfig, header: GGUFReader) -> None:
    """Raise ValueError if a model asks for far more memory than its file has weights."""
    blocks = {tensor.name.split(".")[1] for tensor in header.tensors if tensor.name.startswith("blk.")}
    if config.num_hidden_layers > len(blocks):
        raise ValueError(f"it is said to have {config.num_hidden_layers} blocks, and has {len(blocks)}")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    asked, there = model.num_parameters(), sum(tensor.n_elements for tensor in header.tensors)
    if asked > 2 * there:  # what is missing otherwise is named as it is loaded
        raise ValueError(f"it is said to have {asked:,} weights, and has {there:,}")


def _scale_positions(config: LlamaConfig, file: Path, header: GGUFReader) -> None:
    """Put in how a GGUF file scales rotary positions, which transformers does not read.

    Llama 3.1 and 3.2 have a divisor for each frequency; which parameters give these is tried, and checked.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    unknown = UserError(
        f"model {file}: scales positions in a way that is not read from a GGUF file; give the model's folder"
    )
    kind = header.fields.get("llama.rope.scaling.type")
    if kind is not None and kind.contents() != "none":
        raise unknown
    for divisors in (each.data for each in header.tensors if each.name == "rope_freqs.weight"):
        given: dict[str, Any] = dict(config.rope_parameters or {})
        size = config.head_dim or config.hidden_size // config.num_attention_heads
        plain = given["rope_theta"] ** -(torch.arange(0, size, 2) / size)
        config.rope_parameters = {
            **given,
            "rope_type": "llama3",
            "factor": float(divisors.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
        if not torch.allclose(plain / scaled, torch.tensor(divisors), rtol=1e-3):
            raise unknown


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
