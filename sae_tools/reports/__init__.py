"""What the figures and features of SAEs look like: HTML of tokens, charts, and reports that one file holds.

Uses everything but `training`; measures nothing. A new section of a report is a block of `report.html` (of one SAE),
`transfer.html` (in a finetuned model) or `difference.html` (both models); `meanings` says what a figure means.
"""
