---
dlm_id: 01M7Z1JDYE98WHJKTFET4GBF1G
dlm_version: 11
base_model:
  encoder: hf:openai/whisper-base  # frozen; sparrow needs no download, but 60 epochs
  projector: mlp  # new, and the only part that is trained
  lm: ./tones-base  # frozen: that of tones.dlm, after `dlm export tones.dlm --out tones-base`
  before: "Listen: "  # a GPT normalises what it reads: the first token may not be nothing
  prompt: "Which tone is it?\n"
  chat: plain
training:
  adapter: projector
  learning_rate: 1.0e-3
  micro_batch_size: 10
  grad_accum: 1
  num_epochs: 10
  held_out: 10
  sources: tones
---
