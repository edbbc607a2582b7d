"""What the figures and features of SAEs look like: HTML of tokens, charts, and reports that one file holds.

Uses everything but `training`; measures nothing. A new section of a report is a block of `report.html`; what a figure
means in words stands in `meanings`.
"""
