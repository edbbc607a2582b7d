"""SAE and language model to what a person learns: metrics, transfer to a finetune, tables of features, steering.

Uses all rooms but `training`, and trains nothing. A new figure is a formula in `metrics` and a line in `evaluate`; what
is shown of a feature goes into `features`; what pushes a model into `steering`, what is read off pairs into `contrast`.
"""
