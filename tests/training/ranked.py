"""One rank of a run, as a process of its own: `python ranked.py RANK RANKS PORT DOCUMENT OUT`."""

import os
import sys
from pathlib import Path

rank, ranks, port, document, out = sys.argv[1:]
if ranks != "1":
    os.environ.update(
        RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
    )

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from dlm.batching.chat_template import ChatEncoder  # noqa: E402
from dlm.batching.samplers import build_batches  # noqa: E402
from dlm.commands.preflight import run_preflight  # noqa: E402
from dlm.features.extractor import AudioFeatureExtractor  # noqa: E402
from dlm.models.adapters import get_trainable_parameters  # noqa: E402
from dlm.models.load import load_model  # noqa: E402
from dlm.training.events import StepCompleted  # noqa: E402
from dlm.training.trainer import TrainerCallbacks, train_model  # noqa: E402

torch.set_num_threads(1)
checked = run_preflight(Path(document))
plan = checked.require_plan()
model = load_model(plan.model)
ear = AudioFeatureExtractor(plan.batches.spec, auto_resample=False)
batches = build_batches(
    list(checked.train_examples), plan.batches, ChatEncoder(model.tokenizer, model.spec), ear
)
hooks = TrainerCallbacks(save_version_fn=lambda folder: None)
losses = [
    each.loss
    for each in train_model(model, batches, plan.training, hooks)
    if isinstance(each, StepCompleted)
]
if rank == "0":
    tensors = {
        name: each.detach().clone() for name, each in get_trainable_parameters(model).items()
    }
    save_file({**tensors, "losses": torch.tensor(losses)}, out)
