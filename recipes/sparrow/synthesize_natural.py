"""Render the clips of natural voices, Kokoro-82M and Piper, in an environment that has both.

    VENV/bin/python recipes/sparrow/synthesize_natural.py --work DIR --voices VOICES --engine kokoro

reads `DIR/natural.jsonl` of synthesize_speech.py and writes `DIR/natural/<split>/<number>.flac`,
at the voice's own rate and not augmented. VOICES holds `kokoro.onnx` and `voices.npz` (Kokoro-82M,
Apache-2.0), and `joe.onnx` with `joe.onnx.json` (Piper's voice joe). A clip that exists is not
rendered again, so it may be stopped at any time and run again.

The environment has kokoro-onnx, piper-tts, soundfile, onnx and openvino. Kokoro's weights are 8-bit
integers in its file; its convolutions are run here as OpenVINO runs them best on the machine, in
bf16 where it is fast. On one core with AMX that is 2.9 times real time, and 1.1 with onnxruntime on
the file as it is; Whisper tiny.en writes the same words down.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import Process
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import soundfile
from onnx import helper, numpy_helper

LOG_CLIPS = 50

RenderFn = Callable[[dict], tuple[np.ndarray, int]]  # manifest row -> samples, sample rate


def render_clips(
    work_dir: Path, voices_dir: Path, engine: str, minutes: float, part: int, num_parts: int
) -> None:
    """Render clips of an engine that do not exist, in the manifest's order, for `minutes`.

    Args:
        work_dir: has the manifest, and gets the clips.
        voices_dir: the models.
        engine: kokoro or piper.
        minutes: then it stops, to be continued.
        part: of `num_parts`, the clips of this process.
        num_parts: processes that share the clips.
    """
    lines = (work_dir / "natural.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["engine"] == engine][part::num_parts]
    render_fn = (_load_kokoro if engine == "kokoro" else _load_piper)(voices_dir)
    start, rendered, seconds = time.monotonic(), 0, 0.0
    for row in rows:
        path = work_dir / row["natural"]
        if path.exists():
            continue
        samples, sample_rate = render_fn(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        temp_path = path.with_suffix(".part")
        soundfile.write(temp_path, samples, sample_rate, subtype="PCM_16", format="FLAC")
        temp_path.replace(path)
        rendered, seconds = rendered + 1, seconds + len(samples) / sample_rate
        elapsed = time.monotonic() - start
        if rendered % LOG_CLIPS == 0:
            print(
                f"{engine}: {rendered} clips, {seconds / elapsed:.2f} times real time", flush=True
            )
        if elapsed > 60 * minutes:
            break


def _load_kokoro(voices_dir: Path) -> RenderFn:
    from kokoro_onnx import Kokoro

    core = openvino.Core()
    model = core.read_model(_convert_to_float(onnx.load(voices_dir / "kokoro.onnx")))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})
    # it reads the names of the inputs from this session, and runs the other
    session = onnxruntime.InferenceSession(
        str(voices_dir / "kokoro.onnx"), providers=["CPUExecutionProvider"]
    )
    kokoro = Kokoro.from_session(session, str(voices_dir / "voices.npz"))
    kokoro.sess = _OpenVinoSession(session, compiled)

    def render(row: dict) -> tuple[np.ndarray, int]:
        language = "en-gb" if row["voice"].startswith("b") else "en-us"
        voice = _mix_voices(kokoro, row["voice"])
        return kokoro.create(row["spoken"], voice=voice, speed=row["speed"], lang=language)

    return render


def _mix_voices(kokoro: Any, voice: str) -> np.ndarray:
    """The style of a voice, or of two, `af_sky*0.3+af_nova*0.7`."""
    parts = [part.partition("*") for part in voice.split("+")]
    return sum(kokoro.get_voice_style(name) * float(weight or 1) for name, _, weight in parts)


class _OpenVinoSession:
    """What kokoro-onnx uses of an onnxruntime session, over a model of OpenVINO."""

    def __init__(self, session: onnxruntime.InferenceSession, compiled: Any) -> None:
        self.get_inputs = session.get_inputs
        self._output, self._request = compiled.output(0), compiled.create_infer_request()

    def run(self, output_names: object, inputs: dict[str, Any]) -> list[np.ndarray]:
        del output_names
        return [self._request.infer(inputs)[self._output].copy()]


def _convert_to_float(model: onnx.ModelProto) -> bytes:
    """Replace convolutions and products of integers, with the nodes that scale them, by float ones.

    The weights keep their 8-bit values; only the inputs are no longer rounded.
    """
    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    consumers = {name: node for node in graph.node for name in node.input}
    uses = Counter(name for node in graph.node for name in node.input)
    quantizers = {n.output[0]: n for n in graph.node if n.op_type == "DynamicQuantizeLinear"}
    replaced = {}
    for node in graph.node:
        if node.op_type not in ("ConvInteger", "MatMulInteger") or node.input[0] not in quantizers:
            continue
        assert uses[node.output[0]] == 1, node.name
        quantizer, following, bias = quantizers[node.input[0]], consumers[node.output[0]], []
        if following.op_type == "Add":  # a bias, divided by the scale and rounded
            (name,) = set(following.input) - set(node.output)
            while producers[name].op_type != "Div":
                name = producers[name].input[0]
            bias = [producers[name].input[0]]
            following = consumers[following.output[0]]
        multiply = consumers[following.output[0]]
        assert (following.op_type, multiply.op_type) == ("Cast", "Mul"), node.name
        (name,) = set(multiply.input) - set(following.output)
        (scale_name,) = set(producers[name].input) - {quantizer.output[1]}
        weight, zero_point, scale = (
            numpy_helper.to_array(initializers[name]).astype(np.float32)
            for name in (node.input[1], node.input[3], scale_name)
        )
        weight = numpy_helper.from_array((weight - zero_point) * scale, f"{node.output[0]}_weight")
        graph.initializer.append(weight)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        replaced[multiply.output[0]] = helper.make_node(
            node.op_type.removesuffix("Integer"),
            [quantizer.input[0], weight.name, *bias],
            [multiply.output[0]],
            **attributes,
        )
    nodes, wanted = [], {output.name for output in graph.output}
    for node in reversed([replaced.get(node.output[0], node) for node in graph.node]):
        if wanted & set(node.output):
            nodes.append(node)
            wanted.update(node.input)
    kept = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(kept)
    return model.SerializeToString()


def _load_piper(voices_dir: Path) -> RenderFn:
    from piper import PiperVoice, SynthesisConfig

    voice = PiperVoice.load(voices_dir / "joe.onnx")

    def render(row: dict) -> tuple[np.ndarray, int]:
        config = SynthesisConfig(length_scale=1 / row["speed"], noise_scale=0.8, noise_w_scale=0.9)
        chunks = list(voice.synthesize(row["spoken"], config))
        return np.concatenate([c.audio_float_array for c in chunks]), chunks[0].sample_rate

    return render


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--voices", type=Path, required=True)
    parser.add_argument("--engine", choices=("kokoro", "piper"), required=True)
    parser.add_argument("--minutes", type=float, default=600.0, help="then stop, to be continued")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    processes = [
        Process(
            target=render_clips,
            args=(args.work, args.voices, args.engine, args.minutes, part, args.processes),
        )
        for part in range(args.processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process failed")
