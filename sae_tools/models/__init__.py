"""Language models and text: hook names to modules, local paths and Hub ids, tokens, activations, patches, generation.

Uses `common`; knows no SAE. A new model family is a row in `sites`, a new kind of text file a row in `texts`;
`pair` tells whether two models can share tokens, `shape` how large a model is before it is loaded.
"""
