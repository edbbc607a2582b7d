"""Boxes that a visitor fills in, such that what is in them reaches `limits` as it came."""

from __future__ import annotations

from typing import Any

import gradio as gr

from demo import limits


def prompt_box(text: str, label: str, name: str) -> gr.Textbox:
    """A box in which Enter runs and Shift+Enter breaks the line."""
    return gr.Textbox(
        text, label=label, lines=1, max_lines=6, max_length=limits.MAX_CHARACTERS, scale=6, min_width=240, elem_id=name
    )


def unchecked(component: Any) -> Any:
    """A part whose value reaches `limits` as it came: Gradio's own check breaks on text and on an emptied box."""
    component.preprocess = lambda value: value
    return component
