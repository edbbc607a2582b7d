"""Text and model to rows on disk: `harvest` writes shards that survive a kill, `shards` reads them in a fixed order.

Uses `common` and `models`; never holds more than a few shards' rows. A change of the format on disk goes into `shards`.
"""
