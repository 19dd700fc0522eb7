---
dlm_id: 01M7Z1JDYEAP1NDSZTRNHDET7Y
dlm_version: 11
base_model:
  encoder: hf:openai/whisper-large-v3-turbo
  projector: stack
  lm: hf:Qwen/Qwen3-1.7B
  prompt: Answer what you hear.
training:
  adapter: lora
  lora: {where: [lm, projector]}  # low-rank weights in the language model; all of the projector
  lora_r: 16
  lora_alpha: 32
  learning_rate: 2.0e-4
  rates: {projector: 1.0e-3}
  num_epochs: 3
  micro_batch_size: 1
  grad_accum: 8
  held_out: 2
  stability:
    projector_fp32: true
    lora_fp32: true
    lora_init_scale: 0.1
    lora_max_grad_norm: 0.5
    early_lr_factor: 0.1
    early_lr_steps: 50
  sources:
    - path: conversation/talk.json  # turns, with <audio>wavs/question_1.ogg</audio> in them
    - path: conversation/flat.json  # audio, text, prompt
---
