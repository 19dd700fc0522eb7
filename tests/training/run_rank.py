"""One rank of a run, as a process: `python run_rank.py RANK NUM_RANKS PORT DOCUMENT OUT`."""

import os
import sys
from pathlib import Path

rank, num_ranks, port, document, out_path = sys.argv[1:]
if num_ranks != "1":
    os.environ.update(
        RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=num_ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
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
preflight = run_preflight(Path(document))
plan = preflight.require_plan()
model = load_model(plan.model)
extractor = AudioFeatureExtractor(plan.batches.spec, auto_resample=False)
batches = build_batches(
    list(preflight.train_examples),
    plan.batches,
    ChatEncoder(model.tokenizer, model.spec),
    extractor,
)
callbacks = TrainerCallbacks(save_version_fn=lambda folder: None)
losses = [
    event.loss
    for event in train_model(model, batches, plan.training, callbacks)
    if isinstance(event, StepCompleted)
]
if rank == "0":
    tensors = {
        name: event.detach().clone() for name, event in get_trainable_parameters(model).items()
    }
    save_file({**tensors, "losses": torch.tensor(losses)}, out_path)
