"""Fine-tuning on a selection, through transformers and peft (paper, section 5, scaled by parameters)."""

from __future__ import annotations

import functools
import gc
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from rdslib.data.chat import Sample, tokenize_chat
from rdslib.errors import UserError
from rdslib.files import MANIFEST, write_json
from rdslib.models.device import compute_dtype, device
from rdslib.models.launch import Bar, launch
from rdslib.models.loading import load_adapter, load_causal_lm, load_tokenizer
from rdslib.models.optimizer import MasterAdamW
from rdslib.params import Train
from rdslib.seeds import generator

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORE = -100
# Gradients are scaled down to this norm.
MAX_NORM = 1.0
# Of a sample: `input_ids`, and `labels`, which are these or `IGNORE`.
Row = dict[str, list[int]]


def train(
    model_path: Path,
    samples: Sequence[Sample],
    params: Train,
    seed: int,
    out: Path,
    bar: Bar | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    base: PreTrainedModel | None = None,
) -> dict[str, Any]:
    """Fine-tune the model on samples and save what was trained.

    The loss is on assistant tokens only. Where the device has bfloat16, the arithmetic is in it: all weights
    (`full`) are bfloat16 with float32 copies that take the updates, LoRA matrices are float32 under autocast.
    Linear decay, warm-up, no weight decay. The seed is for the order of samples, new weights, dropout and
    where float32 copies begin. `base` is the model, where it is loaded already and LoRA matrices are trained;
    it is left as it was.

    Returns:
        Counts for a manifest: samples, those without a response, tokens, updates, mean loss.

    Raises:
        UserError: No sample has a response to train on.
    """
    if params.accelerate is not None:
        found = launch(model_path, samples, params, seed, out, bar)
        return {name: each for name, each in found.items() if name != "losses"}
    _set_imports_aside()
    tokenizer = load_tokenizer(model_path)
    rows = rows_of(tokenizer, samples, params, seed)
    torch.manual_seed(seed)
    model = _trainable(model_path, params, base)
    steps = -(-params.batch_size // params.micro_batch_size)
    rate = {"lr": params.learning_rate, "weight_decay": 0.0}
    optimizer = None
    if params.method == "full" and model.dtype == torch.bfloat16:
        optimizer = MasterAdamW(model.parameters(), MAX_NORM, seed, **rate)
    trainer = trainer_of(
        model,
        tokenizer,
        rows,
        params,
        seed,
        steps,
        optimizer=optimizer,
        callbacks=[*([Report(bar, params.epochs * tokens_of(rows))] if bar is not None else []), *callbacks],
        bf16=params.method == "lora" and compute_dtype() == torch.bfloat16,
        output_dir=str(out / "unused"),
        save_strategy="no",
        logging_strategy="no",
    )
    outcome = trainer.train()
    save(model, out)
    if isinstance(model, PeftModel):
        model.unload()
    return counts_of(samples, rows, params, outcome.global_step, outcome.training_loss)


@functools.cache
def _set_imports_aside() -> None:
    """Keep the objects of imported modules, which stay, out of garbage collections.

    There are a million. accelerate collects several times a training, each time for 0.2 s otherwise.
    """
    gc.collect()
    gc.freeze()


def counts_of(
    samples: Sequence[Sample], rows: Sequence[Row], params: Train, updates: int, loss: float
) -> dict[str, Any]:
    """Count for a manifest what a training was."""
    return {
        "samples": len(rows),
        "without_response": len(samples) - len(rows),
        "training_tokens": params.epochs * tokens_of(rows),
        "updates": updates,
        "loss": loss,
    }


def rows_of(
    tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], params: Train, seed: int
) -> list[Row]:
    """Tokenise samples, in the order in which they are trained on; those without a response are left out.

    Raises:
        UserError: None has a response.
    """
    rows = []
    for tokens in tokenize_chat(tokenizer, [s.messages for s in samples], params.max_length):
        labels = [t if r else IGNORE for t, r in zip(tokens.ids, tokens.response, strict=True)]
        if any(tokens.response[1:]):  # the first token has nothing before it to be predicted from
            rows.append({"input_ids": tokens.ids, "labels": labels})
    if not rows:
        raise UserError(
            f"none of the {len(samples)} samples has a response within {params.max_length} tokens"
        )
    return _by_length(rows, params.micro_batch_size, seed)


def tokens_of(rows: Sequence[Row]) -> int:
    """Count the tokens of an epoch."""
    return sum(len(row["input_ids"]) for row in rows)


