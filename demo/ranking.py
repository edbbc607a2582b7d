"""Which of the features that fire in a text say most about it. Knows no Gradio and runs no model.

    telling = value / maximum · C

value is the feature's strongest here, maximum its strongest in the text of the features stage, C its concept score (1
where none was made). Equals, as those with C = 0 are, follow by value / maximum.
"""

from __future__ import annotations

from typing import Literal

import pandas as pd

from demo.reading import Reading

Order = Literal["telling", "value"]
Over = Literal["mean", "max"]
DENSE = 0.1
"""Share of all tokens above which a feature is too common to tell a text from another."""


def fired(reading: Reading) -> pd.DataFrame:
    """A row for every activation that is not zero: token, feature, value."""
    return pd.DataFrame(
        {"token": reading.token.numpy(), "feature": reading.feature.numpy(), "value": reading.value.numpy()}
    )


def ranked(reading: Reading, table: pd.DataFrame, order: Order = "telling", token: int | None = None) -> pd.DataFrame:
    """The features that fire, or fire on one token, the first by `order` first.

    Index feature; columns value (its strongest), token (where), part (value / maximum), telling. `table` is the
    features' table. A token that is only part of a character counts with the one that completes it.
    """
    rows = fired(reading)
    if token is not None:
        first = token
        while first and not reading.pieces[first - 1]:
            first -= 1
        rows = rows[rows["token"].between(first, token)]
    rows = rows.sort_values("value", ascending=False, kind="stable").drop_duplicates("feature").set_index("feature")
    found = rows.join(weighed(rows["value"], table))
    by = ["telling", "part", "value"] if order == "telling" else ["value"]
    return found.sort_values(by, ascending=False, kind="stable")


def weighed(value: pd.Series, table: pd.DataFrame) -> pd.DataFrame:
    """Columns part (value / maximum) and telling (part · C) of values by feature."""
    known = table.loc[value.index]
    part = (value / known["maximum"]).where(known["maximum"] > 0, 1.0)
    return pd.DataFrame({"part": part, "telling": part * known["concept"].fillna(1.0) if "concept" in known else part})


def common(found: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    """Which of the features found fire on more than `DENSE` of all tokens."""
    return table.loc[found.index, "density"] > DENSE


def apart(
    first: Reading, second: Reading, table: pd.DataFrame, over: Over = "max", order: Order = "telling"
) -> pd.DataFrame:
    """The features that tell one text from another: those that fire more in `first`, the first by `order` first.

    Index feature; columns first and second (each text's mean over its tokens, or maximum; 0 where it does not fire),
    part ((first - second) / maximum), telling (part · C).
    """
    both = pd.DataFrame({"first": summed(first, over), "second": summed(second, over)}).fillna(0.0)
    both = both[both["first"] > both["second"]].rename_axis("feature")
    more = both["first"] - both["second"]
    found = both.join(weighed(more, table)).assign(more=more)
    by = ["telling", "part", "more"] if order == "telling" else ["more"]
    return found.sort_values(by, ascending=False, kind="stable").drop(columns="more")


def summed(reading: Reading, over: Over) -> pd.Series:
    """By feature: its mean over all tokens of the text, or its maximum."""
    groups = fired(reading).groupby("feature")["value"]
    return groups.max() if over == "max" else groups.sum() / max(len(reading.pieces), 1)
