"""Files written by dlm 0.1: the old field names of plans, run records, model specs and events.

`upgrade_record` renames the fields of a record of JSON when it is read, by a table of old name ->
new name; a nested record has its own table. Records that have the new names stay as they are.
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
RENAMED_VALUES = {("pad_mode", "heard"): "uncounted"}  # (new name, old value): new value


def upgrade_record(record: Any, names: Names) -> Any:
    """Rename the fields and values of a record, or of each record in a list, to those of today.

    Args:
        record: a value of JSON; anything but objects and lists of them is returned as it is.
        names: old name -> new name, or (new name, the table of the record nested there).
    """
    if isinstance(record, list):
        return [upgrade_record(item, names) for item in record]
    if not isinstance(record, dict):
        return record
    tables = {old: (new, {}) if isinstance(new, str) else new for old, new in names.items()}
    nested = {new: table for new, table in tables.values() if table}
    renamed = {tables[old][0] if old in tables else old: value for old, value in record.items()}
    return {
        name: RENAMED_VALUES.get((name, value), value)
        if isinstance(value, str)
        else upgrade_record(value, nested.get(name, {}))
        for name, value in renamed.items()
    }


def upgrade_event(event: dict[str, Any]) -> dict[str, Any]:
    """Rename an event and its fields, one line of a run's log, to the names of today."""
    name, names = EVENTS.get(str(event.get("event")), (event.get("event"), {}))
    upgraded: dict[str, Any] = upgrade_record(event, names)
    return {**upgraded, "event": name}
