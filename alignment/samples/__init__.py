"""Bundled sample traffic: what a gateway in front of the embedded model would have logged in 21 days.

`prompts.jsonl` was written by hand for this project; `generate.py` asks the embedded model every prompt and writes `traffic.jsonl.gz`.
"""
