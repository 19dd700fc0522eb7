"""Whether the language model can be its own teacher, and how it is said."""

from dlm.document.teaching import Teacher
from dlm.errors import PlanError
from dlm.plan.bases import Base
from dlm.plan.plan import Adapter, Line, Teaching

OFF = "take training.teacher out"


def teaching(asked: Teacher, base: Base, adapter: Adapter) -> Teaching | None:
    """How the teacher is heard, None without one. Raises PlanError where there can be none."""
    if not asked.weight:
        return None
    if "lm" in adapter.learners:
        what = "training.teacher is the language model as it was, and it changes itself"
        raise PlanError(what, mend=f"use adapter: lora or projector, or {OFF}")
    if base.chat == "asr":
        raise PlanError(f"training.teacher reads, and {base.key} only transcribes", mend=OFF)
    return Teaching(asked.weight, asked.temperature, asked.end_weight, asked.top_k)


def teaching_aloud(teacher: Teaching | None) -> tuple[Line, ...]:
    """The teacher's line of the plan."""
    if teacher is None:
        return ()
    how = f"its {teacher.top_k} likeliest words at temperature {teacher.temperature:g}"
    return (Line("teacher", f"{teacher.weight:.0%} of the loss", how),)
