---
dlm_id: 01M7YKXEQHPSYGMQ9AWX7RA1N9
dlm_version: 11
base_model: voxtral-mini-3b
training:
  adapter: lora
  lora_r: 8
  lora_alpha: 32
  lora_dropout: 0.0
  learning_rate: 5.0e-5
  num_epochs: 3
  micro_batch_size: 2
  grad_accum: 4
  held_out: 2
  sources:
    - path: voxtral/data.jsonl  # a line for each clip: audio_path, text, language
---

<!-- One clip written out; without language="..." the base finds out which it is. -->

::audio path="voxtral/parcel.ogg" transcript="Le colis arrive vendredi matin." language="fr"::

<!-- Straight after it: questions about that clip, in the base's form for conversations. -->

::instruction::
### Q
When does the parcel come?
### A
On Friday morning.

::conversation::
### User
<audio>voxtral/wavs/nl_1.ogg</audio><audio>voxtral/wavs/de_1.ogg</audio> Which of the two speaks of a key?
### Assistant
The second one: the key lies under the mat.
### User
And where is the bicycle?
### Assistant
Behind the house.
