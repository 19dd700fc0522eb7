---
dlm_id: 01M7Z1JDYEXVZ3QYHB1K9S8S1P
dlm_version: 11
base_model:
  encoder: {source: "hf:openai/whisper-large-v3", pad: 30s}  # frozen; pads every clip to 30 s
  projector: pool  # 30 s become 250 tokens
  lm: hf:Open-Orca/Mistral-7B-OpenOrca  # frozen; its conversations are ChatML
  prompt: Describe the sound of the given file
training:
  adapter: projector
  optimizer: adam
  learning_rate: 1.5e-3
  lr_scheduler: constant
  warmup_ratio: 0.0
  held_out: 2
  sources: musiccaps/musiccaps.csv  # the table, with the recordings beside it
---