def trainer_of(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    params: Train,
    seed: int,
    steps: int,
    processes: int = 1,
    optimizer: torch.optim.Optimizer | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **options: Any,
) -> Trainer:
    """Set up transformers' training loop.

    An update takes `steps` micro-batches of each of the `processes`; `options` are `TrainingArguments` more.
    """
    updates = params.epochs * -(-len(rows) // (params.micro_batch_size * steps * processes))
    # As transformers calls it, or called it before.
    saving = {f"{each}_checkpointing" for each in ("activation", "gradient")}
    saving &= {each.name for each in fields(TrainingArguments)}
    options[min(saving)] = params.gradient_checkpointing
    arguments = TrainingArguments(
        num_train_epochs=params.epochs,
        per_device_train_batch_size=params.micro_batch_size,
        gradient_accumulation_steps=steps,
        learning_rate=params.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(params.warmup_ratio * updates),
        weight_decay=0.0,
        max_grad_norm=MAX_NORM,
        seed=seed,
        use_cpu=device().type == "cpu",
        dataloader_pin_memory=device().type == "cuda",
        report_to="none",
        train_sampling_strategy="sequential",
        disable_tqdm=True,
        **options,
    )
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    trainer = Trainer(
        model=model,
        optimizers=(optimizer, None),
        args=arguments,
        train_dataset=rows,  # a list of rows is a map-style data set
        data_collator=_ResponseCollator(tokenizer, label_pad_token_id=IGNORE),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def save(model: torch.nn.Module, folder: Path, **options: Any) -> None:
    """Write a model, or the LoRA matrices of one, to `folder`: the same bytes wherever it is run.

    peft lists target modules in an order that differs between processes, and names the base model's folder.
    """
    model.save_pretrained(folder, **options)  # type: ignore[operator]  # a module's attributes are untyped
    if is_adapter(folder):
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text())
        config["target_modules"] = sorted(config["target_modules"])
        config["base_model_name_or_path"] = None
        write_json(path, config)
        (folder / "README.md").unlink(missing_ok=True)


def merge(base: Path, trained: Path, out: Path) -> None:
    """Write what a training has left as a plain model folder, with the tokenizer of its base model.

    LoRA matrices are added to their weights in float32, whose precision keeps them.
    """
    if is_adapter(trained):
        adapted = load_adapter(load_causal_lm(base, dtype=torch.float32), trained)
        adapted.merge_and_unload().save_pretrained(out)
    else:
        shutil.copytree(trained, out, ignore=shutil.ignore_patterns(MANIFEST))
    load_tokenizer(base).save_pretrained(out)


def is_adapter(trained: Path) -> bool:
    """Tell whether a folder has LoRA matrices rather than a whole model."""
    return (trained / "adapter_config.json").is_file()


def _trainable(model_path: Path, params: Train, base: PreTrainedModel | None) -> torch.nn.Module:
    if params.method == "full":
        return load_causal_lm(model_path).train()
    base = base or load_causal_lm(model_path)
    if any(weight.is_meta for weight in base.parameters()):
        raise UserError(
            f"model {model_path}: does not fit this machine's GPUs, and a part that is not on one cannot be "
            "trained; use more GPUs, or a smaller model"
        )
    lora = LoraConfig(
        r=params.lora_rank,
        lora_alpha=params.lora_alpha,
        target_modules=list(params.lora_targets),
        layers_to_transform=list(range(base.config.num_hidden_layers))[-params.lora_layers :],
        lora_dropout=params.lora_dropout,
    )
    try:
        return get_peft_model(base, lora).train()
    except ValueError as error:  # peft finds none of the layers
        raise UserError(
            f"model {model_path}: has no layers called {', '.join(params.lora_targets)}, where LoRA matrices "
            "go; name some that it has as lora_targets in a profile"
        ) from error


def _by_length(rows: list[Row], batch: int, seed: int) -> list[Row]:
    """The rows in batches of similar length, the batches in random order: less padding to compute."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]["input_ids"]), i))
    batches = [order[at : at + batch] for at in range(0, len(order), batch)]
    # Only the last batch may be short: the trainer cuts the sequence every `batch` rows.
    shuffled = sorted(
        generator(seed, "batches").permutation(len(batches)), key=lambda b: len(batches[b]) < batch
    )
    return [rows[i] for b in shuffled for i in batches[b]]


class _ResponseCollator(DataCollatorForSeq2Seq):
    """Pads a batch, and has vocabulary logits taken only where some sample has a response token next."""

    def __call__(self, features: Any, return_tensors: Any = None) -> Any:
        batch = super().__call__(features, return_tensors)
        following = batch["labels"][:, 1:]
        keep = (following != IGNORE).any(dim=0).nonzero()[:, 0]
        batch["logits_to_keep"], batch["shift_labels"] = keep, following[:, keep]
        return batch


class Report(TrainerCallback):
    """Moves a progress bar, in tokens, after each update."""

    def __init__(self, bar: Bar, tokens: int) -> None:
        self.bar, self.tokens, self.done = bar, tokens, 0
        bar.reset(tokens)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move it by the tokens of the update."""
        done = self.tokens * state.global_step // state.max_steps
        self.bar.update(done - self.done)
        self.done = done
