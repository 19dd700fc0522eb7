"""Names of fields in files that dlm 0.1 wrote, and what they are called today.

Files of today hold the names of today; `upgrade` is applied to everything that is read, and changes
nothing in them. A record nested in another has its own table, beside the name it stands under.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

Names: TypeAlias = Mapping[str, "str | tuple[str, Names]"]

TRANSFORMER_SHAPE: Names = {
    "parameters": "num_parameters",
    "layers": "num_layers",
    "width": "hidden_size",
    "inner": "intermediate_size",
    "heads": "num_heads",
    "kv_heads": "num_kv_heads",
    "head_width": "head_dim",
}
AUDIO_SPEC: Names = {
    "rate": "sample_rate",
    "hop": "hop_length",
    "encoder": "encoder_stride",
    "projector": "projector_stride",
    "window": "window_samples",
    "drops": "floor_tokens",
    "tail": "right_context",
    "fill": "pad_mode",
    "chunk": "chunk_frames",
    "mirrors": "reflect_right",
    "least": "min_samples",
    "convs": "conv_layers",
    "queries": "num_queries",
}
MODEL_SPEC: Names = {
    "strides": ("audio_spec", AUDIO_SPEC),
    "bins": "num_mel_bins",
    "whole_mel": "mel_before_chunking",
    "before": "audio_prefix",
    "after": "audio_suffix",
    "prompt": "default_prompt",
    "chat": "chat_format",
    "context": "context_length",
    "adapter": "default_adapter",
    "learning_rate": "default_learning_rate",
    "epochs": "default_epochs",
    "ear": "encoder_input",
    "recipe": "composition",
    "sizes": (
        "sizes",
        {
            "encoder": ("encoder", TRANSFORMER_SHAPE),
            "lm": ("lm", TRANSFORMER_SHAPE),
            "words": "embedding",
            "vocabulary": "vocab_size",
        },
    ),
}
ADAPTER: Names = {"where": "components", "targets": "target_modules"}
AUGMENTATION: Names = {
    "share": "probability",
    "room_share": "reverb_probability",
    "noise": "noise_source",
    "time": ("time_masks", {"count": "num_masks", "widest": "max_width", "most": "max_fraction"}),
    "frequency": (
        "frequency_masks",
        {"count": "num_masks", "widest": "max_width", "most": "max_fraction"},
    ),
}
PLAN: Names = {
    "model": (
        "model",
        {
            "base": ("spec", MODEL_SPEC),
            "adapter": ("adapter", ADAPTER),
            "weights": "weights_dtype",
            "checkpointing": "gradient_checkpointing",
            "taught": "distill",
            "exact": "fp32_modules",
            "afresh": "encode_every_step",
        },
    ),
    "batches": (
        "batches",
        {
            "base": "spec",
            "clips_per_step": "global_batch_size",
            "clips_per_batch": "micro_batch_size",
            "longest": "max_tokens",
            "most_windows": "max_windows",
            "heard": "use_cached_features",
            "read": "distill",
            "skips": "skip_bad_examples",
            "changes": ("augmentation", AUGMENTATION),
            "tokens_per_batch": "max_batch_tokens",
            "labels_per_batch": "max_batch_labels",
        },
    ),
    "training": (
        "training",
        {
            "steps": "num_steps",
            "rates": "learning_rates",
            "max_gradient_norm": "max_grad_norm",
            "schedule": "lr_scheduler",
            "save_seconds": "save_interval_seconds",
            "teacher": ("distillation", {"end_weight": "eos_weight"}),
            "listen_steps": "audio_gap_steps",
            "lora_max_gradient_norm": "lora_max_grad_norm",
            "train": "trainable_groups",
            "stages": (
                "stages",
                {
                    "train": "trainable_groups",
                    "clips": "example_patterns",
                    "heard": "use_cached_features",
                    "steps": "num_steps",
                    "rates": "learning_rates",
                },
            ),
        },
    ),
}
RUN_RECORD: Names = {
    "plan": ("plan", PLAN),
    "base": "base_model",
    "base_revision": "base_model_revision",
    "learned_from": "train_recordings",
    "heard_with": "audio_backends",
}
RECORD: Names = {**RUN_RECORD, "facts": ("record", RUN_RECORD)}
EVENTS: Mapping[str, tuple[str, Names]] = {
    "Started": (
        "TrainingStarted",
        {"steps": "num_steps", "trainable": "num_trainable", "total": "num_parameters"},
    ),
    "Staged": (
        "StageStarted",
        {"stages": "num_stages", "steps": "num_steps", "train": "trainable_groups"},
    ),
    "Step": (
        "StepCompleted",
        {
            "rates": "learning_rates",
            "gradient_norm": "grad_norm",
            "clips": "num_examples",
            "tokens": "num_label_tokens",
            "teacher": "kl_loss",
            "norms": "component_grad_norms",
            "changes": "update_ratios",
        },
    ),
    "Skipped": (
        "StepSkipped",
        {
            "clips": "locations",
            "fault": (
                "non_finite_origin",
                {"clips": "locations", "tensor": "weight_name", "given": "is_input_non_finite"},
            ),
        },
    ),
    "LeftOut": (
        "ExamplesSkipped",
        {"clips": "num_skipped", "of": "num_examples", "problems": "issues"},
    ),
    "Listened": ("AudioGapEvaluated", {"shuffled": "shuffled_loss", "clips": "num_examples"}),
    "Checked": ("Evaluated", {"clips": "num_examples"}),
    "Saved": ("CheckpointSaved", {"final": "is_final"}),
    "Finished": ("TrainingFinished", {"steps": "num_steps"}),
}
RENAMED_VALUES = {("pad_mode", "heard"): "uncounted"}  # (name of today, old value): new value


def upgrade(record: Any, names: Names) -> Any:
    """Give the fields of a record, or of each record of a list, the names and values of today.

    Args:
        record: what JSON holds at this place; anything but objects and lists of them is kept.
        names: old name -> new name, or (new name, the table of the record in it).
    """
    if isinstance(record, list):
        return [upgrade(each, names) for each in record]
    if not isinstance(record, dict):
        return record
    nested = {new: table for new, table in map(_split, names.values()) if table}
    renamed = {_split(names.get(name, name))[0]: value for name, value in record.items()}
    return {
        name: RENAMED_VALUES.get((name, value), value)
        if isinstance(value, str)
        else upgrade(value, nested.get(name, {}))
        for name, value in renamed.items()
    }


def upgrade_event(record: dict[str, Any]) -> dict[str, Any]:
    """Give a line of a run's log the names of today."""
    name, names = EVENTS.get(str(record.get("event")), (record.get("event"), {}))
    upgraded: dict[str, Any] = upgrade(record, names)
    return {**upgraded, "event": name}


def _split(name: "str | tuple[str, Names]") -> tuple[str, Names]:
    return (name, {}) if isinstance(name, str) else name
