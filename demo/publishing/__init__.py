"""What `python -m demo.space` brings to the Hugging Face Hub: a Space, and the SAEs as a model repository."""
