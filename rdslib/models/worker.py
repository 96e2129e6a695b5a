"""One of the processes that a model is trained on: `accelerate launch ... -m rdslib.models.worker FOLDER`.

accelerate's FSDP keeps a part of the float32 weights and of Adam's moments in each process. They begin where
`MasterAdamW`'s copies do, the model computes with them rounded to bfloat16, and gradients are summed in
float32: what one process does, but for the order of sums.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, DistributedType
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer, TrainerCallback

from rdslib.data.pool import PoolFile
from rdslib.errors import UserError
from rdslib.files import CHECKPOINTS, write_json
from rdslib.models.device import compute_dtype, device
from rdslib.models.launch import ERROR, JOB, PROGRESS, RESULT, SAMPLES, WHOLE
from rdslib.models.loading import fault, load_causal_lm, load_tokenizer
from rdslib.models.optimizer import within_rounding
from rdslib.models.train import IGNORE, Report, counts_of, rows_of, save, tokens_of, trainer_of
from rdslib.params import Train
from rdslib.processes import end_with_parent


def main(folder: Path) -> None:
    """Train as the job of a folder says; the first process writes the model and the counts."""
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    params, seed, out = Train.model_validate_json(json.dumps(job["params"])), job["seed"], Path(job["out"])
    if device().type == "cpu":
        _shard_on_processors()
    state = PartialState(cpu=device().type == "cpu")  # which gives each process its GPU
    tokenizer, samples = load_tokenizer(Path(job["model_path"])), PoolFile(folder / SAMPLES)[:]
    rows = rows_of(tokenizer, samples, params, seed)
    # A whole number of micro-batches for each: what is put in has nothing to be trained on.
    empty = {"input_ids": [tokenizer.eos_token_id], "labels": [IGNORE]}
    lacking = -len(rows) % (params.micro_batch_size * state.num_processes)
    torch.manual_seed(seed)
    model = load_causal_lm(Path(job["model_path"])).train()
    if model.dtype == torch.bfloat16:
        generator = torch.Generator().manual_seed(seed)
        for weight in model.parameters():
            weight.data = within_rounding(weight.data, generator)
    reports = [Report(_Told(), params.epochs * tokens_of(rows))] if state.is_main_process else []
    trainer = trainer_of(
        model,
        tokenizer,
        rows + lacking * [empty],
        params,
        seed,
        params.batch_size // (params.micro_batch_size * state.num_processes),
        state.num_processes,
        callbacks=[*reports, _Checkpoints(state)],
        output_dir=str(out / CHECKPOINTS),
        save_strategy="steps",
        save_steps=0.1,  # of all updates
        logging_strategy="steps",
        logging_steps=1,
    )
    trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=compute_dtype(), reduce_dtype=torch.float32
    )
    trainer.train(resume_from_checkpoint=job["resume"])
    _save(trainer, out)
    if state.is_main_process:
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found = counts_of(samples, rows, params, trainer.state.global_step, sum(losses) / len(losses))
        write_json(folder / RESULT, {**found, "losses": losses})
    state.destroy_process_group()


def _save(trainer: Trainer, out: Path) -> None:
    """Write the whole model as one process writes it; all have a part in this."""
    model = cast("torch.nn.Module", trainer.model).to(compute_dtype())
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    if trainer.args.process_index == 0:
        # Each once: gathered, those that are tied are no longer one tensor.
        names = {name for named in (model.named_parameters(), model.named_buffers()) for name, _ in named}
        save(model, out, state_dict={name: each for name, each in weights.items() if name in names})


def _shard_on_processors() -> None:
    """Have accelerate use FSDP on processors too, where torch has it and accelerate does without."""
    made = AcceleratorState.__init__

    def make(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU and fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = make


class _Told:
    """A bar in the process that has started this one."""

    def update(self, n: int) -> None:
        print(f"{PROGRESS}update {n}", flush=True)

    def reset(self, total: int) -> None:
        print(f"{PROGRESS}reset {total}", flush=True)


class _Checkpoints(TrainerCallback):
    """Marks a checkpoint that all processes have written their parts of, and removes those before it."""

    def __init__(self, state: PartialState) -> None:
        self.state = state

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.state.wait_for_everyone()
        if self.state.is_main_process:
            last = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(last / WHOLE, self.state.num_processes)
            for each in last.parent.iterdir():
                if each != last:
                    shutil.rmtree(each)


if __name__ == "__main__":
    end_with_parent()
    job = Path(sys.argv[1])
    try:
        main(job)
    except Exception as error:
        (job / ERROR.format(os.environ.get("RANK", 0))).write_text(
            str(error if isinstance(error, UserError) else fault("it failed", error, "give another model"))
        )
        raise
