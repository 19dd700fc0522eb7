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

from dlm.batches.bucket import pack  # noqa: E402
from dlm.batches.chat import Chat  # noqa: E402
from dlm.features.ear import Ear  # noqa: E402
from dlm.model.adapters import learning  # noqa: E402
from dlm.model.load import load  # noqa: E402
from dlm.training.events import Step  # noqa: E402
from dlm.training.fit import Hooks, fit  # noqa: E402
from dlm.verbs.prepare import prepare  # noqa: E402

torch.set_num_threads(1)
checked = prepare(Path(document))
plan = checked.insist()
model = load(plan.model)
ear = Ear(plan.batches.base, auto_resample=False)
batches = pack(list(checked.learn), plan.batches, Chat(model.tokenizer, model.base), ear)
hooks = Hooks(finish=lambda folder: None)
losses = [each.loss for each in fit(model, batches, plan.training, hooks) if isinstance(each, Step)]
if rank == "0":
    tensors = {name: each.detach().clone() for name, each in learning(model).items()}
    save_file({**tensors, "losses": torch.tensor(losses)}, out)
