"""Base against finetuned model: on one text, over all text, and in what both write."""
