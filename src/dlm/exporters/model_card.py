"""The README of a snapshot: code that loads it with transformers and peft, and prompts it.

Its prompt is the same text that training and `dlm prompt` put before an answer.
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

Trained with dlm from [{source}]({link}){revision}, {steps} steps, licence of the base {license}.
{content}

## Load it

```python
{load_snippet}
```

## Ask it

Put a mono recording of {sample_rate} Hz beside this file as `{clip}`; convert any other first:
`ffmpeg -i in.wav -ac 1 -ar {sample_rate} {clip}`.{length_note}

```python
{prompt_snippet}
```

{placeholder_note}
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

waveform, sample_rate = soundfile.read("{clip}", dtype="float32")
prompt = {prompt!r}
inputs = processor(
    text=prompt,
    audio=[waveform],
    sampling_rate=sample_rate,
    add_special_tokens=False,  # the prompt has them
    return_tensors="pt",
)"""

DECODER_PROMPT_SNIPPET = """\
import soundfile

waveform, sample_rate = soundfile.read("{clip}", dtype="float32")
inputs = processor(waveform, sampling_rate=sample_rate, return_tensors="pt")
prompt = {prompt!r}
inputs["decoder_input_ids"] = processor.tokenizer(
    prompt,
    add_special_tokens=False,  # the prompt has them
    return_tensors="pt",
).input_ids"""

GENERATE_DECODER_SNIPPET = """
inputs = inputs.to(model.device, model.dtype)
answer = model.generate(**inputs, max_new_tokens={max_new_tokens}, do_sample=False)
print(processor.batch_decode(answer, skip_special_tokens=True)[0])"""

CHAT_TEMPLATE_SNIPPET = """\
audio = {{"type": "audio", "path": "{clip}"}}
question = {{"type": "text", "text": {question!r}}}
inputs = processor.apply_chat_template([{{"role": "user", "content": [audio, question]}}])"""

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
    """Format the README of a version of a pretrained model. Raises ModelError."""
    scores = "\n".join(f"- {name}: {score:.4g}" for name, score in sorted(version.scores.items()))
    return MODEL_CARD_TEMPLATE.format(
        name=f"{spec.key}-{version.name}",
        source=spec.source,
        link=f"https://huggingface.co/{spec.source}" if is_on_hub(spec) else spec.source,
        revision=f" at `{spec.revision}`" if spec.revision else "",
        steps=version.steps,
        license=spec.license,
        content="It holds the whole model."
        if adapter.kind == "full"
        else "It holds the adapter, not the base.",
        load_snippet=_format_load_snippet(spec, adapter),
        sample_rate=spec.audio_spec.sample_rate,
        clip=EXAMPLE_AUDIO_FILE,
        length_note=_format_length_note(spec),
        prompt_snippet=_format_prompt_snippet(spec, tokenizer, system_prompt),
        placeholder_note=_format_placeholder_note(spec),
        scores=scores or "- nothing was measured",
        manifest=EXPORT_MANIFEST_FILE,
    )


def get_example_question(spec: ModelSpec) -> str:
    """Return the question of the README; nothing for a model that only transcribes."""
    return "" if spec.chat_format in ("asr", "whisper") else EXAMPLE_QUESTION


def _format_load_snippet(spec: ModelSpec, adapter: AdapterSpec) -> str:
    architecture = MODEL_FAMILIES[spec.family].architecture.__name__
    if adapter.kind == "full":
        return LOAD_MODEL_SNIPPET.format(architecture=architecture)
    names, arguments = ["AutoProcessor", architecture], [f'"{spec.source}"']
    if is_on_hub(spec) and spec.revision:
        arguments.append(f'revision="{spec.revision}"')
    if adapter.bits:
        names.append("BitsAndBytesConfig")
        config = make_bnb_config(adapter.bits, spec, dtype=torch.float32).to_diff_dict()
        options = ", ".join(f"{name}={value!r}" for name, value in config.items() if name[0] != "_")
        arguments.append(f"quantization_config=BitsAndBytesConfig({options})")
    arguments += ['dtype="auto"', 'device_map="auto"']
    return LOAD_ADAPTER_SNIPPET.format(
        architecture=architecture,
        names=", ".join(sorted(names)),
        arguments=",\n    ".join(arguments),
    )


def _format_length_note(spec: ModelSpec) -> str:
    """A note where transformers' processor cuts long audio, and dlm does not."""
    if spec.mel_before_chunking:
        return ""
    if spec.is_encoder_decoder and spec.audio_spec.pad_mode == "none":
        return " It was trained on clips without the\nsilence that the processor adds up to 30 s."
    seconds = spec.audio_spec.window_seconds
    return f" The processor takes its first {seconds:g} s;\n`dlm prompt` takes all of it."


def _format_prompt_snippet(
    spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None
) -> str:
    if spec.chat_format == "mistral":
        return (
            CHAT_TEMPLATE_SNIPPET.format(clip=EXAMPLE_AUDIO_FILE, question=EXAMPLE_QUESTION)
            + GENERATE_SNIPPET
        )
    messages = build_prompt_messages(
        get_example_question(spec), [Path(EXAMPLE_AUDIO_FILE)], spec, system_prompt
    )
    language = spec.languages[0] if spec.languages else None
    chat_encoder = build_chat_encoder(tokenizer, spec)
    encoded = chat_encoder.encode_prompt(messages, EXAMPLE_AUDIO_FILE, language)
    if spec.is_encoder_decoder:  # audio takes no place in the text
        raw_prompt = chat_encoder.decode_raw(list(encoded.input_ids[1:]))
        snippet = DECODER_PROMPT_SNIPPET.format(clip=EXAMPLE_AUDIO_FILE, prompt=raw_prompt)
        max_new_tokens = spec.context_length // 2  # of the other half a prompt may take all
        return snippet + GENERATE_DECODER_SNIPPET.format(max_new_tokens=max_new_tokens)
    prompt = tokenizer.decode(list(encoded.input_ids), clean_up_tokenization_spaces=False)
    return PROMPT_TEXT_SNIPPET.format(clip=EXAMPLE_AUDIO_FILE, prompt=prompt) + GENERATE_SNIPPET


def _format_placeholder_note(spec: ModelSpec) -> str:
    """How audio is written in the prompt."""
    if spec.chat_format == "mistral":
        return "`processor.apply_transcription_request` makes a request for the transcript alone.\n"
    if spec.is_encoder_decoder:
        one_language = "It knows one language: the prompt names none.\n"
        any_language = (
            f"`<|{spec.languages[0]}|>` in the prompt is the language of the recording.\n"
        )
        return any_language if len(spec.languages) > 1 else one_language
    first, second = (
        spec.format_audio_prefix(number) + spec.placeholder + spec.audio_suffix for number in (1, 2)
    )
    return f"""\
The first recording is `{first!r}` in the prompt, the next one
`{second!r}`, and `audio` holds as many. The processor repeats
`{spec.placeholder}` for each audio token.
"""
