---
dlm_id: 01M7Z1JDYEX0FG8KHCCG29GJTC
dlm_version: 11
base_model:
  encoder: hf:openai/whisper-base  # frozen; sparrow needs no download, but 60 epochs
  projector: mlp  # two layers, the second of zeros: at first its output is zero
  lm:
    from_scratch:  # a GPT of six layers, knowing nothing
      model_type: nanochat
      num_hidden_layers: 6
      hidden_size: 384
      intermediate_size: 1536
      num_attention_heads: 3
      max_position_embeddings: 1024
    tokenizer: bytes
  before: "Listen: "  # a GPT normalises what it reads: the first token may not be nothing
  prompt: "Which tone is it?\n"
  chat: plain
training:
  adapter: full
  freeze_encoder: true
  learning_rate: 1.0e-3
  micro_batch_size: 10
  grad_accum: 1
  num_epochs: 10  # of 50 clips: 50 steps
  held_out: 10
  sources: tones  # `dlm tones tones --count 60` makes them
---
