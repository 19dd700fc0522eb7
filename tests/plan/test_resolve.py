"""What `base_model` names: folders and the hub, each with facts of its own or one line."""

import json
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dlm.errors import ModelError
from dlm.plan.hub import TensorInfo, read_tensor_index
from dlm.plan.model_ref import derive_spec_from_checkpoint, read_license
from dlm.plan.model_spec import write_model_spec
from dlm.plan.resolve import find_catalog_spec, resolve_model_spec
from tests.cli_runner import make_environment, run_process
from tests.hub import COMMIT, Hub, Repository, serve
from tests.pretrained_twins import write_pretrained_twin
from tests.tiny_models import make_tiny_spec

CARD = "---\nlicense: cc-by-4.0\n---\n# An ear\n"
RESOLVE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from dlm.errors import DlmError
from dlm.plan.resolve import resolve_model_spec
for name in sys.argv[1:]:
    try:
        print(json.dumps(asdict(resolve_model_spec(name, Path()))))
    except DlmError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def ear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2-Audio, with what a repository holds besides."""
    folder = write_pretrained_twin("qwen2_audio", tmp_path_factory.mktemp("bases") / "ear")
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def copy(ear: Path, tmp_path: Path) -> Path:
    """One of its own for a test to spoil."""
    return shutil.copytree(ear, tmp_path / "ear")


def test_a_folder_tells_its_own_facts(ear: Path) -> None:
    base = resolve_model_spec("ear", ear.parent)
    row = find_catalog_spec("qwen2-audio-7b-instruct")
    tensors = load_file(ear / "model.safetensors")
    assert (base.key, base.source, base.license) == ("ear", str(ear), "cc-by-4.0")
    assert (base.family, base.placeholder, base.audio_spec) == (
        "qwen2_audio",
        "<|AUDIO|>",
        row.audio_spec,
    )
    assert base.sizes.num_parameters == sum(tensor.numel() for tensor in tensors.values())
    assert base.sizes.embedding == 2 * 32 * base.sizes.vocab_size
    assert base.sizes.projector == 32 * 32 + 32
    assert (
        base.sizes.lm.num_layers,
        base.sizes.lm.hidden_size,
        base.sizes.lm.intermediate_size,
    ) == (2, 32, 64)
    assert (base.sizes.encoder.num_heads, base.sizes.encoder.num_kv_heads) == (2, 2)
    assert base.megabytes == 1


def test_a_shorter_encoder_has_a_shorter_window(copy: Path) -> None:
    change(copy, audio_config={"max_source_positions": 100, "num_mel_bins": 80})
    base = resolve_model_spec(str(copy), Path())
    assert (base.audio_spec.window_seconds, base.num_mel_bins) == (2.0, 80)


def test_what_a_config_leaves_out_is_as_in_the_released_model() -> None:
    """The released one says little of its language model: the rest are the class's defaults."""
    row = find_catalog_spec("qwen2-audio-7b-instruct")
    config = {"model_type": "qwen2_audio", "text_config": {"max_position_embeddings": 8192}}
    base = derive_spec_from_checkpoint(
        row, config, {"model.safetensors": {"lm.weight": TensorInfo((2, 3), 0, 12)}}
    )
    assert base.sizes.lm == replace(row.sizes.lm, num_parameters=6)
    assert (base.sizes.vocab_size, base.audio_spec, base.context_length) == (
        156_032,
        row.audio_spec,
        8192,
    )


def test_tensors_are_counted_with_the_part_they_belong_to() -> None:
    names = {
        "thinker.audio_tower.layers.0.fc1.weight": "encoder",
        "thinker.audio_tower.proj1.weight": "projector",
        "multi_modal_projector.linear.weight": "projector",
        "language_model.model.embed_tokens.weight": "words",
        "language_model.lm_head.weight": "words",
        "model.layers.0.self_attn.q_proj.weight": "lm",
        "talker.model.layers.0.mlp.up_proj.weight": "",
    }
    tensors = {name: TensorInfo((10**at,), 0, 1) for at, name in enumerate(names)}
    sizes = derive_spec_from_checkpoint(
        find_catalog_spec("voxtral-mini-3b"), {}, {"a": tensors}
    ).sizes
    counted = {part: 0 for part in ("encoder", "projector", "words", "lm")}
    for at, part in enumerate(names.values()):
        counted |= {part: counted.get(part, 0) + 10**at}
    assert sizes.encoder.num_parameters == counted["encoder"]
    assert (sizes.projector, sizes.embedding) == (counted["projector"], counted["words"])
    assert sizes.lm.num_parameters == counted["lm"]


