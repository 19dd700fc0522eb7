---
dlm_id: 01ARZ3NDEKTSV4RRFFQ69G5FA3
dlm_version: 11
base_model: tiny-stitched
training:
  precision: fp32
  adapter: lora
  lora_r: 2
  micro_batch_size: 2
  held_out: 2
  sources:
    - path: clips
  stability:
    max_skipped_steps: 3
---

::audio path="clips/0.wav" transcript="one"::

::instruction::

### Q
What is one and one?

### A
two
