"""DPO with LoRA on top of TRL, in a process of its own: `python -m alignment.train run.json`."""

from alignment.train.job import TrainJob, read_job, read_result, write_job

__all__ = ["TrainJob", "read_job", "read_result", "write_job"]
