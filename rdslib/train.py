"""Fine-tuning on a selection, through transformers and peft (paper, section 5, scaled by parameters)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

from rdslib.chat import Sample, tokenize_chat
from rdslib.device import compute_dtype, device
from rdslib.errors import UserError
from rdslib.models import load_causal_lm, load_tokenizer
from rdslib.params import Train

if TYPE_CHECKING:
    from tqdm import tqdm
    from transformers import PreTrainedModel

IGNORE = -100


def train(
    model_path: Path, samples: Sequence[Sample], params: Train, seed: int, out: Path, bar: tqdm | None = None
) -> dict[str, Any]:
    """Fine-tune the model on `samples` and save what was trained into `out`; return counts.

    The loss is on assistant tokens only. What is trained is float32, with bfloat16 autocast for the
    arithmetic where the device has it: either all weights (`full`) or LoRA matrices over frozen weights.
    Linear decay, warm-up, no weight decay. Raises UserError if no sample has a response to train on.
    """
    tokenizer = load_tokenizer(model_path)
    rows = []
    for tokens in tokenize_chat(tokenizer, [s.messages for s in samples], params.max_length):
        labels = [t if r else IGNORE for t, r in zip(tokens.ids, tokens.response, strict=True)]
        if any(tokens.response[1:]):  # the first token has nothing before it to be predicted from
            rows.append({"input_ids": tokens.ids, "labels": labels})
    if not rows:
        raise UserError(f"none of the {len(samples)} samples has a response within {params.max_length} tokens")

    torch.manual_seed(seed)
    model = _trainable(model_path, params)
    steps_per_update = -(-params.batch_size // params.micro_batch_size)
    updates = params.epochs * -(-len(rows) // (params.micro_batch_size * steps_per_update))
    arguments = TrainingArguments(
        output_dir=str(out / "unused"),
        num_train_epochs=params.epochs,
        per_device_train_batch_size=params.micro_batch_size,
        gradient_accumulation_steps=steps_per_update,
        learning_rate=params.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(params.warmup_ratio * updates),
        weight_decay=0.0,
        bf16=compute_dtype() == torch.bfloat16,
        seed=seed,
        use_cpu=device().type == "cpu",
        dataloader_pin_memory=device().type == "cuda",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    losses = _Report(bar, sum(len(r["input_ids"]) for r in rows) * params.epochs)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,  # type: ignore[arg-type]  # a list of rows is a map-style data set
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORE),
        processing_class=tokenizer,
        callbacks=[losses],
    )
    outcome = trainer.train()
    model.save_pretrained(out)
    tokens_per_epoch = sum(len(row["input_ids"]) for row in rows)
    return {
        "samples": len(rows),
        "without_response": len(samples) - len(rows),
        "training_tokens": tokens_per_epoch * params.epochs,
        "updates": outcome.global_step,
        "loss": outcome.training_loss,
    }


def load_trained(model_path: Path, trained: Path | None) -> PreTrainedModel:
    """The model as it is (`trained` None), fine-tuned, or with its LoRA matrices, ready to evaluate.

    LoRA matrices stay apart from the bfloat16 weights, whose precision would lose most of them.
    """
    if trained is None:
        return load_causal_lm(model_path)
    if (trained / "adapter_config.json").is_file():
        adapted = PeftModel.from_pretrained(load_causal_lm(model_path), str(trained))
        return adapted.get_base_model().eval()
    return load_causal_lm(trained)


def _trainable(model_path: Path, params: Train) -> torch.nn.Module:
    # Eager attention: on short sequences on a processor its backward pass is the faster one.
    attention = "eager" if device().type == "cpu" else "sdpa"
    if params.method == "full":
        return load_causal_lm(model_path, dtype=torch.float32, attention=attention).train()
    base = load_causal_lm(model_path, attention=attention)
    lora = LoraConfig(
        r=params.lora_rank,
        lora_alpha=params.lora_alpha,
        target_modules=list(params.lora_targets),
        lora_dropout=0.0,
    )
    return get_peft_model(base, lora).train()


class _Report(TrainerCallback):
    """Moves a progress bar, in tokens, after each update."""

    def __init__(self, bar: tqdm | None, tokens: int) -> None:
        self.bar = bar
        if bar is not None:
            bar.reset(total=tokens)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None and state.max_steps:
            self.bar.update(int(self.bar.total * state.global_step / state.max_steps) - self.bar.n)
