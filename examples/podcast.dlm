---
dlm_id: 01M7YKWXKTVE6PN3CKGF6YS5PK
dlm_version: 11
base_model: qwen2-audio-7b-instruct
training:
  adapter: lora
  held_out: 0  # three clips are too few to keep one for testing
  sources:
    - path: podcast/corpus
      include: ["**/*.wav", "**/*.flac"]
---

::audio path="podcast/intro.wav" transcript="Welcome to the podcast."::

::instruction::
### Q
What is this the beginning of?
### A
A podcast.
