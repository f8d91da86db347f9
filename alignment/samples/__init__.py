"""Bundled sample traffic: 21 days of use of the embedded model.

`prompts.jsonl` was written by hand for this project; `generate.py` asks the embedded model every prompt and writes `traffic.jsonl.gz`.
"""