def test_the_revision_of_a_folder_changes_with_its_weights(copy: Path) -> None:
    """Same names, same shapes, one number: what was trained on the old one is refused."""
    before = resolve_model_spec(str(copy), Path()).revision
    assert resolve_model_spec(str(copy), Path()).revision == before
    tensors = load_file(copy / "model.safetensors")
    tensors["multi_modal_projector.linear.bias"][0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    after = resolve_model_spec(str(copy), Path()).revision
    assert after != before
    change(copy, audio_config={"dropout": 0.5})
    assert resolve_model_spec(str(copy), Path()).revision not in (before, after)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
         "is a text model (llama); pick --base qwen2-audio-7b-instruct"),
        ({"model_type": "bark", "architectures": ["BarkModel"]},
         "is of a class that is not known to hear (bark, BarkModel); known ones: "),
        ({}, "is of a class that is not known to hear (unknown, no class); known ones: "),
        ([], "is no config of a model"),
        ({"quantization_config": {}}, "its weights are packed already"),
        (None, "no config.json in this folder"),
        ("{half", "cannot be read ("),
    ],
    ids=str,
)  # fmt: skip
def test_a_folder_that_is_no_base_is_told_why(copy: Path, config: object, told: str) -> None:
    if config is None:
        (copy / "config.json").unlink()
    else:
        text = config if isinstance(config, str) else json.dumps(config)
        (copy / "config.json").write_text(text)
    assert told in refusal(copy)


def test_pickles_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "holds its weights as a pickle (pytorch_model.bin); only safet" in refusal(copy)
    (copy / "pytorch_model.bin").unlink()
    assert "no model.safetensors in this folder" in refusal(copy)


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1, 1])
def test_a_file_that_was_cut_off_is_named(copy: Path, size: int) -> None:
    path = copy / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:size] if size != 1 else whole + b"\0")
    assert str(copy) in refusal(copy)


