---
dlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FA2
dlm_version: 11
base_model: tiny-qwen2-audio
training:
  precision: fp32
  adapter: lora
  lora_r: 2
  micro_batch_size: 2
  held_out: 2
  sources:
    - path: clips
---

::audio path="clips/0.wav" transcript="one"::

::instruction::

### Q
What is one and one?

### A
two
