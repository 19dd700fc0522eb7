"""The README of a snapshot: how transformers and peft load it, what it is asked, and how.

The prompt in it is the very text that training and `dlm prompt` put before an answer.
"""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from dlm.batches.forms import chat_of
from dlm.model.native import FAMILIES
from dlm.model.quantize import settings
from dlm.plan.bases import Base
from dlm.plan.plan import Adapter
from dlm.store.facts import Version
from dlm.use.manifest import MANIFEST, on_hub
from dlm.use.prompt import turns_of

QUESTION = "What did the speaker say?"
CLIP = "clip.wav"

PAGE = """\
# {name}

Taught with dlm from [{source}]({link}){at}, {steps} steps, licence of the base {license}.
{holds}

## Load it

```python
{load}
```

## Ask it

Put a mono recording of {rate} Hz beside this file as `{clip}`; convert any other first:
`ffmpeg -i in.wav -ac 1 -ar {rate} {clip}`.{limit}

```python
{ask}
```

{form}
Scores, of held-out clips if there were any:

{scores}

`{manifest}` lists every file with its sha256; `dlm verify FOLDER` hashes them again.
"""

LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import {names}

base = {architecture}.from_pretrained(
    {arguments},
)
model = PeftModel.from_pretrained(base, "./adapter").eval()
processor = AutoProcessor.from_pretrained("./processor")"""

LOAD_MODEL = """\
from transformers import AutoProcessor, {architecture}

model = {architecture}.from_pretrained("./model", dtype="auto", device_map="auto").eval()
processor = AutoProcessor.from_pretrained("./processor")"""

ASK_WITH_TEXT = """\
import soundfile

sound, rate = soundfile.read("{clip}", dtype="float32")
prompt = {prompt!r}
inputs = processor(
    text=prompt,
    audio=[sound],
    sampling_rate=rate,
    add_special_tokens=False,  # the prompt has them
    return_tensors="pt",
)"""

ASK_WITH_TURNS = """\
sound = {{"type": "audio", "path": "{clip}"}}
question = {{"type": "text", "text": {question!r}}}
inputs = processor.apply_chat_template([{{"role": "user", "content": [sound, question]}}])"""

ANSWER = """
inputs = inputs.to(model.device, model.dtype)
answer = model.generate(**inputs, max_new_tokens=256, do_sample=False)
answer = answer[:, inputs["input_ids"].shape[1] :]
print(processor.batch_decode(answer, skip_special_tokens=True)[0])"""


def readme(
    base: Base,
    version: Version,
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    system: str | None,
) -> str:
    """The page for a version of a native base."""
    whole = adapter.kind == "full"
    told = sorted(version.scores.items())
    return PAGE.format(
        name=f"{base.key}-{version.name}",
        source=base.source,
        link=f"https://huggingface.co/{base.source}" if on_hub(base) else base.source,
        at=f" at `{base.revision}`" if base.revision else "",
        steps=version.steps,
        license=base.license,
        holds="It holds the whole model." if whole else "It holds the adapter, not the base.",
        load=_load(base, adapter),
        rate=base.strides.rate,
        clip=CLIP,
        limit=_limit(base),
        ask=_ask(base, tokenizer, system),
        form=_form(base),
        scores="\n".join(f"- {name}: {score:.4g}" for name, score in told)
        or "- nothing was measured",
        manifest=MANIFEST,
    )


def question(base: Base) -> str:
    """What the page asks; of a base that only transcribes, nothing."""
    return "" if base.chat == "asr" else QUESTION


def _load(base: Base, adapter: Adapter) -> str:
    architecture = FAMILIES[base.family].architecture.__name__
    if adapter.kind == "full":
        return LOAD_MODEL.format(architecture=architecture)
    names, arguments = ["AutoProcessor", architecture], [f'"{base.source}"']
    if on_hub(base) and base.revision:
        arguments.append(f'revision="{base.revision}"')
    if adapter.bits:
        names.append("BitsAndBytesConfig")
        packed = settings(adapter.bits, base, dtype=torch.float32).to_diff_dict()
        told = (f"{name}={value!r}" for name, value in packed.items() if name[0] != "_")
        arguments.append(f"quantization_config=BitsAndBytesConfig({', '.join(told)})")
    arguments += ['dtype="auto"', 'device_map="auto"']
    return LOAD_ADAPTER.format(
        architecture=architecture,
        names=", ".join(sorted(names)),
        arguments=",\n    ".join(arguments),
    )


def _limit(base: Base) -> str:
    """What transformers' processor does not do, and dlm does."""
    if base.whole_mel:
        return ""
    seconds = base.strides.window_seconds
    return f" The processor hears its first {seconds:g} s;\n`dlm prompt` hears all of it."


def _ask(base: Base, tokenizer: PreTrainedTokenizerBase, system: str | None) -> str:
    if base.chat == "mistral":
        return ASK_WITH_TURNS.format(clip=CLIP, question=QUESTION) + ANSWER
    turns = turns_of(question(base), [Path(CLIP)], base, system)
    row = chat_of(tokenizer, base).question(turns, CLIP)
    prompt = tokenizer.decode(list(row.ids), clean_up_tokenization_spaces=False)
    return ASK_WITH_TEXT.format(clip=CLIP, prompt=prompt) + ANSWER


def _form(base: Base) -> str:
    """How a sound stands in the text."""
    if base.chat == "mistral":
        return "`processor.apply_transcription_request` asks for nothing but what is said.\n"
    first = (base.before + base.placeholder + base.after).format(number=1)
    second = (base.before + base.placeholder + base.after).format(number=2)
    return f"""\
A sound stands in the prompt as `{first!r}`, the next one as `{second!r}`, and `audio` holds
as many. The processor repeats `{base.placeholder}` for each token of sound.
"""
