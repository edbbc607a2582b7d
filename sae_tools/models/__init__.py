"""Language models and text: sites to modules, local paths and Hub ids, tokens, activations, patches, generation.

Uses `common`; knows no SAE. A new model family is a row in `sites`, a new kind of text file a row in `texts`; `loading`
turns a name into a model (`remote` asks the Hub, `adapters` adds a LoRA, `hooked` converts TransformerLens' own), `lm`
runs it by `hooks`, `readout` finds the way to the logits; `pair` compares two models, `shape` sizes one not yet loaded.
"""
