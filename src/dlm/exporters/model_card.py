"""The README of a snapshot: how transformers and peft load it, what it is asked, and how.

The prompt in it is the very text that training and `dlm prompt` put before an answer.
"""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from dlm.batching.mistral_chat import build_chat_encoder
from dlm.exporters.manifest import EXPORT_MANIFEST_FILE, is_on_hub
from dlm.inference.engine import build_prompt_messages
from dlm.models.pretrained import MODEL_FAMILIES
from dlm.models.quantize import make_bnb_config
from dlm.plan.model_spec import ModelSpec
from dlm.plan.types import AdapterSpec
from dlm.store.records import Version

EXAMPLE_QUESTION = "What did the speaker say?"
EXAMPLE_AUDIO_FILE = "clip.wav"

MODEL_CARD_TEMPLATE = """\
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

LOAD_ADAPTER_SNIPPET = """\
from peft import PeftModel
from transformers import {names}

base = {architecture}.from_pretrained(
    {arguments},
)
model = PeftModel.from_pretrained(base, "./adapter").eval()
processor = AutoProcessor.from_pretrained("./processor")"""

LOAD_MODEL_SNIPPET = """\
from transformers import AutoProcessor, {architecture}

model = {architecture}.from_pretrained("./model", dtype="auto", device_map="auto").eval()
processor = AutoProcessor.from_pretrained("./processor")"""

PROMPT_TEXT_SNIPPET = """\
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

CHAT_TEMPLATE_SNIPPET = """\
sound = {{"type": "audio", "path": "{clip}"}}
question = {{"type": "text", "text": {question!r}}}
inputs = processor.apply_chat_template([{{"role": "user", "content": [sound, question]}}])"""

GENERATE_SNIPPET = """
inputs = inputs.to(model.device, model.dtype)
answer = model.generate(**inputs, max_new_tokens=256, do_sample=False)
answer = answer[:, inputs["input_ids"].shape[1] :]
print(processor.batch_decode(answer, skip_special_tokens=True)[0])"""


def format_model_card(
    spec: ModelSpec,
    version: Version,
    adapter: AdapterSpec,
    tokenizer: PreTrainedTokenizerBase,
    system_prompt: str | None,
) -> str:
    """The page for a version of a native base."""
    whole = adapter.kind == "full"
    told = sorted(version.scores.items())
    return MODEL_CARD_TEMPLATE.format(
        name=f"{spec.key}-{version.name}",
        source=spec.source,
        link=f"https://huggingface.co/{spec.source}" if is_on_hub(spec) else spec.source,
        at=f" at `{spec.revision}`" if spec.revision else "",
        steps=version.steps,
        license=spec.license,
        holds="It holds the whole model." if whole else "It holds the adapter, not the base.",
        load=_format_load_snippet(spec, adapter),
        rate=spec.audio_spec.sample_rate,
        clip=EXAMPLE_AUDIO_FILE,
        limit=_format_length_note(spec),
        ask=_format_prompt_snippet(spec, tokenizer, system_prompt),
        form=_format_placeholder_note(spec),
        scores="\n".join(f"- {name}: {score:.4g}" for name, score in told)
        or "- nothing was measured",
        manifest=EXPORT_MANIFEST_FILE,
    )


def get_example_question(spec: ModelSpec) -> str:
    """What the page asks; of a base that only transcribes, nothing."""
    return "" if spec.chat_format == "asr" else EXAMPLE_QUESTION


def _format_load_snippet(spec: ModelSpec, adapter: AdapterSpec) -> str:
    architecture = MODEL_FAMILIES[spec.family].architecture.__name__
    if adapter.kind == "full":
        return LOAD_MODEL_SNIPPET.format(architecture=architecture)
    names, arguments = ["AutoProcessor", architecture], [f'"{spec.source}"']
    if is_on_hub(spec) and spec.revision:
        arguments.append(f'revision="{spec.revision}"')
    if adapter.bits:
        names.append("BitsAndBytesConfig")
        packed = make_bnb_config(adapter.bits, spec, dtype=torch.float32).to_diff_dict()
        told = (f"{name}={value!r}" for name, value in packed.items() if name[0] != "_")
        arguments.append(f"quantization_config=BitsAndBytesConfig({', '.join(told)})")
    arguments += ['dtype="auto"', 'device_map="auto"']
    return LOAD_ADAPTER_SNIPPET.format(
        architecture=architecture,
        names=", ".join(sorted(names)),
        arguments=",\n    ".join(arguments),
    )


def _format_length_note(spec: ModelSpec) -> str:
    """What transformers' processor does not do, and dlm does."""
    if spec.mel_before_chunking:
        return ""
    seconds = spec.audio_spec.window_seconds
    return f" The processor hears its first {seconds:g} s;\n`dlm prompt` hears all of it."


def _format_prompt_snippet(
    spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None
) -> str:
    if spec.chat_format == "mistral":
        return (
            CHAT_TEMPLATE_SNIPPET.format(clip=EXAMPLE_AUDIO_FILE, question=EXAMPLE_QUESTION)
            + GENERATE_SNIPPET
        )
    turns = build_prompt_messages(
        get_example_question(spec), [Path(EXAMPLE_AUDIO_FILE)], spec, system_prompt
    )
    row = build_chat_encoder(tokenizer, spec).encode_prompt(turns, EXAMPLE_AUDIO_FILE)
    prompt = tokenizer.decode(list(row.input_ids), clean_up_tokenization_spaces=False)
    return PROMPT_TEXT_SNIPPET.format(clip=EXAMPLE_AUDIO_FILE, prompt=prompt) + GENERATE_SNIPPET


def _format_placeholder_note(spec: ModelSpec) -> str:
    """How a sound stands in the text."""
    if spec.chat_format == "mistral":
        return "`processor.apply_transcription_request` asks for nothing but what is said.\n"
    first = (spec.audio_prefix + spec.placeholder + spec.audio_suffix).format(number=1)
    second = (spec.audio_prefix + spec.placeholder + spec.audio_suffix).format(number=2)
    return f"""\
A sound stands in the prompt as `{first!r}`, the next one as `{second!r}`, and `audio` holds
as many. The processor repeats `{spec.placeholder}` for each token of sound.
"""
