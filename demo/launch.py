"""How the page is served: its theme, and everything that it does not need switched off."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from demo.access import free_port
from demo.guard import Guard
from demo.tabs import TABS

HERE = Path(__file__).parent


def theme() -> gr.themes.Base:
    """Teal on calm greys, in the system's own fonts: nothing is fetched from elsewhere."""
    sans = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal, neutral_hue=gr.themes.colors.slate, radius_size=gr.themes.sizes.radius_md,
        font=[gr.themes.Font(name) for name in sans], font_mono=[gr.themes.Font(name) for name in mono],
    ).set(
        # Gradio's own greys are too faint to read: at least 4.5 to 1 here.
        body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*neutral_500",
        block_info_text_color="*neutral_500", block_info_text_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700", button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white", button_secondary_background_fill="*neutral_100",
        button_secondary_background_fill_hover="*neutral_200",
    )  # fmt: skip


def launch(page: gr.Blocks, host: str, port: int, block: bool = True, mcp: bool = False) -> int:
    """Serve the page with everything that it does not need switched off; with `mcp`, its endpoints are tools too.

    The port is `port` or, where it is taken, the next free one, which is given back.

    Raises:
        InputError: as `free_port`.
    """
    port = free_port(host, port)
    page.queue(max_size=16, default_concurrency_limit=1, api_open=False)
    page.launch(
        server_name=host, server_port=port, prevent_thread_lock=not block, quiet=True, share=False, show_error=False,
        enable_monitoring=False, run_history=False, max_file_size="1kb", max_threads=8, state_session_capacity=200,
        strict_cors=True, ssr_mode=False, mcp_server=mcp, pwa=False, allowed_paths=[], footer_links=[],
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None, "middleware": [Middleware(Guard)]},
        theme=theme(), css_paths=sorted((HERE / "styles").glob("*.css")),
        js=_script(),
    )  # fmt: skip
    return port


def _script() -> str:
    ids = json.dumps({tab.title: tab.id for tab in TABS})
    return (HERE / "scripts" / "page.js").read_text().replace("TABS", ids)