def test_a_head_of_nonsense_is_named(copy: Path) -> None:
    for head in (b"{half", b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32"}}'):
        (copy / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
        assert "cannot be read (" in refusal(copy)


def test_a_missing_shard_is_named(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, copy / shard, metadata={"format": "pt"})
    places = {name: shard for shard, held in shards.items() for name in held}
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert len(read_tensor_index(copy)) == 2
    assert resolve_model_spec(str(copy), Path()).sizes.num_parameters == sum(
        t.numel() for t in tensors.values()
    )
    (copy / "model-00002-of-00002.safetensors").unlink()
    assert f"{copy}: model-00002-of-00002.safetensors is missing" in refusal(copy)
    index.write_text('{"weight_map": []}')
    assert "cannot be read (" in refusal(copy)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (CARD, "cc-by-4.0"),
        ("---\nlicense: other\nlicense_name: mine\n---\n", "mine"),
        ("# no front matter", "unknown"),
        ("---\n- a list\n---\n", "unknown"),
        ("---\n{half", "unknown"),
        ("---", "unknown"),
    ],
)
def test_the_licence_is_that_of_the_card(tmp_path: Path, card: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(card)
    assert read_license(tmp_path) == licence


def test_a_name_of_the_hub_is_resolved_by_its_config_alone(ear: Path, tmp_path: Path) -> None:
    """Sizes are read from the heads of files that are not fetched; then no network is needed."""
    with serve() as hub:
        hub.repositories["me/ear"] = Repository(ear)
        first, pinned, branch = resolved(
            hub, tmp_path, "hf:me/ear", f"hf:me/ear@{COMMIT}", "hf:me/ear@main"
        )
        assert hub.fetched() == {"config.json", "README.md", "model.safetensors"}
    assert first == pinned == branch
    base = json.loads(first)
    assert (base["key"], base["source"], base["revision"]) == ("ear", "me/ear", COMMIT)
    assert (base["license"], base["family"]) == ("cc-by-4.0", "qwen2_audio")
    assert base["sizes"] == sizes(ear)
    held = list((tmp_path / "hub").rglob("*.safetensors"))
    assert not held, "the weights were fetched to look at them"


def test_each_way_the_hub_refuses_is_one_line(ear: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "config.json").write_text('{"model_type": "llama", "architectures": ["XForCausalLM"]}')
    pickled = shutil.copytree(ear, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    bare = tmp_path / "bare"
    bare.mkdir()
    cache = tmp_path / "cache" / "hub"
    told = {
        "hf:me/gated": "needs its licence accepted; accept it at https://huggingface.co/me/gated,"
        " then `hf auth login`",
        "hf:me/none": "is not on the hub, or is private; check the name, or `hf auth login` with"
        " a token that may read it",
        "hf:me/ear@nope": "has no such revision; see https://huggingface.co/me/ear/commits/main",
        "hf:a/b/c": "is no name of the hub; write hf:org/name, or hf:org/name@commit",
        "hf:me/bare": "has no config.json; name a model that transformers can load",
        "hf:me/text": "is a text model (llama); pick --base qwen2-audio-7b-instruct",
        "hf:me/pickled": "has no safetensors, and pickles are not read; name another",
        "hf:me/ill": f"is not in {cache} and cannot be fetched: the hub answers 418;"
        " try again later",
        "hf:me/denied": f"is not in {cache} and cannot be fetched: the hub answers 403; `hf auth"
        " login` with a token that may read it",
    }
    with serve() as hub:
        hub.repositories |= {
            "me/ear": Repository(ear),
            "me/gated": Repository(ear, gated=True),
            "me/text": Repository(text),
            "me/bare": Repository(bare),
            "me/pickled": Repository(pickled),
            "me/ill": Repository(ear, status=418),
            "me/denied": Repository(ear, status=403),
        }
        lines = resolved(hub, tmp_path / "cache", *told, HF_TOKEN="hf_secret")
        assert "Bearer hf_secret" in hub.tokens
    assert lines == [f"{name}: {line}" for name, line in told.items()]
    assert "hf_secret" not in str(lines)


def test_without_a_network_the_cache_is_named(ear: Path, tmp_path: Path) -> None:
    with serve() as hub:
        pass  # its port is closed now
    before = time.monotonic()
    (line,) = resolved(hub, tmp_path, "hf:me/ear")
    assert time.monotonic() - before < 10, "nobody waits for a network that is not there"
    assert line == (
        f"hf:me/ear: is not in {tmp_path / 'hub'} and cannot be fetched: there is no connection,"
        " or it broke off; run it again where there is a network (what came is kept), or use"
        " base_model: sparrow"
    )
    (line,) = resolved(hub, tmp_path, "hf:me/ear", HF_HUB_OFFLINE="1")
    assert line.endswith("HF_HUB_OFFLINE is set; `hf download me/ear` where there is a network")


def test_a_stitched_base_may_lie_on_the_hub(tmp_path: Path) -> None:
    write_model_spec(make_tiny_spec(), tmp_path)
    (tmp_path / "config.json").write_text('{"encoders": [], "projector": {}, "lm": {}}')
    with serve() as hub:
        hub.repositories["me/tiny"] = Repository(tmp_path)
        (line,) = resolved(hub, tmp_path / "cache", "hf:me/tiny")
    base = json.loads(line)
    assert (base["key"], base["source"], base["revision"]) == ("tiny", "me/tiny", COMMIT)


def test_a_key_of_the_catalogue_tells_the_sizes_that_lie_in_the_cache(
    ear: Path, tmp_path: Path
) -> None:
    row = find_catalog_spec("qwen2-audio-7b-instruct")
    where = tmp_path / "hub" / f"models--{row.source.replace('/', '--')}" / "snapshots"
    shutil.copytree(ear, where / str(row.revision))
    (line,) = resolved(None, tmp_path, row.key)
    base = json.loads(line)
    assert (base["key"], base["revision"], base["license"]) == (row.key, row.revision, "Apache-2.0")
    assert base["sizes"] == sizes(ear)
    assert f"{tmp_path / 'hub'}: {row.key}\n" in doctor(tmp_path)
    (where / str(row.revision) / "model.safetensors").unlink()
    (line,) = resolved(None, tmp_path, row.key)
    assert json.loads(line)["sizes"]["embedding"] == row.sizes.embedding
    assert f"{tmp_path / 'hub'}: no base of the catalogue\n" in doctor(tmp_path)


def test_a_name_that_could_be_one_of_the_hub_is_told_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown base 'me/ear'; did you mean hf:me/ear?"):
        resolve_model_spec("me/ear", tmp_path)


def resolved(hub: Hub | None, cache: Path, *names: str, **more: str) -> list[str]:
    """What a process of its own says of each name, in a line."""
    known = {"HF_HOME": str(cache), **more}
    around = hub.environment(cache, **more) if hub else make_environment(**known)
    command = [sys.executable, "-c", RESOLVE, *names]
    done = subprocess.run(command, env=around, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def doctor(cache: Path) -> str:
    """What `dlm doctor` says with this cache."""
    return run_process("doctor", env=make_environment(HF_HOME=str(cache))).out


def refusal(folder: Path) -> str:
    """The line that a folder is refused with."""
    with pytest.raises(ModelError) as told:
        resolve_model_spec(str(folder), Path())
    assert "\n" not in str(told.value)
    return str(told.value)


def change(folder: Path, **parts: dict[str, object]) -> None:
    """Change parts of a config."""
    config = json.loads((folder / "config.json").read_text())
    for name, changed in parts.items():
        config[name] |= changed
    (folder / "config.json").write_text(json.dumps(config))


def sizes(folder: Path) -> dict[str, object]:
    """The sizes of a folder, as JSON has them."""
    return json.loads(json.dumps(asdict(resolve_model_spec(str(folder), Path()).sizes)))
